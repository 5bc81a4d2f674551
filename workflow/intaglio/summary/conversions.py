"""The conversions of all runs with their differences, and the sparsity of their layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from intaglio.summary.runs import Record

_Row = dict[str, Any]


def conversion_rows(records: Sequence[Record]) -> list[_Row]:
    """Return the rows of conversions.parquet: one per run and conversion."""
    return [{**_run(record), **row} for record in records for row in record.conversions]


def sparsity_of_runs(records: Sequence[Record]) -> list[_Row]:
    """Return the rows of sparsity.parquet: one per run and linear layer, for runs that prune weights."""
    return [{**_run(record), **row} for record in records for row in record.sparsity]


def _run(record: Record) -> _Row:
    return {name: record.row[name] for name in ("study", "task", "model", "variant", "seed")}
