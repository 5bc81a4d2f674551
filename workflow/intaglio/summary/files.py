"""The files of a summary: every study has the same ones, so the DAG knows them. Imports nothing."""

from __future__ import annotations

# Tables of the study's own, and tables gathered from all runs as they are.
SUMMARIZED = ("runs", "variants", "backends", "conversions", "sparsity", "published")
GATHERED = ("metrics", "history", "latency", "sizes", "operators")
CSV = ("runs", "variants", "compression", "conversions", "backends", "published", "latency")
SUMMARY_FILES = (
    *(f"{name}.parquet" for name in (*SUMMARIZED, *GATHERED)),
    *(f"{name}.csv" for name in CSV),
)
