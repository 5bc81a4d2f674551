"""A running study in a terminal: its jobs by state, the progress of each training, and what failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from intaglio.failures import log_of, reason
from intaglio.forecast.text import duration
from intaglio.journal import noted, time_left
from intaglio.ownership import is_owned
from intaglio.planning.commands import WITH_WORK
from intaglio.planning.jobs import Job, Plan
from intaglio.store import MANIFEST

STATES = ("finished", "running", "failed", "waiting")
# Jobs of a state that are named.
_NAMED = 20


@dataclass(frozen=True)
class Seen:
    """A job as it is seen now.

    Attributes:
        rule: its rule.
        job: the job.
        state: one of `STATES`. A job that waits may be in the queue of a cluster.
        said: of a job that runs its progress, as far as it is known; of one that failed the reason.
    """

    rule: str
    job: Job
    state: str
    said: str = ""


def see(rule: str, job: Job) -> Seen:
    """Return how a job stands, as its folders and its log tell."""
    folder, work = Path(job.output), Path(job.work) if rule in WITH_WORK else None
    if (folder / MANIFEST).is_file():
        return Seen(rule, job, "finished")
    if work and is_owned(work):
        return Seen(rule, job, "running", _progress(work))
    error = reason(folder, work)
    if error:
        return Seen(rule, job, "failed", error)
    # Without a folder of work nothing tells more; a training that has saved its progress waits for its next attempt.
    return Seen(rule, job, "running" if work is None and log_of(folder).is_file() else "waiting")


def _progress(work: Path) -> str:
    """Return the progress of a training: steps, the last loss and validation metrics, and the time left."""
    entries = noted(work)
    if not entries:
        return ""
    last, values = entries[-1], {name: value for entry in entries for name, value in entry.values.items()}
    words = [f"step {last.step} of {last.steps}", *(f"{name} {value:.3g}" for name, value in values.items())]
    left = time_left(entries)
    return ", ".join(words if left is None else [*words, f"{duration(left)} left"])


def standing(plan: Plan) -> Iterator[str]:
    """Yield the lines that tell how a study stands; it is looked at in the present folder."""
    seen = [see(rule, job) for rule, jobs in plan.jobs.items() for job in jobs.values()]
    counts = Counter(one.state for one in seen)
    yield f"{plan.study.study}: {len(seen)} jobs: " + ", ".join(f"{counts[state]} {state}" for state in STATES)
    yield ""
    yield f"{'rule':<10}{'jobs':>7}" + "".join(f"{state:>10}" for state in STATES)
    for rule, jobs in plan.jobs.items():
        of_rule = Counter(one.state for one in seen if one.rule == rule)
        yield f"{rule:<10}{len(jobs):>7,}" + "".join(f"{of_rule[state] or '–':>10}" for state in STATES)
    for state in ("running", "failed"):
        yield from _named(state, [one for one in seen if one.state == state])


def _named(state: str, seen: Sequence[Seen]) -> Iterator[str]:
    if seen:
        yield ""
        yield f"{state}:"
    for one in seen[:_NAMED]:
        yield f"  {one.rule} {one.job.name}" + (f": {one.said}" if one.said else "")
    if len(seen) > _NAMED:
        yield f"  and {len(seen) - _NAMED} more"
