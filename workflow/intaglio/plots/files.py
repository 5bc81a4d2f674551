"""The plots of studies, known before anything has run (`report.files.of_kinds`). Imports nothing."""

from __future__ import annotations

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
    "text-lengths": "Lengths of training texts, in tokens",
    "loss-curves": "Loss curves",
    "confusion": "Confusion matrices of float and end-to-end integer",
}
PLOT_FILES = tuple(f"{name}.{suffix}" for name in PLOTS for suffix in ("svg", "pdf", "png"))
