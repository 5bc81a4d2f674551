"""The verbs that people type for a whole study, beside those of its jobs."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from intaglio.cluster.arguments import of_submission

Arguments = argparse.Namespace


def _plan(arguments: Arguments) -> None:
    """Check a study file; print its jobs, what is finished, and what the rest will take or all has used."""
    from intaglio.forecast.text import told
    from intaglio.planning.plan import make_plan
    from intaglio.study.load import read

    plan = make_plan(read(arguments.file))
    print(*told(plan, arguments.jobs, arguments.probe, Path("results", plan.study.study)), sep="\n")


def _status(arguments: Arguments) -> None:
    """Show how a running study stands: its jobs by state, the progress of each training, and what failed."""
    from intaglio.planning.plan import make_plan
    from intaglio.status import standing
    from intaglio.study.load import read

    print(*standing(make_plan(read(arguments.file))), sep="\n")


def _schema(arguments: Arguments) -> None:
    """Write the JSON schema of study files and their reference page."""
    from intaglio.reference import write_reference, write_schema

    write_schema(arguments.schema)
    write_reference(arguments.reference)


def _submit(arguments: Arguments) -> int:
    """Run a target of the workflow as one cluster job, and wait for it."""
    from intaglio.cluster.submit import submit

    options = {name: value for name, value in vars(arguments).items() if name not in ("verb", "run", "target", "log")}
    return submit(arguments.target, **options)


def _doctor(arguments: Arguments) -> None:  # noqa: ARG001
    """Look at this machine or cluster, and print what to set in the Snakemake profile."""
    from intaglio.cluster.doctor import findings

    for line in findings(Path()):
        print(line, flush=True)


def _clean(arguments: Arguments) -> None:
    """List results that no study here needs any more, and what killed processes left; with --yes, remove them."""
    from intaglio.clean import clean

    print(*clean(arguments.yes), sep="\n")


def of_studies(verb: Callable[..., Any]) -> None:
    """Add the verbs, by a function that adds one and returns its parser."""
    plan = verb(_plan)
    plan.add_argument("file", type=Path, help="study file")
    plan.add_argument("--jobs", type=int, default=100, help="number of jobs at once, as given to Snakemake (100)")
    plan.add_argument("--probe", action="store_true", help="run a few steps of the stages that nothing is known of")
    verb(_status).add_argument("file", type=Path, help="study file")
    verb(_schema, "schema", "reference")
    of_submission(verb(_submit))
    verb(_doctor)
    verb(_clean).add_argument("--yes", action="store_true", help="remove what is listed")
