"""Whether a study can be trusted: machines, versions, what failed, and the methods that it used, with references."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from intaglio.report.display import Display, tabulate
from intaglio.report.formatting import NOTHING, number
from intaglio.summary.read import Summary

_Row = Mapping[str, Any]
# What a study may have used: its name, what it is here, and the reference.
_METHODS = {
    "quantize": (
        "Integer-only quantization",
        "The model is trained on simulated integers and computes on 8-bit integers; so do GELU, softmax and LayerNorm, "
        "as the variant says.",
        "S. Kim, A. Gholami, Z. Yao, M. W. Mahoney, K. Keutzer: I-BERT: Integer-only BERT Quantization. ICML 2021.",
    ),
    "int8": (
        "Quantization after training",
        "Weights, and mostly activations, become 8-bit integers without training.",
        "B. Jacob et al.: Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only "
        "Inference. CVPR 2018.",
    ),
    "prune": (
        "Pruning by magnitude",
        "The smallest weights become zero, at once or along a cubic schedule, and the others are trained on.",
        "M. Zhu, S. Gupta: To prune, or not to prune. ICLR Workshop 2018.",
    ),
    "cut": (
        "Structured pruning",
        "Attention heads and neurons that matter least for the loss are removed, and the rest is trained on.",
        "P. Michel, O. Levy, G. Neubig: Are Sixteen Heads Really Better than One? NeurIPS 2019.",
    ),
    "distil": (
        "Distillation",
        "A smaller model is trained on the outputs and hidden states of a fine-tuned one.",
        "G. Hinton, O. Vinyals, J. Dean: Distilling the Knowledge in a Neural Network. 2015; W. Wang et al.: MiniLM. "
        "NeurIPS 2020.",
    ),
}
_INTERVALS = (
    "Intervals of differences",
    "The variance over test examples, of a bootstrap with the same examples for a variant and for float, joined with "
    "that between seeds by Student's t. p values are adjusted by Holm for the variants of a task.",
    "B. Efron, R. Tibshirani: An Introduction to the Bootstrap. Chapman & Hall 1993; S. Holm: A Simple Sequentially "
    "Rejective Multiple Test Procedure. Scandinavian Journal of Statistics 1979.",
)
_SPEEDUPS = (
    "Speed-ups",
    "A model and its float baseline are called in turns, in random order, in one process; the median ratio of their "
    "times has an interval from order statistics. The speed-up over several seeds is their geometric mean; its "
    "interval joins theirs with the variance between seeds by Student's t.",
    "H. A. David, H. N. Nagaraja: Order Statistics. Wiley 2003.",
)


def methods(summary: Summary) -> list[tuple[str, str, str]]:
    """Return name, description and reference of every method that the study used."""
    stages = {stage["stage"] for row in summary.rows["variants"] for stage in json.loads(row["stages"])}
    found = [_METHODS[name] for name in _METHODS if name in stages]
    rows = summary.rows["variants"]
    found += [_INTERVALS] if any(row["difference_low"] is not None for row in rows) else []
    return found + ([_SPEEDUPS] if any(row["speedup"] is not None for row in summary.rows["backends"]) else [])


def closest_first(conversions: Sequence[_Row]) -> list[_Row]:
    """Return rows of conversions.parquet, those whose difference is closest to its tolerance first."""
    return sorted(conversions, key=lambda row: -row["difference"] / row["tolerance"] if row["tolerance"] else 0.0)


def machines(rows: Sequence[_Row], runs: Sequence[_Row]) -> Display:
    """Return the table of machines that timed, and what trained as a note.

    Args:
        rows: `Measurements.machines`.
        runs: rows of runs.parquet.
    """
    trained = sorted({row["trained_on"] for row in runs if row.get("trained_on")})
    notes = [f"Trained on: {', '.join(trained)}."] if trained else []
    if not rows:
        return Display("Machines", [], [], frozenset(), notes)
    cells = {
        "host": _text("host"),
        "processor": _text("cpu"),
        "cores": _text("cores"),
        "limit, cores": lambda row: number(row["machine_cpu_quota"]),
        "threads": lambda row: str(row["threads"]),
        "instruction sets": _text("instructions"),
        "memory, GB": lambda row: number(row["machine_memory_mb"] / 1e3) if row["machine_memory_mb"] else NOTHING,
        "GPU": _text("gpu"),
        "GPUs": _text("gpu_count"),
        "driver": _text("driver"),
        "CUDA": _text("cuda"),
        "others, %": lambda row: number(row["busy_max"]),
        "system": _text("system"),
        "Python": _text("python"),
        "commit": lambda row: _short_commit(row["machine_commit"] or NOTHING),
    }
    text = {"host", "processor", "instruction sets", "GPU", "driver", "CUDA", "system", "Python", "commit"}
    table = tabulate("Machines", cells, rows, text)
    busy = "Others: the largest share of the cores that other processes used while anything was timed there."
    return Display(table.title, table.columns, table.rows, table.numbers, [busy, *notes])


def _short_commit(commit: str) -> str:
    name, dirty, _ = commit.partition("-dirty")
    return name[:12] + dirty


def _text(name: str) -> Any:
    def cell(row: _Row) -> str:
        value = row[f"machine_{name}"]
        return NOTHING if value in (None, "") else str(value)

    return cell


def versions(rows: Sequence[_Row]) -> list[tuple[str, str]]:
    """Return the versions of the libraries that timed, by name; several are joined by commas."""
    found: dict[str, dict[str, None]] = {}
    for row in rows:
        for name, version in json.loads(row["machine_libraries"] or "{}").items():
            if version:
                found.setdefault(name, {})[str(version)] = None
    return [(name, ", ".join(of)) for name, of in sorted(found.items())]
