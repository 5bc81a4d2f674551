"""The pages of a study's tables: the same for every study, so the DAG knows them. It imports nothing of Intaglio's."""

from __future__ import annotations

from collections.abc import Collection, Iterable

PAGES = (
    *("runs", "variants", "model-comparison", "classes", "compression", "conversions", "backends", "published"),
    "data",
)
# Pages and plots that a study leaves out whose tasks are all of these kinds.
_LEFT_OUT = {"classes": {"regression"}, "confusion": {"regression", "question_answering"}}


def of_kinds(names: Iterable[str], kinds: Collection[str]) -> list[str]:
    """Return those of these pages or plots that a study with tasks of these kinds has."""
    return [name for name in names if not set(kinds) <= _LEFT_OUT.get(name, set())]


# The overview, for a terminal and for the report's first page.
OVERVIEW = ("overview.txt", "overview.rst")
# Tables that are there as LaTeX, too.
LATEX = ("variants", "model-comparison", "classes", "compression")
PAGE_FILES = (*OVERVIEW, *(f"{name}.md" for name in PAGES), *(f"{name}.tex" for name in LATEX))

# Plots of the category Compression of Snakemake's report; the others are under Plots.
COMPRESSION = ("accuracy-vs-inference-time", "accuracy-vs-size", "accuracy-vs-sparsity")
