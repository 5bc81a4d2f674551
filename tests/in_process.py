"""A study's jobs run one after the other in this process: the commands of the rules, without a process for each."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from intaglio.cli import main
from intaglio.planning.commands import command
from intaglio.planning.jobs import Plan
from intaglio.planning.plan import make_plan, write_plan
from intaglio.study.load import load


def run_study(content: dict[str, Any]) -> None:
    """Make all results of a study in the working folder; existing ones, as fetched sources, are taken as they are."""
    plan = run_jobs(content)
    results = Path("results", plan.study.study)
    # Not planned again: that would ask for another measurement of what others have disturbed.
    write_plan(plan, results / "plan.json")
    _main("summarize", "--plan", results / "plan.json", "--output", results / "summary")
    summary = ("--summary", results / "summary")
    _main("pages", *summary, "--output", results / "pages", "--report", results / "report.html")
    _main("plot", *summary, "--output", results / "plots")


def run_jobs(content: dict[str, Any], only: Collection[str] | None = None) -> Plan:
    """Run a study's jobs, or only those of some rules, and return its plan."""
    plan = make_plan(load(content))
    waiting = [
        (rule, job)
        for rule, jobs in plan.jobs.items()
        for job in jobs.values()
        if not Path(job.output).exists() and (only is None or rule in only)
    ]
    while waiting:
        able = [(rule, job) for rule, job in waiting if all(Path(path).exists() for path in job.inputs.values())]
        assert able, f"nothing can run of {[rule for rule, _ in waiting]}"
        for rule, job in able:
            _main(*command(rule, job, plan.study.max_length))
            waiting.remove((rule, job))
    return plan


def _main(*words: Any) -> None:
    assert main([str(word) for word in words]) == 0, words
