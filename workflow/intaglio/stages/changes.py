"""The number of predictions that a conversion changes, tested against a tolerance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray
from scipy.stats import binomtest

from intaglio.kinds import kind_of

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Changes:
    """Number of changed predictions.

    Attributes:
        changed: number of changed predictions.
        compared: number of compared predictions, at least 1.
        confidence: confidence level of the interval.
    """

    changed: int
    compared: int
    confidence: float = CONFIDENCE

    @property
    def share(self) -> float:
        """Share of changed predictions."""
        return self.changed / self.compared

    @property
    def interval(self) -> tuple[float, float]:
        """Exact binomial interval (Clopper and Pearson 1934) of that share."""
        found = binomtest(self.changed, self.compared).proportion_ci(self.confidence, method="exact")
        return float(found.low), float(found.high)

    def exceeds(self, tolerance: float) -> bool:
        """Return whether the lower bound of the share's interval exceeds a tolerance."""
        return self.interval[0] > tolerance

    def facts(self, measure: str, tolerance: float) -> dict[str, Any]:
        """Return the share, its interval and the tolerance, for a checkpoint's record.

        Args:
            measure: name of the share in the tables.
            tolerance: largest allowed share.
        """
        low, high = self.interval
        return {
            "measure": measure,
            "difference": self.share,
            "difference_low": low,
            "difference_high": high,
            "tolerance": tolerance,
        }

    def __str__(self) -> str:
        """Describe the changes, as in "12 of 200 predictions (6.0%, 95% interval 3.1% to 10.2%)"."""
        low, high = self.interval
        level = f"{100 * self.confidence:.4g}%"
        return (
            f"{self.changed} of {self.compared} predictions "
            f"({self.share:.1%}, {level} interval {low:.1%} to {high:.1%})"
        )


@dataclass(frozen=True)
class PredictionChanges:
    """Changed predictions of all examples, and by the class predicted before the conversion."""

    total: Changes
    classes: dict[str, Changes]

    def excess(self, tolerance: float) -> str | None:
        """Describe what exceeds a tolerance, by the lower bound of its interval; None if nothing does.

        The class that exceeds it most is named first. Intervals of classes are wider (corrected for their number), so
        that together they have the confidence of a single one.
        """
        above = {name: found for name, found in self.classes.items() if found.exceeds(tolerance)}
        if above:
            worst = max(above, key=lambda name: above[name].interval[0])
            among = f", and {self.total} in all" if len(self.classes) > 1 else ""
            return f"{above[worst]} of the class {worst!r}{among}"
        return str(self.total) if self.total.exceeds(tolerance) else None


def prediction_changes(task: Mapping[str, Any], before: NDArray[Any], after: NDArray[Any]) -> PredictionChanges:
    """Compare predictions before and after a conversion.

    Each label of each example of a multi-label task counts as a prediction. A prediction of a regression task has
    changed if it moves by more than a quarter of the targets' standard deviation.

    Args:
        task: the content of the data's task.json.
        before: predictions, as `metrics.Judged` describes them, of at least one example.
        after: the same for the converted model.
    """
    kind = kind_of(task)
    changed = kind.changed(before, after, task)
    by_class = kind.by_class(before, changed)
    confidence = 1 - (1 - CONFIDENCE) / max(1, len(by_class))
    classes = {
        task["labels"][index]: Changes(int(among.sum()), len(among), confidence) for index, among in by_class.items()
    }
    return PredictionChanges(Changes(int(changed.sum()), changed.size), classes)
