"""The recommended variant of a task: judged by the study's constraints, chosen on validation, told in sentences."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

import fakes
from intaglio import schemas
from intaglio.recommendation.choose import recommend
from intaglio.recommendation.judge import judged_rows
from intaglio.recommendation.sentences import recommendation_sentences
from intaglio.report.pages import write_pages
from intaglio.summary.read import read_summary
from intaglio.summary.summarize import write_summary

Row = dict[str, Any]
NOTHING: Row = {"max_drop": None, "p99_ms": None, "file_mb": None, "backends": None, "device": None}


def variant(name: str, drop: tuple[float, float] = (0.0, 0.002), size: float = 20.0, **more: Any) -> Row:
    """A row of variants.parquet, with a difference on validation in the middle of its interval."""
    low, high = (0.0, 0.0) if name == "float" else drop
    middle = (low + high) / 2
    return {
        **{"study": "s", "task": "movie", "model": "minilm", "variant": name, "n": 3, "primary_metric": "accuracy"},
        **{"primary_mean": 0.85 + middle, "difference": middle, "difference_low": low, "difference_high": high},
        **{"validation_mean": 0.86 + middle, "validation_difference": middle},
        **{"validation_difference_low": low, "validation_difference_high": high},
        **{"size_mb_mean": size, "total_train_seconds_mean": 100.0, **more},
    }


def timed(name: str, ms: float, backend: str = "onnxruntime", p99: tuple[float, float] | None = None) -> Row:
    """A row of backends.parquet; float takes 20 ms."""
    least, most = p99 or (1.2 * ms, 1.2 * ms)
    speedup = {"speedup": 20 / ms, "speedup_low": 0.98 * 20 / ms, "speedup_high": 1.02 * 20 / ms}
    place = {"variant": name, "backend": backend, "device": "cpu", "latency_ms_mean": ms}
    return {**place, **speedup, "p99_ms_least": least, "p99_ms_most": most, "peak_memory_mb_mean": 10 * ms}


def judged(variants: list[Row], times: list[Row], objective: str = "latency", **constraints: Any) -> dict[str, Row]:
    study = {"margin": 1.0, "objective": objective, "constraints": {**NOTHING, **constraints}}
    rows = judged_rows({**study, "profile": {"headline": [1, 128]}}, variants, times)
    recommend(rows, {("movie", "minilm")})
    assert sum(row["recommended"] for row in rows) <= 1
    return {row["variant"]: row for row in rows}


FLOAT, INT, PRUNED, SMALL = variant("float", size=90), variant("int"), variant("pruned", size=80), variant("small")
THREE = [timed("float", 20), timed("int", 10), timed("pruned", 15)]


def chosen(rows: dict[str, Row]) -> str | None:
    return next((name for name, row in rows.items() if row["recommended"]), None)


def test_the_fastest_that_loses_no_more_than_the_margin_is_recommended() -> None:
    rows = judged([FLOAT, INT, PRUNED], THREE)
    assert chosen(rows) == "int"
    assert rows["int"]["reason"] == "the fastest of the 3 variants that meet every constraint"
    assert rows["pruned"]["reason"] == "meets every constraint; slower than int (1.33 times as fast as float)"
    assert rows["float"]["reason"] == "meets every constraint; slower than int (20 ms a call)"
    first, *rest = recommendation_sentences(list(rows.values()))
    assert first == (
        "movie: int is recommended: the fastest of the 3 variants that meet every constraint (at most 1 point lost "
        "against float, with 95 % confidence)."
    )
    text = " ".join(rest)
    assert "10 ms a call in onnxruntime on the CPU (2 times as fast as float) and a file of 20 MB" in text
    assert "On the test split, which chose nothing, it is +0.1 points [0.0, +0.2] from float" in text
    assert "float in its place: −0.1 points on the validation split, 2 times slower, 4.5 times larger." in text


def test_speedups_and_not_the_times_of_different_processes_tell_what_is_faster() -> None:
    """The process that timed `pruned` ran at twice the speed of the others, with its float model, too."""
    hurried = {**timed("pruned", 15), "latency_ms_mean": 7.5}
    rows = judged([FLOAT, INT, PRUNED], [timed("float", 20), timed("int", 10), hurried])
    assert chosen(rows) == "int"
    assert [rows[name]["paired_ms"] for name in ("float", "int", "pruned")] == pytest.approx([20, 10, 15])
    assert rows["pruned"]["reason"] == "meets every constraint; slower than int (1.33 times as fast as float)"
    assert "pruned in its place: 0.0 points on the validation split, 1.5 times slower" in " ".join(
        recommendation_sentences(list(rows.values()))
    )
    # Within the intervals of the speed-ups nothing is said of the speed.
    near = judged([FLOAT, variant("int", (-0.02, 0.0))], [timed("float", 20), timed("int", 19.8)], max_drop=5)
    assert "times slower" not in " ".join(recommendation_sentences(list(near.values())))


@pytest.mark.parametrize(
    ("drop", "verdict"), [((-0.009, 0.01), "meets"), ((-0.02, 0.01), "undecided"), ((-0.03, -0.011), "fails")]
)
def test_a_loss_is_judged_by_its_interval(drop: tuple[float, float], verdict: str) -> None:
    rows = judged([FLOAT, variant("int", drop), PRUNED], THREE)
    assert (rows["int"]["drop"], rows["int"]["verdict"]) == (verdict, verdict)
    assert chosen(rows) == ("int" if verdict == "meets" else "pruned")
    wider = judged([FLOAT, variant("int", drop), PRUNED], THREE, max_drop=3.0)
    assert chosen(wider) == "int"


@pytest.mark.parametrize(
    ("constraints", "verdicts", "best"),
    [
        ({"p99_ms": 12.0}, {"float": "fails", "int": "meets", "pruned": "fails"}, "int"),
        ({"p99_ms": 9.0}, {"float": "fails", "int": "fails", "pruned": "fails"}, None),
        ({"file_mb": 85.0}, {"float": "fails", "int": "meets", "pruned": "meets"}, "int"),
        ({"backends": ["native"]}, {"float": "fails", "int": "meets", "pruned": "fails"}, "int"),
    ],
)
def test_what_is_measured_is_judged_by_its_limits(constraints: Row, verdicts: dict[str, str], best: str | None) -> None:
    rows = judged([FLOAT, INT, PRUNED], [*THREE, timed("int", 8, "native", (9.1, 9.3))], **constraints)
    assert {name: row["verdict"] for name, row in rows.items()} == verdicts
    assert chosen(rows) == best
    assert ("no variant is sure" in recommendation_sentences(list(rows.values()))[0]) == (best is None)
    assert rows["int"]["backend"] == "native"


def test_seeds_on_both_sides_of_a_limit_and_unknown_times_are_undecided() -> None:
    backends = [timed("float", 20), timed("int", 10, p99=(11, 13))]
    rows = judged([FLOAT, INT, PRUNED], backends, p99_ms=12)
    assert {name: row["p99"] for name, row in rows.items()} == {
        "float": "fails",
        "int": "undecided",
        "pruned": "undecided",
    }
    text = " ".join(recommendation_sentences(list(rows.values())))
    assert "The fastest of those that may meet every constraint is int, 10 ms a call" in text


def test_the_best_of_equals_is_chosen_on_the_validation_split() -> None:
    better = variant("small", (0.004, 0.006))
    rows = judged([FLOAT, INT, better], [timed("float", 20), timed("int", 10), timed("small", 10.1)])
    assert chosen(rows) == "small"
    assert "with int, which cannot be told apart from it; it is the best of them on the" in rows["small"]["reason"]
    # The test split chooses nothing.
    lucky = {**INT, "primary_mean": 0.99, "difference": 0.14}
    assert (
        chosen(judged([FLOAT, lucky, better], [timed("float", 20), timed("int", 10), timed("small", 10.1)])) == "small"
    )


def test_where_nothing_can_be_told_apart_it_says_so() -> None:
    rows = judged([FLOAT, INT, PRUNED], [timed("float", 20), timed("int", 20.1), timed("pruned", 19.9)])
    assert chosen(rows) == "float"
    first = recommendation_sentences(list(rows.values()))[0]
    assert "nothing can be told apart in latency of the 3 variants" in first and "needs no compression" in first
    equal = judged([FLOAT, INT, PRUNED], THREE, objective="accuracy")
    assert chosen(equal) == "int"
    assert "nothing can be told apart in accuracy" in equal["int"]["reason"]


@pytest.mark.parametrize(
    ("objective", "best", "value"),
    [("size", "small", 5.0), ("memory", "int", 80.0), ("accuracy", "good", 0.91), ("training", "cheap", 9.0)],
)
def test_the_objective_decides(objective: str, best: str, value: float) -> None:
    variants = [
        variant("float", size=90),
        INT,
        variant("small", size=5),
        variant("good", (0.04, 0.06)),
        variant("cheap", total_train_seconds_mean=9.0),
    ]
    backends = [timed(row["variant"], 20) for row in variants] + [timed("int", 8, "native")]
    rows = judged(variants, backends, objective)
    assert chosen(rows) == best
    assert rows[best]["objective_value"] == pytest.approx(value)


def test_undecided_variants_leave_float_and_the_best_of_them_is_named() -> None:
    unsure = variant("int", (-0.03, 0.02), seeds_to_decide=9, examples_to_decide=None)
    rows = judged([FLOAT, unsure], THREE[:2])
    assert chosen(rows) == "float"
    text = " ".join(recommendation_sentences(list(rows.values())))
    assert "float is recommended: the only variant that surely meets every constraint" in text
    assert "int, 10 ms a call: undecided: −0.5 points [−3.0, +2.0] against float on the validation split, " in text
    assert "−0.5 points [−3.0, +2.0] on the test split. About" in text
    assert "About 9 seeds would decide its loss on the test split." in text


def test_the_summary_and_the_overview_have_it(tmp_path: Path) -> None:
    content = fakes.study(variants=("float", "int", "int-linear"), constraints={"max_drop": 20, "file_mb": 50})
    write_summary(fakes.results(tmp_path, content), tmp_path / "summary")
    write_pages(tmp_path / "summary", tmp_path / "pages")
    rows = read_summary(tmp_path / "summary").rows["recommendations"]
    assert {row["variant"]: row["verdict"] for row in rows} == {"float": "fails", "int": "meets", "int-linear": "meets"}
    (best,) = [row for row in rows if row["recommended"]]
    assert (
        best["objective_value"] == best["latency_ms"] < next(r["latency_ms"] for r in rows if r["variant"] == "float")
    )
    variants = schemas.read_table(tmp_path / "summary/variants.parquet", schemas.VARIANTS).to_pylist()
    mine = next(row for row in variants if row["variant"] == best["variant"])
    assert best["validation_mean"] == mine["validation_mean"]
    overview = (tmp_path / "pages/overview.txt").read_text()
    assert overview.startswith(f"movie: {best['variant']} is recommended")
    assert (tmp_path / "pages/overview.rst").read_text().startswith("movie: ")
    with (tmp_path / "summary/recommendations.csv").open(encoding="utf-8") as file:
        assert [row["recommended"] for row in csv.DictReader(file)].count("True") == 1


def test_of_several_models_the_one_chosen_on_validation_is_recommended(tmp_path: Path) -> None:
    content = fakes.study(variants=("float", "int"), constraints={"max_drop": 20})
    content["models"]["other"] = content["models"]["minilm"]
    write_summary(fakes.results(tmp_path, content), tmp_path / "summary")
    summary = read_summary(tmp_path / "summary")
    (model,) = [row["model"] for row in summary.rows["model_comparison"] if row["chosen"]]
    rows = summary.rows["recommendations"]
    assert [row["model"] for row in rows if row["recommended"]] == [model]
    assert all(f"{model} is the better model" in row["reason"] for row in rows if row["model"] != model)
    assert f" of {model} is recommended" in recommendation_sentences(rows)[0]


def test_a_metric_without_points_is_told_in_its_own_unit() -> None:
    def of_errors(name: str, drop: tuple[float, float] = (0.0, 0.0)) -> Row:
        return variant(name, drop) | {"primary_metric": "mse"}

    rows = judged([of_errors("float"), of_errors("int", (-0.3, 0.1)), of_errors("pruned", (-3.0, 3.0))], THREE)
    # A lower error is better, so a loss is a positive difference; the margin is in the metric's unit, too.
    assert (rows["int"]["verdict"], rows["pruned"]["verdict"]) == ("meets", "undecided")
    first, *rest = recommendation_sentences(list(rows.values()))
    assert "(at most 1 lost in mean squared error against float, with 95 % confidence)" in first
    text = " ".join(rest)
    assert "it is −0.1 in mean squared error [−0.3, +0.1] from float" in text
    assert "float in its place: +0.1 in mean squared error on the validation split" in text
    assert "point" not in first + text
