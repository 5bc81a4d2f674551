"""The workflow as a user runs it: end to end on a tiny study, and what a second run would do."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from study_on_files import OFFLINE, ROOT, planned, snakemake, write_study

pytestmark = pytest.mark.slow
PROGRAM = Path(sys.executable).parent / "snakemake"
SECRET, SHARING = "hf_SECRET", 'umask 002 && exec "$@"'
# What every change of the study makes anew.
TABLES = {"plan": 1, "summarize": 1, "pages": 1, "plot": 1}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    write_study(folder)
    # No job needs a network. Of what is in the environment, nothing is written anywhere.
    snakemake(folder, "--cores", "2", before=["env", f"HF_TOKEN={SECRET}", "sh", "-c", SHARING, "sh", *OFFLINE])
    # Other tests may have computed beside the measurements, which is no matter here.
    for manifest in manifests(folder, "profile"):
        disturb(manifest, None)
    return folder


def manifests(folder: Path, rule: str) -> list[Path]:
    return sorted(folder.glob(f"results/store/{rule}/*/manifest.json"))


def disturb(manifest: Path, percent: float | None) -> None:
    content = json.loads(manifest.read_text())
    content["about"]["disturbed"] = percent
    manifest.write_text(json.dumps(content))


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
        "size_mb",
        "trained_on",
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
    for words in ("Plots", "Report", "Seeds", "int-linear", "tiny"):
        assert words in page
    content = (finished / "report.html").read_text()
    assert content.count("image/svg+xml") >= 9


def test_a_run_is_bundled_on_demand(finished: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    folder = copy / "results/tiny/bundle/words.tiny.int.1"
    snakemake(copy, "--cores", "2", str(folder.relative_to(copy)))
    card = (folder / "README.md").read_text()
    for words in ("Difference to the fine-tuned float model", "| native |", "- train: 108 examples: negative 54"):
        assert words in card
    command = [sys.executable, folder / "predict.py", copy / "test.csv", "--output", folder / "test.jsonl"]
    subprocess.run(command, check=True)
    found = pd.read_json(folder / "test.jsonl", lines=True)
    runs = pd.read_parquet(copy / "results/tiny/summary/runs.parquet").set_index("variant")
    assert (found["prediction"] == found["label"]).mean() == runs["accuracy"]["int"]


def test_the_sensitivity_of_a_run_is_ranked_on_demand(finished: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    target = "results/tiny/sensitivity/words.tiny.{}.1.csv"
    assert planned(copy, None, target.format("int")) == {"sensitivity": 1}
    snakemake(copy, "--cores", "2", target.format("int"), target.format("float"))
    found = {name: pd.read_csv(copy / target.format(name)) for name in ("int", "float")}
    assert set(found["int"]["to"]) == {"float"} and set(found["float"]["to"]) == {"integers"}
    assert {"gelu", "layer 1", "0.softmax"} <= set(found["int"]["switched"])
    assert "no run of the study 'tiny'" in snakemake(copy, "-n", target.format("int8"), check=False)


def test_a_sensitivity_needs_a_model_and_its_data_alone(tmp_path: Path) -> None:
    write_study(tmp_path)
    jobs = planned(tmp_path, None, "results/tiny/sensitivity/words.tiny.int.1.csv")
    assert jobs == dict.fromkeys(("plan", "data", "model", "tokens", "finetune", "quantize", "sensitivity"), 1)


@pytest.mark.parametrize("shared", [{}, {"runs_per_allocation": 3}], ids=["jobs", "an allocation"])
def test_a_diverging_run_ends_in_a_report_that_shows_it(study: Path, tmp_path: Path, shared: dict[str, int]) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(study, copy)
    diverging = [{"stage": "prune", "learning_rate": 1e30}]
    resources = {"cpus": 1, "memory_mb": 2000, "train_minutes": 5, "measure_minutes": 5, **shared}
    write_study(copy, variants={"float": None, "int": None, "diverging": diverging}, resources=resources)
    printed = snakemake(copy, "--cores", "2", "--keep-going", check=False)
    assert "1 of 3 runs is not complete" in " ".join(printed.split())
    runs = pd.read_parquet(copy / "results/tiny/summary/runs.parquet").set_index("variant")
    assert list(runs["status"][["float", "int", "diverging"]]) == ["ok", "ok", "failed"]
    assert re.search(r"the loss became .*logs/prune/.*\.log", runs["error"]["diverging"])
    snakemake(copy, "--report", "report.html")
    assert "the loss became" in (copy / "report.html").read_text()
    page = (copy / "results/tiny/report.html").read_text()
    assert re.search(r">diverging</a></td><td class=\"failed\">failed</td>", page)
    again = ("allocation",) if shared else ("prune", "evaluate", "export", "profile")
    assert {*again, "summarize", "pages", "plot"} <= set(planned(copy))
    write_study(copy)
    assert planned(copy) == TABLES


def test_a_group_can_read_and_write_results_as_the_umask_says(finished: Path) -> None:
    for path in (path for folder in ("results", "logs") for path in (finished / folder).rglob("*")):
        wanted = 0o775 if path.is_dir() else 0o664
        assert path.stat().st_mode & wanted == wanted, path


def test_no_secret_is_in_any_file(finished: Path) -> None:
    files = [path for path in finished.rglob("*") if path.is_file()]
    assert len(files) > 100
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]


def test_what_others_have_made_is_linked_and_not_made_again(finished: Path, tmp_path: Path) -> None:
    write_study(tmp_path, study="mine", stores=[str(finished / "results/store")])
    assert planned(tmp_path) == TABLES
    links = [path for path in (tmp_path / "results/store").glob("*/*") if path.is_symlink()]
    assert {path.parent.name for path in links} >= {"data", "finetune", "quantize", "evaluate", "export", "profile"}
    assert all(path.resolve().is_relative_to(finished) for path in links)


def test_a_second_run_does_nothing(study: Path) -> None:
    assert planned(study) == {}


def test_a_new_seed_trains_only_itself(study: Path) -> None:
    write_study(study, seeds=[1, 2])
    assert planned(study) == {
        "finetune": 1,
        "quantize": 1,
        "evaluate": 2,
        "export": 2,
        "plan": 1,
        "summarize": 1,
        "pages": 1,
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
        "tokens": 1,
        "describe": 1,
        "finetune": 1,
        "quantize": 1,
        "evaluate": 2,
        "export": 2,
        "profile": 2,
        "plan": 1,
        "summarize": 1,
        "pages": 1,
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


def test_what_decides_no_result_makes_nothing_again(study: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    # As cp does, which leaves no file the time it had.
    shutil.copytree(study, copy, copy_function=shutil.copyfile)
    later = time.time() + 60
    for name in ("train.csv", "test.csv", "model", "model/config.json"):
        os.utime(copy / name, (later, later))
    (copy / "model" / "notes.txt").write_text("not read")
    assert planned(copy) == {}


def test_names_and_places_decide_no_result(study: Path) -> None:
    (study / "elsewhere").mkdir()
    for name in ("train", "test"):
        shutil.copy(study / f"{name}.csv", study / "elsewhere" / f"my-{name}.csv")
    shutil.copytree(study / "model", study / "elsewhere" / "my-model")
    write_study(
        study,
        study="other",
        description="The same under other names.",
        models={"mine": {"source": {"kind": "files", "path": "elsewhere/my-model"}}},
        tasks={
            "renamed": {
                "source": {"kind": "files", "train": "elsewhere/my-train.csv", "test": "elsewhere/my-test.csv"},
                "text": ["text"],
                "label": "label",
                "labels": ["negative", "positive"],
            }
        },
        variants={"plain": [], "whole": [{"stage": "quantize"}]},
        stages={
            "finetune": {"epochs": 1, "learning_rate": 1e-3, "checkpoint_minutes": 3, "max_grad_norm": 1.0},
            "quantize": {"epochs": 1},
        },
        resources={"cpus": 2, "memory_mb": 3000, "train_minutes": 6, "measure_minutes": 6},
        bootstrap=120,
    )
    assert planned(study) == TABLES


def repository(folder: Path, file: str, pattern: str, by: str) -> Path:
    """Copy what runs a study, with a file changed; return its Snakefile."""
    for name in ("workflow", "profiles", "envs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "Snakefile", folder)
    changed = folder / file
    text, count = re.subn(pattern, by, changed.read_text())
    assert count
    changed.write_text(text)
    return folder / "Snakefile"


@pytest.mark.parametrize(
    ("file", "pattern", "by", "again"),
    [
        # An update that words a command otherwise, or pins other versions, ...
        ("workflow/rules/train.smk", "exec python -m intaglio", "exec python -P -m intaglio", {}),
        ("envs/environment.yaml", "numpy==.*", "numpy==0.0.0", {}),
        # ... and one that declares other results.
        (
            "workflow/intaglio/planning/versions.py",
            '"quantize": 1',
            '"quantize": 2',
            {"quantize": 1, "evaluate": 1, "export": 1, "profile": 1, **TABLES},
        ),
        (
            "workflow/intaglio/planning/versions.py",
            '"summarize": ([0-9]+)',
            r'"summarize": 1\1',
            {"summarize": 1, "pages": 1, "plot": 1},
        ),
    ],
)
def test_an_update_makes_again_what_it_declares(
    study: Path, tmp_path: Path, file: str, pattern: str, by: str, again: dict[str, int]
) -> None:
    assert planned(study, repository(tmp_path, file, pattern, by)) == again


def test_a_disturbed_profile_is_measured_again_but_not_for_ever(study: Path) -> None:
    first = manifests(study, "profile")[0]
    names = [first.parent.name, *(f"{first.parent.name}-{number}" for number in (2, 3))]
    disturb(first, 40.0)
    try:
        for name in names[1:]:
            assert planned(study) == {"profile": 1, **TABLES}
            assert f"results/store/profile/{name}\n" in snakemake(study, "-n")
            shutil.copytree(first.parent, first.parent.parent / name)
        # The tables are still of the first.
        assert planned(study) == {}
        disturb(first, 50.0)
        assert planned(study) == TABLES
    finally:
        disturb(first, None)
        for name in names[1:]:
            shutil.rmtree(first.parent.parent / name, ignore_errors=True)


def test_profiles_made_again_by_hand_make_the_tables_again(study: Path) -> None:
    again = {"profile": 2, "summarize": 1, "pages": 1, "plot": 1}
    assert planned(study, None, "--forcerun", "profile") == again


def test_another_machine_measures_anew(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTAGLIO_MACHINE", "another1")
    assert planned(study) == {"profile": 2, **TABLES}


def test_a_target_that_is_not_of_the_study_is_named(study: Path) -> None:
    printed = snakemake(study, "-n", "results/store/finetune/unknown.s1.0", check=False)
    assert "results/store/finetune/unknown.s1.0" in printed and "study 'tiny'" in printed


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
