"""Intervals over seeds and examples, and tests of variants against float."""

from __future__ import annotations

import math
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from intaglio.measure.timing.ratios import Speedup
from intaglio.metrics import Classes, Judged, named
from intaglio.statistics.bootstrap import resampled
from intaglio.statistics.compare import examples_to_decide, holm, mcnemar, non_inferiority, seeds_to_decide
from intaglio.statistics.seeds import MeanOverSeeds, mean_over_seeds
from intaglio.statistics.speedups import speedup_over_seeds

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))
from intervals import LOSS, coverage, difference, study


@pytest.mark.parametrize(
    ("examples", "seeds", "points", "least", "most"),
    [
        # With two seeds, little can be known of seeds; one speaks of examples only.
        (277, 1, 0, 0.93, 0.97),
        (277, 2, 0.5, 0.93, 1.0),
        (1000, 2, 2, 0.91, 0.97),
        (5000, 2, 1, 0.91, 0.97),
        (277, 3, 1, 0.93, 0.98),
        (1000, 3, 1, 0.93, 0.97),
        (1000, 5, 0, 0.93, 0.97),
        (277, 10, 2, 0.93, 0.97),
    ],
)
def test_intervals_hold_the_truth_as_often_as_they_say(
    examples: int, seeds: int, points: float, least: float, most: float
) -> None:
    """Of 600 simulated studies with a known difference; the share may differ by chance by 2 %."""
    held, _ = coverage(600, examples, seeds, points / 100)
    assert least - 0.02 < held < most + 0.02


def test_the_variances_are_those_of_the_two_ways() -> None:
    """The mean over many studies of the squared error is the mean of the estimated variance, and each part its own."""
    random = np.random.default_rng(2)
    means = [difference(study(random, 500, 4, 0.01)) for _ in range(1500)]
    error = np.var([mean.value for mean in means])
    assert np.mean([mean.common + mean.between / 4 for mean in means]) == pytest.approx(error, rel=0.1)
    # Between seeds: an effect with a deviation of 1 point, and what examples add to each seed alone.
    own = np.mean([mean.own for mean in means])
    assert np.mean([mean.between for mean in means]) - own == pytest.approx(0.01**2, rel=0.1)
    assert np.mean([mean.value for mean in means]) == pytest.approx(-LOSS, abs=0.001)


def test_resamples_give_the_variances_that_the_differences_of_examples_have() -> None:
    random = np.random.default_rng(4)
    of_examples = study(random, 400, 3, 0.01)
    # Predictions of two classes that are right or wrong as the differences of examples say.
    labels = random.integers(0, 2, 400)
    better, worse = (np.where(wrong, 1 - labels, labels) for wrong in (of_examples < 0, of_examples > 0))
    runs = [Judged(labels, predictions) for predictions in (*better, *worse)]
    values = resampled([named("accuracy")], Classes(2), runs, 4000)[0]
    found = mean_over_seeds(of_examples.mean(1), values[:3] - values[3:], 1 / 400)
    expected = difference(of_examples)
    assert found.value == expected.value
    for name in ("common", "own", "between", "error"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=0.15)


def test_where_seeds_decide_it_is_students_t_and_where_examples_do_it_is_normal() -> None:
    values = [0.01, -0.02, 0.015, 0.03]
    seeds = mean_over_seeds(values, np.zeros((4, 100)))
    expected = scipy.stats.ttest_1samp(values, 0)
    assert seeds.interval() == pytest.approx(tuple(expected.confidence_interval()))
    assert seeds.p_value() == pytest.approx(expected.pvalue)
    examples = MeanOverSeeds(0.02, 1, 0.01**2)
    assert examples.interval() == pytest.approx(scipy.stats.norm.interval(0.95, 0.02, 0.01))
    assert examples.p_value() == pytest.approx(2 * scipy.stats.norm.sf(2))


@pytest.mark.parametrize("mean", [MeanOverSeeds(0.02, 3, 1e-4, 1e-4, 3e-4), MeanOverSeeds(0.02, 2, 1e-4, 0, 1e-5)])
def test_an_interval_begins_at_zero_where_the_p_value_is_its_level(mean: MeanOverSeeds) -> None:
    assert mean.interval(1 - mean.p_value())[0] == pytest.approx(0, abs=1e-12)


def test_a_small_test_set_never_says_that_nothing_can_change() -> None:
    """Without any change among n examples, up to 3 / n may change (the rule of three)."""
    none = mean_over_seeds([0.0], np.zeros((1, 500)), 1 / 50)
    low, high = none.interval()
    assert -3 / 50 < low < -1 / 50 and high == -low
    assert mean_over_seeds([0.0], np.zeros((1, 500))).interval() == (0, 0)


def test_holm_adjusts_as_r_does() -> None:
    # p.adjust(c(0.01, 0.04, 0.03, 0.005, 0.9), "holm")
    assert holm([0.01, 0.04, None, 0.03, 0.005, 0.9]) == pytest.approx([0.04, 0.09, None, 0.09, 0.025, 0.9])
    assert holm([]) == []


def test_mcnemar_is_exact_for_each_seed_and_twice_the_median_over_seeds() -> None:
    def seed(mended: int, broken: int) -> tuple[np.ndarray, np.ndarray]:
        right = np.repeat([True, False, True], [mended, broken, 50 - mended - broken])
        return right, np.repeat([False, True, True], [mended, broken, 50 - mended - broken])

    seeds = [seed(10, 2), seed(3, 3), seed(12, 0)]
    exact = [2 * sum(math.comb(12, k) for k in range(3)) / 2**12, 1.0, 2 / 2**12]
    for (right, other), expected in zip(seeds, exact, strict=True):
        assert mcnemar(right[None], other[None]) == pytest.approx(expected)
    stacked = (np.stack(side) for side in zip(*seeds, strict=True))
    assert mcnemar(*stacked) == pytest.approx(2 * exact[0])
    assert mcnemar(np.ones((2, 9), bool), np.ones((2, 9), bool)) == 1


@pytest.mark.parametrize(
    ("value", "verdict"), [(0.0, "within"), (-0.005, "undecided"), (-0.012, "undecided"), (-0.02, "not within")]
)
def test_a_loss_is_within_the_margin_as_the_whole_interval_says(value: float, verdict: str) -> None:
    mean = MeanOverSeeds(value, 3, 4e-6, 1e-6, 12e-6)
    assert non_inferiority(mean.interval(), 0.01) == verdict
    # A metric that is better where it is lower.
    turned = MeanOverSeeds(-value, 3, 4e-6, 1e-6, 12e-6)
    assert non_inferiority(turned.interval(), 0.01, higher_is_better=False) == verdict


def test_what_would_decide_it_does_and_less_does_not() -> None:
    mean = MeanOverSeeds(-0.004, 3, 2e-6, 1e-6, 4e-5)
    seeds = seeds_to_decide(mean, 0.01)
    assert seeds is not None and seeds > 3
    verdicts = [non_inferiority(mean.with_seeds(count).interval(), 0.01) for count in (seeds - 1, seeds)]
    assert verdicts == ["undecided", "within"]
    # Seeds differ by more than examples could make up for.
    assert examples_to_decide(mean, 1000, 0.01) is None
    one = MeanOverSeeds(-0.004, 1, 2e-5)
    assert seeds_to_decide(one, 0.01) is None
    wanted = 1000 * 2e-5 * (1.96 / 0.006) ** 2
    assert wanted < (examples_to_decide(one, 1000, 0.01) or 0) < 1.1 * wanted
    assert examples_to_decide(MeanOverSeeds(0, 3, 1e-6, 0, 1e-6), 1000, 0.01) is None


def test_more_seeds_and_more_examples_make_it_narrower() -> None:
    mean = MeanOverSeeds(0, 3, 2e-5, 1e-5, 4e-5)
    for more in ([mean.with_seeds(n) for n in (3, 4, 6, 20)], [mean.with_examples(f) for f in (1, 2, 4, 100)]):
        for before, after in pairwise(each.error for each in more):
            assert after < before


@given(
    value=st.one_of(st.just(0.0), st.floats(-10, 10), st.floats(1e-20, 1e-6)),
    seeds=st.sampled_from([1, 2, 3, 5, 20]),
    variances=st.tuples(*[st.one_of(st.just(0.0), st.floats(1e-30, 1.0))] * 3),
)
def test_a_p_value_is_below_a_twentieth_where_the_interval_leaves_zero_out(
    value: float, seeds: int, variances: tuple[float, float, float]
) -> None:
    common, own, between = variances
    mean = MeanOverSeeds(value, seeds, common, own, None if seeds == 1 else between)
    low, high = mean.interval()
    p = mean.p_value()
    assert 0 <= p <= 1
    if abs(p - 0.05) > 1e-9:
        assert (p < 0.05) == (low > 0 or high < 0)


def test_without_errors_of_its_own_the_speed_up_of_seeds_has_the_interval_of_students_t() -> None:
    one = Speedup(2.0, 1.9, 2.1)
    assert speedup_over_seeds([one]) == one
    values = [2.0, 2.2, 2.6, 2.1]
    found = speedup_over_seeds([Speedup(value, value, value) for value in values])
    logs = np.log(values)
    expected = scipy.stats.t.interval(0.95, 3, logs.mean(), scipy.stats.sem(logs))
    assert found.value == pytest.approx(scipy.stats.gmean(values))
    assert (found.low, found.high) == pytest.approx(tuple(np.exp(expected)))


@pytest.mark.parametrize("seeds", [2, 3, 10])
@pytest.mark.parametrize("between", [0.0, 0.03])
def test_the_interval_of_a_speed_up_holds_the_truth_as_often_as_it_says(seeds: int, between: float) -> None:
    """Each seed is measured with an error of 1 %, and seeds differ by as much or by more."""
    random = np.random.default_rng(5)
    held = 0
    for _ in range(1000):
        values = math.log(1.5) + random.normal(0, between, seeds) + random.normal(0, 0.01, seeds)
        found = speedup_over_seeds([Speedup(*np.exp(value + 0.0196 * np.array([0, -1, 1]))) for value in values])
        held += found.low < 1.5 < found.high
    # Of two seeds little can be known; 1000 simulations differ by chance by 2 %.
    assert held / 1000 > (0.92 if seeds == 2 else 0.93) - 0.02
