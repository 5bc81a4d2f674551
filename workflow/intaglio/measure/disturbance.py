"""How much other processes use the cores on which something is timed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import psutil  # type: ignore[import-untyped]

# Percent of the cores above which times are not reliable: with fewer cores than threads, latency can grow tenfold.
DISTURBED = 20.0
# Minimum time in seconds over which a share is measured, as the kernel counts in ticks of 10 ms.
SHORTEST = 0.5


class Usage(NamedTuple):
    """Processor time in seconds, of all cores that this process may use.

    Attributes:
        total: elapsed time, summed over the cores.
        used: time during which they computed.
        own: time during which they computed for this process.
    """

    total: float
    used: float
    own: float


class Watch:
    """Measures the use of the cores by other processes while pieces of work are timed."""

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
        """Return, for each piece, the percent of the cores that other processes used during it.

        A piece shorter than half a second is combined with its neighbours; if all together are shorter, this waits and
        continues measuring.
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
    """Yield, for each piece, the piece with as many neighbours as make up `enough` seconds."""
    for place in range(len(pieces)):
        first, last = place, place + 1
        while sum(piece.total for piece in pieces[first:last]) < enough and last - first < len(pieces):
            first, last = (first - 1, last) if first else (first, last + 1)
        yield pieces[first:last]


def share_of_others(pieces: Iterable[Usage]) -> float:
    """Return the percent of the cores that other processes used."""
    total, used, own = (sum(part) for part in zip(*pieces, strict=True))
    return min(100.0, max(0.0, 100 * (used - own) / total)) if total > 0 else 0.0


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _usage() -> Usage:
    every = psutil.cpu_times(percpu=True)
    # A job on a shared node is bound to its own cores: the use of other cores does not disturb it.
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(len(every))
    cores = [every[core] for core in allowed if core < len(every)] or every
    # guests' time is part of the users' time
    guests = sum(getattr(core, "guest", 0.0) + getattr(core, "guest_nice", 0.0) for core in cores)
    total = sum(sum(core) for core in cores) - guests
    idle = sum(core.idle + getattr(core, "iowait", 0.0) for core in cores)
    own = os.times()
    return Usage(total, total - idle, own.user + own.system + own.children_user + own.children_system)
