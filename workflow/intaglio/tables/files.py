"""The files of a summary and of its plots: every study has the same ones, so the DAG knows them. Imports nothing."""

from __future__ import annotations

# Tables of the study's own, tables gathered from all runs as they are, and tables for people.
SUMMARIZED = ("runs", "variants", "backends", "conversions", "sparsity")
GATHERED = ("metrics", "history", "latency", "sizes", "operators")
SHOWN = ("runs", "variants", "compression", "conversions", "backends", "published")
SUMMARY_FILES = (
    *(f"{name}.parquet" for name in (*SUMMARIZED, *GATHERED)),
    *(f"{name}.{suffix}" for name in SHOWN for suffix in ("csv", "md", "html")),
)

# What stands in the report on a page of its own.
COMPRESSION = ("compression", "conversions", "accuracy-vs-inference-time", "accuracy-vs-size", "accuracy-vs-sparsity")

# File stem, and what the plot shows.
PLOTS: dict[str, str] = {
    "accuracy": "Accuracy of float against end-to-end integer",
    "training-time": "Training time of float against end-to-end integer",
    "differences": "Difference of every variant to float, with its 95 % interval",
    "training-time-variants": "Training time of every variant",
    "inference-time-variants": "Inference time of every variant",
    "inference-time-backends": "Inference time of every variant in every backend",
    "accuracy-vs-training-time": "Accuracy against training time",
    "accuracy-vs-inference-time": "Accuracy against inference time, with the Pareto front",
    "accuracy-vs-size": "Accuracy against size, with the Pareto front",
    "accuracy-vs-sparsity": "Accuracy against sparsity",
    "loss-curves": "Loss curves",
    "confusion": "Confusion matrices of float and end-to-end integer",
}
PLOT_FILES = tuple(f"{name}.{suffix}" for name in PLOTS for suffix in ("svg", "png"))
