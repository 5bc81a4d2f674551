"""Jobs that share an allocation: those of a run, or of several runs.

Each allocation of a cluster waits in the queue, and starts Snakemake and Python anew. Where trainings take minutes,
that is most of the time. With `resources: runs_per_allocation`, the jobs of so many runs are made in one, one after
another.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from intaglio.planning.identity import digest
from intaglio.planning.jobs import Job, Plan, Run
from intaglio.study.options import STAGES
from intaglio.study.schema import Resources

_RULES = (*STAGES, "evaluate", "export", "profile")


@dataclass(frozen=True)
class Allocation:
    """Jobs that are made one after another in one allocation.

    Attributes:
        name: of the first run's task and model, and a hash of the results.
        jobs: with their rules, each after those whose results it needs.
    """

    name: str
    jobs: Sequence[tuple[str, Job]]

    @property
    def gpu(self) -> bool:
        """Whether one of the jobs uses a GPU if there is one."""
        return any(job.gpu for _, job in self.jobs)


@dataclass(frozen=True)
class Outstanding:
    """What of an allocation is still to be done, as of the start of Snakemake.

    Attributes:
        gpu: whether one of its jobs uses a GPU if there is one.
        minutes: the time to ask for.
        folders: those that it needs and other jobs make.
        others: names of the allocations that have to end before it.
        outputs: the folders to make, each after those that it needs.
    """

    gpu: bool
    minutes: int
    folders: list[str]
    others: list[str]
    outputs: list[str]


class Allocations:
    """The allocations of a plan by name; none, unless the study's resources ask for them."""

    def __init__(self, plan: Plan) -> None:
        """Distribute the jobs of runs over allocations.

        A job belongs to the first run that needs it. So an allocation needs results of earlier ones only.
        """
        self._resources = plan.study.resources
        self._jobs = {job.output: (rule, job) for rule in _RULES for job in plan.jobs.get(rule, {}).values()}
        self._allocation: dict[str, str] = {}
        self.by_name: dict[str, Allocation] = {}
        runs = _side_by_side(plan.runs)
        if number := self._resources.runs_per_allocation:
            for start in range(0, len(runs), number):
                self._add(runs[start : start + number])
        self._results = {path for run in runs for path in _results(run)}
        self._consumers: dict[str, list[str]] = defaultdict(list)
        for _, job in self._jobs.values():
            for path in job.inputs.values():
                self._consumers[path].append(job.output)
        self.wanted = cache(self._wanted)

    def _add(self, runs: Sequence[Run]) -> None:
        jobs: list[tuple[str, Job]] = []
        taken: set[str] = set()

        def take(output: str) -> None:
            if output in taken or output in self._allocation or output not in self._jobs:
                return
            taken.add(output)
            for path in self._jobs[output][1].inputs.values():
                take(path)
            jobs.append(self._jobs[output])

        for run in runs:
            for output in (*run.stages, *_results(run)):
                take(output)
        if jobs:
            name = f"{runs[0].task}.{runs[0].model}.{digest([job.output for _, job in jobs])}"
            self.by_name[name] = Allocation(name, jobs)
            self._allocation.update((job.output, name) for _, job in jobs)

    def _wanted(self, output: str) -> bool:
        """Return whether a job's result is missing, and is a run's result or needed for one that is missing, too.

        The answer is kept: it is that of the first time.
        """
        if Path(output).exists():
            return False
        return output in self._results or any(self.wanted(other) for other in self._consumers[output])

    def shares(self, output: str) -> bool:
        """Return whether a result is made in an allocation of these."""
        return output in self._allocation

    def jobs(self, name: str) -> list[tuple[str, Job]]:
        """Return the jobs of an allocation that are still to be done, with their rules."""
        return [(rule, job) for rule, job in self.by_name[name].jobs if self.wanted(job.output)]

    def needed(self, name: str) -> tuple[list[str], list[str]]:
        """Return the folders, made by other jobs, and the names of the allocations that an allocation needs."""
        paths = dict.fromkeys(path for _, job in self.jobs(name) for path in job.inputs.values())
        folders = [path for path in paths if path not in self._allocation]
        others = [self._allocation[path] for path in paths if path in self._allocation and self.wanted(path)]
        return folders, [other for other in dict.fromkeys(others) if other != name]

    def outstanding(self, name: str) -> Outstanding:
        """Return what of an allocation is still to be done."""
        folders, others = self.needed(name)
        outputs = [job.output for _, job in self.jobs(name)]
        return Outstanding(self.by_name[name].gpu, self.minutes(name), folders, others, outputs)

    def minutes(self, name: str) -> int:
        """Return the time to ask for, in minutes: that of all jobs that are still to be done."""
        return max(1, sum(minutes_of(rule, self._resources) for rule, _ in self.jobs(name)))


def minutes_of(rule: str, resources: Resources) -> int:
    """Return the time that a job of a rule is expected to take at most, in minutes."""
    return resources.train_minutes if rule in STAGES else resources.measure_minutes


def _side_by_side(runs: Sequence[Run]) -> list[Run]:
    """Return the runs in an order in which those that share stages are neighbours."""
    groups: dict[tuple[str, str, int], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.task, run.model, run.seed), []).append(run)
    return [run for group in groups.values() for run in group]


def _results(run: Run) -> list[str]:
    return [path for path in (run.evaluation, run.teacher, run.export, run.profile) if path]
