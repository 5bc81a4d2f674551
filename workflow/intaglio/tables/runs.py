"""The summary of a study: everything that its runs left, gathered into tables that a person and a program can read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from intaglio import schemas
from intaglio.errors import UserError
from intaglio.store import new_artifact
from intaglio.tables import backends, compression, display, published
from intaglio.tables.files import SHOWN, SUMMARY_FILES
from intaglio.tables.html import to_html
from intaglio.tables.records import KEY, Record, read_run
from intaglio.tables.variants import variant_rows

__all__ = ["SUMMARY_FILES", "summarize"]

_GATHERED = {
    "metrics": schemas.METRICS,
    "history": schemas.TRAINING_HISTORY,
    "latency": schemas.LATENCY,
    "sizes": schemas.SIZES,
    "operators": schemas.OPERATORS,
}


def summarize(plan: Path, output: Path, partial: bool = False) -> None:
    """Gather a study's runs into the artifact `output` [summary], which holds `SUMMARY_FILES`.

    Args:
        plan: plan.json; its paths are relative to the working folder.
        output: the folder.
        partial: write what there is; runs that failed or are pending stand in runs.parquet as such.

    Raises:
        UserError: a run is not complete (unless partial), or evaluations that belong together differ in their examples.
    """
    content = _read_plan(plan)
    study: dict[str, Any] = content["study"]
    records = [read_run(study, run) for run in content["runs"]]
    if not partial:
        _refuse_gaps(study["study"], records)
    runs = [record.row for record in records]
    variants = variant_rows(records, int(study["bootstrap"]))
    executed = backends.backend_rows(records)
    converted = compression.conversion_rows(records)
    about = {"study": study["study"], "description": study.get("description", ""), "partial": partial}
    with new_artifact(output, "summary", about) as folder:
        schemas.write_table(folder / "runs.parquet", runs, schemas.RUNS)
        schemas.write_table(folder / "variants.parquet", variants, schemas.VARIANTS)
        schemas.write_table(folder / "backends.parquet", executed, schemas.BACKENDS)
        schemas.write_table(folder / "conversions.parquet", converted, schemas.CONVERSIONS)
        schemas.write_table(folder / "sparsity.parquet", compression.sparsity_rows(records), schemas.SPARSITY)
        for name, schema in _GATHERED.items():
            schemas.write_table(folder / f"{name}.parquet", _gather(name, schema, records), schemas.keyed(schema))
        display.write_csv(folder / "runs.csv", runs, list(schemas.RUNS.names))
        display.write_csv(folder / "variants.csv", variants, list(schemas.VARIANTS.names))
        display.write_csv(folder / "compression.csv", _columns(variants, compression.COLUMNS), compression.COLUMNS)
        display.write_csv(folder / "conversions.csv", converted, list(schemas.CONVERSIONS.names))
        display.write_csv(folder / "backends.csv", executed, list(schemas.BACKENDS.names))
        figures = published.compare(study, runs)
        display.write_csv(folder / "published.csv", figures, published.COLUMNS)
        shown = (
            display.runs(study, runs),
            display.variants(study, variants),
            compression.show(study, variants, records),
            compression.show_conversions(study, converted),
            backends.show(study, executed),
            published.show(study, figures),
        )
        for name, table in zip(SHOWN, shown, strict=True):
            (folder / f"{name}.md").write_text(display.to_markdown(table))
            (folder / f"{name}.html").write_text(to_html(table))


def _columns(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    return [{name: row.get(name) for name in names} for row in rows]


def _read_plan(plan: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(plan.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"{plan}: no readable plan ({error}); make it anew from the study file") from error
    if not content.get("runs"):
        raise UserError(f"{plan}: plans no run; make it anew from the study file")
    return content


def _refuse_gaps(study: str, records: Sequence[Record]) -> None:
    gaps = [record.row for record in records if record.row["status"] != "ok"]
    if not gaps:
        return
    named = [f"{'/'.join(str(row[name]) for name in KEY)} {row['status']} ({row['error']})" for row in gaps[:3]]
    more = f", and {len(gaps) - 3} more" if len(gaps) > 3 else ""
    raise UserError(
        f"study {study}: {len(gaps)} of {len(records)} runs are not complete: {', '.join(named)}{more}; "
        "run the rest, or summarize what there is with --partial"
    )


def _gather(name: str, schema: Any, records: Sequence[Record]) -> Any:
    """Concatenate a table of all runs that have it, each row behind its run's key."""
    parts = [_with_key(record.row, record.tables[name]) for record in records if name in record.tables]
    return pa.concat_tables(parts) if parts else schemas.keyed(schema).empty_table()


def _with_key(row: Mapping[str, Any], table: Any) -> Any:
    for position, field in enumerate(schemas.KEYS):
        column = pa.repeat(pa.scalar(row[field.name], field.type), table.num_rows)
        table = table.add_column(position, field, column)
    return table
