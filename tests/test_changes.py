"""Changed predictions: intervals against SciPy's beta distribution, and what surely exceeds a tolerance."""

import numpy as np
import pytest
from scipy.stats import beta, binom

from intaglio.metrics import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from intaglio.stages.changes import Changes, prediction_changes


@pytest.mark.parametrize(("changed", "compared"), [(0, 10), (1, 16), (12, 200), (7, 7)])
def test_interval_is_that_of_clopper_and_pearson(changed: int, compared: int) -> None:
    low = beta.ppf(0.025, changed, compared - changed + 1) if changed else 0
    high = beta.ppf(0.975, changed + 1, compared - changed) if changed < compared else 1
    assert Changes(changed, compared).interval == pytest.approx((low, high))


def changes_of(before: list[int], changed: list[int], labels: tuple[str, ...] = ("common", "rare")):
    first = np.array(before)
    after = first.copy()
    after[changed] = 1 - after[changed]
    return prediction_changes({"kind": SINGLE_LABEL, "labels": labels}, first, after)


def test_a_class_that_is_lost_exceeds_the_tolerance() -> None:
    found = changes_of([0] * 194 + [1] * 6, list(range(194, 200)))
    assert found.total.share == 0.03
    assert found.excess(0.05) == (
        "6 of 6 predictions (100.0%, 97.5% interval 48.2% to 100.0%) of the class 'rare', "
        "and 6 of 200 predictions (3.0%, 95% interval 1.1% to 6.4%) in all"
    )


def test_few_examples_exceed_it_only_where_that_is_sure() -> None:
    # 16 examples at a true share of 3 %: one changed example in 39 % of draws, four or more in one of 900.
    refused = [count for count in range(17) if changes_of([0, 1] * 8, list(range(count))).excess(0.05)]
    assert refused[0] >= 3
    assert binom.sf(refused[0] - 1, 16, 0.03) < 0.025


def test_bounds_of_the_tolerance() -> None:
    found = changes_of([0] * 10, [0])
    assert found.excess(0.0) and not found.excess(1.0)
    assert not changes_of([0] * 10, []).excess(0.0)


def test_what_a_record_holds() -> None:
    facts = Changes(12, 200).facts("changed predictions", 0.05)
    low, high = Changes(12, 200).interval
    assert facts == {
        "measure": "changed predictions",
        "difference": 0.06,
        "difference_low": low,
        "difference_high": high,
        "tolerance": 0.05,
    }


def test_every_label_of_a_multi_label_task_counts() -> None:
    before = np.array([[1, 0], [1, 1], [0, 0], [1, 0]])
    after = np.array([[1, 0], [0, 1], [0, 1], [1, 0]])
    found = prediction_changes({"kind": MULTI_LABEL, "labels": ["joy", "fear"]}, before, after)
    assert (found.total.changed, found.total.compared) == (2, 8)
    assert {name: (of.changed, of.compared) for name, of in found.classes.items()} == {"joy": (1, 3), "fear": (0, 1)}


def test_a_value_has_changed_if_it_moves_by_a_quarter_of_the_deviation() -> None:
    task = {"kind": REGRESSION, "labels": ["rating"], "deviation": 2.0}
    found = prediction_changes(task, np.array([0.0, 1.0, 2.0]), np.array([0.4, 1.6, 1.4]))
    assert (found.total.changed, found.total.compared, found.classes) == (2, 3, {})
