"""A study planned by the first Snakemake process, for the workflow's rules; `stored` has the same for its jobs."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from intaglio.errors import UserError
from intaglio.planning.allocations import Allocations, Outstanding
from intaglio.planning.found import named_run
from intaglio.planning.jobs import STORE, Job, Plan
from intaglio.planning.plan import make_plan, write_plan
from intaglio.planning.stores import link_results
from intaglio.rules.stored import StoredPlan, path_of, stored_plans, write_stored
from intaglio.study.files import check_owner, check_paths
from intaglio.study.load import load
from intaglio.study.options import STAGES


class PlannedStudy:
    """A plan, with what the workflow's rules ask of it.

    Attributes:
        facts: what they need to know beside the jobs.
        results: the folders that the tables are made of.
        path: of the file in which jobs on a cluster find themselves.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan, self._allocations = plan, Allocations(plan)
        self.facts, self.results, self.path = plan.facts, plan.results, path_of(plan.facts)

    def job(self, rule: str, name: str) -> Job | Outstanding:
        """Return the job of a rule that makes the folder of this name, or the allocation of this name.

        Raises:
            UserError: it is no part of the study.
        """
        try:
            return self._allocations.outstanding(name) if rule == "allocation" else self._plan.jobs[rule][name]
        except KeyError:
            raise UserError(
                f"{STORE / rule / name} is no part of the study {self.facts.study!r} as its file is now"
            ) from None

    def run(self, name: str) -> dict[str, Any]:
        """Return the run of this name, as it stands in plan.json.

        Raises:
            UserError: the name is that of no run or of several.
        """
        return named_run(self.facts.study, self._plan.summarized()["runs"], name)

    def needed_by_tables(self) -> tuple[list[str], list[str]]:
        """Return the results that jobs of their own make, and the names of the allocations that make the others."""
        own = [path for path in self.results if not self._allocations.shares(path)]
        return own, [name for name in self._allocations.by_name if self._allocations.jobs(name)]

    def store(self) -> None:
        """Write the plan for jobs on a cluster."""
        waiting = {name: self._allocations.outstanding(name) for name in self.needed_by_tables()[1]}
        write_stored(self._plan, waiting, self.needed_by_tables())

    def remove_earlier(self) -> None:
        """Remove what earlier starts have left for their jobs."""
        shutil.rmtree(self.path.parent.with_name("allocations"), ignore_errors=True)
        for other in stored_plans(self.facts.study):
            if other.path != self.path:
                other.path.unlink(missing_ok=True)

    def outputs(self, rule: str) -> list[str]:
        """Return the folders that a rule makes."""
        return [job.output for job in self._plan.jobs.get(rule, {}).values()]

    def begun(self) -> bool:
        """Return whether there is a result to show: a checkpoint, or the record of a failed training."""
        return any(Path(folder).exists() for run in self._plan.runs for folder in (*run.stages, *run.work.values()))

    def unfetched(self) -> list[Mapping[str, Any]]:
        """Return the repositories of the hub that are still to be fetched."""
        jobs = self._plan.jobs.get("fetch", {}).values()
        return [job.options for job in jobs if job.options["kind"] == "hub" and not Path(job.output).exists()]

    def unchecked(self) -> list[dict[str, Any]]:
        """Return the existing models and the demands on them; none if nothing is to be trained."""
        if all(Path(output).exists() for stage in STAGES for output in self.outputs(stage)):
            return []
        models = [job for job in self._plan.jobs["model"].values() if Path(job.output).exists()]
        return [{"model": job.output, "demands": job.options["demands"]} for job in models]


def plan_of_files(config: Mapping[str, Any], files: Sequence[Path]) -> PlannedStudy:
    """Check a study as Snakemake has read it from its files, plan it, and link what the stores of others have of it.

    Raises:
        UserError: there are mistakes in it, it names files or stores that do not exist, or its results belong to
            another file.
    """
    study = load(config, files)
    check_paths(study, files)
    check_owner(study.study, files, Path("results", study.study))
    plan = make_plan(study)
    link_results(plan)
    return PlannedStudy(plan)


def write_runs(stored: Path, output: Path) -> None:
    """Write the study and the runs of a stored plan as JSON, for the summary."""
    write_plan(StoredPlan(stored), output)
