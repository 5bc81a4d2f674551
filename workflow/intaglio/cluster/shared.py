"""Jobs that share an allocation: one after another, each in a process that is forked from this one.

A process of its own for each: it ends with its memory, that of a GPU too, and its failure is its own. Forked: the
libraries, whose import takes longer than a small job, are imported once. This process itself computes nothing: threads
of OpenMP would not survive the fork.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from intaglio.allocation import EXIT_STATUS, SIGNALS, Preempted, return_to_queue, seconds_left, stop_requests
from intaglio.planning.allocations import minutes_of
from intaglio.planning.commands import command
from intaglio.rules.stored import StoredPlan
from intaglio.store import new_file
from intaglio.study.options import STAGES

# For the processes that are forked from this one.
_IMPORTED = ("intaglio.stages.run", "intaglio.measure.evaluate", "intaglio.measure.profile", "intaglio.export.export")
# Exit status of a mistake or a diverged training, which another attempt would repeat.
_MISTAKE = 2
# A job that can be resumed begins if so many seconds are left.
_BEGINS = 600.0


@dataclass(frozen=True)
class Shared:
    """A job that shares an allocation.

    Attributes:
        words: of its command.
        inputs: what must be there before it.
        output: the folder that it makes.
        minutes: the time that it is expected to take at most.
        resumes: whether it saves when its time is nearly up, and goes on later.
    """

    words: Sequence[str]
    inputs: Sequence[str]
    output: str
    minutes: float
    resumes: bool


def make_allocation(plan: Path, name: str, output: Path, attempts_left: int, run: Callable[[list[str]], int]) -> int:
    """Make the results of an allocation, and the file that says so.

    Args:
        plan: the plan, as `rules.stored` writes it.
        name: of the allocation.
        output: the file; it lists the results that could not be made.
        attempts_left: further attempts if this one fails. What these would not change is no failure of the allocation:
            others that need it find out what is there.
        run: runs a command in a process of its own, and returns its exit status.

    Returns:
        The exit status.

    Raises:
        Preempted: as `make_shared`.
    """
    for module in _IMPORTED:
        import_module(module)
    stored = StoredPlan(plan)
    jobs = [_shared(stored, path) for path in stored.allocation(name).outputs if not Path(path).exists()]
    mistakes, again = make_shared(jobs, run)
    if again and attempts_left:
        _say(f"{len(again)} of {len(jobs)} results are tried again")
        return 1
    with new_file(output) as draft:
        draft.write_text("".join(f"{failed}\n" for failed in (*mistakes, *again)))
    return 0


def _shared(stored: StoredPlan, folder: str) -> Shared:
    job, rule = stored.job_of(folder), Path(folder).parent.name
    return Shared(
        words=["--log", f"logs/{rule}/{Path(folder).name}.log", *command(rule, job, stored.facts.max_length)],
        inputs=list(job.inputs.values()),
        output=folder,
        minutes=minutes_of(rule, stored.facts.resources),
        resumes=rule in STAGES and rule != "int8",
    )


def make_shared(jobs: Sequence[Shared], run: Callable[[list[str]], int]) -> tuple[list[str], list[str]]:
    """Run jobs one after another; one that fails, or whose inputs are missing, does not stop the others.

    Before the time does not suffice for the next job, the allocation returns to SLURM's queue, if that is possible.

    Args:
        jobs: each after those whose results it needs.
        run: runs a command in a process of its own, and returns its exit status.

    Returns:
        The results that would be missing after another attempt, too, and those that another attempt may make.

    Raises:
        Preempted: the allocation has to end; results that are finished stay.
    """
    made = 0
    mistakes: list[str] = []
    again: list[str] = []
    # SLURM signals the job that runs, too.
    with stop_requests() as stop:
        for job in jobs:
            absent = [path for path in job.inputs if not Path(path).exists()]
            if absent:
                _say(f"{job.output}: left out, as {absent[0]} is missing")
                (again if set(absent) & set(again) else mistakes).append(job.output)
                continue
            # Without a result since its start, it would return for ever.
            if made and seconds_left() < _needed(job) and return_to_queue(out_of_time=True):
                _say(f"{job.output}: too little time is left; the allocation is back in the queue, and goes on there")
                raise Preempted(out_of_time=True)
            start = time.monotonic()
            status = _status(job, run)
            _say(f"{job.output}: {time.monotonic() - start:.1f} s{f', exit status {status}' if status else ''}")
            if stop.signal or status == EXIT_STATUS:
                raise Preempted
            made += not status
            if status:
                (mistakes if status == _MISTAKE else again).append(job.output)
    return mistakes, again


def _needed(job: Shared) -> float:
    """Return the seconds that must be left for a job to begin."""
    return min(_BEGINS, job.minutes * 60) if job.resumes else job.minutes * 60


def _status(job: Shared, run: Callable[[list[str]], int]) -> int:
    """Return the exit status of a job's command, as a shell does for one that a signal ended."""
    process = multiprocessing.get_context("fork").Process(target=_child, args=(run, list(job.words)))
    process.start()
    process.join()
    status = process.exitcode or 0
    return status if status >= 0 else 128 - status


def _child(run: Callable[[list[str]], int], words: list[str]) -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    sys.exit(run(words))


def _say(text: str) -> None:
    print(text, flush=True)
