"""What was measured of every run, one axis of a plot: training times, sizes, and times of inference by device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from intaglio.hardware import DEVICE_NAMES
from intaglio.report.formatting import speedup_in_short
from intaglio.summary.read import Panel, Summary
from intaglio.summary.variants import BASELINE

# In place of a plot.
NOT_TIMED = "Nothing was timed: the study's runs have no latency."
NOT_TRAINED = "Nothing was trained: the last stages of the study's runs take no steps."


@dataclass(frozen=True)
class Measured:
    """One quantity of one panel.

    Attributes:
        panel: the model and task.
        title: the panel's, with the device where there are several.
        values: the quantity by variant and seed; what is not known is absent.
        ratios: how it compares with float, in words, by variant.
    """

    panel: Panel
    title: str
    values: Mapping[str, Mapping[int, float]]
    ratios: Mapping[str, str]


def training_times(summary: Summary) -> list[Measured]:
    """Return the training time of the last stage, s."""
    return _of_runs(summary, "train_seconds", "relative_train_seconds")


def sizes(summary: Summary) -> list[Measured]:
    """Return the size of the exported file, MB."""
    return _of_runs(summary, "size_mb")


def _of_runs(summary: Summary, column: str, ratio: str | None = None) -> list[Measured]:
    """Return a column of runs.parquet, in the panels where any run has it."""
    found = []
    for panel in summary.panels:
        values: dict[str, dict[int, float]] = {}
        for run in panel.runs:
            if run[column] is not None:
                values.setdefault(run["variant"], {})[run["seed"]] = run[column]
        others = [row for row in panel.variants if row["variant"] != BASELINE]
        ratios = {row["variant"]: f"({row[ratio]:.2f}×)" for row in others if ratio and row[ratio]}
        if values:
            found.append(Measured(panel, panel.title, values, ratios))
    return found


def devices_of(summary: Summary) -> list[str]:
    """Return the devices on which anything was timed."""
    return [device for device in DEVICE_NAMES if any(row["device"] == device for row in _timed(summary))]


def title_on(device: str, panel: Panel, devices: Sequence[str]) -> str:
    """Return the panel's title, with the device where there are several."""
    return f"{panel.title} · {DEVICE_NAMES[device]}" if len(devices) > 1 else panel.title


def inference_times(summary: Summary) -> list[Measured]:
    """Return the time of a call, ms, in the fastest backend: numbers of two devices never share a panel."""
    devices, found = devices_of(summary), []
    for device in devices:
        for panel in summary.panels:
            values: dict[str, dict[int, float]] = {}
            for row in panel.times:
                if row["device"] == device:
                    values.setdefault(row["variant"], {})[row["seed"]] = row["p50_ms"]
            fastest = [row for row in panel.backends if row["fastest"] and row["device"] == device]
            ratios = {row["variant"]: speedup_in_brackets(row) for row in fastest}
            if values:
                found.append(Measured(panel, title_on(device, panel, devices), values, ratios))
    return found


def speedup_in_brackets(row: Mapping[str, Any]) -> str:
    """Return the speed-up of a row of backends.parquet; empty if it has none, or is the baseline itself."""
    own = row["speedup_low"] == row["speedup_high"] == 1
    return "" if row["speedup"] is None or own else f"({speedup_in_short(row)})"


def speedup_caption(summary: Summary) -> str:
    """Return a sentence that says what speed-ups are over; empty if there are none."""
    rows = [row for panel in summary.panels for row in panel.backends if row["against"]]
    if not rows:
        return ""
    forms = ", ".join(dict.fromkeys(name for row in rows for name in row["against"].split(", ")))
    return f" In brackets: speed-up over the float model's fastest float32 form ({forms})."


def training_conditions(summary: Summary) -> str:
    """Return a sentence that names the devices that trained."""
    runs = [run for panel in summary.panels for run in panel.runs if run["trained_on"]]
    names = sorted({run["trained_on"] for run in runs if run["train_seconds"] is not None})
    # A stage that takes no steps has no time either, and is not left out.
    others = sum(run["trained_on"] not in names for run in runs)
    return f"Trained on {', '.join(names)}{_left_out(others)}."


def inference_conditions(summary: Summary) -> str:
    """Return sentences that name the devices that timed, batch size and length."""
    batch_size, length = summary.facts["headline"]
    sentences = []
    for device in devices_of(summary):
        names = ", ".join(sorted({row["device_name"] for row in _timed(summary) if row["device"] == device}))
        others = sum(row["device"] == device for panel in summary.panels for row in panel.elsewhere)
        sentences.append(f"{DEVICE_NAMES[device]}: {names}{_left_out(others)}, batch {batch_size} by {length} tokens.")
    return " ".join(sentences)


def _left_out(count: int) -> str:
    return f" ({count} runs on other hardware left out)" if count else ""


def fastest_backends(summary: Summary) -> str:
    """Return a sentence that names the backends behind the times."""
    names = sorted({row["backend"] for row in _timed(summary)})
    return f"Every variant in its fastest backend ({', '.join(names)})."


def _timed(summary: Summary) -> list[dict[str, Any]]:
    return [row for panel in summary.panels for row in panel.times]
