"""The declared version of every kind of result, and the libraries that decide it.

A result is keyed by what decides it: data, parent, options, seed, this version and these libraries. Raise a version
when the results of its kind change, and name it in CHANGELOG.md; `tests/test_versions.py` fails where results change
under the same version. Rewriting code that leaves results as they are raises nothing, and nothing runs again.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from functools import cache

VERSIONS: Mapping[str, int] = {
    "fetch": 1,
    "data": 1,
    "model": 1,
    "finetune": 1,
    "distil": 1,
    "prune": 1,
    "cut": 1,
    "quantize": 1,
    "int8": 2,
    "export": 2,
    "evaluate": 1,
    "profile": 2,
    "summarize": 2,
    "pages": 2,
    "plot": 2,
}

_TOKENS = ("tokenizers", "transformers")
_TRAINING = ("torch", *_TOKENS)
# Whose major and minor version counts; the patch releases of these libraries mend, and change no results on purpose.
# Profiles are not here: their key takes in the machine, with the full version of all that executes.
LIBRARIES: Mapping[str, Sequence[str]] = {
    "data": ("scikit-learn",),
    "finetune": _TRAINING,
    "distil": _TRAINING,
    "prune": _TRAINING,
    "cut": _TRAINING,
    "quantize": _TRAINING,
    "int8": (*_TRAINING, "onnx", "onnxruntime"),
    "export": ("torch", "transformers", "onnx", "onnxscript", "onnxruntime"),
    "evaluate": (*_TRAINING, "scikit-learn"),
}


def decided_by(kind: str, *further: str) -> list[str]:
    """Return the declared version of a kind of result, then its libraries: ["finetune 1", "torch 2.13", ...].

    Args:
        kind: one of `VERSIONS`.
        further: distributions that decide this result beside those of its kind.

    Raises:
        KeyError: no such kind.
    """
    libraries = dict.fromkeys((*LIBRARIES.get(kind, ()), *further))
    return [f"{kind} {VERSIONS[kind]}", *(f"{name} {_minor(name)}" for name in libraries)]


@cache
def _minor(distribution: str) -> str:
    """Return the major and minor version of a distribution, read without importing it; "absent" if there is none."""
    try:
        version = importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "absent"
    return ".".join(version.split("+")[0].split(".")[:2])
