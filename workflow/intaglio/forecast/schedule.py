"""How long a plan's jobs take side by side."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence


def wall_time(seconds: Mapping[str, float], after: Mapping[str, Sequence[str]], at_once: float) -> float:
    """Return the seconds until the last job ends, if jobs start as soon as they can.

    Of jobs that can start, the one with the longest way to the end does.

    Args:
        seconds: of each job, by its output.
        after: the outputs that each job waits for; those without an entry in `seconds` exist.
        at_once: number of jobs that run at a time; infinite gives the longest chain.
    """
    waiting = {job: {before for before in after[job] if before in seconds} for job in seconds}
    followers: dict[str, list[str]] = {job: [] for job in seconds}
    for job, before in waiting.items():
        for each in before:
            followers[each].append(job)
    way = _ways(seconds, followers)
    ready = [(-way[job], job) for job, before in waiting.items() if not before]
    heapq.heapify(ready)
    running: list[tuple[float, str]] = []
    now = 0.0
    while ready or running:
        while ready and len(running) < at_once:
            _, job = heapq.heappop(ready)
            heapq.heappush(running, (now + seconds[job], job))
        now, ended = heapq.heappop(running)
        for job in followers[ended]:
            waiting[job].discard(ended)
            if not waiting[job]:
                heapq.heappush(ready, (-way[job], job))
    return now


def _ways(seconds: Mapping[str, float], followers: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Return the seconds from each job's start to the end of its longest chain."""
    found: dict[str, float] = {}
    stack = list(seconds)
    while stack:
        job = stack[-1]
        missing = [each for each in followers[job] if each not in found]
        if job not in found and missing:
            stack += missing
            continue
        found[stack.pop()] = seconds[job] + max((found[each] for each in followers[job]), default=0.0)
    return found
