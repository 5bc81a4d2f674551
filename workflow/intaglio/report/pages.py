"""The pages of a study's tables and its report, from its summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from intaglio.report.backends import show_backends
from intaglio.report.compression import show_compression, show_conversions
from intaglio.report.data import show_data
from intaglio.report.display import Display, of_data, to_markdown
from intaglio.report.files import LATEX, of_kinds
from intaglio.report.html.page import write_report
from intaglio.report.latex import to_latex
from intaglio.report.models import class_rows, show_classes, show_models
from intaglio.report.overview import recommended, show_overview, to_rst, to_text
from intaglio.report.published import show_published
from intaglio.report.results import show_runs, show_variants
from intaglio.store import new_artifact
from intaglio.summary.devices import on_devices, runs_on_devices
from intaglio.summary.read import Summary, read_summary


def write_pages(summary: Path, output: Path, report: Path | None = None) -> None:
    """Write a study's readable tables and its report.

    Args:
        summary: the artifact [summary].
        output: the artifact [pages] to write: those of `files.PAGE_FILES` that the study has.
        report: the HTML file to write; without it, only the tables are written.

    Raises:
        UserError: the summary is not complete.
    """
    content = read_summary(summary)
    with new_artifact(output, "pages", {"study": content.study}) as folder:
        variants = on_devices(content.rows["variants"], content.rows["backends"])
        overview = show_overview(content.study, variants, content.rows["runs"])
        places = {
            **({"Report": f"{report}"} if report else {}),
            "Tables": f"{output}/*.md",
            "All figures": f"{summary}/*.csv",
            "Plots": f"{output.parent}/plots/*.svg",
        }
        first = recommended(content.rows["recommendations"])
        (folder / "overview.txt").write_text(to_text(overview, first, places), encoding="utf-8")
        (folder / "overview.rst").write_text(to_rst(overview, first), encoding="utf-8")
        tables = _tables(content, variants)
        for name in of_kinds(tables, content.facts["kinds"]):
            table = tables[name]
            (folder / f"{name}.md").write_text(to_markdown(table), encoding="utf-8")
            if name in LATEX:
                (folder / f"{name}.tex").write_text(to_latex(table), encoding="utf-8")
    if report:
        write_report(content, summary, report)


def _tables(summary: Summary, variants: Sequence[Mapping[str, Any]]) -> dict[str, Display]:
    """Return the tables by the name of their page, one for each of `files.PAGES`."""
    study, rows, resamples = summary.study, summary.rows, summary.facts["resamples"]
    tables = {
        "runs": show_runs(study, runs_on_devices(rows["runs"], summary.times)),
        "variants": show_variants(study, variants, resamples, summary.facts["margin"]),
        "model-comparison": show_models(study, rows["model_comparison"], rows["variants"], resamples),
        "classes": show_classes(study, class_rows(summary.metrics, rows["runs"])),
        "compression": show_compression(study, variants, summary.facts["train_seconds"]),
        "conversions": show_conversions(study, rows["conversions"]),
        "backends": show_backends(study, rows["backends"]),
        "published": show_published(study, rows["published"]),
        "data": show_data(f"Data of {study}", rows["descriptions"]),
    }
    warnings = of_data(rows["runs"])
    return {name: replace(table, notes=[*table.notes, *warnings]) for name, table in tables.items()}
