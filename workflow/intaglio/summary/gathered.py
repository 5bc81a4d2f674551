"""Tables concatenated over all runs. They are written while runs are read, and never are in memory as a whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.csv import CSVWriter

from intaglio import schemas
from intaglio.summary.runs import Record

_OF_RUNS = {
    "metrics": schemas.keyed(schemas.METRICS),
    "noise": schemas.keyed(schemas.NOISE),
    "history": schemas.keyed(schemas.TRAINING_HISTORY),
    "latency": schemas.keyed(schemas.LATENCY),
    "baselines": schemas.keyed(schemas.BASELINES),
    "sizes": schemas.keyed(schemas.SIZES),
    "operators": schemas.keyed(schemas.OPERATORS),
    "energy": schemas.keyed(schemas.ENERGY),
    "conversions": schemas.CONVERSIONS,
    "sparsity": schemas.SPARSITY,
}
# Tables that are CSV files, too; lists of calls do not fit into cells.
_CSV = ("conversions", "latency")


class Gathered:
    """The tables, to which those of runs are added."""

    def __init__(self, writers: Mapping[str, schemas.TableWriter]) -> None:
        self._writers = writers

    def add(self, tables: Mapping[str, Any]) -> None:
        """Write what `joined_tables` returns."""
        for name, table in tables.items():
            self._writers[name].add(table)


def joined_tables(records: Sequence[Record]) -> dict[str, Any]:
    """Return the tables of runs by name, each as one pyarrow table or as rows, with the key of its run in every row.

    A process sends one table to another in a fraction of the time that many small ones take.
    """
    tables: dict[str, list[Any]] = {}
    rows: dict[str, list[dict[str, Any]]] = {"conversions": [], "sparsity": [], "energy": []}
    for record in records:
        for name, table in record.tables.items():
            tables.setdefault(name, []).append(_with_key(record.row, table))
        key = {field.name: record.row[field.name] for field in schemas.KEYS}
        for name, of_it in rows.items():
            of_it += [{**key, **row} for row in getattr(record, name)]
    return {**{name: pa.concat_tables(found).combine_chunks() for name, found in tables.items()}, **rows}


@contextmanager
def gathered(folder: Path) -> Iterator[Gathered]:
    """Yield the tables; they are complete in `folder` on leaving."""
    with ExitStack() as files:
        writers = {}
        for name, schema in _OF_RUNS.items():
            writers[name] = schemas.TableWriter(folder / f"{name}.parquet", schema)
            files.callback(writers[name].close)
        yield Gathered(writers)
    for name in _CSV:
        columns = [column for column in _OF_RUNS[name].names if column != "calls"]
        batches = pq.ParquetFile(folder / f"{name}.parquet").iter_batches(columns=columns)
        flat = pa.schema([_OF_RUNS[name].field(column) for column in columns])
        with CSVWriter(folder / f"{name}.csv", flat) as file:
            for batch in batches:
                file.write_batch(batch.select(columns))


def _with_key(row: Mapping[str, Any], table: Any) -> Any:
    for position, field in enumerate(schemas.KEYS):
        column = pa.repeat(pa.scalar(row[field.name], field.type), table.num_rows)
        table = table.add_column(position, field, column)
    return table
