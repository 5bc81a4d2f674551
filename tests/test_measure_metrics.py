import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from intaglio.errors import UserError
from intaglio.measure.metrics import metric_rows
from intaglio.metrics import SINGLE_LABEL

NAMES = ("a", "b", "c")


def one_hot(predictions, classes):
    return np.eye(classes, dtype=np.float32)[np.asarray(predictions)]


def task(names=NAMES, primary="accuracy", positive=None):
    return {"kind": SINGLE_LABEL, "labels": list(names), "metric": primary, "positive": positive}


def judged(labels, predictions, names=NAMES, primary="accuracy", positive=None):
    rows = metric_rows(task(names, primary, positive), np.asarray(labels), one_hot(predictions, len(names)))
    return {(row["metric"], row["label"], row["predicted"]): row["value"] for row in rows}


def scalar(values, metric):
    return values[metric, None, None]


def test_by_hand_with_three_classes():
    #            true: a a a b b c; confusion a: 2 1 0, b: 0 1 1, c: 1 0 0
    values = judged([0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 2, 0])
    assert scalar(values, "accuracy") == pytest.approx(3 / 6)
    assert scalar(values, "balanced_accuracy") == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    assert scalar(values, "f1_macro") == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    # Chance agreement: (3 * 3 + 2 * 2 + 1 * 1) / 36.
    assert scalar(values, "cohen_kappa") == pytest.approx((1 / 2 - 14 / 36) / (1 - 14 / 36))
    # Gorodkin: (c s - sum t p) / sqrt((s^2 - sum p^2) (s^2 - sum t^2)).
    assert scalar(values, "matthews") == pytest.approx((3 * 6 - 14) / math.sqrt((36 - 14) * (36 - 14)))
    assert ("f1", None, None) not in values
    assert [values["class_precision", name, None] for name in NAMES] == pytest.approx([2 / 3, 1 / 2, 0])
    assert [values["class_recall", name, None] for name in NAMES] == pytest.approx([2 / 3, 1 / 2, 0])
    assert [values["class_f1", name, None] for name in NAMES] == pytest.approx([2 / 3, 1 / 2, 0])
    # One class against the rest, true positives and true negatives: a 2 + 2, b 1 + 3, c 0 + 4.
    assert [values["class_accuracy", name, None] for name in NAMES] == pytest.approx([4 / 6, 4 / 6, 4 / 6])
    matrix = [[values["confusion", true, predicted] for predicted in NAMES] for true in NAMES]
    assert matrix == [[2, 1, 0], [0, 1, 1], [1, 0, 0]]


def test_f1_of_two_classes_is_of_the_second():
    values = judged([1, 1, 1, 0, 0], [1, 1, 0, 1, 0], ("no", "yes"), "f1", "yes")
    assert scalar(values, "f1") == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))


@pytest.mark.filterwarnings("error")
def test_a_class_that_nobody_has_costs_nothing():
    values = judged([0, 0, 1, 1], [0, 0, 1, 1])
    assert scalar(values, "accuracy") == scalar(values, "balanced_accuracy") == scalar(values, "cohen_kappa") == 1
    assert scalar(values, "f1_macro") == 1
    assert values["class_recall", "c", None] == values["class_f1", "c", None] == 0
    assert values["confusion", "c", "c"] == 0


@pytest.mark.filterwarnings("error")
def test_absent_class_that_is_predicted():
    values = judged([0, 0, 1, 1], [0, 2, 1, 1])
    assert scalar(values, "balanced_accuracy") == pytest.approx((1 / 2 + 1) / 2)
    assert values["class_precision", "c", None] == 0
    assert scalar(values, "f1_macro") == pytest.approx((2 / 3 + 0 + 1) / 3)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("labels", [[0, 1, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]])
def test_one_class_predicted(labels):
    values = judged(labels, [0, 0, 0, 0], ("no", "yes"), "matthews", "yes")
    assert all(math.isfinite(value) for value in values.values())
    assert scalar(values, "matthews") == scalar(values, "cohen_kappa") == scalar(values, "f1") == 0


def test_loss_is_the_mean_cross_entropy_even_of_confident_mistakes():
    logits = np.array([[2.0, 1.0], [-500.0, 500.0]], dtype=np.float32)
    rows = metric_rows(task(("no", "yes")), np.array([0, 0]), logits)
    loss = next(row["value"] for row in rows if row["metric"] == "loss")
    assert loss == pytest.approx((math.log(1 + math.exp(-1)) + 1000) / 2)


def test_primary_is_marked_once():
    rows = metric_rows(task(("no", "yes"), "matthews"), np.array([0, 1]), one_hot([0, 1], 2))
    assert [row["metric"] for row in rows if row["primary"]] == ["matthews"]


def test_primary_that_the_task_does_not_have():
    with pytest.raises(UserError, match="metric: f1 is for two classes, the task has 3; take one of accuracy,"):
        judged([0, 1, 2], [0, 1, 2], primary="f1")


@pytest.mark.parametrize(("labels", "classes"), [([0, 3], 3), ([-1, 0], 3), ([0, 1], 2)])
def test_labels_and_logits_that_do_not_fit(labels, classes):
    with pytest.raises(UserError, match="another task"):
        metric_rows(task(), np.array(labels), one_hot([0, 1], classes))


@settings(deadline=None, max_examples=60)
@given(
    st.integers(2, 5).flatmap(lambda k: st.lists(st.tuples(st.integers(0, k - 1), st.integers(0, k - 1)), min_size=1))
)
def test_against_the_formulas(pairs):
    labels, predictions = np.array(pairs).T
    names = "abcde"[: max(2, labels.max() + 1, predictions.max() + 1)]
    values = judged(labels, predictions, names)
    matrix = np.zeros((len(names), len(names)))
    for true, predicted in pairs:
        matrix[true, predicted] += 1
    n, right, true, taken = matrix.sum(), np.diag(matrix), matrix.sum(1), matrix.sum(0)
    f1 = np.divide(2 * right, true + taken, out=np.zeros(len(names)), where=true + taken > 0)
    chance = (true * taken).sum() / n**2
    spread = math.sqrt((n**2 - (true**2).sum()) * (n**2 - (taken**2).sum()))
    assert scalar(values, "accuracy") == pytest.approx(right.sum() / n)
    assert scalar(values, "balanced_accuracy") == pytest.approx((right[true > 0] / true[true > 0]).mean())
    assert scalar(values, "f1_macro") == pytest.approx(f1[true + taken > 0].mean())
    kappa = 0 if chance == 1 else (right.sum() / n - chance) / (1 - chance)
    assert scalar(values, "cohen_kappa") == pytest.approx(kappa, abs=1e-9)
    matthews = 0 if spread == 0 else (right.sum() * n - (true * taken).sum()) / spread
    assert scalar(values, "matthews") == pytest.approx(matthews, abs=1e-9)
    for index, name in enumerate(names):
        correct = (right[index] + n - true[index] - taken[index] + right[index]) / n
        assert values["class_accuracy", name, None] == pytest.approx(correct)
        assert values["class_f1", name, None] == pytest.approx(f1[index])
