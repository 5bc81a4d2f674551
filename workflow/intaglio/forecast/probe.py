"""A few steps of the stages of which nothing is known yet."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

from intaglio.errors import UserError
from intaglio.forecast.costs import Cost, cost_of, made_of
from intaglio.forecast.estimate import Estimates
from intaglio.planning.jobs import Job, Plan
from intaglio.stages.run import run_stage
from intaglio.study.options import STAGES
from intaglio.training.job import StageJob

_log = logging.getLogger(__name__)

_STEPS = 4


def probe(plan: Plan, estimates: Estimates) -> Iterator[Cost]:
    """Run a few steps of each kind of training job that nothing like it has been measured of, on this machine.

    Chains are probed in their order: a stage starts from the probe of the one before it where that is not finished.

    Raises:
        UserError: data or models are not prepared yet.
    """
    with tempfile.TemporaryDirectory(prefix="intaglio-probe-") as folder:
        found: dict[str, Path] = {}
        for rule, job in _trainings(plan):
            if Path(job.output).exists() or estimates.peers(rule, job):
                continue
            done = Path(folder) / f"{rule}-{made_of(Path(job.output).name)}.probe"
            if not done.exists():
                _log.warning("probing: %d steps of %s", _STEPS, made_of(Path(job.output).name))
                _run(job, plan.study.max_length, found, done, Path(folder) / "work")
                result = cost_of(done, rule, probed=True)
                if result is not None:
                    yield result
            found[job.output] = done


def _trainings(plan: Plan) -> Iterator[tuple[str, Job]]:
    """Yield the jobs that train, each after those that it starts from."""
    left = [(rule, job) for rule in STAGES for job in plan.jobs.get(rule, {}).values() if "batch_size" in job.options]
    planned = {job.output for _, job in left}
    while left:
        ready = [(rule, job) for rule, job in left if not planned & set(job.inputs.values())]
        yield from ready
        planned -= {job.output for _, job in ready}
        left = [pair for pair in left if pair not in ready]


def _run(job: Job, max_length: int, found: dict[str, Path], output: Path, work: Path) -> None:
    inputs = {role: found.get(path, Path(path)) for role, path in job.inputs.items()}
    for path in inputs.values():
        if not path.exists():
            raise UserError(f"{path} is not prepared yet: run Snakemake with `--until tokens` first, then plan again")
    few = {"max_steps": _STEPS, "evaluations": 0, "patience": None}
    options = STAGES[job.options["stage"]].model_validate({**job.options, **few})
    run_stage(
        StageJob(
            start=inputs.get("parent") or inputs["model"],
            data=inputs["data"],
            options=options,
            seed=job.seed,
            max_length=max_length,
            work=work,
            output=output,
            teacher=inputs.get("teacher"),
            student=inputs.get("student"),
        )
    )
