from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from intaglio import schemas
from intaglio.flips import flip_rows
from intaglio.metrics import MULTI_LABEL, SINGLE_LABEL
from intaglio.planning.plan import make_plan
from intaglio.predictions import ReadOnce
from intaglio.store import new_artifact
from intaglio.study.load import load

TASK = {"kind": SINGLE_LABEL, "labels": ["bad", "good"]}
TRUE = [1, 1, 0, 0, 1]
# Probability of "good" for the examples a to e: float is wrong about b and d, the variant about a and d.
FLOAT, INT = [0.9, 0.4, 0.2, 0.7, 0.8], [0.3, 0.6, 0.1, 0.8, 0.7]


def evaluation(folder: Path, good: list[float]) -> Path:
    logits = [[0.0, float(np.log(p / (1 - p)))] for p in good]
    columns = zip("abcde", TRUE, good, logits, strict=True)
    rows = [
        {"test_set": "test", "id": i, "label": t, "prediction": int(p > 0.5), "logits": x} for i, t, p, x in columns
    ]
    with new_artifact(folder, "evaluation") as draft:
        # Another order, and another test set, decide nothing.
        other = [{**row, "test_set": "test_other", "prediction": 0} for row in rows]
        schemas.write_table(draft / "predictions.parquet", [*rows[::-1], *other], schemas.PREDICTIONS)
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    with new_artifact(tmp_path / "data", "data") as draft:
        texts = ["short", *["long " * 100] * 4]
        pd.DataFrame({"id": list("abcde"), "text_a": texts, "label": TRUE}).to_parquet(draft / "test.parquet")
    return tmp_path / "data"


def runs(root: Path) -> list[tuple[dict, Path]]:
    found = []
    for variant, good in (("float", FLOAT), ("int", INT)):
        for seed in (1, 2):
            row = {"study": "s", "task": "t", "model": "m", "variant": variant, "seed": seed, "test_set": "test"}
            found.append((row, evaluation(root / f"{variant}{seed}", good)))
    return found


def test_what_float_has_right_and_a_variant_wrong_is_broken(tmp_path: Path, data: Path) -> None:
    rows = flip_rows(runs(tmp_path), "float", ReadOnce(), data, TASK, private=False)
    assert [(row["flip"], row["id"], row["seed"]) for row in rows] == [("mended", "b", 1), ("broken", "a", 1)]
    mended, broken = rows
    assert (broken["text_a"], broken["label"], broken["prediction"]) == ("short", "good", "bad")
    assert len(mended["text_a"]) == 401
    assert (mended["baseline_probability"], mended["probability"]) == pytest.approx((0.4, 0.6))
    schemas.write_table(tmp_path / "flips.parquet", rows, schemas.FLIPS)


def test_an_example_of_many_labels_is_right_with_exactly_its_labels(tmp_path: Path, data: Path) -> None:
    task = {"kind": MULTI_LABEL, "labels": ["anger", "fear", "joy"]}
    true = np.array([[1, 0, 0], [0, 1, 1], [0, 0, 0], [1, 1, 0], [0, 0, 1]])
    # Float has a and c right, the variant b and c; d stays wrong, although another label is predicted.
    of_float = np.array([[0.9, 0.2, 0.1], [0.1, 0.8, 0.3], [0.1, 0.1, 0.2], [0.9, 0.1, 0.1], [0.1, 0.6, 0.9]])
    of_int = np.array([[0.8, 0.6, 0.9], [0.2, 0.8, 0.6], [0.1, 0.2, 0.2], [0.2, 0.9, 0.1], [0.1, 0.7, 0.8]])
    of = []
    for variant, given in (("float", of_float), ("int", of_int)):
        columns = zip("abcde", true.tolist(), given, strict=True)
        rows = [
            {
                "test_set": "test",
                "id": i,
                "label": t,
                "prediction": (p > 0.5).astype(int),
                "logits": np.log(p / (1 - p)),
            }
            for i, t, p in columns
        ]
        with new_artifact(tmp_path / variant, "evaluation") as draft:
            schemas.write_table(draft / "predictions.parquet", rows, schemas.PREDICTED_LABEL_SETS)
        key = {"study": "s", "task": "t", "model": "m", "variant": variant, "seed": 3, "test_set": "test"}
        of.append((key, tmp_path / variant))
    rows = flip_rows(of, "float", ReadOnce(), data, task, private=False)
    schemas.write_table(tmp_path / "flips.parquet", rows, schemas.FLIPS)
    mended, broken = rows
    assert (mended["flip"], mended["id"], mended["seed"], mended["text_a"][:4]) == ("mended", "b", 3, "long")
    assert [mended[of] for of in ("label", "baseline_prediction", "prediction")] == ["fear, joy", "fear", "fear, joy"]
    assert mended["probability_of"] == "joy"
    assert (mended["baseline_probability"], mended["probability"]) == pytest.approx((0.3, 0.6))
    # Of the two labels that are predicted wrongly, joy changed more.
    assert [broken[of] for of in ("id", "label", "prediction", "probability_of")] == [
        "a",
        "anger",
        "anger, fear, joy",
        "joy",
    ]


def test_texts_are_left_out_where_they_are_private_or_gone(tmp_path: Path, data: Path) -> None:
    of = runs(tmp_path)
    for private, folder in ((True, data), (False, tmp_path / "gone")):
        rows = flip_rows(of, "float", ReadOnce(), folder, TASK, private)
        assert len(rows) == 2 and not any("text_a" in row for row in rows)
    assert flip_rows(of, "float", ReadOnce(), data, {**TASK, "kind": "regression"}, private=False) == []


def test_that_texts_are_private_trains_nothing_again() -> None:
    def jobs(**task: bool) -> dict[str, list[str]]:
        study = {"study": "s", "seeds": [1], "tasks": {"movie": task}, "models": {"minilm": {}}}
        plan = make_plan(load({**study, "variants": {"float": None}}))
        return {rule: list(jobs) for rule, jobs in plan.jobs.items()}

    assert jobs() == jobs(private=True)
