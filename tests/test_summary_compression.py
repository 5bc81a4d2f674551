"""What tables say of compression: recipes in words, agreement with a teacher, sizes, cost, parity of conversions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import rel_entr, softmax

import fakes
from intaglio import schemas
from intaglio.metrics import SINGLE_LABEL
from intaglio.planning.plan import make_plan
from intaglio.predictions import ReadOnce
from intaglio.report.pages import write_pages
from intaglio.store import new_artifact
from intaglio.study.load import load
from intaglio.summary import lineage, recipes
from intaglio.summary.summarize import write_summary
from test_study import SMALL

VARIANTS: dict[str, Any] = {
    "float": None,
    "pruned-60": None,
    "both": [{"stage": "distil", "layers": 3}, {"stage": "prune", "sparsity": 0.35}, {"stage": "int8"}],
}


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ([], "fine-tuned"),
        ([{"stage": "finetune", "epochs": 9}], "fine-tuned"),
        ([{"stage": "distil"}], "distilled to half the layers"),
        ([{"stage": "distil", "student": "distilroberta-base"}], "distilled to distilroberta-base"),
        ([{"stage": "distil", "layers": 3}, {"stage": "prune"}], "distilled to 3 layers + pruned 50 %"),
        ([{"stage": "prune", "structure": "2:4"}, {"stage": "int8"}], "pruned 2:4 + int8 dynamic"),
        ([{"stage": "int8", "engine": "openvino"}], "int8 openvino"),
        ([{"stage": "continue", "like": "quantize"}], "trained on like quantize"),
        ([{"stage": "cut", "speedup": 1.5}], "cut for 1.5×"),
        (
            [{"stage": "cut", "sparsity": 0.5}, {"stage": "quantize"}],
            "cut 50 % + int",
        ),
        ([{"stage": "quantize", "integer": ["linear", "gelu"]}], "int-linear-gelu"),
        ([{"stage": "quantize", "bits": {"weights": 4}}], "int with 4-bit weights"),
    ],
)
def test_a_recipe_in_words(recipe: list[dict[str, Any]], words: str) -> None:
    plan = make_plan(load({**SMALL, "seeds": [1], "variants": {"own": recipe}}))
    assert recipes.in_words(plan.runs[0].recipe) == words


def evaluation(folder: Path, logits: np.ndarray, order: list[int]) -> Path:
    rows = [
        {"test_set": name, "id": f"{name}{i}", "label": 0, "prediction": int(logits[i].argmax()), "logits": logits[i]}
        for name in ("test", "test_other")
        for i in order
    ]
    with new_artifact(folder, "evaluation") as draft:
        schemas.write_table(draft / "predictions.parquet", rows, schemas.PREDICTIONS)
    return folder


def test_agreement_is_the_share_of_equal_predictions_and_the_mean_divergence(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    teacher, student = random.normal(size=(2, 50, 3)).astype(np.float32) * 2
    places = [
        evaluation(tmp_path / "student", student, list(random.permutation(50))),
        evaluation(tmp_path / "teacher", teacher, list(range(50))),
    ]
    task = {"kind": SINGLE_LABEL, "labels": ["a", "b", "c"]}
    predictions = ReadOnce()
    mine = predictions.of(places[0], "test", task)
    found = lineage.agreement(mine, places[1], "test", task, predictions)
    p, q = softmax(teacher.astype(float), axis=1), softmax(student.astype(float), axis=1)
    assert found["teacher_agreement"] == (teacher.argmax(1) == student.argmax(1)).mean()
    assert found["teacher_kl"] == pytest.approx(rel_entr(p, q).sum(1).mean())
    assert lineage.agreement(mine, tmp_path / "nobody", "test", task, predictions) == {}


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study whose two last recipes begin with the first one's checkpoint."""
    root = tmp_path_factory.mktemp("study")
    plan = fakes.results(root, fakes.study(variants=VARIANTS))
    content = json.loads(plan.read_text())
    first = {run["seed"]: run["checkpoint"] for run in content["runs"] if run["variant"] == "float"}
    for run in content["runs"]:
        if run["variant"] != "float":
            run["stages"] = [first[run["seed"]], run["checkpoint"]]
    plan.write_text(json.dumps(content))
    write_summary(plan, root / "summary")
    write_pages(root / "summary", root / "pages")
    return root / "summary"


def test_what_is_shared_is_paid_once(summary: Path) -> None:
    runs = schemas.read_table(summary / "runs.parquet", schemas.RUNS).to_pylist()
    own = sum(run["train_seconds"] for run in runs)
    shared = sum(run["train_seconds"] for run in runs if run["variant"] == "float")
    said = (summary.parent / "pages/compression.md").read_text()
    assert f"Training of the whole study: {own / 60:.1f} minutes" in said
    assert f"{(own + 2 * shared) / 60:.1f} minutes if every recipe" in said


def test_sparsity_and_sizes_are_those_of_the_runs(summary: Path) -> None:
    variants = {
        row["variant"]: row for row in schemas.read_table(summary / "variants.parquet", schemas.VARIANTS).to_pylist()
    }
    assert [variants[name]["sparsity_mean"] for name in VARIANTS] == [None, 0.6, 0.35]
    layers = schemas.read_table(summary / "sparsity.parquet", schemas.SPARSITY).to_pylist()
    assert {(row["variant"], row["layer"], row["weights"], row["zeros"]) for row in layers} == {
        ("pruned-60", "0.query", 1000, 600),
        ("both", "0.query", 1000, 350),
    }
    assert variants["both"]["recipe"] == "distilled to 3 layers + pruned 35 % + int8 dynamic"
    sizes = schemas.read_table(summary / "sizes.parquet", schemas.keyed(schemas.SIZES)).to_pylist()
    for component, column in (("sparse", "sparse_mb_mean"), ("zstd", "zstd_mb_mean")):
        of_both = [row["bytes"] for row in sizes if (row["variant"], row["component"]) == ("both", component)]
        assert variants["both"][column] == pytest.approx(np.mean(of_both) / 1e6)


def test_every_conversion_stands_beside_its_tolerance(summary: Path) -> None:
    rows = schemas.read_table(summary / "conversions.parquet", schemas.CONVERSIONS).to_pylist()
    of_both = [
        (row["stage"], row["difference"], row["tolerance"])
        for row in rows
        if (row["variant"], row["seed"]) == ("both", 0)
    ]
    assert of_both == [("int8", 0.012, 0.05), ("export", 3e-7, 1e-3)]
    shown = (summary.parent / "pages/conversions.md").read_text()
    assert "changed predictions" in shown
    assert "3·10⁻⁷" in shown


def test_the_difference_to_a_control_stands_beside_that_to_float(tmp_path: Path) -> None:
    content = fakes.study(variants=("float", "int", "float-continued", "int8-dynamic"))
    write_summary(fakes.results(tmp_path, content), tmp_path / "summary")
    write_pages(tmp_path / "summary", tmp_path / "pages")
    table = schemas.read_table(tmp_path / "summary/variants.parquet", schemas.VARIANTS).to_pylist()
    rows = {row["variant"]: row for row in table}
    assert {name: row["control"] for name, row in rows.items()} == {
        **dict.fromkeys(("float", "float-continued", "int8-dynamic")),
        "int": "float-continued",
    }
    row = rows["int"]
    assert row["control_difference"] == pytest.approx(row["primary_mean"] - rows["float-continued"]["primary_mean"])
    assert row["control_difference_low"] < row["control_difference"] < row["control_difference_high"]
    page = (tmp_path / "pages/variants.md").read_text()
    assert "difference to control [95 %]" in page
    assert "Control: float trained on as the variant's last stage trains (float-continued)." in page
