"""The studies that come with it: all of them plan without a network, and that of emotions runs to its tables."""

import json
import random
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from given import give
from in_process import run_study
from intaglio import schemas
from intaglio.plots.draw import write_plots
from intaglio.publications import EMOTIONS as EMOTIONS_OF_TWEETS
from intaglio.report.display import to_markdown
from intaglio.report.pages import write_pages
from intaglio.report.published import show_published
from intaglio.summary.published import published_rows
from intaglio.summary.summarize import write_summary
from questions import asked
from study_on_files import ROOT
from test_workflow import OFFLINE, PROGRAM
from tiny import PLAIN, tiny_model, tiny_sentences

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
ELEVEN = list(EMOTIONS_OF_TWEETS)


@pytest.mark.slow
def test_every_study_plans_without_a_network(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name in ("train", "test"):
        (tmp_path / f"data/{name}.csv").write_text("text,label\ngood,positive\nbad,negative\n")
    tweets(40, 0).to_csv(tmp_path / "data/2018-E-c-En.tsv", sep="\t", index=False)
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


def small(content: dict[str, Any], steps: int) -> dict[str, Any]:
    """Return a study with small budgets."""
    few = {"max_steps": steps, "evaluations": 1, "learning_rate": 1e-3, "patience": None}
    profile = {"batch_sizes": [1], "lengths": [16], "headline": [1, 16], "calls": 2, "warmup": 1, "threads": 1}
    profile |= {"backends": ["onnxruntime"], "devices": ["cpu"]}
    stages = {stage: {**options, **few} for stage, options in content["stages"].items()}
    return {**content, "seeds": [1], "max_length": 32, "profile": profile, "bootstrap": 100, "stages": stages}


def emotion() -> dict[str, Any]:
    """Return config/emotion.yaml with one of its models, as exports take seconds each, and small budgets."""
    content: dict[str, Any] = yaml.safe_load((ROOT / "config/emotion.yaml").read_text())
    return {
        **small(content, 8),
        "models": {"roberta-base": content["models"]["roberta-base"]},
        "tasks": {"emotion": {"class_weights": "inverse", "preprocess": ["mask_users"]}},
    }


@pytest.mark.slow
def test_the_study_of_emotions_ends_in_its_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content = emotion()
    counts = {"train": 800, "validation": 100, "test": 100}
    give(content, "roberta", dict.fromkeys(counts, lambda split: sentences(counts[split], len(split))), work=tmp_path)
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


def tweets(count: int, seed: int) -> pd.DataFrame:
    """Return rows as in SemEval-2018 Task 1 E-c: ID, Tweet, and 0 or 1 for every emotion; and a rating."""
    chance = random.Random(seed)
    rows = []
    for number in range(count):
        # As rare as there: anger, disgust and joy in a third, trust and surprise in a twentieth.
        present = [emotion for at, emotion in enumerate(ELEVEN) if chance.random() < 0.4 - 0.035 * at]
        words = [chance.choice(PLAIN) for _ in range(chance.randint(2, 8))] + present
        chance.shuffle(words)
        row = {"ID": f"2018-En-{number:05}", "Tweet": f"{' '.join(words)} {number}"}
        rows.append(row | {emotion: int(emotion in present) for emotion in ELEVEN} | {"rating": len(present) / 2})
    return pd.DataFrame(rows)


@pytest.mark.slow
def test_the_study_of_tweets_ends_in_its_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On data made to its form, and with a regression task beside it."""
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    tweets(400, 0).to_csv("data/2018-E-c-En.tsv", sep="\t", index=False)
    tiny_model(tmp_path / "model")
    content: dict[str, Any] = yaml.safe_load((ROOT / "config/tweets.yaml").read_text())
    variants = {name: content["variants"][name] for name in ("float", "distilled-quantized")}
    rating = {
        "kind": "regression",
        "text": ["Tweet"],
        "label": "rating",
        "source": content["tasks"]["emotions"]["source"],
    }
    content = small(content, 12)
    content |= {
        "models": {"bert-base-uncased": {"source": {"kind": "files", "path": "model"}}},
        "tasks": {**content["tasks"], "rating": rating},
        "variants": variants,
        "stages": {**content["stages"], "int8": {"tolerance": 1.0}},
    }
    run_study(content)
    task = next(
        facts
        for path in Path("results/store/data").glob("*/task.json")
        if (facts := json.loads(path.read_text()))["kind"] == "multi_label_classification"
    )
    assert task["labels"] == ELEVEN
    summary, pages, plots = (Path("results/tweets") / name for name in ("summary", "pages", "plots"))
    runs = schemas.read_table(summary / "runs.parquet", schemas.RUNS).to_pandas().set_index(["task", "variant"])
    assert set(runs["status"]) == {"ok"} and len(runs) == 4
    shown = ["jaccard", "f1_micro", "f1_macro", "subset_accuracy"]
    assert runs.loc["emotions", shown].notna().all().all() and runs.loc["rating", shown].isna().all().all()
    assert runs.loc["rating", ["pearson", "spearman", "mse", "mae"]].notna().all().all()
    assert runs.loc["emotions", "test_examples"].tolist() == [120] * 2
    variants_of = schemas.read_table(summary / "variants.parquet", schemas.VARIANTS).to_pandas()
    assert variants_of[["difference_low", "difference_high", "primary_mean"]].notna().all().all()
    classes = (pages / "classes.md").read_text()
    assert all(f"| {emotion} " in classes for emotion in ELEVEN) and "threshold" in classes
    assert "Jaccard accuracy, %" in (pages / "variants.md").read_text()
    report = (pages.parent / "report.html").read_text()
    assert all(f"<td>{emotion}</td>" in report for emotion in ELEVEN) and "Pearson correlation" in report
    assert {"confusion.svg", "loss-curves.svg"} <= {path.name for path in plots.iterdir()}
    # A study of numbers alone has no classes to show.
    plan = json.loads(Path("results/tweets/plan.json").read_text())
    plan["runs"] = [run for run in plan["runs"] if run["task"] == "rating"]
    plan["study"]["tasks"] = {"rating": plan["study"]["tasks"]["rating"]}
    Path("plan.json").write_text(json.dumps(plan))
    write_summary(Path("plan.json"), Path("summary"))
    write_pages(Path("summary"), Path("pages"))
    write_plots(Path("summary"), Path("plots"))
    assert not Path("pages/classes.md").exists() and Path("pages/variants.md").exists()
    assert not Path("plots/confusion.svg").exists() and Path("plots/differences.svg").exists()


def test_published_figures_stand_beside_the_study_of_tweets() -> None:
    content = yaml.safe_load((ROOT / "config/tweets.yaml").read_text())
    content["models"] = {"bert": {"source": {"repo": "google-bert/bert-base-uncased"}}}
    content["tasks"]["emotions"]["labels"] = ELEVEN
    run = {"task": "emotions", "model": "bert", "status": "ok", "trained_on": "a CPU", "test_set": "test"}
    runs = [{**run, "variant": name, "subset_accuracy": 0.25, "size_mb": 430.0} for name in content["variants"]]
    rows = published_rows(content, runs)
    found = {(row["variant"], row["quantity"]): row for row in rows}
    assert found["float", "subset_accuracy"]["published"] == 0.281
    assert found["distilled-pruned", "subset_accuracy"]["published"] is None
    assert {variant for variant, _ in found} == set(content["variants"])
    # The size of 109,490,699 weights in float32: BERT-base with a head for eleven labels.
    assert found["float", "size_mb"]["published"] == pytest.approx(4 * 109_490_699 / 1e6, rel=1e-4)
    assert "left empty" in to_markdown(show_published("tweets", rows))


# Of every other study a task, a model, the baseline and a recipe or two.
OTHERS: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "config/demo.yaml": ("bert", {"movie": {}}, ("float", "int")),
    "config/sentiment.yaml": ("bert", {"movie": {}}, ("float", "int-linear-gelu")),
    "config/sentiment-cpu.yaml": ("bert", {"movie": {}}, ("float", "float-continued", "int-linear-softmax")),
    "config/compression.yaml": ("bert", {"movie": {}}, ("float", "distilled-pruned-int", "distilled-pruned-int8")),
    "config/mixed.yaml": ("bert", {"movie": {}}, ("float", "int", "mixed-gelu-first")),
    "config/template.yaml": ("bert", {}, ("float", "int8")),
    "config/squad.yaml": ("bert", {"squad2": {}}, ("float", "int8-dynamic")),
    "config.yaml": ("roberta", {"rte": {}}, ("float", "int-linear-softmax-layernorm")),
}


def rated(count: int) -> str:
    """Return lines as in the archive of rated sentences: id, rating, text."""
    rows = tiny_sentences(count, 2, seed=count).itertuples()
    return "".join(f"{row.Index}\t{2.0 * row.label - 1}\t{row.text}\n" for row in rows)


def pairs(split: str) -> pd.DataFrame:
    """Return rows as RTE's."""
    rows = tiny_sentences({"train": 60}.get(split, 20), 2, seed=len(split))
    return pd.DataFrame({"sentence1": rows["text"], "sentence2": rows["text"], "label": rows["label"]})


def questions(split: str) -> pd.DataFrame:
    """Return rows as SQuAD's."""
    rows = pd.DataFrame(asked({"train": 60}.get(split, 20), len(split), without=0.3, longest=8))
    lists = [{key: [one[key] for one in answers] for key in ("text", "answer_start")} for answers in rows["answers"]]
    return rows.assign(answers=lists)


@pytest.mark.slow
def test_the_other_studies_end_in_their_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They share a store: what two of them have in common is made once."""
    assert {str(path.relative_to(ROOT)) for path in STUDIES} - set(OTHERS) <= {
        f"config/{name}.yaml" for name in ("emotion", "tweets")
    }
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    for name, count in (("train", 60), ("test", 20)):
        table = tiny_sentences(count, 2, seed=count)
        table.assign(label=table["label"].map(["negative", "positive"].__getitem__)).to_csv(f"data/{name}.csv")
    for name, (arch, tasks, variants) in OTHERS.items():
        content = small(yaml.safe_load((ROOT / name).read_text()), 4)
        # All of these studies' options of stages, but the same for all.
        content["stages"] = {
            stage: {"max_steps": 4, "learning_rate": 1e-3} for stage in ("finetune", "prune", "distil")
        }
        content["stages"] |= {"quantize": {"max_steps": 4, "calibration_examples": 32, "tolerance": 1.0}}
        content["stages"] |= {"int8": {"tolerance": 1.0}}
        content["variants"] = {variant: content["variants"][variant] for variant in variants}
        content["tasks"] = tasks or content["tasks"]
        content["models"] = dict([next(iter(content["models"].items()))])
        hub = dict.fromkeys(("train", "validation"), questions if "squad" in name else pairs)
        give(content, arch, hub, rated(100), tmp_path)
        run_study(content)
        results = Path("results") / content["study"]
        runs = schemas.read_table(results / "summary/runs.parquet", schemas.RUNS).to_pandas()
        assert list(runs["variant"]) == list(variants) and set(runs["status"]) == {"ok"}
        assert all(f"| {variant} " in (results / "pages/variants.md").read_text() for variant in variants)
        assert len(list((results / "plots").glob("*.svg"))) >= 5
    assert len(list(Path("results/store/finetune").iterdir())) == 4
