"""The studies that come with it: all of them plan without a network, and that of emotions runs to its tables."""

import json
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from in_process import run_study
from intaglio import schemas
from intaglio.planning.plan import make_plan
from intaglio.store import new_artifact
from intaglio.study.load import load
from study_on_files import ROOT
from test_workflow import OFFLINE, PROGRAM
from tiny import PLAIN, tiny_model

STUDIES = [ROOT / "config.yaml", *sorted(ROOT.glob("config/*.yaml"))]
# As frequent as in dair-ai/emotion, in percent, and words that tell them.
EMOTIONS = {
    "sadness": (29, ("sad", "alone", "hopeless")),
    "joy": (34, ("happy", "glad", "fun")),
    "love": (8, ("love", "tender", "dear")),
    "anger": (13, ("angry", "rude", "mad")),
    "fear": (12, ("afraid", "scared", "shaky")),
    "surprise": (4, ("amazed", "odd", "wow")),
}


@pytest.mark.slow
def test_every_study_plans_without_a_network(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name in ("train", "test"):
        (tmp_path / f"data/{name}.csv").write_text("text,label\ngood,positive\nbad,negative\n")
    # Side by side: most of the time is spent on imports.
    command = [
        *OFFLINE,
        PROGRAM,
        "-n",
        "-q",
        "--snakefile",
        ROOT / "Snakefile",
        "--directory",
        tmp_path,
        "--configfile",
    ]
    started = {
        study: subprocess.Popen(
            [*command, study], cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        for study in STUDIES
    }
    for study, process in started.items():
        printed, _ = process.communicate(timeout=120)
        assert process.returncode == 0, f"{study}: {printed}"


def sentences(count: int, seed: int) -> pd.DataFrame:
    """Return sentences with labels as dair-ai/emotion stores them: text and label, 0 to 5."""
    chance = random.Random(seed)
    labels = chance.choices(range(len(EMOTIONS)), [share for share, _ in EMOTIONS.values()], k=count)
    telling = [words for _, words in EMOTIONS.values()]
    texts = []
    for number, label in enumerate(labels):
        words = [chance.choice(PLAIN) for _ in range(chance.randint(2, 12))] + chance.sample(telling[label], 2)
        chance.shuffle(words)
        texts.append(f"i feel {' '.join(words)} {number}")
    return pd.DataFrame({"text": texts, "label": labels})


def emotion() -> dict[str, Any]:
    """Return config/emotion.yaml with one of its models, as exports take seconds each, and small budgets."""
    content: dict[str, Any] = yaml.safe_load((ROOT / "config/emotion.yaml").read_text())
    few = {"max_steps": 8, "evaluations": 1, "learning_rate": 1e-3}
    content["stages"] = {stage: {**options, **few} for stage, options in content["stages"].items()}
    profile = {"batch_sizes": [1], "lengths": [16], "headline": [1, 16], "calls": 2, "warmup": 1, "threads": 1}
    profile |= {"backends": ["onnxruntime"], "devices": ["cpu"]}
    return {
        **content,
        "models": {"roberta-base": content["models"]["roberta-base"]},
        "tasks": {"emotion": {"class_weights": "inverse", "preprocess": ["mask_users"]}},
        "seeds": [1],
        "max_length": 32,
        "profile": profile,
        "bootstrap": 200,
    }


@pytest.mark.slow
def test_the_study_of_emotions_ends_in_its_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content = emotion()
    # What the hub would give: its files in their layout.
    for job in make_plan(load(content)).jobs["fetch"].values():
        with new_artifact(Path(job.output), "source", dict(job.options)) as folder:
            if job.options["what"] == "data":
                (folder / "split").mkdir()
                for seed, (split, count) in enumerate({"train": 800, "validation": 100, "test": 100}.items()):
                    sentences(count, seed).to_parquet(folder / f"split/{split}-00000-of-00001.parquet", index=False)
            else:
                shutil.copytree(tiny_model(tmp_path / "tiny", "roberta"), folder, dirs_exist_ok=True)
                (folder / "manifest.json").unlink()
    run_study(content)
    summary = Path("results/emotion/summary")
    models = schemas.read_table(summary / "model_comparison.parquet", schemas.MODEL_COMPARISON).to_pandas()
    assert list(models["model"]) == list(content["models"]) and models["chosen"].sum() == 1
    assert set(models["primary_metric"]) == {"f1_macro"}
    shown = ["f1_macro_low", "balanced_accuracy_mean", "cohen_kappa_high", "accuracy_mean", "size_mb_mean"]
    assert models[[*shown, "latency_ms_mean", "validation_mean"]].notna().all().all()
    runs = schemas.read_table(summary / "runs.parquet", schemas.RUNS).to_pandas()
    assert set(runs["status"]) == {"ok"} and len(runs) == 3
    assert runs.set_index("variant").loc["pruned", "sparsity"] == pytest.approx(0.35, abs=0.01)
    pages = Path("results/emotion/pages")
    assert all(f"| {name} " in (pages / "classes.md").read_text() for name in EMOTIONS)
    assert "surprise" in (pages / "data.md").read_text()
    facts = json.loads(next(Path("results/store/data").glob("*/task.json")).read_text())
    assert (facts["class_weights"], facts["preprocess"]) == ("inverse", ["mask_users"])
