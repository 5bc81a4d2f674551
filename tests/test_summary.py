import csv
import json
import math
import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from sklearn import metrics as sk

import fakes
from intaglio import schemas
from intaglio.errors import UserError
from intaglio.measure.timing.ratios import Speedup
from intaglio.ownership import OWNER, myself
from intaglio.report import display, formatting
from intaglio.report.files import PAGE_FILES
from intaglio.report.pages import write_pages
from intaglio.report.published import show_published
from intaglio.statistics.speedups import speedup_over_seeds
from intaglio.store import new_artifact, open_artifact
from intaglio.summary.files import SUMMARY_FILES
from intaglio.summary.published import published_rows
from intaglio.summary.summarize import write_summary

DEMO = fakes.study(variants=("float", "int", "int-linear"))
# Which backend is the faster one for a variant of the fakes.
FASTEST = {"float": "torch", "int": "onnxruntime", "int-linear": "onnxruntime"}


def _summarize(plan: Path, output: Path, partial: bool = False) -> None:
    write_summary(plan, output, partial)
    write_pages(output, output.parent / "pages")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("demo")
    _summarize(fakes.results(root, DEMO), root / "summary")
    return root


def _rows(root: Path, name: str, schema: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = schemas.read_table(root / "summary" / f"{name}.parquet", schema).to_pylist()
    return rows


def test_it_holds_exactly_the_files_that_the_dag_knows(demo: Path) -> None:
    open_artifact(demo / "summary", "summary")
    found = {path.name for path in (demo / "summary").iterdir()}
    assert found == {*SUMMARY_FILES, "manifest.json"}
    assert {path.name for path in (demo / "pages").iterdir()} == {*PAGE_FILES, "manifest.json"}


def test_a_row_of_runs_says_what_the_artifacts_say(demo: Path) -> None:
    rows = _rows(demo, "runs", schemas.RUNS)
    assert [(row["variant"], row["seed"], row["status"]) for row in rows] == [
        (variant, seed, "ok") for variant in ("float", "int", "int-linear") for seed in (0, 1)
    ]
    row = next(row for row in rows if (row["variant"], row["seed"]) == ("int", 1))
    predictions = schemas.read_table(demo / "evaluation/movie-minilm-int-1/predictions.parquet", schemas.PREDICTIONS)
    labels, predicted = predictions["label"].to_numpy(), predictions["prediction"].to_numpy()
    assert row["accuracy"] == row["primary_value"] == pytest.approx(sk.accuracy_score(labels, predicted))
    assert row["matthews"] == pytest.approx(sk.matthews_corrcoef(labels, predicted))
    assert (row["primary_metric"], row["test_set"], row["test_examples"]) == ("accuracy", "test", len(labels))
    training = json.loads((demo / "checkpoint/movie-minilm-int-1/training.json").read_text())
    assert row["train_seconds"] == training["train_seconds"]
    assert row["total_train_seconds"] == training["total_train_seconds"] > row["train_seconds"]
    assert row["validation_value"] == training["validation"]["accuracy"]
    assert row["machine"] == "abcdef01"
    assert row["size_mb"] == pytest.approx(22.7 * 4 * 0.27)
    assert row["checkpoint_mb"] == row["parameters_mb"] == pytest.approx(22.7 * 4)


def test_a_row_of_variants_is_over_seeds(demo: Path) -> None:
    runs = {(row["variant"], row["seed"]): row for row in _rows(demo, "runs", schemas.RUNS)}
    rows = {row["variant"]: row for row in _rows(demo, "variants", schemas.VARIANTS)}
    row = rows["int"]
    a, b = runs["int", 0], runs["int", 1]
    assert (row["n"], row["planned"], row["difference_n"]) == (2, 2, 2)
    assert row["primary_mean"] == pytest.approx((a["accuracy"] + b["accuracy"]) / 2)
    assert row["primary_sd"] == pytest.approx(abs(a["accuracy"] - b["accuracy"]) / math.sqrt(2))
    baseline = [runs["float", seed] for seed in (0, 1)]
    expected = (a["accuracy"] + b["accuracy"] - sum(run["accuracy"] for run in baseline)) / 2
    assert row["difference"] == pytest.approx(expected)
    assert row["difference_low"] < row["difference"] < row["difference_high"]
    # Two variants are compared with float; a difference of 0.3 to 0.9 points is not sure to be within a margin of 1.
    assert row["difference_p_holm"] in (pytest.approx(2 * row["difference_p"]), pytest.approx(row["difference_p"]))
    assert (row["noninferior"], row["one_example"]) == ("undecided", 1 / 1000)
    longer = (a["train_seconds"] + b["train_seconds"]) / sum(run["train_seconds"] for run in baseline)
    assert row["relative_train_seconds"] == pytest.approx(longer)
    assert row["size_ratio"] == pytest.approx(1 / 0.27, rel=1e-6)
    zero = rows["float"]
    assert (zero["difference"], zero["difference_low"], zero["difference_high"]) == (0, 0, 0)


def test_a_row_of_backends_is_over_seeds_beside_the_fastest_float(demo: Path) -> None:
    rows = {(row["variant"], row["backend"]): row for row in _rows(demo, "backends", schemas.BACKENDS)}
    assert list(rows) == [(name, backend) for name in FASTEST for backend in ("torch", "onnxruntime")]
    points: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for seed in (0, 1):
        for name in FASTEST:
            table = schemas.read_table(demo / f"profile/movie-minilm-{name}-{seed}/latency.parquet", schemas.LATENCY)
            for point in table.to_pylist():
                if (point["batch_size"], point["length"]) == (1, 128):
                    points.setdefault((name, point["backend"]), []).append(point)
    for key, row in rows.items():
        a, b = points[key]
        assert (row["n"], row["device"], row["batch_size"], row["length"]) == (2, "cpu", 1, 128)
        assert row["latency_ms_mean"] == pytest.approx((a["p50_ms"] + b["p50_ms"]) / 2)
        assert row["latency_ms_sd"] == pytest.approx(abs(a["p50_ms"] - b["p50_ms"]) / math.sqrt(2))
        for end in ("", "_any"):
            found = speedup_over_seeds(
                [Speedup(*(one[f"speedup{end}{of}"] for of in ("", "_low", "_high"))) for one in (a, b)]
            )
            assert (row[f"speedup{end}"], row[f"speedup{end}_low"], row[f"speedup{end}_high"]) == found
            assert row[f"against{end}"] == "torch"
        assert row["throughput_mean"] == pytest.approx((a["throughput"] + b["throughput"]) / 2)
        assert row["peak_memory_mb_mean"] == pytest.approx((a["peak_memory_mb"] + b["peak_memory_mb"]) / 2)
        assert row["max_difference"] == max(a["max_difference"], b["max_difference"])
        smaller = 1 if key[0] == "float" else 0.27
        assert row["size_mb_mean"] == pytest.approx(22.7 * 4 * smaller)
        assert row["size_ratio"] == pytest.approx(1 / smaller, rel=1e-6)
    assert {name: backend for (name, backend), row in rows.items() if row["fastest"]} == FASTEST
    assert rows["float", "torch"]["speedup"] == 1
    line = next(row for row in (demo / "pages/backends.md").read_text().splitlines() if "| int-linear | torch " in row)
    row = rows["int-linear", "torch"]
    assert f"| {formatting.measured(row['latency_ms_mean'], row['latency_ms_sd'])} |" in re.sub(" +", " ", line)


def test_backends_of_a_gpu_stand_beside_float_there(tmp_path: Path) -> None:
    profile = {"backends": ["torch.compile", "onnxruntime", "torch"]}
    content = fakes.study(variants=("float", "int"), seeds=(3,), profile=profile)
    _summarize(fakes.results(tmp_path, content, gpu=True), tmp_path / "summary")
    rows = {
        (row["variant"], row["device"], row["backend"]): row for row in _rows(tmp_path, "backends", schemas.BACKENDS)
    }
    of_one = [("cpu", "torch.compile"), ("cpu", "onnxruntime"), ("cpu", "torch"), ("cuda", "torch.compile")]
    assert list(rows) == [(name, *place) for name in ("float", "int") for place in [*of_one, ("cuda", "torch")]]
    for device in ("cpu", "cuda"):
        base = rows["float", device, "torch.compile"]
        assert base["speedup"] == 1
        row = rows["int", device, "torch"]
        assert row["speedup"] == pytest.approx(base["latency_ms_mean"] / row["latency_ms_mean"], rel=0.05)
        assert (row["against"], row["against_any"]) == ("torch.compile", "torch.compile")
        assert row["latency_ms_sd"] is None
    page = (tmp_path / "pages/backends.md").read_text()
    assert "GPU: NVIDIA H100 80GB HBM3" in page
    assert "| 3·10⁻⁷ |" in re.sub(" +", " ", page)


def test_gathered_tables_keep_every_row_under_its_key(demo: Path) -> None:
    metrics = schemas.read_table(demo / "summary/metrics.parquet", schemas.keyed(schemas.METRICS)).to_pylist()
    confusion = [row for row in metrics if row["metric"] == "confusion" and (row["variant"], row["seed"]) == ("int", 0)]
    assert sum(row["value"] for row in confusion) == 1000
    assert {(row["label"], row["predicted"]) for row in confusion} == {
        (true, predicted) for true in ("negative", "positive") for predicted in ("negative", "positive")
    }
    latency = schemas.read_table(demo / "summary/latency.parquet", schemas.keyed(schemas.LATENCY))
    # Runs x points of the grid x backends.
    assert latency.num_rows == 6 * (3 * 2) * 2
    assert len(latency["calls"][0].as_py()) == DEMO["profile"]["calls"]
    history = schemas.read_table(demo / "summary/history.parquet", schemas.keyed(schemas.TRAINING_HISTORY))
    assert set(history["name"].to_pylist()) == {"loss", "learning_rate", "validation_loss", "validation_accuracy"}


def test_csv_is_complete_and_markdown_readable(demo: Path) -> None:
    with (demo / "summary/runs.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == schemas.RUNS.names
    parquet = _rows(demo, "runs", schemas.RUNS)
    assert [float(row["train_seconds"]) for row in rows] == [row["train_seconds"] for row in parquet]
    assert rows[0]["error"] == ""
    with (demo / "summary/latency.csv").open(encoding="utf-8") as file:
        times = list(csv.DictReader(file))
    latency = _rows(demo, "latency", schemas.keyed(schemas.LATENCY))
    assert set(schemas.keyed(schemas.LATENCY).names) - set(times[0]) == {"calls"}
    assert [float(row["p99_ms"]) for row in times] == [row["p99_ms"] for row in latency]
    markdown = (demo / "pages/variants.md").read_text()
    line = next(line for line in markdown.splitlines() if "| int " in line)
    assert re.search(r"\| +\d\d\.\d ± \d\.\d \|", line)
    assert re.search(r"[−+]?\d\.\d \[[−+]\d\.\d, [−+]?\d\.\d\]", line)
    assert "batch 1 by 128 tokens" in markdown
    assert "200 bootstrap resamples" in markdown


def test_the_same_runs_make_the_same_files_and_another_variant_changes_no_interval(tmp_path: Path, demo: Path) -> None:
    plan = fakes.results(tmp_path, fakes.study())
    _summarize(plan, tmp_path / "summary")
    more = {row["variant"]: row for row in _rows(tmp_path, "variants", schemas.VARIANTS)}
    # What is adjusted for their number is another.
    adjusted = ("difference_p_holm", "mcnemar_p_holm")
    for row in _rows(demo, "variants", schemas.VARIANTS):
        assert {**row, **dict.fromkeys(adjusted)} == {**more[row["variant"]], **dict.fromkeys(adjusted)}
    first = (tmp_path / "summary/variants.parquet").read_bytes()
    _summarize(plan, tmp_path / "summary")
    assert (tmp_path / "summary/variants.parquet").read_bytes() == first


def test_several_test_sets_metrics_and_a_gpu(tmp_path: Path) -> None:
    content = fakes.study(tasks=("cola", "mnli"), variants=("float", "int"), seeds=(3,))
    _summarize(fakes.results(tmp_path, content, gpu=True), tmp_path / "summary")
    rows = _rows(tmp_path, "runs", schemas.RUNS)
    assert [row["primary_metric"] for row in rows] == ["matthews", "matthews", "accuracy", "accuracy"]
    assert rows[0]["primary_value"] == rows[0]["matthews"]
    assert [row["test_set"] for row in rows] == ["test", "test", "test_matched", "test_matched"]
    variants = _rows(tmp_path, "variants", schemas.VARIANTS)
    assert variants[1]["primary_sd"] is None
    page = (tmp_path / "pages/variants.md").read_text()
    assert "One seed: the interval is over test examples only" in page


def test_variants_that_are_measured_once_have_times_and_the_sizes_of_every_seed(tmp_path: Path) -> None:
    content = fakes.study(variants=("float", "int"), profile={"seeds": "first"})
    _summarize(fakes.results(tmp_path, content), tmp_path / "summary")
    runs = _rows(tmp_path, "runs", schemas.RUNS)
    assert {row["status"] for row in runs} == {"ok"}
    assert all(row["size_mb"] for row in runs)
    backends = _rows(tmp_path, "backends", schemas.BACKENDS)
    assert {row["n"] for row in backends} == {1}
    speedup = next(row["speedup"] for row in backends if row["variant"] == "int" and row["fastest"])
    assert speedup > 1
    page = (tmp_path / "pages/variants.md").read_text()
    assert f"{speedup:.2f}×" in page
    assert "latency is that of one run" in page


def test_devices_are_rows(tmp_path: Path) -> None:
    _summarize(fakes.results(tmp_path, fakes.study(variants=("float", "int")), gpu=True), tmp_path / "summary")
    fastest = {
        (row["variant"], row["device"]): row for row in _rows(tmp_path, "backends", schemas.BACKENDS) if row["fastest"]
    }
    assert {place: row["backend"] for place, row in fastest.items()} == {
        ("float", "cpu"): "torch",
        ("float", "cuda"): "torch",
        ("int", "cpu"): "onnxruntime",
        ("int", "cuda"): "torch",
    }
    cpu, gpu = fastest["float", "cpu"], fastest["float", "cuda"]
    assert gpu["latency_ms_mean"] == pytest.approx(0.2 * cpu["latency_ms_mean"], rel=0.1)
    assert (cpu["device_name"], gpu["device_name"]) == ("Intel(R) Xeon(R) Platinum 8480+", "NVIDIA H100 80GB HBM3")
    assert fastest["int", "cuda"]["speedup"] == pytest.approx(1 / 1.69, rel=0.05)
    for name in ("variants", "runs", "compression"):
        page = re.sub(" +", " ", (tmp_path / f"pages/{name}.md").read_text())
        lines = [line for line in page.splitlines() if line.startswith("| movie")]
        assert [line.count("| CPU |") - line.count("| GPU |") for line in lines] == [1, -1] * (len(lines) // 2)
    with (tmp_path / "summary/compression.csv").open(encoding="utf-8") as file:
        assert [(row["variant"], row["device"]) for row in csv.DictReader(file)] == list(fastest)
    overview = (tmp_path / "pages/overview.txt").read_text()
    assert len(re.findall("CPU|GPU", overview[overview.index("task  ") :])) == 4
    assert max(map(len, overview[: overview.index("Tables:")].splitlines())) <= 80


# What is not complete


def _break(root: Path) -> Path:
    plan = fakes.results(root, DEMO)
    shutil.rmtree(root / "profile/movie-minilm-int-0")
    shutil.rmtree(root / "checkpoint/movie-minilm-int-1")
    work = root / "work/checkpoint/movie-minilm-int-1"
    work.mkdir(parents=True)
    (work / "failure.json").write_text(json.dumps({"error": "training: the loss became nan at step 12 <b>"}))
    (root / "evaluation/movie-minilm-int-linear-0/metrics.parquet").write_bytes(b"short")
    return plan


def test_gaps_are_refused_in_one_line(tmp_path: Path) -> None:
    plan = _break(tmp_path)
    with pytest.raises(UserError, match="study fake: 3 of 6 runs are not complete") as caught:
        write_summary(plan, tmp_path / "summary")
    said = str(caught.value)
    assert "movie/minilm/int/0 pending (not there yet: profile)" in said
    assert "movie/minilm/int/1 failed (training: the loss became nan at step 12" in said
    assert "\n" not in said
    assert not (tmp_path / "summary").exists()


def test_what_failed_is_shown_as_failed(tmp_path: Path) -> None:
    _summarize(_break(tmp_path), tmp_path / "summary", partial=True)
    rows = {(row["variant"], row["seed"]): row for row in _rows(tmp_path, "runs", schemas.RUNS)}
    assert {key: row["status"] for key, row in rows.items()} == {
        ("float", 0): "ok",
        ("float", 1): "ok",
        ("int", 0): "pending",
        ("int", 1): "failed",
        ("int-linear", 0): "failed",
        ("int-linear", 1): "ok",
    }
    assert rows["int", 0]["error"] == "not there yet: profile"
    assert "damaged, metrics.parquet has 5 bytes" in rows["int-linear", 0]["error"]
    assert rows["int", 0]["accuracy"] is not None
    assert rows["int", 1]["train_seconds"] is None
    variants = {row["variant"]: row for row in _rows(tmp_path, "variants", schemas.VARIANTS)}
    assert (variants["int"]["n"], variants["int"]["planned"], variants["int"]["primary_mean"]) == (0, 2, None)
    assert (variants["int-linear"]["n"], variants["int-linear"]["difference_n"]) == (1, 1)
    assert (variants["int"]["failed"], variants["int-linear"]["failed"]) == (1, 1)
    assert "| 1 of 2, 1 failed |" in re.sub(" +", " ", (tmp_path / "pages/variants.md").read_text())
    assert "step 12 <b>" in (tmp_path / "pages/runs.md").read_text()


def test_the_overview_fits_a_terminal(tmp_path: Path) -> None:
    long = "a-variant-with-a-name-that-nobody-would-give-to-anything-but-here-it-is"
    content = fakes.study(variants={"float": None, "int": None, long: [{"stage": "quantize"}]})
    plan = fakes.results(tmp_path, content)
    shutil.rmtree(tmp_path / f"profile/movie-minilm-{long}-0")
    _summarize(plan, tmp_path / "summary", partial=True)
    text = (tmp_path / "pages/overview.txt").read_text()
    lines = text[: text.index("Tables:")].splitlines()
    assert max(map(len, lines)) <= 80
    row = next(row for row in _rows(tmp_path, "variants", schemas.VARIANTS) if row["variant"] == "int")
    backends = _rows(tmp_path, "backends", schemas.BACKENDS)
    speedup = next(row["speedup"] for row in backends if row["variant"] == "int" and row["fastest"])
    said = next(line for line in lines if " int " in line)
    assert f"{100 * row['primary_mean']:.1f}" in said
    assert f"{speedup:.2f}×" in said
    assert "1 of 6 runs is not complete" in text


def _say(folder: Path, kind: str, **facts: Any) -> None:
    """Add facts to the manifest of an artifact."""
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["kind"] == kind
    manifest["about"] |= facts
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_what_takes_trust_from_a_number_stands_beside_it(tmp_path: Path) -> None:
    plan = fakes.results(tmp_path, DEMO)
    _say(tmp_path / "data/movie", "data", test_texts_in_training={"test": 126})
    _say(tmp_path / "evaluation/movie-minilm-int-0", "evaluation", truncated={"test": 0.25})
    _say(tmp_path / "profile/movie-minilm-int-1", "profile", disturbed=83.0)
    _summarize(plan, tmp_path / "summary")
    rows = {(row["variant"], row["seed"]): row for row in _rows(tmp_path, "runs", schemas.RUNS)}
    assert {row["test_texts_in_training"] for row in rows.values()} == {126}
    assert (rows["int", 0]["truncated"], rows["int", 1]["truncated"]) == (0.25, None)
    assert (rows["int", 0]["disturbed"], rows["int", 1]["disturbed"]) == (None, 83)
    assert {row["variant"]: row["disturbed"] for row in _rows(tmp_path, "variants", schemas.VARIANTS)}["int"] == 83
    # What is wrong with the data stands below every table of it.
    for page in [*(tmp_path / "pages").glob("*.md"), tmp_path / "pages/overview.txt"]:
        text = " ".join(page.read_text().split())
        assert "126 test texts are also in the training data" in text
        assert "25.0 % of test texts were truncated" in text
    text = " ".join((tmp_path / "pages/overview.txt").read_text().split())
    assert "up to 83 % of the cores while these were timed: int." in text


def test_nothing_at_all_is_still_a_table(tmp_path: Path) -> None:
    plan = fakes.results(tmp_path, DEMO)
    shutil.rmtree(tmp_path / "data")
    _summarize(plan, tmp_path / "summary", partial=True)
    assert {row["status"] for row in _rows(tmp_path, "runs", schemas.RUNS)} == {"failed"}
    for kind in ("checkpoint", "evaluation", "profile"):
        shutil.rmtree(tmp_path / kind)
    _summarize(plan, tmp_path / "summary", partial=True)
    assert {row["status"] for row in _rows(tmp_path, "runs", schemas.RUNS)} == {"pending"}


@pytest.mark.parametrize("kind", ["checkpoint", "evaluation", "export", "profile"])
@pytest.mark.parametrize(
    ("last", "lives", "status", "reason"),
    [
        ("finetune:  12%|#2    | 3/25", False, "failed", r"without a word: stopped, or killed \(.*\) \(logs/"),
        ("finetune:  12%|#2    | 3/25", True, "pending", "not there yet"),
        ("SIGTERM, at step 3 of 25: the progress is in w, run again to resume", False, "pending", "not there yet"),
        ("intaglio finetune: disk full", False, "failed", r"intaglio finetune: disk full \(logs/"),
    ],
)
def test_a_job_that_was_killed_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str, lives: bool, status: str, reason: str, kind: str
) -> None:
    monkeypatch.chdir(tmp_path)
    plan, name = fakes.results(tmp_path, DEMO), "movie-minilm-int-1"
    shutil.rmtree(tmp_path / kind / name)
    log = tmp_path / "logs" / kind / f"{name}.log"
    log.parent.mkdir(parents=True)
    log.write_text(f"some words\n{last}\n")
    # A number that another process has now.
    owner = myself() if lives else replace(myself(), started=0.0)
    work = tmp_path / "work" / kind / name
    work.mkdir(parents=True)
    (work / OWNER).write_text(json.dumps(asdict(owner)))
    _summarize(plan, tmp_path / "summary", partial=True)
    (row,) = [row for row in _rows(tmp_path, "runs", schemas.RUNS) if (row["variant"], row["seed"]) == ("int", 1)]
    assert row["status"] == status
    assert re.search(reason, row["error"])


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("data", "intaglio data: train.parquet: not a Parquet file"),
        ("fetch", "intaglio fetch: a/b: no such revision"),
        ("model", "intaglio model: config.json is missing"),
    ],
)
def test_what_fails_before_a_training_fails_its_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = fakes.results(tmp_path, DEMO)
    content = json.loads(plan.read_text())
    for run in content["runs"]:
        if (run["variant"], run["seed"]) == ("int", 1):
            run["before"] = [f"results/store/{kind}/words.0"]
    plan.write_text(json.dumps(content))
    for folder in ("checkpoint", "evaluation", "export", "profile"):
        shutil.rmtree(tmp_path / folder / "movie-minilm-int-1")
    log = tmp_path / "logs" / kind / "words.0.log"
    log.parent.mkdir(parents=True)
    log.write_text(f"{said}\n")
    _summarize(plan, tmp_path / "summary", partial=True)
    rows = {(row["variant"], row["seed"]): row["error"] for row in _rows(tmp_path, "runs", schemas.RUNS)}
    assert rows["int", 1] == f"{said} (logs/{kind}/words.0.log)"
    assert rows["int", 0] is None


def test_a_failure_that_was_made_good_is_forgotten(tmp_path: Path) -> None:
    plan = fakes.results(tmp_path, DEMO)
    work = tmp_path / "work/checkpoint/movie-minilm-int-1"
    work.mkdir(parents=True)
    (work / "failure.json").write_text('{"error": "out of memory"}')
    _summarize(plan, tmp_path / "summary")


def test_other_examples_are_not_compared(tmp_path: Path) -> None:
    plan = fakes.results(tmp_path, DEMO)
    folder = tmp_path / "evaluation/movie-minilm-int-1"
    rows = schemas.read_table(folder / "predictions.parquet", schemas.PREDICTIONS).to_pylist()
    metrics = schemas.read_table(folder / "metrics.parquet", schemas.METRICS)
    rows[0]["id"] = "another"
    with new_artifact(folder, "evaluation") as draft:
        schemas.write_table(draft / "predictions.parquet", rows, schemas.PREDICTIONS)
        schemas.write_table(draft / "metrics.parquet", metrics, schemas.METRICS)
    with pytest.raises(UserError, match=r"movie-minilm-int-1: not the examples of .*movie-minilm-float-0"):
        _summarize(plan, tmp_path / "summary")


@pytest.mark.parametrize("content", ["", "{}", '{"study": {}, "runs": []}'])
def test_a_bad_plan_is_one_line(tmp_path: Path, content: str) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(content)
    with pytest.raises(UserError, match=r"plan\.json: (no readable plan|plans no run)"):
        _summarize(plan, tmp_path / "summary")


def test_times_of_other_hardware_are_left_out_of_means(tmp_path: Path) -> None:
    """Everything is of one machine but the third float seed, which trained and was timed elsewhere."""
    plan = fakes.results(tmp_path, fakes.study(variants=("float", "int"), seeds=(0, 1, 2)))
    name = "movie-minilm-float-2"
    training = json.loads((tmp_path / f"checkpoint/{name}/training.json").read_text())
    history = schemas.read_table(tmp_path / f"checkpoint/{name}/history.parquet", schemas.TRAINING_HISTORY)
    tables = {"latency": schemas.LATENCY, "baselines": schemas.BASELINES, "operators": schemas.OPERATORS}
    found = {key: schemas.read_table(tmp_path / f"profile/{name}/{key}.parquet", of) for key, of in tables.items()}
    slow = [
        {**row, "machine_id": "other", "p50_ms": 10 * row["p50_ms"], "device_name": "a slow CPU"}
        for row in found["latency"].to_pylist()
    ]
    with new_artifact(tmp_path / f"checkpoint/{name}", "checkpoint") as draft:
        (draft / "training.json").write_text(json.dumps({**training, "device": "a slow CPU", "train_seconds": 9e9}))
        schemas.write_table(draft / "history.parquet", history, schemas.TRAINING_HISTORY)
    with new_artifact(tmp_path / f"profile/{name}", "profile") as draft:
        for key, of in tables.items():
            schemas.write_table(draft / f"{key}.parquet", slow if key == "latency" else found[key], of)
    _summarize(plan, tmp_path / "summary")
    rows = {row["variant"]: row for row in _rows(tmp_path, "variants", schemas.VARIANTS)}
    assert (rows["float"]["n"], rows["float"]["train_n"]) == (3, 2)
    assert rows["float"]["train_seconds_mean"] < 1000
    assert rows["int"]["relative_train_seconds"] == pytest.approx(1.63, rel=0.05)
    assert "Times on less frequent hardware are left out" in (tmp_path / "pages/variants.md").read_text()
    backends = {(row["variant"], row["backend"]): row for row in _rows(tmp_path, "backends", schemas.BACKENDS)}
    assert (backends["float", "torch"]["n"], backends["int", "torch"]["n"]) == (2, 3)
    assert backends["float", "torch"]["device_name"] == "Intel(R) Xeon(R) Platinum 8480+"
    fastest = {name: 2 + 0.06 * 128 * fakes.takes(name, backend) for name, backend in FASTEST.items()}
    expected = fastest["float"] / fastest["int"]
    assert backends["int", "onnxruntime"]["speedup"] == pytest.approx(expected, rel=0.05)


def test_pages_say_what_speedups_are_over_and_where_none_is_measurable(tmp_path: Path) -> None:
    plan = fakes.results(tmp_path, fakes.study(variants=("float", "int", "int-linear"), seeds=(0,)))
    for variant, changes in {
        "int": {"speedup": 1.01, "speedup_low": 0.98, "speedup_high": 1.04},
        "int-linear": {
            "speedup_any": 0.7,
            "speedup_any_low": 0.6,
            "speedup_any_high": 0.8,
            "against_any": "torch-bf16",
        },
    }.items():
        folder = tmp_path / f"profile/movie-minilm-{variant}-0"
        tables = {"latency": schemas.LATENCY, "baselines": schemas.BASELINES, "operators": schemas.OPERATORS}
        found = {key: schemas.read_table(folder / f"{key}.parquet", of).to_pylist() for key, of in tables.items()}
        found["latency"] = [{**row, **changes, "busy": 12.0} for row in found["latency"]]
        with new_artifact(folder, "profile") as draft:
            for key, of in tables.items():
                schemas.write_table(draft / f"{key}.parquet", found[key], of)
    _summarize(plan, tmp_path / "summary")
    for name in ("backends", "variants", "compression"):
        page = (tmp_path / f"pages/{name}.md").read_text()
        assert "1.01× [0.980, 1.04], no difference" in page
        assert "0.700× [0.600, 0.800]" in page
        assert "float32 form" in page and "torch-bf16" in page
    overview = (tmp_path / "pages/overview.txt").read_text()
    assert "no difference" in overview and "fastest float32 form (torch)" in " ".join(overview.split())
    assert max(map(len, overview[: overview.index("Tables:")].splitlines())) <= 80
    assert {row["busy"] for row in _rows(tmp_path, "backends", schemas.BACKENDS)} == {0.0, 12.0}


# Published figures


def test_published_figures_stand_beside_measured_ones(tmp_path: Path) -> None:
    content = fakes.study(tasks=("cola", "mnli"), variants=("float", "int", "int-linear"))
    _summarize(fakes.results(tmp_path, content, gpu=True), tmp_path / "summary")
    with (tmp_path / "summary/published.csv").open(encoding="utf-8") as file:
        rows = {(row["source"], row["task"], row["variant"], row["quantity"]): row for row in csv.DictReader(file)}
    students = rows["Students' study of I-BERT", "cola", "int", "accuracy"]
    assert float(students["published"]) == pytest.approx(0.694)
    assert "Matthews" in students["published_conditions"]
    variants = {(row["task"], row["variant"]): row for row in _rows(tmp_path, "variants", schemas.VARIANTS)}
    assert float(students["measured_mean"]) == pytest.approx(variants["cola", "int"]["accuracy_mean"])
    paper = rows["I-BERT (Kim et al., 2021)", "cola", "int", "matthews"]
    assert float(paper["published"]) == pytest.approx(0.625)
    assert float(paper["measured_mean"]) == pytest.approx(variants["cola", "int"]["primary_mean"])
    assert "16 settings" in paper["published_conditions"]
    seconds = rows["Students' study of I-BERT", "mnli", "float", "train_seconds"]
    assert (seconds["published"], seconds["unit"]) == ("10348.4", "s")
    assert "T4" in seconds["published_conditions"]
    assert seconds["measured_conditions"] == "NVIDIA H100 80GB HBM3"
    assert {row["task"] for row in rows.values()} == {"cola", "mnli"}
    assert "| 62.5 |" in re.sub(" +", " ", (tmp_path / "pages/published.md").read_text())


@pytest.mark.parametrize("change", ["model", "data"])
def test_another_model_or_data_has_no_counterpart(change: str) -> None:
    content = fakes.study(tasks=("cola",))
    if change == "model":
        content["models"]["roberta-base"]["source"]["repo"] = "someone/else"
    else:
        content["tasks"]["cola"]["source"]["repo"] = "someone/else"
    assert published_rows(content, []) == []
    said = display.to_markdown(show_published("fake", []))
    assert "no published counterpart" in said
    assert "|" not in said


# Numbers for people


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.0, "0.000"), (0.01234, "0.012"), (1.0, "1.00"), (9.996, "10.00"), (12.34, "12.3"), (123.4, "123"),
     (48243.7, "48244"), (-1.5, "−1.50")],
)  # fmt: skip
def test_numbers_keep_three_digits_and_never_an_exponent(value: float | None, text: str) -> None:
    assert formatting.number(value) == text


def test_percent_has_a_sign_where_wanted_and_no_negative_zero() -> None:
    assert formatting.percent(-0.0123, sign=True) == "−1.2"
    assert formatting.percent(0.0123, sign=True) == "+1.2"
    assert formatting.percent(-0.0001, sign=True) == "0.0"


def test_a_rounding_error_is_never_shown_as_nothing() -> None:
    assert formatting.power_of_ten(0.0) == "0"
    assert formatting.power_of_ten(2.98e-7) == "3·10⁻⁷"
    assert formatting.power_of_ten(0.0204) == "2·10⁻²"


def test_a_deviation_is_never_shown_as_nothing() -> None:
    assert formatting.measured(14.69, 0.02) == "14.69 ± 0.02"
    assert formatting.measured(14.69, 0.2) == "14.7 ± 0.2"
    assert formatting.measured(14.69, None) == "14.7"
