"""Metrics of finished runs on the same resamples of the test examples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from intaglio.errors import UserError
from intaglio.kinds import classes_of, kind_of
from intaglio.metrics import SINGLE_LABEL, Judged, Metric
from intaglio.predictions import Predictions, ReadOnce
from intaglio.statistics.bootstrap import resampled
from intaglio.summary.runs import Record

# Examples of all runs that are resampled at a time.
_EXAMPLES = 200_000


class JudgedRun(NamedTuple):
    """Metrics of a run on resamples of the test examples, [metrics, resamples], and which it predicts rightly.

    `right` is bool [examples] for single-label classification, else None.
    """

    resampled: NDArray[np.float64]
    right: NDArray[np.bool_] | None


def variant_and_seed(record: Record) -> tuple[str, int]:
    """Return variant and seed, which name a run of one task and model."""
    return record.row["variant"], record.row["seed"]


def judged_runs(
    records: Sequence[Record], metrics: Sequence[Metric], predictions: ReadOnce, resamples: int
) -> dict[tuple[str, int], JudgedRun]:
    """Return metrics of finished runs of one task on the same resamples of the test examples, by variant and seed.

    Raises:
        UserError: the runs were evaluated on different examples.
    """
    first = records[0]
    expected = _predictions(first, predictions)
    kind, classes = kind_of(first.task), classes_of(first.task)
    found: dict[tuple[str, int], JudgedRun] = {}
    step = max(1, _EXAMPLES // max(1, len(expected.ids)))
    for start in range(0, len(records), step):
        some = records[start : start + step]
        runs = []
        for record in some:
            mine = _predictions(record, predictions)
            if not expected.ids.equals(mine.ids) or not np.array_equal(expected.true, mine.true):
                raise UserError(
                    f"{record.evaluation}: not the examples of {first.evaluation}, so they cannot be compared; "
                    "delete both folders and run again"
                )
            runs.append(Judged(mine.true, mine.predicted, mine.outputs))
        values = resampled(metrics, classes, runs, resamples, kind.draw)
        for place, (record, run) in enumerate(zip(some, runs, strict=True)):
            right = run.targets == run.predictions if kind.name == SINGLE_LABEL else None
            found[variant_and_seed(record)] = JudgedRun(values[:, place], right)
    return found


def _predictions(record: Record, predictions: ReadOnce) -> Predictions:
    """Return the predictions on the primary test set."""
    if record.evaluation is None:
        raise ValueError("a finished run has an evaluation")
    return predictions.of(record.evaluation, record.row["test_set"], record.task)
