"""A forecast in words and figures."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from intaglio.forecast.costs import Cost, all_costs
from intaglio.forecast.estimate import Estimates
from intaglio.forecast.forecast import Forecast, RuleForecast, forecast, keep, kept
from intaglio.forecast.used import used
from intaglio.planning.jobs import Plan


def told(plan: Plan, at_once: int, probing: bool, folder: Path) -> Iterator[str]:
    """Yield the lines that tell what a study will take, or has used if it is finished.

    Args:
        plan: its jobs.
        at_once: number of jobs at a time.
        probing: whether to run a few steps of stages that nothing is known of.
        folder: of the study's tables; the forecast is kept there.

    Raises:
        UserError: something is to be probed whose data or model is not prepared yet.
    """
    known = list(all_costs())
    if probing:
        # Imports torch.
        from intaglio.forecast.probe import probe

        known += probe(plan, Estimates(plan, known))
    found = forecast(plan, known, at_once)
    yield f"{found.study}: {found.runs} runs; {found.left} of {sum(rule.jobs for rule in found.rules)} jobs to do"
    if found.left:
        yield from _to_do(found)
    path = folder / "forecast.json"
    if found.left and not path.exists():
        keep(found, path)
    ours = {Path(job.output) for jobs in plan.jobs.values() for job in jobs.values()}
    yield from _used([one for one in known if one.folder in ours], path)


def _to_do(found: Forecast) -> Iterator[str]:
    yield ""
    yield f"{'rule':<10}{'jobs':>7}{'finished':>10}{'to do':>7}{'each':>10}{'GPU hours':>11}{'disk':>10}"
    for rule in found.rules:
        timed = rule.left - rule.unknown
        each = duration(rule.seconds / timed) if timed else "?" if rule.left else "–"
        yield (
            f"{rule.rule:<10}{rule.jobs:>7,}{rule.finished:>10,}{rule.left:>7,}{each:>10}"
            f"{_hours(rule.gpu_seconds / 3600):>11}{_size(rule.size):>10}"
        )
    yield ""
    unknown = [rule for rule in found.rules if rule.unknown]
    least = "at least " if unknown else ""
    size = sum(rule.size for rule in found.rules)
    yield f"GPU time:  {least}{_hours(found.gpu_hours)} hours (all jobs: {_hours(found.cpu_hours)} CPU hours)"
    yield (
        f"Wall time: {least}{duration(found.wall_seconds)} with {found.at_once} jobs at once, "
        f"{duration(found.longest_chain)} with all (the longest chain), and the time in the queue"
    )
    yield f"Disk:      {least}{_size(size)}"
    if found.devices:
        how = "finished jobs and a probe here" if found.probed else "finished jobs"
        yield f"Estimated from {how}, on: {', '.join(found.devices)}"
    if unknown:
        yield _unknown(unknown)


def _unknown(rules: list[RuleForecast]) -> str:
    names = ", ".join(rule.rule for rule in rules)
    return (
        f"Not estimated, as nothing like them is finished: {sum(rule.unknown for rule in rules)} jobs of {names}. "
        "--probe runs a few steps of each stage on this machine; the first finished run tells the rest."
    )


def _used(jobs: list[Cost], path: Path) -> Iterator[str]:
    spent, before = used(jobs), kept(path)
    if spent is None:
        return
    restarts = spent.attempts - spent.allocations
    again = f", started again {restarts} times" if restarts else ""
    yield ""
    yield (
        f"Used so far, by sacct: {_hours(spent.gpu_hours)} GPU hours and {_hours(spent.cpu_hours)} CPU hours "
        f"in {spent.allocations} allocations{again}"
    )
    if before is not None:
        hours = f"{_hours(before['gpu_hours'])} GPU hours and {_hours(before['cpu_hours'])} CPU hours"
        yield f"Planned at first:      {hours}"


def duration(seconds: float) -> str:
    """Return a duration in words, to two digits or so."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{math.ceil(seconds)} s"


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.1f}" if hours >= 1 else f"{hours:.2f}"


def _size(size: float) -> str:
    for unit, length in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if size >= length:
            return f"{size / length:.1f} {unit}"
    return f"{size / 1e3:.0f} kB" if size else "–"
