"""When this process has to stop, by a signal or its time limit, and the return of its job to SLURM's queue.

A job that saves before its time is up and returns to the queue has not failed: SLURM starts it again under the same
number, as often as it takes, and whoever waits for that number waits on.
"""

from __future__ import annotations

import logging
import math
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from intaglio.errors import UserError

_log = logging.getLogger(__name__)

# When this process is to end, in seconds since the epoch, under a scheduler that is not SLURM.
DEADLINE = "INTAGLIO_DEADLINE"
# Set for jobs that SLURM may start again, since they find by themselves what is done: those of the workflow.
RETURNS = "INTAGLIO_RETURNS"
# Kept for saving: this share of the time, and no more than so many seconds.
_SHARE, _MOST = 0.25, 120.0
# What SLURM sends before it ends a job: SIGTERM by default, others with --signal.
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
EXIT_STATUS = 128 + signal.SIGTERM
_TIME = re.compile(r"(?:(?:(\d+)-)?(\d+):)?(\d+):(\d+)")


class Preempted(SystemExit):
    """The job has to end and has saved its progress; exit status 143, as for a process ended by SIGTERM.

    Attributes:
        out_of_time: whether because its time is nearly up; otherwise it was asked to.
    """

    def __init__(self, out_of_time: bool = False) -> None:
        super().__init__(EXIT_STATUS)
        self.out_of_time = out_of_time


class TimeLimit:
    """When this process has to stop, so that time is left to save."""

    def __init__(self) -> None:
        left = seconds_left()
        self._kept = min(_MOST, _SHARE * left)
        self._stop = time.monotonic() + left - self._kept
        self.reached = False

    def __bool__(self) -> bool:
        if not self.reached and time.monotonic() >= self._stop:
            # Somebody may have prolonged the job.
            self._stop = time.monotonic() + seconds_left() - self._kept
            self.reached = time.monotonic() >= self._stop
        return self.reached


class StopRequest:
    """Whether the job has to end: by which signal, or because its time is nearly up."""

    def __init__(self, agreed: Callable[[bool], bool] = bool) -> None:
        """Make it; `agreed` tells from a process's own answer that of all processes of the job."""
        self.signal: str | None = None
        self._time, self._agreed = TimeLimit(), agreed

    def __bool__(self) -> bool:
        return self._agreed(self.signal is not None or bool(self._time))

    @property
    def out_of_time(self) -> bool:
        """Whether its time is nearly up, and nothing else asks it to end."""
        return self.signal is None and self._time.reached

    def __str__(self) -> str:
        return self.signal or ("the time is nearly up" if self._time.reached else "another process was asked to end")

    def _ask(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self.signal = signal.Signals(number).name


@contextmanager
def stop_requests(agreed: Callable[[bool], bool] = bool) -> Iterator[StopRequest]:
    """Yield a `StopRequest`, true once one of `SIGNALS` has arrived or the time is nearly up.

    Within this context the signals end nothing. Outside the main thread, where Python cannot handle them, they do.
    `agreed` is that of `StopRequest`.
    """
    stop, before = StopRequest(agreed), {}
    try:
        for number in SIGNALS:
            before[number] = signal.signal(number, stop._ask)
    except ValueError:
        _log.debug("not in the main thread: signals keep their handlers")
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def seconds_left() -> float:
    """Return the seconds until this process is ended: by INTAGLIO_DEADLINE, or by SLURM; infinite without a limit.

    Raises:
        UserError: INTAGLIO_DEADLINE is not a number.
    """
    given = os.environ.get(DEADLINE)
    if given:
        try:
            return float(given) - time.time()
        except ValueError:
            raise UserError(
                f"{DEADLINE}={given}: give the end in seconds since 1970, as `date -d '+4 hours' +%s` prints it"
            ) from None
    job = _job()
    printed = printed_by("squeue", "--noheader", "--format=%L", "--jobs", job) if job else None
    return seconds_of(printed or "")


def seconds_of(text: str) -> float:
    """Return the seconds of a time as SLURM prints it, [[DAYS-]HOURS:]MINUTES:SECONDS; infinite for other words."""
    found = _TIME.fullmatch(text.strip())
    if found is None:
        return math.inf
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


def ranks_started() -> tuple[int, int]:
    """Return the number of this process among those that torchrun or srun started together, and how many they are."""
    names = ("RANK", "WORLD_SIZE") if "RANK" in os.environ else ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")
    rank, processes = (int(os.environ.get(name) or default) for name, default in zip(names, (0, 1), strict=True))
    # A batch script has SLURM's variables of its steps' tasks, but is none.
    return (rank, processes) if processes > 1 else (0, 1)


def restarts() -> int:
    """Return how often SLURM has put this job back into the queue."""
    # Snakemake's plugin hides SLURM's variable from the job itself.
    return int(os.environ.get("SLURM_RESTART_COUNT") or os.environ.get("INTAGLIO_RESTARTS") or 0)


def return_to_queue(out_of_time: bool) -> bool:
    """Put this job back into SLURM's queue, if SLURM does not do so by itself; it then ends this process.

    Args:
        out_of_time: whether the job stops because of its time limit. Otherwise it was told to end, and returns only if
            that is for jobs of higher priority: a cancelled job stays cancelled.

    Returns:
        Whether the job is back in the queue.
    """
    job = _job()
    if not job or not os.environ.get(RETURNS):
        return False
    facts = dict(re.findall(r"(\S+?)=(\S+)", printed_by("scontrol", "--oneliner", "show", "job", job) or ""))
    preempted = facts.get("PreemptTime", "None") != "None"
    if facts.get("JobState") != "RUNNING" or not (out_of_time or preempted):
        return False
    return printed_by("scontrol", "requeue", job) is not None


def _job() -> str | None:
    """Return the number by which SLURM knows this job, and no other task of its array; None without SLURM."""
    array, task = (os.environ.get(f"SLURM_ARRAY_{name}_ID") for name in ("JOB", "TASK"))
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def printed_by(*command: str) -> str | None:
    """Return what a command of the scheduler's prints; None if it fails, hangs or does not exist."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
