import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from intaglio import machine, schemas
from intaglio.errors import UserError

ROWS: list[dict[str, Any]] = [
    {"test_set": "test", "metric": "accuracy", "label": None, "predicted": None, "value": 0.5, "primary": True},
    {"test_set": "test", "metric": "class_f1", "label": "positive", "value": 0.25, "primary": False},
]
ALL = {name: getattr(schemas, name) for name in schemas.__all__ if isinstance(getattr(schemas, name), pa.Schema)}


def test_round_trip_keeps_rows_and_metadata(tmp_path: Path) -> None:
    path = tmp_path / "metrics.parquet"
    schemas.write_table(path, ROWS, schemas.METRICS, {"machine": {"cpu": "x"}, "note": "plain"})
    table = schemas.read_table(path, schemas.METRICS)
    assert table.to_pylist() == [ROWS[0], {**ROWS[1], "predicted": None}]
    assert json.loads(table.schema.metadata[b"machine"]) == {"cpu": "x"}
    assert table.schema.metadata[b"note"] == b"plain"
    # Another reader sees types and meanings too.
    foreign = pq.read_schema(path)
    assert foreign.field("value").metadata[b"description"].startswith(b"The metric")
    assert not foreign.field("value").nullable


def test_lists_and_tables_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "predictions.parquet"
    table = pa.table(
        {
            "label": pa.array([1], pa.int32()),  # other integers are widened, columns may come in any order
            "id": ["a"],
            "test_set": pa.array(["test"]).dictionary_encode(),
            "prediction": [0],
            "logits": [[0.5, 1.5]],
        }
    )
    schemas.write_table(path, table, schemas.PREDICTIONS)
    assert schemas.read_table(path, schemas.PREDICTIONS).schema.equals(schemas.PREDICTIONS)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"value": "high"}, "column 'value' must be double"),
        ({"value": None}, "column 'value' is empty in row 1"),
        ({"valu": 1.0}, "unknown column 'valu', did you mean 'value'?"),
    ],
)
def test_bad_rows_name_file_and_column(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    path = tmp_path / "metrics.parquet"
    with pytest.raises(UserError, match=r"metrics\.parquet") as caught:
        schemas.write_table(path, [ROWS[0], {**ROWS[1], **change}], schemas.METRICS)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_reading_another_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "history.parquet"
    schemas.write_table(path, [{"step": 1, "epoch": 0.1, "name": "loss", "value": 1.0}], schemas.TRAINING_HISTORY)
    with pytest.raises(UserError, match="not a metrics table: unknown column 'step'"):
        schemas.read_table(path, schemas.METRICS)
    pq.write_table(pa.table({"step": [1]}), path)
    with pytest.raises(UserError, match="column 'epoch' is missing"):
        schemas.read_table(path, schemas.TRAINING_HISTORY)


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such table"):
        schemas.read_table(tmp_path / "none.parquet", schemas.METRICS)
    damaged = tmp_path / "damaged.parquet"
    schemas.write_table(damaged, ROWS, schemas.METRICS)
    damaged.write_bytes(damaged.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"damaged\.parquet: no readable Parquet file"):
        schemas.read_table(damaged, schemas.METRICS)


def test_a_lossy_type_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "history.parquet"
    pq.write_table(pa.table({"step": [1.5], "epoch": [0.1], "name": ["loss"], "value": [1.0]}), path)
    with pytest.raises(UserError, match="column 'step' must be int64, not double"):
        schemas.read_table(path, schemas.TRAINING_HISTORY)


@pytest.mark.parametrize("name", ALL)
def test_every_column_has_a_meaning_and_empty_tables_work(name: str, tmp_path: Path) -> None:
    assert all(schemas.describe(ALL[name]).values())
    assert len(set(ALL[name].names)) == len(ALL[name].names)
    schemas.write_table(tmp_path / "empty.parquet", [], ALL[name])
    assert schemas.read_table(tmp_path / "empty.parquet", ALL[name]).num_rows == 0


def test_a_folder_named_like_a_partition_adds_no_column(tmp_path: Path) -> None:
    path = tmp_path / "seed=1" / "metrics.parquet"
    schemas.write_table(path, ROWS, schemas.METRICS)
    assert schemas.read_table(path, schemas.METRICS).num_rows == 2


def test_machine_columns_hold_the_whole_fingerprint() -> None:
    fingerprint = machine.fingerprint()
    columns = schemas.machine_columns(fingerprint)
    assert list(columns) == [field.name for field in schemas.MACHINE]
    assert columns == {f"machine_{name}": value for name, value in fingerprint.items()}
