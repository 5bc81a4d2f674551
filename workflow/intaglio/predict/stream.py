"""Predictions for a file of any size, part by part, in the order of its rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from intaglio.errors import UserError
from intaglio.predict.decode import MULTI, QUESTIONS, VALUE
from intaglio.predict.opened import Bundle
from intaglio.predict.progress import Bar
from intaglio.predict.rows import Column, FileRows, Part, usable_texts
from intaglio.predict.write import new_table
from intaglio.suffixes import COMPRESSIONS

# Columns that are added: what is predicted, and why nothing is.
PREDICTION, PROBLEM = "prediction", "problem"
_PREDICTED = {VALUE: pa.float64(), MULTI: pa.list_(pa.string())}


@dataclass
class Outcome:
    """What became of a file.

    Attributes:
        output: the file with the predictions.
        rows: number of rows.
        seconds: time for all of them.
        bad: number of rows without a prediction.
        first: the first of them, and the reason.
        cut: number of texts with more tokens than `max_length`.
    """

    output: Path
    rows: int
    seconds: float
    bad: int = 0
    first: str = ""
    cut: int = 0


def predict_file(
    bundle: Bundle,
    path: Path,
    output: Path | None = None,
    columns: Sequence[str] | None = None,
    delimiter: str | None = None,
    quotes: bool | None = None,
    with_logits: bool = False,
) -> Outcome:
    """Write the rows of a file with predictions to another file.

    The rows keep their order and their columns. Added are `prediction` (a label, a list of labels, a value or an
    answer), `probability_LABEL` for every label, and `problem`, which is empty but for rows that have no text, or no
    text in them: these have no prediction. A few thousand rows are in memory at a time.

    Args:
        bundle: the opened bundle.
        path: the file: CSV, TSV, JSON Lines or Parquet; text may be compressed.
        output: the file to write; by default beside `path`, as NAME.predictions.SUFFIX.
        columns: names of the columns of the texts; by default those of the data on which the model was trained.
        delimiter: of a delimited file; by default its suffix decides.
        quotes: whether double quotes enclose fields; by default they do unless tabs delimit.
        with_logits: whether `logit_LABEL` is added for every label, too.

    Raises:
        UserError: the file cannot be read, lacks a column or has one that would be added, or the output cannot be
            written.
    """
    names = list(columns or bundle.facts["text"])
    if len(names) != len(bundle.facts["text"]):
        raise UserError(f"--columns: {len(names)} given, where the model takes {len(bundle.facts['text'])} texts")
    output = default_output(path) if output is None else output
    if output.resolve() == path.resolve():
        raise UserError(f"{output}: is the file to read; give another --output")
    rows = FileRows(path, delimiter, quotes)
    positions = rows.positions(names)
    added = _added(bundle, with_logits)
    for field in added:
        if field.name in rows.names:
            raise UserError(f"{path}: has a column {field.name!r}, which would be added; rename it")
    given = [pa.field(name, pa.string()) for name in rows.names] if rows.types is None else list(rows.types)
    outcome, bar, before = Outcome(output, 0, 0.0), Bar(rows.count), bundle.cut
    try:
        with new_table(output, [*given, *added], delimiter, quotes) as write:
            for part in rows.parts():
                texts, reasons = usable_texts(part, positions, names, bundle.required)
                write([*part.columns, *_results(bundle, texts, reasons, with_logits)])
                _count(outcome, part, reasons, rows.unit)
                bar.update(outcome.rows)
    finally:
        bar.close()
    outcome.seconds, outcome.cut = bar.seconds, bundle.cut - before
    return outcome


def default_output(path: Path) -> Path:
    """Return where the predictions of a file are written: reviews.predictions.csv.gz for reviews.csv.gz."""
    compression = path.suffix if path.suffix.lower() in COMPRESSIONS else ""
    inner = Path(path.name.removesuffix(compression))
    return path.with_name(f"{inner.stem}.predictions{inner.suffix}{compression}")


def _added(bundle: Bundle, with_logits: bool) -> list[pa.Field]:
    kind, labels = bundle.facts["kind"], bundle.facts["labels"]
    shares = [] if kind in (VALUE, QUESTIONS) else [pa.field(f"probability_{label}", pa.float64()) for label in labels]
    logits = [pa.field(f"logit_{label}", pa.float32()) for label in labels] if with_logits else []
    predicted = pa.field(PREDICTION, _PREDICTED.get(kind, pa.string()))
    return [predicted, *shares, *logits, pa.field(PROBLEM, pa.string())]


def _results(bundle: Bundle, texts: Sequence[Any], reasons: list[str | None], with_logits: bool) -> list[Column]:
    """Return the added columns of some rows; None where a text cannot be used."""
    usable = [row for row, reason in enumerate(reasons) if reason is None]
    outputs = bundle.outputs([texts[row] for row in usable])
    numbers = [*bundle.probabilities(outputs).T, *(bundle.numbers(outputs).T if with_logits else ())]
    results = [bundle.predictions(outputs), *(column.tolist() for column in numbers)]
    return [*(_spread(values, usable, len(texts)) for values in results), reasons]


def _spread(values: Sequence[Any], rows: Sequence[int], count: int) -> list[Any]:
    spread: list[Any] = [None] * count
    for row, value in zip(rows, values, strict=True):
        spread[row] = value
    return spread


def _count(outcome: Outcome, part: Part, reasons: Sequence[str | None], unit: str) -> None:
    outcome.rows += len(reasons)
    for number, reason in zip(part.numbers, reasons, strict=True):
        if reason is not None:
            outcome.first = outcome.first or f"{unit} {number}: {reason}"
            outcome.bad += 1
