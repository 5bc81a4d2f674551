"""Times of a model beside its float baseline: models in turns, speed-ups with their intervals."""

import math
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.stats

from encoders import integer_checkpoint, random_model
from intaglio.export.export import export
from intaglio.measure import profile
from intaglio.measure.backends import REGISTRY, backend
from intaglio.measure.disturbance import Watch
from intaglio.measure.places import Opened, Place
from intaglio.measure.timing import baseline, latency, rounds
from intaglio.measure.timing.ratios import is_measurable, speedup
from intaglio.schemas import BASELINES, LATENCY, read_table
from intaglio.store import open_artifact
from intaglio.study.profile import Profile
from tiny import tiny_checkpoint, tiny_tokenizer

OPTIONS = Profile(batch_sizes=[2], lengths=[8], headline=(2, 8), warmup=1, calls=6, threads=1, devices=["cpu"])


def measured(seed: int, count: int, ratio: float = 1.0, drift: float = 0.3) -> tuple[Any, Any]:
    """Times of a baseline and of a model that is `ratio` times as fast, on a machine that drifts and stumbles."""
    random = np.random.default_rng([seed, count])
    shared = 1 + drift * np.sin(2 * np.arange(count) / count + random.uniform(0, 6))
    shared += random.normal(0, 0.01, count).cumsum()
    spikes = np.where(random.random((2, count)) < 0.08, random.uniform(1.3, 4, (2, count)), 1)
    of_both = shared * random.lognormal(0, 0.02, (2, count)) * spikes
    return 10 * of_both[0], 10 * of_both[1] / ratio


@pytest.mark.parametrize("count", [6, 15, 30, 50])
@pytest.mark.parametrize("drift", [0.0, 0.5])
def test_the_interval_of_equal_models_holds_one_as_often_as_it_says(count: int, drift: float) -> None:
    found = [speedup(*measured(seed, count, drift=drift)) for seed in range(1500)]
    assert 0.93 < np.mean([not is_measurable(one.low, one.high) for one in found]) < 0.97


def test_drift_biases_nothing_and_a_slower_model_is_found_slower() -> None:
    found = [speedup(*measured(seed, 30, ratio=0.95, drift=0.8)) for seed in range(200)]
    assert np.mean([one.value for one in found]) == pytest.approx(0.95, abs=0.003)
    assert np.mean([one.high < 1 for one in found]) > 0.95
    assert all(one.low <= one.value <= one.high for one in found)


@pytest.mark.parametrize("count", [3, 5, 6, 13, 30, 50])
def test_the_interval_lies_within_that_of_scipy_which_takes_whole_ranks(count: int) -> None:
    for seed in range(20):
        slow, fast = measured(seed, count, ratio=1.2)
        found = speedup(slow, fast)
        wide = scipy.stats.quantile_test(slow / fast, p=0.5).confidence_interval(0.95)
        assert found.value == pytest.approx(math.exp(np.median(np.log(slow / fast))))
        if count < 6:
            assert (found.low, found.high) == pytest.approx(((slow / fast).min(), (slow / fast).max()))
        else:
            assert wide.low - 1e-9 <= found.low <= found.value <= found.high <= wide.high + 1e-9


class TestRounds:
    def test_each_model_once_a_round_after_a_call_of_its_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = SimpleNamespace(now=0.0)
        made: list[str] = []

        def call(name: str, seconds: float) -> Any:
            def run() -> None:
                made.append(name)
                clock.now += seconds

            return run

        def sleep(seconds: float) -> None:
            made.append("sleep")
            clock.now += seconds

        fake = SimpleNamespace(
            perf_counter=lambda: clock.now, perf_counter_ns=lambda: round(1e9 * clock.now), sleep=sleep
        )
        monkeypatch.setattr(rounds, "time", fake)
        calls = [call("a", 0.03), call("b", 0.008), call("c", 0.3)]
        watch = SimpleNamespace(timing=Watch().timing)
        times = rounds.in_rounds(calls, "cpu", 2, 20, watch)
        assert [np.mean(of_it) for of_it in times] == pytest.approx([30, 8, 300])
        assert [len(of_it) for of_it in times] == [20] * 3
        # Short ones are called for twenty milliseconds before, long ones wait.
        turns = "".join(name[0] for name in made[6:]).replace("aa", "A").replace("bbbb", "B").replace("sc", "C")
        assert sorted(turns) == sorted("ABC" * 20)
        assert all(sorted(turns[place : place + 3]) == ["A", "B", "C"] for place in range(0, 60, 3))
        assert {turns[place : place + 2] for place in range(59)} >= {"AB", "BA", "AC", "CA", "BC", "CB"}

    def test_equal_models_and_a_slower_one(self) -> None:
        model = random_model().eval()
        tokenizer = tiny_tokenizer()
        ready = [latency.call_of(Opened(Place("torch", "cpu"), model, tokenizer), (1, 8)) for _ in range(2)]

        def slower() -> None:
            ready[0]()
            time.sleep(0.02)

        found = []
        # An interval of 95 % misses once in twenty.
        for seed in range(3):
            first, second, third = rounds.in_rounds([*ready, slower], "cpu", 2, 20, Watch(), seed)
            found.append(speedup(first, second))
            assert speedup(first, third).high < 1
        assert any(not is_measurable(one.low, one.high) for one in found)


def test_the_fastest_forms_are_kept_by_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    names = list(REGISTRY)[:4]
    forms: Any = [Opened(Place(name, "cpu"), None, None) for name in names]
    times = dict(zip(names, (9.0, 5.0, 3.0, 5.2), strict=True))
    monkeypatch.setattr(baseline, "call_of", lambda opened, _: opened.place.backend)
    monkeypatch.setattr(baseline, "in_rounds", lambda calls, *_: [[times[name]] * 5 for name in calls])
    precision = {names[2]: "bfloat16"}
    monkeypatch.setattr(baseline, "backend", lambda name: SimpleNamespace(precision=precision.get(name, "float32")))
    # The second and the fourth are too close to be told apart by a few calls.
    assert [form.place.backend for form in baseline.fastest_forms(forms, (1, 8), 1)] == names[1:4]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[tuple[Path, Path], tuple[Path, Path]]:
    """An integer checkpoint and a float one, with their exports."""
    root = tmp_path_factory.mktemp("made")
    found = (integer_checkpoint(root / "int"), tiny_checkpoint(root / "float"))
    for folder in found:
        export(folder, folder.with_name(f"{folder.name}-export"))
    first, second = ((folder, folder.with_name(f"{folder.name}-export")) for folder in found)
    return first, second


@pytest.mark.parametrize("by", ["baseline", "itself", "nothing"])
def test_profile_beside_its_baseline(made: Any, tmp_path: Path, by: str, caplog: pytest.LogCaptureFixture) -> None:
    integer, floating = made
    model = floating if by == "itself" else integer
    profile.profile(*model, OPTIONS, tmp_path / "profile", floating if by == "baseline" else None)
    rows = read_table(tmp_path / "profile" / "latency.parquet", LATENCY).to_pylist()
    beside = read_table(tmp_path / "profile" / "baselines.parquet", BASELINES).to_pylist()
    assert [row["backend"] for row in rows][:2] == ["torch", "onnxruntime"]
    if by == "nothing":
        assert beside == [] and {row["speedup"] for row in rows} == {row["against_any"] for row in rows} == {None}
        assert "no float model was given" in caplog.text
        return
    forms = {row["backend"]: row["calls"] for row in (rows if by == "itself" else beside)}
    in_float32 = [name for name in forms if backend(name).precision == "float32"]
    first = min(in_float32, key=lambda name: float(np.median(forms[name])))
    for row in rows:
        assert row["against"] == first
        assert (row["speedup"], row["speedup_low"], row["speedup_high"]) == speedup(forms[first], row["calls"])
        assert len(row["calls"]) == len(forms[first]) == OPTIONS.calls
    if by == "itself":
        assert {row["speedup"] for row in rows if row["backend"] == first} == {1.0}
        assert beside == []
    assert (open_artifact(tmp_path / "profile", "profile")["baseline"] is None) == (by == "itself")
