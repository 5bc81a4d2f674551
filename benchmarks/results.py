"""Rows of integer_inference.py's measurements, what is compared, and the tables that it prints."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from contenders import EXPORTED, FLOAT, FLOAT32, INT8, INTAGLIO
from peak import Peak
from shapes import Point

# Tolerance for the logits, as engines sum the floating-point head in different orders.
HEAD_ROUNDING = 1e-5


@dataclass
class Row:
    """One contender at one point.

    Attributes:
        median_ms: time of a call.
        tops: operations per second in 10^12, of linear layers and attention products.
        difference: the largest of the logits: of Intaglio to the simulated ones, of others to those in float32; None
            if it is not known.
        calls_ms: every call; empty if only the median is known.
    """

    contender: str
    batch: int
    length: int
    median_ms: float
    tops: float
    difference: float | None
    calls_ms: list[float]


@dataclass(frozen=True)
class Ratio:
    """How many times as fast as `other` the form `ours` is."""

    ours: str
    other: str
    value: float


def operations(config: Any, point: Point) -> int:
    """Return the operations of a call, padding included: twice the multiply-adds of the encoder's linear layers and of
    both products of attention.
    """
    batch, length = point
    width, inner = config.hidden_size, config.intermediate_size
    return 2 * batch * length * config.num_hidden_layers * (4 * width**2 + 2 * width * inner + 2 * length * width)


def is_exact(row: Row) -> bool:
    """Return whether a row of Intaglio has the results of the simulation."""
    return row.difference is None or row.difference <= HEAD_ROUNDING


def fastest(rows: Iterable[Row], names: Collection[str]) -> Row | None:
    """Return the fastest of these contenders at one point; of Intaglio's, only those with correct results count."""
    among = (row for row in rows if row.contender in names and (row.contender not in INTAGLIO or is_exact(row)))
    return min(among, key=lambda row: row.median_ms, default=None)


def ratio(rows: Sequence[Row], ours: Collection[str], others: Collection[str]) -> Ratio | None:
    """Return how many times as fast the fastest of `ours` is as the fastest of `others`; None if one is missing."""
    mine, other = fastest(rows, ours), fastest(rows, others)
    if mine is None or other is None:
        return None
    return Ratio(mine.contender, other.contender, other.median_ms / mine.median_ms)


def points(rows: Iterable[Row]) -> list[Point]:
    """Return the points of these rows, in their order."""
    return list(dict.fromkeys((row.batch, row.length) for row in rows))


def at(rows: Iterable[Row], point: Point) -> list[Row]:
    """Return the rows of one point."""
    return [row for row in rows if (row.batch, row.length) == point]


def print_point(rows: Sequence[Row], peak: Peak) -> None:
    """Print the contenders of one point, and Intaglio's fastest against the others."""
    for row in rows:
        kind = "the simulation" if row.contender in INTAGLIO else "float32"
        note = f"equals {kind}" if row.difference == 0 else f"off {kind} by {row.difference:.1e}"
        print(
            f"{row.batch:>5} x{row.length:4}  {row.contender:38}{row.median_ms:10.1f} ms{row.tops:8.3f} TOP/s  {note}"
        )
    best = fastest(rows, INTAGLIO)
    if best is not None:
        against = {
            "fastest float of any precision": ratio(rows, INTAGLIO, FLOAT),
            "fastest float32": ratio(rows, INTAGLIO, FLOAT32),
            **{name: ratio(rows, INTAGLIO, [name]) for name in INT8},
        }
        print(f"{'':13}{best.contender}: {best.tops / peak.tops:.0%} of the peak of the int8 product")
        for what, found in against.items():
            if found is not None:
                print(f"{'':13}{found.value:.2f} x {what}{'' if found.other == what else f' ({found.other})'}")
        exported = ratio(rows, EXPORTED, ["onnxruntime dynamic int8"])
        if exported is not None:
            print(f"{'':13}{exported.value:.2f} x {exported.other} from the exported folder ({exported.ours})")
    sys.stdout.flush()


def print_summary(rows: Sequence[Row], peak: Peak) -> None:
    """Print all results: one line per contender, one column per point, in milliseconds with speed-up."""
    places = points(rows)
    size = " x ".join(map(str, peak.size))
    print(f"\npeak of the int8 product: {peak.tops:.3f} TOP/s ({peak.kernel}, {size})")
    print("ms (times as fast as the fastest float32)")
    print(f"{'batch x length':38}" + "".join(f"{f'{batch} x {length}':>17}" for batch, length in places))
    for name in dict.fromkeys(row.contender for row in rows):
        cells = [cell(at(rows, point), name) for point in places]
        print(f"{name:38}" + "".join(f"{text:>17}" for text in cells))


def cell(rows: Sequence[Row], name: str) -> str:
    """Return a contender's time at one point in ms, and how many times as fast as the fastest float32 it is."""
    row, found = fastest(rows, [name]), ratio(rows, [name], FLOAT32)
    if row is None:
        return "-"
    return f"{row.median_ms:.1f}" + ("" if found is None else f" ({found.value:.2f})")
