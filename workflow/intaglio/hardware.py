"""Names of devices, and the hardware on which most times were measured: they are never averaged over others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

_Row = dict[str, Any]
DEVICE_NAMES = {"cpu": "CPU", "cuda": "GPU"}
_TRAINING_TIMES = ("train_seconds", "total_train_seconds", "step_seconds")


def of_one_device(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return rows of runs.parquet; training times on devices other than the most frequent one are null.

    Among equally frequent devices, the first one is taken.
    """
    kept = [dict(run) for run in runs]
    seen = Counter(run["trained_on"] for run in kept if run.get("trained_on"))
    for run in kept:
        if seen and run.get("trained_on") != seen.most_common(1)[0][0]:
            run.update(dict.fromkeys(_TRAINING_TIMES))
    return kept


def of_one_machine(timed: Sequence[_Row]) -> tuple[list[_Row], list[_Row]]:
    """Split rows of the latency table into those of the most frequent machine, for each device, and others.

    Among equally frequent machines, the first one is taken.
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
