"""The forecast of a study: what is finished, what is left to do, and what that will take."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from intaglio.forecast.costs import Cost
from intaglio.forecast.estimate import Estimates
from intaglio.forecast.schedule import wall_time
from intaglio.planning.jobs import Job, Plan
from intaglio.store import new_file

_AFTER_STAGES = ("evaluate", "export", "profile")


@dataclass(frozen=True)
class RuleForecast:
    """The jobs of a rule.

    Attributes:
        rule: its name.
        jobs: their number in the plan.
        finished: how many have a result.
        unknown: how many of the others have no estimate; they are left out of the sums.
        seconds: of the others, together.
        gpu_seconds: of those of them that ask for a GPU.
        size: bytes of their results.
    """

    rule: str
    jobs: int
    finished: int
    unknown: int
    seconds: float
    gpu_seconds: float
    size: int

    @property
    def left(self) -> int:
        """Number of jobs to do."""
        return self.jobs - self.finished


@dataclass(frozen=True)
class Forecast:
    """The forecast of a study.

    Attributes:
        study: its name.
        runs: number of its runs.
        rules: the jobs of each rule.
        longest_chain: seconds, if all jobs that can run do so.
        wall_seconds: seconds, with `at_once` jobs at a time.
        at_once: number of jobs at a time.
        cpus: CPUs of a job.
        devices: what the measured jobs ran on.
        probed: whether steps of stages were probed.
    """

    study: str
    runs: int
    rules: Sequence[RuleForecast]
    longest_chain: float
    wall_seconds: float
    at_once: int
    cpus: int
    devices: Sequence[str]
    probed: bool

    @property
    def left(self) -> int:
        """Number of jobs to do."""
        return sum(rule.left for rule in self.rules)

    @property
    def gpu_hours(self) -> float:
        """GPU hours of the jobs to do."""
        return sum(rule.gpu_seconds for rule in self.rules) / 3600

    @property
    def cpu_hours(self) -> float:
        """CPU hours of the jobs to do."""
        return sum(rule.seconds for rule in self.rules) * self.cpus / 3600


def forecast(plan: Plan, known: Iterable[Cost], at_once: int) -> Forecast:
    """Return the forecast of a plan.

    Args:
        plan: the jobs.
        known: finished jobs and probes, of any study, to estimate from.
        at_once: number of jobs at a time.
    """
    estimates = Estimates(plan, known)
    rules: list[RuleForecast] = []
    seconds: dict[str, float] = {}
    after: dict[str, list[str]] = {}
    devices: dict[str, None] = {}
    probed = False
    for rule in sorted(plan.jobs, key=lambda rule: rule in _AFTER_STAGES):
        jobs = plan.jobs[rule]
        left = [job for job in jobs.values() if not Path(job.output).exists()]
        found = {job.output: estimates.of(rule, job) for job in left}
        for job in left:
            peers = estimates.peers(rule, job)
            devices.update(dict.fromkeys(one.device for one in peers if one.device))
            probed = probed or any(one.probed for one in peers)
            seconds[job.output] = found[job.output].seconds or 0.0
            after[job.output] = list(job.inputs.values())
        timed = [one.seconds for one in found.values() if one.seconds is not None]
        on_gpu = [found[job.output].seconds or 0.0 for job in left if _asks_for_gpu(plan, job)]
        size = sum(one.size or 0 for one in found.values())
        rules.append(
            RuleForecast(rule, len(jobs), len(jobs) - len(left), len(left) - len(timed), sum(timed), sum(on_gpu), size)
        )
    return Forecast(
        study=plan.study.study,
        runs=len(plan.runs),
        rules=rules,
        longest_chain=wall_time(seconds, after, math.inf),
        wall_seconds=wall_time(seconds, after, at_once),
        at_once=at_once,
        cpus=plan.study.resources.cpus,
        devices=list(devices),
        probed=probed,
    )


def _asks_for_gpu(plan: Plan, job: Job) -> bool:
    return job.gpu and plan.study.resources.gpus != "none"


def keep(found: Forecast, path: Path) -> None:
    """Keep the forecast of a study of which nothing is finished, to compare it with what is used in the end."""
    with new_file(path) as draft:
        draft.write_text(json.dumps(asdict(found) | {"gpu_hours": found.gpu_hours, "cpu_hours": found.cpu_hours}))


def kept(path: Path) -> dict[str, float] | None:
    """Return what `keep` wrote; None if there is none."""
    if not path.is_file():
        return None
    content: dict[str, float] = json.loads(path.read_text())
    return content
