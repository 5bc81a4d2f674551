"""A recipe in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from intaglio.arithmetic.operations import OPERATIONS
from intaglio.study.options import DEFAULT_SPARSITY

_NOTHING_DONE = "fine-tuned"


def in_words(recipe: Sequence[Mapping[str, Any]]) -> str:
    """Return a recipe in words, its stages joined by `+`: `distilled to 3 layers + pruned 35 %`."""
    words = [_WORDS[options["stage"]](options) for options in recipe if options["stage"] != "finetune"]
    return " + ".join(words) or _NOTHING_DONE


def _distilled(options: Mapping[str, Any]) -> str:
    if options["student"]:
        return f"distilled to {options['student']}"
    return f"distilled to {options['layers']} layers" if options["layers"] else "distilled to half the layers"


def _pruned(options: Mapping[str, Any]) -> str:
    if options["structure"] == "2:4":
        return "pruned 2:4"
    return f"pruned {100 * (options['sparsity'] or DEFAULT_SPARSITY):g} %"


def _cut(options: Mapping[str, Any]) -> str:
    if options["speedup"]:
        return f"cut for {options['speedup']:g}×"
    return f"cut {100 * (options['sparsity'] or DEFAULT_SPARSITY):g} %"


def _quantized(options: Mapping[str, Any]) -> str:
    name = "int" if len(options["integer"]) == len(OPERATIONS) else "-".join(["int", *options["integer"]])
    fewer = [f"{bits}-bit {part}" for part, bits in options.get("bits", {}).items() if bits < 8]
    return f"{name} with {' and '.join(fewer)}" if fewer else name


_WORDS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "distil": _distilled,
    "prune": _pruned,
    "cut": _cut,
    "continue": lambda options: f"trained on like {options['like']}" if options["like"] else "trained on",
    "quantize": _quantized,
    "int8": lambda options: f"int8 {'openvino' if options['engine'] == 'openvino' else options['method']}",
}
