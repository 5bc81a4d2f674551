"""Differences between variants of one task and model, with intervals and tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from intaglio.metrics import named
from intaglio.predictions import ReadOnce
from intaglio.statistics import compare
from intaglio.statistics.seeds import MeanOverSeeds, mean_over_seeds
from intaglio.summary.judged import judged_runs, variant_and_seed
from intaglio.summary.runs import Record

# Metrics that are shares of test examples, so that each example changes them by 1 / examples.
_SHARES = ("accuracy", "subset_accuracy", "exact_match")


class Differences:
    """The differences in the primary metric between variants of one task and model.

    Args:
        records: the finished runs of all variants, at least one.
        predictions: reads theirs.
        resamples: of the bootstrap.
        margin: the largest loss to accept, in points (of a metric without points, in its unit).

    Raises:
        UserError: the runs were evaluated on different examples.
    """

    def __init__(self, records: Sequence[Record], predictions: ReadOnce, resamples: int, margin: float) -> None:
        self.metric = named(records[0].row["primary_metric"])
        self._examples: int = records[0].row["test_examples"]
        self._margin = margin / self.metric.scale
        self._values = {variant_and_seed(record): float(record.row["primary_value"]) for record in records}
        self._validation = {variant_and_seed(record): record.row["validation_value"] for record in records}
        # Validation examples for each test example; as many where the data does not say.
        self._factor = (records[0].row.get("validation_examples") or self._examples) / self._examples
        self._judged = judged_runs(records, [self.metric], predictions, resamples)

    @property
    def one_example(self) -> float | None:
        """What one test example changes in the metric; None if that depends on the example."""
        return 1 / self._examples if self.metric.name in _SHARES else None

    def mean(self, variant: str, other: str, seeds: Sequence[int]) -> MeanOverSeeds:
        """Return the mean difference over seeds that both variants have."""
        values = [self._values[variant, seed] - self._values[other, seed] for seed in seeds]
        mine, others = ([self._judged[name, seed].resampled[0] for seed in seeds] for name in (variant, other))
        # Of single-label metrics beside accuracy, an example changes about as much.
        classified = self._judged[variant, seeds[0]].right is not None
        one_example = 1 / self._examples if classified or self.one_example else 0.0
        return mean_over_seeds(values, np.stack(mine) - np.stack(others), one_example)

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
