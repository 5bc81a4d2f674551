"""The signal to noise of an integer model's tensors, by layer and operation, shaded like a heat map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from intaglio.report.formatting import NOTHING

_HEADINGS = {
    "query": "query",
    "key": "key",
    "value": "value",
    "softmax": "softmax",
    "context": "context",
    "attention_output": "attention output",
    "attention_layernorm": "attention LayerNorm",
    "intermediate": "intermediate",
    "gelu": "GELU",
    "output": "output",
    "output_layernorm": "output LayerNorm",
}
# A cell is one shade darker below each of these, dB.
_SHADES = (40, 30, 20, 10)
# As many cells with the lowest values are marked.
_WORST = 3


@dataclass(frozen=True)
class NoiseTable:
    """The table.

    Attributes:
        columns: headings, the first for the layer.
        rows: name of the layer and its cells: text, shade (0 to 4, the darkest) and whether it is among the worst.
        embeddings, logits: their signal to noise, formatted.
    """

    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[tuple[str, int, bool]]]]
    embeddings: str
    logits: str


def noise_table(rows: Sequence[Mapping[str, Any]]) -> NoiseTable | None:
    """Return the table of a variant from its rows of `Measurements.noise`; None of a model without integers."""
    found = {(row["layer"], row["operation"]): row["snr_db_mean"] for row in rows}
    layers = sorted({layer for layer, _ in found if layer is not None})
    if not layers:
        return None
    places = [(layer, name) for layer in layers for name in _HEADINGS if found.get((layer, name)) is not None]
    worst = set(sorted(places, key=lambda place: float(found[place]))[:_WORST])
    table = []
    for layer in layers:
        values = [(found.get((layer, name)), (layer, name) in worst) for name in _HEADINGS]
        table.append((str(layer), [(_text(value), _shade(value), marked) for value, marked in values]))
    columns = ["layer", *_HEADINGS.values()]
    return NoiseTable(columns, table, _text(found.get((None, "embeddings"))), _text(found.get((None, "logits"))))


def _text(value: float | None) -> str:
    """Format dB with one decimal; of what has no noise there is nothing to say."""
    return NOTHING if value is None else f"{value:.1f}"


def _shade(value: float | None) -> int:
    return 0 if value is None else sum(value < bound for bound in _SHADES)
