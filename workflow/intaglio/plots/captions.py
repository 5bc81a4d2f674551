"""What the plots have in common: which variants and values they show, and how they say it."""

from __future__ import annotations

from intaglio.metrics import named
from intaglio.summary.read import Panel, Summary
from intaglio.summary.variants import BASELINE

INTEGER = "int"
Values = list[float]
_DEVICES = {"CPU": "latency_ms_mean", "GPU": "cuda_latency_ms_mean"}


def pair(summary: Summary) -> list[str]:
    """Return float and end-to-end integer, or whatever variants there are in a study without them."""
    wanted = [name for name in (BASELINE, INTEGER) if name in summary.variants]
    return wanted if len(wanted) == 2 else list(summary.variants)


def values(panel: Panel, variant: str, column: str) -> Values:
    """Return a column of a variant's runs, those where it is known."""
    return [run[column] for run in panel.of(variant) if run[column] is not None]


def seeds_shown(summary: Summary, marks: str = "Large marks") -> str:
    """Say what marks mean, by how many seeds there are."""
    seeds = {run["seed"] for panel in summary.panels for run in panel.runs}
    if len(seeds) == 1:
        return "One seed."
    return f"{marks}: mean ± standard deviation over {len(seeds)} seeds; small dots: seeds."


def metric_name(panel: Panel) -> str:
    """Return how the panel's primary metric is called on an axis."""
    return named(panel.runs[0]["primary_metric"]).axis


def conditions(summary: Summary, column: str) -> str:
    """Say on what the times of a column were taken."""
    runs = [run for panel in summary.panels for run in panel.runs]
    device = {"latency_ms_mean": "latency_device_name", "cuda_latency_ms_mean": "cuda_device_name"}.get(
        column, "device"
    )
    names = ", ".join(sorted({run[device] for run in runs if run[device] and run[column] is not None}))
    left_out = sum(run[device] is not None and run[column] is None for run in runs)
    if left_out:
        names += f" ({left_out} runs on other hardware left out)"
    if device == "device":
        return f"Trained on {names}."
    point = {(run["latency_batch_size"], run["latency_length"]) for run in runs}
    at = "; ".join(f"batch {batch} × {length} tokens" for batch, length in sorted(point))
    return f"{'GPU' if column.startswith('cuda') else 'CPU'}: {names}, {at}."


def fastest_backends(summary: Summary) -> str:
    """Say what executed the models where a run's time is that of its fastest backend."""
    runs = [run for panel in summary.panels for run in panel.runs]
    names = sorted({run[column] for run in runs for column in ("backend", "cuda_backend") if run[column]})
    return f"Every run in its fastest backend ({', '.join(names)})."


def timed(summary: Summary) -> list[tuple[Panel, str, str]]:
    """Return (panel, latency column, title) of all that was timed: numbers of two devices never share an axis."""
    found = [
        (panel, column, f"{panel.title} · {device}")
        for device, column in _DEVICES.items()
        for panel in summary.panels
        if any(run[column] is not None for run in panel.runs)
    ]
    if len({column for _, column, _ in found}) == 1:
        return [(panel, column, panel.title) for panel, column, _ in found]
    return found
