"""The workflow as a user runs it: end to end on a tiny study, and what a second run would do."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from study_on_files import ROOT, planned, snakemake, write_study

pytestmark = pytest.mark.slow
PROGRAM = Path(sys.executable).parent / "snakemake"
# A network namespace of its own, where the kernel lets us have one.
_ALONE = ["unshare", "-rn"]
OFFLINE = _ALONE if shutil.which("unshare") and subprocess.run([*_ALONE, "true"]).returncode == 0 else []
# What every change of the study makes anew.
TABLES = {"plan": 1, "summarize": 1, "plot": 1}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    write_study(folder)
    snakemake(folder, "--cores", "2")
    return folder


@pytest.fixture
def study(finished: Path) -> Iterator[Path]:
    yield finished
    write_study(finished)


def test_a_study_ends_in_tables(finished: Path) -> None:
    runs = pd.read_parquet(finished / "results/tiny/summary/runs.parquet")
    assert list(runs["variant"]) == ["float", "int"]
    assert set(runs["status"]) == {"ok"}
    columns = [
        "study",
        "task",
        "model",
        "variant",
        "seed",
        "primary_metric",
        "primary_value",
        "accuracy",
        "f1_macro",
        "balanced_accuracy",
        "cohen_kappa",
        "matthews",
        "train_seconds",
        "latency_ms_mean",
        "latency_ms_std",
        "size_mb",
        "device",
        "status",
    ]
    assert not set(columns) - set(runs.columns)
    assert runs[columns].notna().all().all()
    predictions = [
        pd.read_parquet(path) for path in sorted(finished.glob("results/store/evaluate/*/predictions.parquet"))
    ]
    accuracies = sorted((frame.label == frame.prediction).mean() for frame in predictions)
    assert sorted(runs["accuracy"]) == pytest.approx(accuracies)


def test_the_report_opens_without_network(finished: Path, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium to open the report in")
    snakemake(finished, "--report", "report.html")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    options += [f"--user-data-dir={tmp_path}", "--virtual-time-budget=4000", "--dump-dom"]
    page = subprocess.run(
        [*OFFLINE, browser, *options, f"file://{finished}/report.html"], capture_output=True, text=True, timeout=120
    ).stdout
    for words in ("Plots", "Tables", "Seeds", "int-linear", "tiny"):
        assert words in page
    content = (finished / "report.html").read_text()
    assert content.count("image/svg+xml") >= 9


def test_a_second_run_does_nothing(study: Path) -> None:
    assert planned(study) == {}


def test_a_new_seed_trains_only_itself(study: Path) -> None:
    write_study(study, seeds=[1, 2])
    assert planned(study) == {
        "finetune": 1,
        "quantize": 1,
        "evaluate": 2,
        "export": 2,
        "profile": 2,
        "plan": 1,
        "summarize": 1,
        "plot": 1,
    }


def test_a_new_variant_trains_only_itself(study: Path) -> None:
    write_study(study, variants={"float": None, "int": None, "int-linear": None})
    assert planned(study) == {"quantize": 1, "evaluate": 1, "export": 1, "profile": 1, **TABLES}


def test_a_new_learning_rate_of_a_variant_trains_only_it(study: Path) -> None:
    write_study(study, variants={"float": None, "int": [{"stage": "quantize", "learning_rate": 1e-6}]})
    assert planned(study) == {"quantize": 1, "evaluate": 1, "export": 1, "profile": 1, **TABLES}


def test_a_new_task_trains_only_itself(study: Path) -> None:
    words = {"text": ["text"], "label": "label", "labels": ["negative", "positive"]}
    first = {"source": {"kind": "files", "train": "train.csv", "test": "test.csv"}, **words}
    other = {"source": {"kind": "files", "train": "test.csv"}, **words}
    write_study(study, tasks={"words": first, "others": other})
    assert planned(study) == {
        "data": 1,
        "finetune": 1,
        "quantize": 1,
        "evaluate": 2,
        "export": 2,
        "profile": 2,
        "plan": 1,
        "summarize": 1,
        "plot": 1,
    }


def test_changed_data_runs_everything_again(study: Path, tmp_path: Path) -> None:
    train = study / "train.csv"
    kept = tmp_path / "kept.csv"
    shutil.copy2(train, kept)
    train.write_text(train.read_text() + "a new sentence,positive\n")
    try:
        assert planned(study)["finetune"] == 1
    finally:
        shutil.copy2(kept, train)
    assert planned(study) == {}


def test_the_default_study_plans_without_network() -> None:
    done = subprocess.run([*OFFLINE, PROGRAM, "-n"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "quantize" in done.stdout and "160" in done.stdout


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        ({"variants": {"flaot": None}}, ["flaot", "float"]),
        ({"models": {"tiny": {"source": {"kind": "files", "path": "nowhere"}}}}, ["nowhere"]),
    ],
)
def test_a_mistake_stops_before_any_job(tmp_path: Path, spoil: dict, words: list[str]) -> None:
    write_study(tmp_path, **spoil)
    printed = snakemake(tmp_path, "--cores", "1", check=False)
    assert "Traceback" not in printed
    assert all(word in printed for word in words)
    assert not (tmp_path / "results/store/finetune").exists()


def test_bad_rows_are_named_before_any_training(tmp_path: Path) -> None:
    write_study(tmp_path)
    (tmp_path / "train.csv").write_text("text,label\ngood,positive\nbad,negativ\n")
    printed = snakemake(tmp_path, "--cores", "1", check=False)
    assert "Traceback" not in printed
    assert "negativ" in printed and "train.csv" in printed
    assert not (tmp_path / "results/store/finetune").exists()
