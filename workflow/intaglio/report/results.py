"""The tables of all runs and of all variants."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from intaglio.hardware import DEVICE_NAMES
from intaglio.metrics import label_of, named
from intaglio.report.display import (
    FORMS,
    Display,
    device_cell,
    difference,
    disturbances,
    speedup_notes,
    speedups,
    state,
    tabulate,
)
from intaglio.report.formatting import (
    NOTHING,
    measured,
    number,
    p_value,
    percent,
    primary_over_seeds,
    score,
    share_over_seeds,
    times,
    unit_of_differences,
    value_heading,
)

# Columns of metrics beside the primary one; those that no task has are left out.
_SCORES = {
    name: named(name).axis
    for name in (
        *("f1_macro", "jaccard", "f1_micro", "subset_accuracy", "pearson", "spearman"),
        *("exact_match", "answer_f1"),
    )
}
_MARKS = (
    "Texts cut: test texts longer than max_length. In training: test texts that are also in the training data. Others: "
    "the share of the cores that other processes used while the run was timed."
)
# What an interval of one seed is.
_LONELY = "One seed: the interval is over test examples only, and says nothing about other seeds."
# Test sets with at least this share of the metric in one example are pointed out.
_COARSE = 0.001
_LEFT_OUT = "Times on less frequent hardware are left out of the means; runs.csv and latency.csv have them."
_ONE_SEED = "Times depend on shapes, not on seeds: latency is that of one run (profile.seeds: all measures every run)."
_FASTEST = "The backend named is the fastest, and latency is its own; all of them are in the table of backends."


def _share(name: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda row: percent(row.get(name))


def show_runs(study: str, rows: Sequence[Mapping[str, Any]]) -> Display:
    """Return the table of all runs, from rows of `runs_on_devices`."""
    cells = {
        "task": lambda row: row["task"],
        "model": lambda row: row["model"],
        "variant": lambda row: row["variant"],
        "seed": lambda row: str(row["seed"]),
        "status": lambda row: row["status"],
        "reason": lambda row: row.get("error") or NOTHING,
        "warnings": lambda row: row.get("warnings") or NOTHING,
        "metric": lambda row: label_of(row.get("primary_metric")) or NOTHING,
        value_heading(rows): lambda row: score(row.get("primary_metric"), row.get("primary_value")),
        "accuracy, %": lambda row: percent(row.get("accuracy")),
        **{heading: _share(name) for name, heading in _SCORES.items()},
        "texts cut, %": lambda row: percent(row.get("truncated")),
        "in training": lambda row: str(row["test_texts_in_training"]) if row.get("test_texts_in_training") else NOTHING,
        "padding saved, %": lambda row: percent(row.get("padding_saved")),
        "training, s": lambda row: number(row.get("train_seconds")),
        "device": device_cell,
        "latency, ms": lambda row: measured(row["mean_ms"], row["std_ms"]),
        "p99, ms": lambda row: number(row["p99_ms"]),
        "backend": lambda row: row["backend"] or NOTHING,
        "others, %": lambda row: number(row["disturbed"]),
        "size, MB": lambda row: number(row.get("size_mb")),
    }
    text = {"task", "model", "variant", "status", "reason", "warnings", "metric", "device", "backend"}
    table = tabulate(f"Runs of {study}", cells, rows, text)
    latency = f"Latency: mean ± standard deviation over the calls of one run. {_FASTEST}"
    return Display(
        table.title,
        table.columns,
        table.rows,
        table.numbers,
        [latency, _MARKS, *disturbances(rows), *_conditions(rows)],
    )


def show_variants(study: str, rows: Sequence[Mapping[str, Any]], resamples: int, margin: float) -> Display:
    """Return the table of all variants over seeds, from rows of `on_devices`, given the study's margin."""
    unit = unit_of_differences(rows)

    def over_seeds(name: str) -> Any:
        return lambda row: measured(row[f"{name}_mean"], row[f"{name}_sd"])

    cells = {
        "task": lambda row: row["task"],
        "model": lambda row: row["model"],
        "variant": lambda row: row["variant"],
        "seeds": state,
        "metric": lambda row: label_of(row["primary_metric"]) or NOTHING,
        value_heading(rows): primary_over_seeds,
        "difference to float [95 %]": difference,
        "difference to control [95 %]": lambda row: difference(row, "control_difference"),
        "p (Holm)": lambda row: p_value(row["difference_p_holm"]),
        "within the margin": _non_inferiority,
        "accuracy, %": share_over_seeds("accuracy"),
        **{heading: share_over_seeds(name) for name, heading in _SCORES.items()},
        "training, s": over_seeds("train_seconds"),
        "training, × float": lambda row: times(row.get("relative_train_seconds")),
        "device": device_cell,
        "latency, ms": over_seeds("latency_ms"),
        "backend": lambda row: row["backend"] or NOTHING,
        **speedups(rows),
        "size, MB": lambda row: number(row["size_mb_mean"]),
        "smaller": lambda row: times(row.get("size_ratio")),
    }
    text = {"task", "model", "variant", "metric", "within the margin", "device", "backend", *FORMS}
    table = tabulate(f"Variants of {study}", cells, rows, text)
    left_out = any(row["train_n"] not in (0, row["n"]) or row["left_out"] for row in rows)
    lonely = any(row.get("difference_n") == 1 for row in rows)
    notes = [
        f"Mean ± standard deviation over seeds. Difference: value minus that of float with the same seeds, {unit}, "
        f"with its 95 % interval: over test examples ({resamples} bootstrap resamples) and over seeds (Student's t). "
        "p: of no difference, adjusted by Holm for the variants of the task.",
        f"Within the margin ({margin:g}, {unit}): yes if the whole interval says that no more is lost, no if all of "
        "it says that more is. In brackets: what would decide it if the difference stays as it is.",
        *_controls(rows),
        "Training: of the variant's last stage, without set-up and evaluation.",
        f"{_FASTEST} Size: of the exported file.",
        *speedup_notes(rows),
        *([_ONE_SEED] if any(row["timed"] == 1 < row["n"] for row in rows) else []),
        *([_LEFT_OUT] if left_out else []),
        *disturbances(rows),
        *([_LONELY] if lonely else []),
        *_granularity(rows),
        *_conditions(rows),
    ]
    return Display(table.title, table.columns, table.rows, table.numbers, notes)


def _non_inferiority(row: Mapping[str, Any]) -> str:
    """Return whether a variant is within the margin, and what would decide it."""
    if row["noninferior"] is None:
        return NOTHING
    if row["noninferior"] != "undecided":
        return "yes" if row["noninferior"] == "within" else "no"
    needed = [f"{row[f'{name}_to_decide']:,} {name}" for name in ("seeds", "examples") if row[f"{name}_to_decide"]]
    return f"undecided ({' or '.join(needed)})" if needed else "undecided"


def _controls(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a sentence on the variants that are controls of others."""
    names = dict.fromkeys(row["control"] for row in rows if row["control"])
    if not names:
        return []
    return [
        f"Control: float trained on as the variant's last stage trains ({', '.join(names)}). A gain over float that is "
        "none over the control is one of more training."
    ]


def _granularity(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a sentence for every small test set: what one example is worth."""
    found = {row["task"]: row for row in rows if (row["one_example"] or 0) >= _COARSE}
    return [
        f"{task}: {row['test_examples']} test examples, so one is {100 * row['one_example']:.2f} points."
        for task, row in found.items()
    ]


def _conditions(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return notes on the hardware of the times."""

    trained = "; ".join(sorted({row["trained_on"] for row in rows if row["trained_on"]}))
    notes = [f"Trained on: {trained}."] if trained else []
    for device in dict.fromkeys(row["device"] for row in rows if row["device"]):
        timed = [row for row in rows if row["device"] == device]
        names = "; ".join(sorted({row["device_name"] for row in timed}))
        points = sorted({(row["batch_size"], row["length"]) for row in timed})
        at = ", ".join(f"batch {batch} by {length} tokens" for batch, length in points)
        notes.append(f"Latency on the {DEVICE_NAMES[device]}: {names}, {at}.")
    return notes
