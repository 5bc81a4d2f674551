"""The goals of integer_inference.py, and where they are missed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from contenders import EXPORTED, FLOAT, INTAGLIO
from results import Row, at, fastest, is_exact, ratio
from shapes import Point

# From this number of tokens on, the share of the product's peak counts.
MANY_TOKENS = 1024


@dataclass(frozen=True)
class Goal:
    """A least value at every point.

    Attributes:
        name: what is compared, for a table.
        least: the goal.
        value: from the rows of a point and the peak of the int8 product (10^12 operations per second) to the value;
            None if it was not measured.
        tokens: fewest tokens of a point for which the goal holds.
        share: whether the value is a share, and not a ratio.
    """

    name: str
    least: float
    value: Callable[[Sequence[Row], float], float | None]
    tokens: int = 0
    share: bool = False

    def holds_at(self, point: Point) -> bool:
        """Return whether the goal is one for this point."""
        return point[0] * point[1] >= self.tokens

    def write(self, value: float) -> str:
        """Return a value as text, rounded down: what is written as the goal has reached it."""
        return f"{math.floor(value * 1000) / 10:.1f} %" if self.share else f"{math.floor(value * 100) / 100:.2f} x"


def _against(ours: Sequence[str], others: Sequence[str]) -> Callable[[Sequence[Row], float], float | None]:
    def value(rows: Sequence[Row], _peak: float) -> float | None:
        found = ratio(rows, ours, others)
        return None if found is None else found.value

    return value


def _share_of_peak(rows: Sequence[Row], peak: float) -> float | None:
    best = fastest(rows, INTAGLIO)
    return None if best is None else best.tops / peak


_ALL, _FLOATS = sorted(INTAGLIO), sorted(FLOAT)
GOALS = {
    "cpu": [
        Goal("`int` against OpenVINO's int8", 1.0, _against(_ALL, ["openvino int8"])),
        Goal("`int` against the fastest float of any precision", 1.5, _against(_ALL, _FLOATS)),
        Goal("share of the int8 product's peak", 0.75, _share_of_peak, MANY_TOKENS, share=True),
        Goal(
            "exported `int` against ONNX Runtime's dynamic int8",
            1.0,
            _against(list(EXPORTED), ["onnxruntime dynamic int8"]),
        ),
    ],
    "cuda": [Goal("`int` against the fastest float of any precision", 1.0, _against(_ALL, _FLOATS))],
}


def missed_goals(rows: Sequence[Row], points: Sequence[Point], device: str, peak: float) -> list[str]:
    """Return the missed goals of speed and exactness, one sentence each; what was not measured is missed."""
    missed = [
        f"{row.contender} at {row.batch} x {row.length} differs from its simulation by {row.difference}"
        for row in rows
        if row.contender in INTAGLIO and not is_exact(row)
    ]
    for point in points:
        for goal in GOALS[device]:
            if not goal.holds_at(point):
                continue
            value, where = goal.value(at(rows, point), peak), f"{point[0]} x {point[1]}"
            if value is None:
                missed.append(f"at {where} {goal.name}: not measured")
            elif value < goal.least:
                shares = f"{1 - value / goal.least:.0%} short"
                missed.append(
                    f"at {where} {goal.name}: {goal.write(value)}, the goal is {goal.write(goal.least)} ({shares})"
                )
    return missed
