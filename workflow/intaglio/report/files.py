"""The pages of a study's tables: the same for every study, so the DAG knows them. It imports nothing."""

from __future__ import annotations

PAGES = (
    *("runs", "variants", "model-comparison", "classes", "compression", "conversions", "backends", "published"),
    "data",
)
# The overview, for a terminal and for the report's first page.
OVERVIEW = ("overview.txt", "overview.rst")
PAGE_FILES = (*OVERVIEW, *(f"{name}.{suffix}" for name in PAGES for suffix in ("md", "html")))

# Tables and plots of the report's category Compression; the others are under Tables and Plots.
COMPRESSION = ("compression", "conversions", "accuracy-vs-inference-time", "accuracy-vs-size", "accuracy-vs-sparsity")
