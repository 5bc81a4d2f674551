import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from intaglio.metrics import KNOWN_METRICS, Classes, Judged, named
from intaglio.statistics.bootstrap import resampled as resampled_runs
from intaglio.statistics.seeds import mean_over_seeds


def _confusion(labels: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    return sk.confusion_matrix(labels, predictions, labels=range(classes)).astype(float)


def metric_of(name: str, confusion: np.ndarray, positive: int | None = None) -> float:
    return KNOWN_METRICS[name].from_confusion(confusion, Classes(len(confusion), positive))


def resampled(name: str, labels: np.ndarray, runs: np.ndarray, classes: int, resamples: int) -> np.ndarray:
    judged = [Judged(labels, predictions) for predictions in runs]
    return resampled_runs([named(name)], Classes(classes), judged, resamples)[0]


REFERENCES = {
    "accuracy": lambda y, p, _: sk.accuracy_score(y, p),
    "balanced_accuracy": lambda y, p, _: sk.balanced_accuracy_score(y, p),
    "f1_macro": lambda y, p, _: sk.f1_score(y, p, average="macro", zero_division=0),
    "matthews": lambda y, p, _: sk.matthews_corrcoef(y, p),
    "cohen_kappa": lambda y, p, _: sk.cohen_kappa_score(y, p),
}


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.parametrize("name", REFERENCES)
@settings(max_examples=40, deadline=None)
@given(st.integers(2, 4), st.integers(0, 10**6))
def test_metrics_equal_sklearn(name: str, classes: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, 12)
    labels[0], labels[1] = 0, 1  # one class only leaves kappa undefined
    predictions = np.where(random.random(12) < 0.5, labels, random.integers(0, classes, 12))
    expected = REFERENCES[name](labels, predictions, classes)
    assert metric_of(name, _confusion(labels, predictions, classes)) == pytest.approx(expected, abs=1e-12)


def test_f1_is_of_the_named_class_and_undefined_values_are_zero() -> None:
    labels, predictions = np.array([0, 0, 1, 1, 1]), np.array([0, 1, 1, 1, 0])
    assert metric_of("f1", _confusion(labels, predictions, 2), 1) == pytest.approx(sk.f1_score(labels, predictions))
    constant = np.array([[4.0, 0.0], [2.0, 0.0]])
    assert metric_of("matthews", constant) == 0
    assert metric_of("cohen_kappa", np.array([[6.0, 0.0], [0.0, 0.0]])) == 0


def _example(examples: int = 400, seeds: int = 1, classes: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(7)
    labels = random.integers(0, classes, examples)

    def predict(right: float) -> np.ndarray:
        wrong = (labels + random.integers(1, classes, (seeds, examples))) % classes
        return np.where(random.random((seeds, examples)) < right, labels, wrong)

    return labels, predict(0.85), predict(0.80)


@pytest.mark.parametrize("metric", ["matthews", "f1_macro"])
def test_one_seed_agrees_with_scipy(metric: str) -> None:
    labels, baseline, variant = _example()

    def difference(y: np.ndarray, f: np.ndarray, v: np.ndarray) -> float:
        return float(metric_of(metric, _confusion(y, v, 2)) - metric_of(metric, _confusion(y, f, 2)))

    expected = scipy.stats.bootstrap(
        (labels, baseline[0], variant[0]), difference, paired=True, vectorized=False, n_resamples=1000,
        method="percentile", rng=np.random.default_rng(1),
    ).confidence_interval  # fmt: skip
    observed = difference(labels, baseline[0], variant[0])
    values = resampled(metric, labels, variant, 2, 4000) - resampled(metric, labels, baseline, 2, 4000)
    width = expected.high - expected.low
    found = mean_over_seeds([observed], values).interval()
    assert found == pytest.approx((expected.low, expected.high), abs=0.1 * width)


def test_one_resample_is_what_it_says() -> None:
    """All resamples of a run equal the metric of the example indices that the documented generator draws."""
    labels, baseline, variant = _example(examples=50, seeds=2, classes=3)
    runs = np.concatenate([baseline, variant])
    found = resampled("matthews", labels, runs, 3, 20)
    drawn = np.random.default_rng([20211, 50]).integers(0, 50, (20, 50))
    for run in range(4):
        expected = [sk.matthews_corrcoef(labels[rows], runs[run][rows]) for rows in drawn]
        assert found[run] == pytest.approx(expected, abs=1e-12)


def test_runs_share_their_resamples_and_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, baseline, variant = _example(seeds=3)
    alone = resampled("accuracy", labels, variant, 2, 300)
    together = resampled("accuracy", labels, np.concatenate([baseline, variant]), 2, 300)
    assert np.array_equal(alone, together[3:])
    monkeypatch.setattr("intaglio.statistics.bootstrap._BLOCK", 400 * 7)
    assert np.array_equal(alone, resampled("accuracy", labels, variant, 2, 300))
