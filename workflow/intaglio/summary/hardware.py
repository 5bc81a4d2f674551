"""Times of different hardware are never averaged: those of the hardware that most were taken on are kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

_Row = dict[str, Any]
_TRAINING_TIMES = ("train_seconds", "total_train_seconds", "step_seconds")


def of_one_device(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return rows of runs.parquet in which training times of another device than most rows' are null.

    Of devices that are equally frequent the first one counts.
    """
    kept = [dict(run) for run in runs]
    seen = Counter(run["trained_on"] for run in kept if run.get("trained_on"))
    for run in kept:
        if seen and run.get("trained_on") != seen.most_common(1)[0][0]:
            run.update(dict.fromkeys(_TRAINING_TIMES))
    return kept


def of_one_machine(timed: Sequence[_Row]) -> tuple[list[_Row], list[_Row]]:
    """Part rows of the latency table into those of the machine that timed most of them, for each device, and others.

    Of machines that are equally frequent the first one counts.
    """
    most = {}
    for device in {row["device"] for row in timed}:
        seen = Counter(row["machine_id"] for row in timed if row["device"] == device)
        most[device] = seen.most_common(1)[0][0]
    kept: list[_Row] = []
    others: list[_Row] = []
    for row in timed:
        (kept if row["machine_id"] == most[row["device"]] else others).append(row)
    return kept, others
