"""How busy other processes keep the cores on which something is timed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import psutil  # type: ignore[import-untyped]

# Percent of the cores; more than this and times are not to be trusted: with fewer cores than threads, a latency can be
# tenfold.
DISTURBED = 20.0
# Seconds that a share is measured over at least: the kernel counts in ticks of 10 ms.
SHORTEST = 0.5


class Usage(NamedTuple):
    """Processor time in seconds, of all cores that this process may use.

    Attributes:
        total: elapsed, summed over the cores.
        used: in which they computed.
        own: in which they computed for this process.
    """

    total: float
    used: float
    own: float


class Watch:
    """Measures what other processes use while something is timed, piece by piece."""

    def __init__(self) -> None:
        self._pieces: list[Usage] = []

    @contextmanager
    def timing(self) -> Iterator[None]:
        """Measure one piece."""
        before = _usage()
        try:
            yield
        finally:
            self._pieces.append(Usage(*(after - start for after, start in zip(_usage(), before, strict=True))))

    def shares(self) -> list[float]:
        """Return for each piece the percent of the cores that other processes took meanwhile.

        A piece of less than half a second is taken together with its neighbours; where all are shorter together, this
        waits and measures on.
        """
        enough = SHORTEST * _cores()
        missing = enough - sum(piece.total for piece in self._pieces)
        further = Watch()
        if missing > 0:
            with further.timing():
                time.sleep(missing / _cores())
        return [share_of_others(pieces) for pieces in _joined([*self._pieces, *further._pieces], enough)][
            : len(self._pieces)
        ]


def _joined(pieces: Sequence[Usage], enough: float) -> Iterator[Sequence[Usage]]:
    """Yield for each piece it and as many neighbours as it takes to a total of `enough` seconds."""
    for place in range(len(pieces)):
        first, last = place, place + 1
        while sum(piece.total for piece in pieces[first:last]) < enough and last - first < len(pieces):
            first, last = (first - 1, last) if first else (first, last + 1)
        yield pieces[first:last]


def share_of_others(pieces: Iterable[Usage]) -> float:
    """Return the percent of the cores that other processes took."""
    total, used, own = (sum(part) for part in zip(*pieces, strict=True))
    return min(100.0, max(0.0, 100 * (used - own) / total)) if total > 0 else 0.0


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _usage() -> Usage:
    every = psutil.cpu_times(percpu=True)
    # A job on a shared node is bound to cores of its own: what others do on theirs is no disturbance.
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(len(every))
    cores = [every[core] for core in allowed if core < len(every)] or every
    # time of guests is counted in that of users, too
    guests = sum(getattr(core, "guest", 0.0) + getattr(core, "guest_nice", 0.0) for core in cores)
    total = sum(sum(core) for core in cores) - guests
    idle = sum(core.idle + getattr(core, "iowait", 0.0) for core in cores)
    own = os.times()
    return Usage(total, total - idle, own.user + own.system + own.children_user + own.children_system)
