"""Differences between variants of one task and model, with intervals and tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from intaglio.errors import UserError
from intaglio.kinds import classes_of, kind_of
from intaglio.metrics import SINGLE_LABEL, Judged, Metric, named
from intaglio.statistics import bootstrap, compare
from intaglio.statistics.seeds import MeanOverSeeds, mean_over_seeds
from intaglio.summary.lineage import Predictions, predictions
from intaglio.summary.runs import Record

# Examples whose predictions are in memory at a time.
_EXAMPLES = 200_000
# Metrics that are shares of test examples, so that each example changes them by 1 / examples.
_SHARES = ("accuracy", "subset_accuracy", "exact_match")
_Key = tuple[str, int]


class JudgedRun(NamedTuple):
    """The primary metric of a run on resamples of the test examples [resamples], and which it predicts rightly.

    `right` is bool [examples] for single-label classification, else None.
    """

    resampled: NDArray[np.float64]
    right: NDArray[np.bool_] | None


class Differences:
    """The differences in the primary metric between variants of one task and model.

    Args:
        records: the finished runs of all variants, at least one.
        resamples: of the bootstrap.
        margin: the largest loss to accept, in points (of a metric without points, in its unit).

    Raises:
        UserError: the runs were evaluated on different examples.
    """

    def __init__(self, records: Sequence[Record], resamples: int, margin: float) -> None:
        self.metric = named(records[0].row["primary_metric"])
        self._examples: int = records[0].row["test_examples"]
        self._margin = margin / self.metric.scale
        self._values = {_key(record): float(record.row["primary_value"]) for record in records}
        self._validation = {_key(record): record.row["validation_value"] for record in records}
        # Validation examples for each test example; as many where the data does not say.
        self._factor = (records[0].row.get("validation_examples") or self._examples) / self._examples
        self._judged = judged_runs(records, self.metric, resamples)

    @property
    def one_example(self) -> float | None:
        """What one test example changes in the metric; None if that depends on the example."""
        return 1 / self._examples if self.metric.name in _SHARES else None

    def mean(self, variant: str, other: str, seeds: Sequence[int]) -> MeanOverSeeds:
        """Return the mean difference over seeds that both variants have."""
        values = [self._values[variant, seed] - self._values[other, seed] for seed in seeds]
        resampled = np.stack(
            [self._judged[variant, seed].resampled - self._judged[other, seed].resampled for seed in seeds]
        )
        # Of single-label metrics beside accuracy, an example changes about as much.
        classified = self._judged[variant, seeds[0]].right is not None
        return mean_over_seeds(values, resampled, 1 / self._examples if classified or self.one_example else 0.0)

    def _right(self, variant: str, seeds: Sequence[int]) -> NDArray[np.bool_] | None:
        found = [right for seed in seeds if (right := self._judged[variant, seed].right) is not None]
        return np.stack(found) if found else None

    def columns(self, variant: str, other: str, seeds: Sequence[int]) -> dict[str, Any]:
        """Return the columns of variants.parquet on a variant's difference to float."""
        mean = self.mean(variant, other, seeds)
        low, high = mean.interval()
        mine, others = (self._right(name, seeds) for name in (variant, other))
        against = (self._margin, self.metric.higher_is_better)
        return {
            "difference": mean.value,
            "difference_low": low,
            "difference_high": high,
            "difference_p": mean.p_value(),
            "mcnemar_p": None if mine is None or others is None else compare.mcnemar(mine, others),
            "noninferior": compare.non_inferiority((low, high), *against),
            "seeds_to_decide": compare.seeds_to_decide(mean, *against),
            "examples_to_decide": compare.examples_to_decide(mean, self._examples, *against),
            **self._validated(mean, variant, other, seeds),
        }

    def _validated(self, mean: MeanOverSeeds, variant: str, other: str, seeds: Sequence[int]) -> dict[str, Any]:
        """Return the columns of the difference on the validation split, given that on the test split."""
        pairs = [(self._validation[variant, seed], self._validation[other, seed]) for seed in seeds]
        known = [float(one - two) for one, two in pairs if one is not None and two is not None]
        if len(known) < len(pairs):
            return {}
        validated = mean.of_other_examples(known, self._factor)
        low, high = validated.interval()
        return {
            "validation_difference": validated.value,
            "validation_difference_low": low,
            "validation_difference_high": high,
        }

    def to_control(self, variant: str, control: str, seeds: Sequence[int]) -> dict[str, Any]:
        """Return the columns of variants.parquet on a variant's difference to its control."""
        mean = self.mean(variant, control, seeds)
        low, high = mean.interval()
        return {
            "control_difference": mean.value,
            "control_difference_low": low,
            "control_difference_high": high,
        }


def judged_runs(records: Sequence[Record], metric: Metric, resamples: int) -> dict[_Key, JudgedRun]:
    """Return a metric of runs of one task on the same resamples of the test examples, by variant and seed.

    Raises:
        UserError: the runs were evaluated on different examples.
    """
    first = records[0]
    expected = _predictions(first, metric)
    kind, classes = kind_of(first.task), classes_of(first.task)
    found: dict[_Key, JudgedRun] = {}
    # Some at a time, since predictions of all runs may not fit into memory.
    step = max(1, _EXAMPLES // max(1, len(expected.ids)))
    for start in range(0, len(records), step):
        some = records[start : start + step]
        runs = []
        for record in some:
            mine = _predictions(record, metric)
            if not expected.ids.equals(mine.ids) or not np.array_equal(expected.true, mine.true):
                raise UserError(
                    f"{record.evaluation}: not the examples of {first.evaluation}, so they cannot be compared; "
                    "delete both folders and run again"
                )
            runs.append(Judged(mine.true, mine.predicted, mine.outputs))
        values = bootstrap.resampled(metric, classes, runs, resamples, kind.draw)
        for record, run, of_run in zip(some, runs, values, strict=True):
            right = run.targets == run.predictions if kind.name == SINGLE_LABEL else None
            found[_key(record)] = JudgedRun(of_run, right)
    return found


def _key(record: Record) -> _Key:
    return record.row["variant"], record.row["seed"]


def _predictions(record: Record, metric: Metric) -> Predictions:
    """Return the predictions on the primary test set, with outputs if the metric reads them."""
    if record.evaluation is None:
        raise ValueError("a finished run has an evaluation")
    return predictions(record.evaluation, record.row["test_set"], record.task, metric.needs_outputs)
