"""The declared version of every kind of result, and the libraries that decide it.

The key of a result is made of its data, parent, options and seed, this version and these libraries. Raise a version
when results of its kind change, and name it in CHANGELOG.md; `tests/test_versions.py` fails if results change under the
same version. Code changes that leave results unchanged raise nothing, and no job runs again.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from functools import cache

# Keys of what is made of tokens hold those of data and model: other tokens raise the versions of stages, too.
VERSIONS: Mapping[str, int] = {
    "fetch": 1,
    "data": 1,
    "tokens": 2,
    "describe": 1,
    "model": 1,
    "finetune": 1,
    "distil": 1,
    "prune": 1,
    "cut": 1,
    "continue": 1,
    "quantize": 1,
    "int8": 2,
    "export": 4,
    "evaluate": 1,
    # Of what integer models compute when they are exported and evaluated.
    "integer": 1,
    # Of the signal to noise in evaluations of integer models.
    "noise": 1,
    "profile": 5,
    "summarize": 16,
    "pages": 18,
    "plot": 8,
}

_TOKENS = ("tokenizers", "transformers")
_TRAINING = ("torch", *_TOKENS)
# The major and minor versions of these libraries count; patch releases are assumed to change no results. Profiles are
# not listed: their keys contain the machine's id, with the full versions of the libraries that execute models.
LIBRARIES: Mapping[str, Sequence[str]] = {
    "data": ("scikit-learn",),
    "tokens": _TOKENS,
    "describe": (*_TOKENS, "scikit-learn"),
    "finetune": _TRAINING,
    "distil": _TRAINING,
    "prune": _TRAINING,
    "cut": _TRAINING,
    "continue": _TRAINING,
    "quantize": _TRAINING,
    "int8": (*_TRAINING, "onnx", "onnxruntime"),
    "export": ("torch", "transformers", "onnx", "onnxscript", "onnxruntime"),
    "evaluate": (*_TRAINING, "scikit-learn"),
}
# Raised when the results of one kind of task change, from its data on; the others keep their keys.
OF_KINDS: Mapping[str, int] = {"multi_label": 2, "regression": 2}
# Libraries that decide data in addition, by step of `preprocess`.
OF_STEPS: Mapping[str, Sequence[str]] = {"lemmatize": ("simplemma",)}


def decided_by(kind: str, *further: str) -> list[str]:
    """Return the declared version of a kind of result and its libraries: ["finetune 1", "torch 2.13", ...].

    Args:
        kind: one of `VERSIONS`.
        further: distributions that decide the result in addition to those of its kind.

    Raises:
        KeyError: there is no such kind.
    """
    libraries = dict.fromkeys((*LIBRARIES.get(kind, ()), *further))
    return [f"{kind} {VERSIONS[kind]}", *(f"{name} {_minor(name)}" for name in libraries)]


@cache
def _minor(distribution: str) -> str:
    """Return a distribution's major and minor version, without importing it; "absent" if it is not installed."""
    try:
        version = importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "absent"
    return ".".join(version.split("+")[0].split(".")[:2])
