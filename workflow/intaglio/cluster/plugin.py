"""What Snakemake's plugin for SLURM (2.8) leaves out, added to it.

- A cancelled job's state is `CANCELLED by 0` in accounting, which the plugin does not take for an end.
- A preempted job, or one whose node failed, is left to SLURM, which starts it again only where the cluster says so
  (PreemptMode=REQUEUE). Where it does not (CANCEL), the job is put back into the queue here, under the same number.
- The node of a failed job is excluded from later submissions for good, even if it has none: SLURM keeps jobs off failed
  nodes by itself.
- Time beyond a partition's limit is asked for, on which SLURM leaves a job pending for ever.
- A job whose error will come again, such as a diverged training, is submitted again.
"""

from __future__ import annotations

import getpass
import re
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from intaglio.allocation import printed_by, seconds_of
from intaglio.failures import last_error

# States after which SLURM may start a job again, and the plugin's words for one that waits and for one that failed.
_MAY_RETURN = ("PREEMPTED", "NODE_FAIL")
_WAITS, _FAILED = "REQUEUED", "FAILED"
# The start of an error that will come again: the job's own message.
_MISTAKE = re.compile(r"intaglio \w+: ")


def complete_plugin(plugin: ModuleType) -> None:
    """Complete the plugin, `snakemake_executor_plugin_slurm`, in this process."""
    query, command, executor = plugin.query_job_status, plugin.get_submit_command, plugin.Executor
    if getattr(executor, "completed", False):
        return
    states, since = _States(), time.time()

    async def query_job_status(*args: Any, **kwargs: Any) -> tuple[dict[str, str] | None, float | None]:
        found, seconds = await query(*args, **kwargs)
        return None if found is None else states.corrected(found), seconds

    def get_submit_command(job: Any, params: Mapping[str, Any], *args: Any, **kwargs: Any) -> str:
        return within_limit(command(job, params, *args, **kwargs), limits())

    report = executor.report_job_error

    def report_job_error(self: Any, job_info: Any, *args: Any, **kwargs: Any) -> None:
        job = job_info.job
        if not job.is_group() and fails_again(job.log, since):
            # No attempt is left.
            job.attempt = job.restart_times + 1
        report(self, job_info, *args, **kwargs)

    plugin.query_job_status = query_job_status  # type: ignore[attr-defined]
    plugin.get_submit_command = get_submit_command  # type: ignore[attr-defined]
    executor.report_job_error, executor.completed = report_job_error, True


class _States:
    """The states of jobs, as the plugin reads them."""

    def __init__(self) -> None:
        self._lost: set[str] = set()

    def corrected(self, states: Mapping[str, str]) -> dict[str, str]:
        """Return the states by job, in words that the plugin knows; jobs that SLURM gave up return to the queue."""
        words = {job: state.split()[0] if state.strip() else state for job, state in states.items()}
        ended = [job for job, state in words.items() if state in _MAY_RETURN]
        queued = _queued() if ended else set()
        for job in ended:
            # If the queue cannot be asked now, it is the next time.
            waits = queued is None or job in queued
            # SLURM forgets a job some minutes after its end, and may refuse: then Snakemake submits it anew, once.
            if not waits and (job in self._lost or not _requeue(job)):
                self._lost.add(job)
                words[job] = _FAILED
            else:
                words[job] = _WAITS
        return words


def _queued() -> set[str] | None:
    """Return the user's jobs that wait, run or are about to end, tasks of arrays under both names; None if unknown."""
    printed = printed_by("squeue", "--noheader", "--user", getpass.getuser(), "--format=%i %A")
    return None if printed is None else set(printed.split())


def _requeue(job: str) -> bool:
    return printed_by("scontrol", "requeue", job) is not None


@cache
def limits() -> Mapping[str, float]:
    """Return the time limits of the cluster's partitions in minutes, infinite without one; "" is the default's."""
    found = {}
    for line in (printed_by("sinfo", "--noheader", "--format=%P|%l") or "").splitlines():
        name, _, limit = line.partition("|")
        found[name.rstrip("*")] = seconds_of(limit) / 60
        if name.endswith("*"):
            found[""] = found[name.rstrip("*")]
    return found


def within_limit(call: str, limits: Mapping[str, float]) -> str:
    """Return a call of sbatch that asks for no more time than each of its partitions (-p) gives."""
    asked, named = re.search(r" -t (\d+)", call), re.search(r" -p (\S+)", call)
    partitions = named[1].strip("'").split(",") if named else [""]
    limit = min(limits.get(partition, float("inf")) for partition in partitions)
    if asked is None or int(asked[1]) <= limit:
        return call
    return f"{call[: asked.start(1)]}{max(1, int(limit))}{call[asked.end(1) :]}"


def fails_again(logs: Sequence[str], since: float) -> bool:
    """Return whether a failed job with these logs would fail again, by its own message since a time (of the epoch)."""
    return any(
        _MISTAKE.match(last_error(log) or "") for log in map(Path, logs) if log.is_file() and _written(log) >= since
    )


def _written(file: Path) -> float:
    # File systems round times, and their clocks may differ a little from this machine's.
    return file.stat().st_mtime + 5
