"""Tasks on CSV files that a test writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from intaglio.study.task import Task

COLUMNS = {"text": ["text"], "label": "label", "labels": ["neg", "pos"]}


def csv_task(folder: Path, train: pd.DataFrame, test: pd.DataFrame | None = None, **options: Any) -> Task:
    source = {"kind": "files", "train": str(folder / "train.csv")}
    train.to_csv(folder / "train.csv", index=False)
    if test is not None:
        test.to_csv(folder / "test.csv", index=False)
        source["test"] = str(folder / "test.csv")
    return Task.model_validate({"source": source, **COLUMNS, **options})
