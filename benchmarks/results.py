"""Tables of integer_inference.py's measurements, and the goals that they miss."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from contenders import DYNAMIC, INTAGLIO, Point
from footprint import ENGINES

# Goals: speed-up over the fastest float PyTorch, and size of the file relative to float.
GOAL = {"cpu": 1.5, "cuda": 1.0}
SHARE = 0.27
# Tolerance for the logits, as engines sum the floating-point head in different orders.
HEAD_ROUNDING = 1e-5


@dataclass
class Row:
    """One contender at one point.

    `speed_up` is over the fastest float PyTorch at this point, None if none ran. `difference` is the largest between
    Intaglio's logits and the simulated ones, None for other contenders.
    """

    contender: str
    batch: int
    length: int
    median_ms: float
    speed_up: float | None
    difference: float | None
    calls_ms: list[float]


def is_exact(row: Row) -> bool:
    """Return whether a row of Intaglio has the results of the simulation."""
    return row.difference is not None and row.difference <= HEAD_ROUNDING


def best(rows: Sequence[Row]) -> Row | None:
    """Return Intaglio's fastest contender with correct results at one point."""
    return min((row for row in rows if is_exact(row)), key=lambda row: row.median_ms, default=None)


def missed_speeds(rows: Sequence[Row], points: Sequence[Point], device: str) -> list[str]:
    """Return the missed goals of speed and exactness, one sentence each."""
    missed = [
        f"{row.contender} at {row.batch} x {row.length} differs from its simulation by {row.difference}"
        for row in rows
        if row.contender in INTAGLIO and not is_exact(row)
    ]
    for batch, length in points:
        here = {row.contender: row for row in rows if (row.batch, row.length) == (batch, length)}
        fastest, where = best(list(here.values())), f"{batch} x {length}"
        if fastest is None:
            missed.append(f"nothing of Intaglio ran at {where}")
            continue
        if fastest.speed_up is None:
            missed.append(f"no float PyTorch ran at {where}")
        elif fastest.speed_up < GOAL[device]:
            missed.append(
                f"at {where} {fastest.contender} is {fastest.speed_up:.2f} x as fast as the fastest float PyTorch, "
                f"the goal is {GOAL[device]}"
            )
        missed += [
            f"at {where} {name} takes {here[name].median_ms:.1f} ms, {fastest.contender} {fastest.median_ms:.1f} ms"
            for name in DYNAMIC
            if name in here and fastest.median_ms >= here[name].median_ms
        ]
    return missed


def missed_footprints(files: Sequence[dict[str, Any]], memory: Sequence[dict[str, Any]]) -> list[str]:
    """Return the missed goals of size and memory, one sentence each."""
    integer = [row for row in files if row["contender"] == "intaglio onnxruntime"]
    missed = [] if integer else ["there is no integer file"]
    missed += [
        f"the integer file is {share:.1%} of the one of {base}, the goal is {SHARE:.0%}"
        for row in integer
        for base, share in row["share_of"].items()
        if share > SHARE
    ]
    peaks = {(row["contender"], row["batch"], row["length"]): row["peak_mb"] for row in memory}
    for (name, batch, length), float_peak in peaks.items():
        peak = peaks.get((ENGINES.get(name), batch, length))
        if float_peak is not None and peak is not None and peak >= float_peak:
            missed.append(f"{ENGINES[name]} needs {peak:.0f} MB at {batch} x {length}, {name} {float_peak:.0f} MB")
    return missed


def print_point(rows: Sequence[Row]) -> None:
    """Print the contenders of one point, and Intaglio's against the others."""
    for row in rows:
        note = "" if row.difference is None else f"  off simulation by {row.difference:.1e}"
        note = "  equals simulation" if row.difference == 0 else note
        speed_up = _two(row.speed_up)
        print(f"{row.batch:>5} x{row.length:4}  {row.contender:26}{row.median_ms:10.1f}{speed_up:>9}{note}")
    fastest = best(rows)
    if fastest is not None:
        others = {row.contender: row.median_ms / fastest.median_ms for row in rows if row.contender in DYNAMIC}
        against = "".join(f", {ratio:.2f} x {name}" for name, ratio in others.items())
        print(f"{'':13}{fastest.contender}: {_two(fastest.speed_up)} x the fastest float PyTorch{against}")
    sys.stdout.flush()


def _two(number: float | None) -> str:
    return "-" if number is None else f"{number:.2f}"


def print_summary(rows: Sequence[Row]) -> None:
    """Print all results: one line per contender, one column per point, in milliseconds with speed-up."""
    points = list(dict.fromkeys((row.batch, row.length) for row in rows))
    cells = {(row.contender, row.batch, row.length): f"{row.median_ms:.1f} ({_two(row.speed_up)})" for row in rows}
    print("\nms (times as fast as the fastest float PyTorch)")
    print(f"{'batch x length':26}" + "".join(f"{f'{batch} x {length}':>17}" for batch, length in points))
    for name in dict.fromkeys(row.contender for row in rows):
        print(f"{name:26}" + "".join(f"{cells.get((name, *point), '-'):>17}" for point in points))


def print_footprints(files: Sequence[dict[str, Any]], memory: Sequence[dict[str, Any]]) -> None:
    """Print sizes of files by tensor type, and peak memory."""
    print(f"\n{'file of':26}{'MB':>8}  share of float        tensors, MB")
    for row in files:
        shares = ", ".join(f"{share:.1%}" for share in row["share_of"].values())
        tensors = ", ".join(f"{name} {size / 1e6:.1f}" for name, size in sorted(row["tensors"].items()))
        print(f"{row['contender']:26}{row['bytes'] / 1e6:8.1f}  {shares:22}{tensors}")
    if memory:
        print(f"\n{'peak memory of':26}{'batch x length':>16}{'MB':>8}")
    for row in memory:
        where, peak = f"{row['batch']} x {row['length']}", row["peak_mb"]
        print(f"{row['contender']:26}{where:>16}{'unknown' if peak is None else f'{peak:.0f}':>8}")
