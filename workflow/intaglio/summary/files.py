"""The files of a summary: the same for every study, so the DAG knows them. It imports nothing."""

from __future__ import annotations

# Tables of the study, and tables concatenated over all runs.
SUMMARIZED = (
    *("runs", "variants", "model_comparison", "backends", "conversions", "sparsity", "published"),
    *("descriptions", "flips", "recommendations"),
)
GATHERED = ("metrics", "noise", "history", "latency", "baselines", "sizes", "operators", "energy")
CSV = (
    *("runs", "variants", "model_comparison", "compression", "conversions", "backends", "published", "descriptions"),
    *("flips", "latency", "recommendations"),
)
SUMMARY_FILES = (
    *(f"{name}.parquet" for name in (*SUMMARIZED, *GATHERED)),
    *(f"{name}.csv" for name in CSV),
)
