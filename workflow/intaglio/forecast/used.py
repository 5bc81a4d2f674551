"""What a study's finished jobs have used, by SLURM's accounting where there is one."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from intaglio.allocation import printed_by
from intaglio.forecast.costs import Cost

# SLURM takes a command line of about this many numbers of jobs.
_MOST = 500


@dataclass(frozen=True)
class Used:
    """What jobs have used.

    Attributes:
        allocations: number of jobs of SLURM, a returned one counted once; 0 if it has no account of them.
        attempts: number of their starts.
        gpu_hours: of all attempts, by the number of GPUs allocated.
        cpu_hours: of all attempts, by the number of CPUs allocated.
    """

    allocations: int
    attempts: int
    gpu_hours: float
    cpu_hours: float


def used(jobs: Sequence[Cost]) -> Used | None:
    """Return what the allocations of finished jobs have used; None without accounting or allocations.

    Attempts that SLURM started again under the same number count; those of jobs that were submitted anew under another
    number, after a failure, do not.
    """
    numbers = sorted({one.allocation for one in jobs if one.allocation is not None}, key=int)
    rows = [row for start in range(0, len(numbers), _MOST) for row in _rows(numbers[start : start + _MOST])]
    if not rows:
        return None
    return Used(
        allocations=len({number for number, *_ in rows}),
        attempts=len(rows),
        gpu_hours=sum(seconds * gpus for _, seconds, _, gpus in rows) / 3600,
        cpu_hours=sum(seconds * cpus for _, seconds, cpus, _ in rows) / 3600,
    )


def _rows(numbers: Collection[str]) -> list[tuple[str, int, int, int]]:
    """Return number, seconds, CPUs and GPUs of each attempt of these jobs."""
    wanted = ("--format=JobIDRaw,ElapsedRaw,AllocTRES", "--jobs", ",".join(numbers))
    printed = printed_by("sacct", "--allocations", "--duplicates", "--noheader", "--parsable2", *wanted)
    found = []
    for line in (printed or "").splitlines():
        number, seconds, resources = line.split("|", 2)
        amounts = dict(re.findall(r"(?:^|,)(cpu|gres/gpu)=(\d+)", resources))
        found.append((number, int(seconds or 0), int(amounts.get("cpu", 0)), int(amounts.get("gres/gpu", 0))))
    return found
