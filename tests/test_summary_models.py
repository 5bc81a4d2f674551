"""The comparison of models, and the tables of classes and data."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics as sk

import fakes
from intaglio import schemas
from intaglio.report.pages import write_pages
from intaglio.study.schema import Study
from intaglio.summary.summarize import write_summary

MODELS = ("minilm", "roberta-base")


def summarized(root: Path, content: dict[str, Any]) -> Path:
    content = Study.model_validate({**content, "models": {name: {} for name in MODELS}}).model_dump(mode="json")
    write_summary(fakes.results(root, content), root / "summary")
    write_pages(root / "summary", root / "pages")
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    content = fakes.study(variants={"float": None, "pruned": [{"stage": "prune"}]}, bootstrap=2000)
    return summarized(tmp_path_factory.mktemp("models"), content)


def rows(root: Path, name: str, schema: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = schemas.read_table(root / "summary" / f"{name}.parquet", schema).to_pylist()
    return found


def test_a_row_is_a_model_over_seeds(root: Path) -> None:
    runs = [run for run in rows(root, "runs", schemas.RUNS) if run["variant"] == "float"]
    models = rows(root, "model_comparison", schemas.MODEL_COMPARISON)
    assert [(row["model"], row["variant"], row["n"]) for row in models] == [(name, "float", 2) for name in MODELS]
    for row in models:
        mine = [run for run in runs if run["model"] == row["model"]]
        for name in ("accuracy", "f1_macro", "cohen_kappa"):
            assert row[f"{name}_mean"] == pytest.approx(np.mean([run[name] for run in mine]))
            assert row[f"{name}_low"] < row[f"{name}_mean"] < row[f"{name}_high"]
        assert row["validation_mean"] == pytest.approx(np.mean([run["validation_value"] for run in mine]))
        assert row["size_mb_mean"] == pytest.approx(90.8)
        assert (row["device"], row["backend"]) == ("cpu", "torch") and row["latency_ms_mean"] > 0


def test_the_interval_is_a_bootstrap_of_examples(tmp_path: Path) -> None:
    root = summarized(tmp_path, fakes.study(variants=["float"], seeds=(1,), bootstrap=4000))
    table = schemas.read_table(root / "evaluation/movie-minilm-float-1/predictions.parquet", schemas.PREDICTIONS)
    labels, predicted = table["label"].to_numpy(), table["prediction"].to_numpy()
    expected = scipy.stats.bootstrap(
        (labels, predicted),
        lambda a, b: sk.f1_score(a, b, average="macro"),
        paired=True,
        vectorized=False,
        method="percentile",
        n_resamples=1000,
        rng=np.random.default_rng(0),
    ).confidence_interval
    row = rows(root, "model_comparison", schemas.MODEL_COMPARISON)[0]
    assert (row["f1_macro_low"], row["f1_macro_high"]) == pytest.approx(tuple(expected), abs=0.004)


def test_an_interval_ends_where_the_metric_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of two seeds is always right and the other mostly wrong: Student's t alone would go far beyond."""

    def predict(*of: Any) -> tuple[Any, Any]:
        labels = np.arange(100) % 2
        return labels, labels if of[2] else np.where(np.arange(100) < 70, 1 - labels, labels)

    monkeypatch.setattr(fakes, "_predict", predict)
    root = summarized(tmp_path, fakes.study(variants=["float"]))
    row = rows(root, "model_comparison", schemas.MODEL_COMPARISON)[0]
    for name, least in (("primary", 0), ("f1_macro", 0), ("cohen_kappa", -1)):
        assert (row[f"{name}_low"], row[f"{name}_high"]) == (least, 1)


def test_the_chosen_model_is_the_best_on_validation(root: Path) -> None:
    models = rows(root, "model_comparison", schemas.MODEL_COMPARISON)
    (chosen,) = [row for row in models if row["chosen"]]
    assert chosen["validation_mean"] == max(row["validation_mean"] for row in models)
    page = (root / "pages/model-comparison.md").read_text()
    assert f"movie: {chosen['model']} is chosen. Its variants (difference to float): pruned " in page
    line = next(line for line in page.splitlines() if f"| {chosen['model']} " in line)
    assert "| yes " in line and f"{100 * chosen['f1_macro_low']:.1f}" in line


def test_the_classes_and_the_data_have_pages(root: Path) -> None:
    classes = (root / "pages/classes.md").read_text()
    assert "| negative " in classes and "recall, %" in classes
    data = (root / "pages/data.md").read_text()
    assert "| train " in data and "negative 10.0, positive 11.0" in data and "▅█" in data
    described = rows(root, "descriptions", schemas.DESCRIPTIONS)
    assert {(row["task"], row["model"]) for row in described} == {("movie", name) for name in MODELS}
