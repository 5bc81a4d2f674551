"""A results tree without a model: all artifacts of a study, with plausible numbers, written as the jobs write them."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sklearn.metrics as sk

from intaglio import schemas
from intaglio.encoder.inner import OF_LAYER
from intaglio.measure.metrics import metric_rows
from intaglio.measure.timing.ratios import speedup
from intaglio.metrics import MULTI_LABEL, SINGLE_LABEL
from intaglio.store import new_artifact
from intaglio.study.schema import Study

GLUE = ("cola", "sst2", "rte", "mnli")
SENTIMENT = ("movie", "nyt", "tweets", "amazon")
SIX = (
    "float",
    "int",
    "int-linear",
    "int-linear-gelu-softmax",
    "int-linear-gelu-layernorm",
    "int-linear-softmax-layernorm",
)
NINE = (*SIX, "int-linear-gelu", "int-linear-softmax", "int-linear-layernorm")

_TEST_SIZES = {"cola": 1043, "sst2": 872, "rte": 277, "mnli": 2000, "movie": 1000, "nyt": 700, "tweets": 600}
_ACCURACY = {"cola": 0.84, "sst2": 0.945, "rte": 0.78, "mnli": 0.876, "movie": 0.855, "nyt": 0.74, "tweets": 0.9}
_SECONDS = {"cola": 310.0, "sst2": 1900.0, "rte": 240.0, "mnli": 9800.0}


def _cost(variant: str) -> tuple[float, float, float, float]:
    """Return loss of accuracy, training and latency factors, size factor of a variant."""
    if not variant.startswith("int-") and variant != "int":
        # Pruned and distilled ones, of the user's names
        return (0.0, 1.0, 1.0, 1.0) if variant == "float" else (len(variant) / 1000, 0.5, 0.6, 0.7)
    operations = 4 if variant == "int" else len(variant.split("-")) - 1
    return 0.002 + 0.004 * operations, 1.15 + 0.12 * operations, 1.02 + 0.21 * operations, 0.27


def takes(variant: str, backend: str) -> float:
    """Return the latency factor of a variant in a backend: ONNX Runtime runs integers fast, and float slower."""
    slower = _cost(variant)[2]
    if backend == "onnxruntime":
        return 1.2 if variant == "float" else 0.9 / slower
    return slower * (0.8 if backend == "torch.compile" else 1.0)


def machine(gpu: bool = False) -> dict[str, Any]:
    """Return a fingerprint with the keys of intaglio.machine."""
    nothing = dict.fromkeys(column.name.removeprefix("machine_") for column in schemas.MACHINE)
    facts = {
        "id": "abcdef01",
        "host": "node1",
        "cpu": "Intel(R) Xeon(R) Platinum 8480+",
        "cores": 8,
        "commit": "0" * 40,
    }
    card = {"id": "abcdef02", "gpu": "NVIDIA H100 80GB HBM3", "gpu_count": 1} if gpu else {}
    return {**nothing, **facts, **card}


def study(tasks: Any = ("movie",), variants: Any = SIX, seeds: Sequence[int] = (0, 1), **more: Any) -> dict[str, Any]:
    """Return a resolved study file; variants are known names, or recipes by name."""
    model = "roberta-base" if set(tasks) <= set(GLUE) else "minilm"
    given: dict[str, Any] = {
        "study": "fake",
        "description": "A study that was never run.",
        "tasks": tasks if isinstance(tasks, dict) else {task: {} for task in tasks},
        "models": {model: {}},
        "variants": variants if isinstance(variants, dict) else dict.fromkeys(variants),
        "seeds": list(seeds),
        "bootstrap": 200,
    }
    profile = {"seeds": "all", "backends": ["torch", "onnxruntime"], **more.pop("profile", {})}
    return Study.model_validate({**given, **more, "profile": profile}).model_dump(mode="json")


def results(root: Path, content: dict[str, Any] | None = None, gpu: bool = False) -> Path:
    """Write all artifacts of a study under `root` and return its plan.json."""
    content = content or study()
    runs = []
    for task in content["tasks"]:
        for model in content["models"]:
            for variant in content["variants"]:
                for seed in content["seeds"]:
                    name = f"{task}-{model}-{variant}-{seed}"
                    kinds = ("checkpoint", "evaluation", "export", "profile")
                    paths: dict[str, str | None] = {kind: str(root / kind / name) for kind in kinds}
                    if content["profile"]["seeds"] == "first" and seed != content["seeds"][0]:
                        paths["profile"] = None
                    recipe = content["variants"][variant]
                    run = {"task": task, "model": model, "variant": variant, "seed": seed, "recipe": recipe}
                    teacher = str(root / "evaluation" / f"{task}-{model}-{next(iter(content['variants']))}-{seed}")
                    run |= {"stages": [paths["checkpoint"]], "teacher": teacher}
                    run |= {
                        "before": [str(root / "data" / task)],
                        "work": {path: str(root / "work" / kind / name) for kind, path in paths.items() if path},
                        "data": str(root / "data" / task),
                        "description": str(root / "describe" / f"{task}.{model}"),
                    }
                    runs.append({**run, **paths})
    plan = root / "plan.json"
    plan.write_text(json.dumps({"study": content, "runs": runs}))
    fill(plan, gpu=gpu)
    return plan


def fill(plan: Path, root: Path = Path(), gpu: bool = False) -> None:
    """Write every artifact that a plan's runs name; relative paths are taken below `root`."""
    content = json.loads(plan.read_text())
    tasks = content["study"]["tasks"]
    for run in content["runs"]:
        task, variant, seed, about = run["task"], run["variant"], run["seed"], tasks[run["task"]]
        test_sets = [name for name in about["splits"] if name.startswith("test")]
        random = np.random.default_rng([list(tasks).index(task), len(variant), seed])
        _data(root / run["data"], about, test_sets)
        _description(root / run["description"], about, test_sets)
        checkpoint(root / run["checkpoint"], task, variant, seed, about["metric"], random, gpu)
        _compressed(root / run["checkpoint"], run["recipe"])
        evaluation(root / run["evaluation"], task, variant, seed, about, test_sets)
        export(root / run["export"], variant)
        if run["profile"]:
            profile(root / run["profile"], variant, content["study"]["profile"], random, gpu)


def _data(folder: Path, about: dict[str, Any], test_sets: list[str]) -> None:
    with new_artifact(folder, "data") as draft:
        facts = {
            "kind": MULTI_LABEL if about["kind"] == "multi_label" else SINGLE_LABEL,
            "labels": about["labels"],
            "positive": about["positive"],
            "metric": about["metric"],
            "test_sets": test_sets,
            "pair": False,
        }
        (draft / "task.json").write_text(json.dumps(facts))


def _description(folder: Path, about: dict[str, Any], test_sets: list[str]) -> None:
    rows: list[dict[str, Any]] = []
    for split in ("train", *test_sets):
        facts = {"examples": 100, "duplicates": 1, "tokens_median": 17, "truncated": 0.25, "unknown": 0.01}
        rows += [{"split": split, "measure": name, "value": float(value)} for name, value in facts.items()]
        for place, label in enumerate(about["labels"]):
            rows.append({"split": split, "measure": "class", "item": label, "value": 10.0 + place})
        for item, value in (("1-16", 40), ("17-32", 60), ("33-", 0)):
            rows.append({"split": split, "measure": "length", "item": item, "value": float(value)})
    with new_artifact(folder, "description") as draft:
        schemas.write_table(draft / "description.parquet", rows, schemas.DESCRIPTION)


def checkpoint(
    folder: Path, task: str, variant: str, seed: int, metric: str, random: np.random.Generator, gpu: bool = False
) -> None:
    """Write a checkpoint without weights: training.json and history.parquet."""
    loss, slower, _, _ = _cost(variant)
    seconds = _SECONDS.get(task, 185.0) * slower * random.normal(1, 0.02)
    steps, best = 400, _ACCURACY.get(task, 0.8) - loss + random.normal(0, 0.01)
    training = {
        "stage": "finetune" if variant == "float" else "quantize",
        "seed": seed,
        "options": {},
        "train_seconds": seconds,
        "total_train_seconds": seconds if variant == "float" else seconds + _SECONDS.get(task, 185.0),
        "step_seconds_mean": seconds / steps,
        "step_seconds_median": seconds / steps * 0.98,
        "steps": steps,
        "epochs": 3.0,
        "best_step": 300,
        "validation": {metric: best, "loss": 0.4},
        "device": "NVIDIA H100 80GB HBM3" if gpu else machine()["cpu"],
        "machine": machine(gpu),
        "parent": None,
    }
    start = 0.69 if variant == "float" else 0.3
    rows = []
    for step in range(10, steps + 1, 10):
        value = start * np.exp(-step / 150) + 0.15 + abs(random.normal(0, 0.02))
        rows.append({"step": step, "epoch": step * 3 / steps, "name": "loss", "value": value})
        rows.append(
            {"step": step, "epoch": step * 3 / steps, "name": "learning_rate", "value": 2e-5 * (1 - step / steps)}
        )
        if step % 130 == 0:
            rows.append({"step": step, "epoch": step * 3 / steps, "name": "validation_loss", "value": value + 0.08})
            rows.append({"step": step, "epoch": step * 3 / steps, "name": f"validation_{metric}", "value": best})
    with new_artifact(folder, "checkpoint") as draft:
        (draft / "training.json").write_text(json.dumps(training))
        schemas.write_table(draft / "history.parquet", rows, schemas.TRAINING_HISTORY)


def _compressed(folder: Path, recipe: Sequence[dict[str, Any]]) -> None:
    """Add to a checkpoint's record the conversion and the sparsity that stages report."""
    with new_artifact(folder.with_name("more"), "checkpoint") as draft:
        shutil.copytree(folder, draft, dirs_exist_ok=True)
        record = json.loads((draft / "training.json").read_text())
        for options in recipe:
            record["stage"] = options["stage"]
            if options["stage"] == "prune":
                zeros = round(1000 * (options["sparsity"] or 0.5))
                record["sparsity"] = [{"layer": "0.query", "weights": 1000, "zeros": zeros}]
            if options["stage"] == "int8":
                record["conversion"] = {"measure": "changed predictions", "difference": 0.012, "tolerance": 0.05}
        (draft / "training.json").write_text(json.dumps(record))
    shutil.rmtree(folder)
    folder.with_name("more").rename(folder)


def _predict(task: str, variant: str, seed: int, test_set: str, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and predictions: an example has its difficulty, a variant and seed some luck."""
    examples = _TEST_SIZES.get(task, 500)
    of_task = np.random.default_rng([1, *test_set.encode(), *task.encode()])
    labels = of_task.choice(classes, examples, p=np.linspace(1, 2, classes) / np.linspace(1, 2, classes).sum())
    difficulty = of_task.random(examples)
    random = np.random.default_rng([seed, *variant.encode()])
    right = _ACCURACY.get(task, 0.8) - _cost(variant)[0] + random.normal(0, 0.006)
    wrong = difficulty + random.normal(0, 0.05, examples) > right
    return labels, np.where(wrong, (labels + random.integers(1, classes, examples)) % classes, labels)


def evaluation(
    folder: Path, task: str, variant: str, seed: int, about: dict[str, Any], test_sets: Sequence[str]
) -> None:
    """Write predictions and the metrics that scikit-learn computes of them."""
    names = about["labels"]
    predictions: list[dict[str, Any]] = []
    metrics: list[dict[str, Any]] = []
    many = about["kind"] == "multi_label"
    for test_set in test_sets:
        if many:
            mine, found = _label_sets(task, variant, seed, test_set, about)
            predictions += mine
            metrics += [{"test_set": test_set, **row} for row in found]
            continue
        labels, predicted = _predict(task, variant, seed, test_set, len(names))
        logits = np.eye(len(names))[predicted] * 2 - 1
        for i in np.random.default_rng(seed).permutation(len(labels)):
            predictions.append(
                {
                    "test_set": test_set,
                    "id": f"{i:05d}",
                    "label": int(labels[i]),
                    "prediction": int(predicted[i]),
                    "logits": logits[i].tolist(),
                }
            )
        metrics += _metrics(test_set, labels, predicted, names, about["metric"])
    meta = {"machine": machine(), "checkpoint": {"variant": variant}}
    with new_artifact(folder, "evaluation") as draft:
        of_kind = schemas.PREDICTED_LABEL_SETS if many else schemas.PREDICTIONS
        schemas.write_table(draft / "predictions.parquet", predictions, of_kind, meta)
        schemas.write_table(draft / "metrics.parquet", metrics, schemas.METRICS, meta)
        if variant == "int" or variant.startswith("int-"):
            schemas.write_table(draft / "noise.parquet", noise(seed), schemas.NOISE, meta)


def noise(seed: int) -> list[dict[str, Any]]:
    """Return the signal to noise of six layers, which falls from layer to layer."""
    random = np.random.default_rng(seed)
    places = [(layer, name) for layer in range(6) for name in OF_LAYER]
    return [
        {"layer": layer, "operation": name, "snr_db": 40 - 5 * (layer or 0) + random.normal(0, 1)}
        for layer, name in [(None, "embeddings"), *places, (None, "logits")]
    ]


def _label_sets(
    task: str, variant: str, seed: int, test_set: str, about: dict[str, Any]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return predictions and metrics of a multi-label task: a variant's logits are noisier the more it costs."""
    of_task = np.random.default_rng([1, *test_set.encode(), *task.encode()])
    names, examples = about["labels"], _TEST_SIZES.get(task, 500)
    labels = (of_task.random((examples, len(names))) < np.linspace(0.15, 0.5, len(names))).astype(np.int64)
    noise = np.random.default_rng([seed, *variant.encode()]).normal(0, 0.5 + 20 * _cost(variant)[0], labels.shape)
    logits = 4.0 * labels - 2 + of_task.normal(0, 1.2, labels.shape) + noise
    metrics = metric_rows({**about, "kind": MULTI_LABEL}, labels, logits, None, lambda: 0.4)
    rows = [
        {"test_set": test_set, "id": f"{i:05d}", "label": true, "prediction": (row > 0).astype(int), "logits": row}
        for i, (true, row) in enumerate(zip(labels, logits, strict=True))
    ]
    return rows, metrics


def _metrics(
    test_set: str, labels: np.ndarray, predicted: np.ndarray, names: list[str], primary: str
) -> list[dict[str, Any]]:
    scores = {
        "accuracy": sk.accuracy_score(labels, predicted),
        "f1_macro": sk.f1_score(labels, predicted, average="macro"),
        "balanced_accuracy": sk.balanced_accuracy_score(labels, predicted),
        "cohen_kappa": sk.cohen_kappa_score(labels, predicted),
        "matthews": sk.matthews_corrcoef(labels, predicted),
        "loss": 0.4,
    }
    rows: list[dict[str, Any]] = [
        {"test_set": test_set, "metric": name, "value": float(value), "primary": name == primary}
        for name, value in scores.items()
    ]
    recall = sk.recall_score(labels, predicted, labels=range(len(names)), average=None)
    counts = sk.confusion_matrix(labels, predicted, labels=range(len(names)))
    for i, label in enumerate(names):
        rows.append(
            {
                "test_set": test_set,
                "metric": "class_recall",
                "label": label,
                "value": float(recall[i]),
                "primary": False,
            }
        )
        for j, other in enumerate(names):
            rows.append(
                {
                    "test_set": test_set,
                    "metric": "confusion",
                    "label": label,
                    "predicted": other,
                    "value": float(counts[i, j]),
                    "primary": False,
                }
            )
    return rows


def export(folder: Path, variant: str) -> None:
    """Write an export without a graph: its sizes."""
    _, _, _, smaller = _cost(variant)
    parameters = 22_700_000
    sizes = [
        {"component": "file", "dtype": None, "bytes": int(parameters * 4 * smaller), "count": 1},
        {"component": "nonzero", "dtype": None, "bytes": int(parameters * 3.5 * smaller), "count": parameters // 2},
        {"component": "sparse", "dtype": None, "bytes": int(parameters * 3.6 * smaller), "count": 1},
        {"component": "zstd", "dtype": None, "bytes": int(parameters * 3.7 * smaller), "count": 1},
        {"component": "checkpoint", "dtype": None, "bytes": parameters * 4, "count": 1},
        {"component": "parameters", "dtype": "float32", "bytes": parameters * 4, "count": parameters},
    ]
    compared = {"measure": "largest difference of a logit", "difference": 3e-7, "tolerance": 1e-3}
    with new_artifact(folder, "export", compared) as draft:
        schemas.write_table(draft / "sizes.parquet", sizes, schemas.SIZES)


def profile(folder: Path, variant: str, about: dict[str, Any], random: np.random.Generator, gpu: bool = False) -> None:
    """Write latency and operators."""
    _, _, _, smaller = _cost(variant)
    latency = []
    places = [
        (backend, device) for device in ("cpu", "cuda") if device == "cpu" or gpu for backend in about["backends"]
    ]
    for backend, device in places:
        if (backend, device) == ("onnxruntime", "cuda"):
            continue
        for batch in about["batch_sizes"]:
            for length in about["lengths"]:
                base = (0.2 if device == "cuda" else 1.0) * (2.0 + 0.06 * batch * length * takes(variant, backend))
                calls = base * random.normal(1, 0.03, about["calls"])
                latency.append(
                    {
                        "backend": backend,
                        "device": device,
                        "device_name": machine(gpu)["gpu" if device == "cuda" else "cpu"],
                        "batch_size": batch,
                        "length": length,
                        "threads": about["threads"],
                        "calls": calls.tolist(),
                        "mean_ms": calls.mean(),
                        "std_ms": calls.std(ddof=1),
                        **{f"p{q}_ms": np.percentile(calls, q) for q in (50, 90, 99)},
                        "busy": 0.0,
                        "kernel": "float32",
                        "throughput": batch / calls.mean() * 1000,
                        "peak_memory_mb": 400 * (smaller if backend == "onnxruntime" else 1) + batch * length / 20,
                        "max_difference": 0.0 if backend == "torch" and device == "cpu" else 3e-7,
                        "changed_predictions": 3 if backend.endswith("-bf16") else None,
                        "compared_predictions": 512 if backend.endswith("-bf16") else None,
                        **schemas.machine_columns(machine(gpu)),
                    }
                )
    baselines = _compared(variant, latency, random)
    operators = [
        {"operator": "aten::addmm", "calls": 37, "self_time_ms": 6.0, "share": 0.75},
        {"operator": "aten::gelu", "calls": 6, "self_time_ms": 2.0, "share": 0.25},
    ]
    operators = [{"backend": "torch", "device": "cpu", **row} for row in operators]
    with new_artifact(folder, "profile") as draft:
        schemas.write_table(draft / "latency.parquet", latency, schemas.LATENCY)
        schemas.write_table(draft / "baselines.parquet", baselines, schemas.BASELINES)
        schemas.write_table(draft / "operators.parquet", operators, schemas.OPERATORS)


def _compared(variant: str, latency: list[dict[str, Any]], random: np.random.Generator) -> list[dict[str, Any]]:
    """Add speed-ups to the rows of latency; return the baselines that they are over."""
    baselines = []
    for device, batch, length in dict.fromkeys((row["device"], row["batch_size"], row["length"]) for row in latency):
        here = [row for row in latency if (row["device"], row["batch_size"], row["length"]) == (device, batch, length)]
        floats = []
        for row in here:
            factor = (2.0 + 0.06 * batch * length * takes("float", row["backend"])) / (
                2.0 + 0.06 * batch * length * takes(variant, row["backend"])
            )
            calls = np.array(row["calls"]) * factor * random.normal(1, 0.005, len(row["calls"]))
            form = {name: row[name] for name in ("backend", "device", "batch_size", "length")}
            of_itself = {"calls": row["calls"]} if variant == "float" else {"calls": calls.tolist()}
            floats.append({**form, **of_itself, "precision": "float32", "p50_ms": float(np.median(of_itself["calls"]))})
        fastest = min(floats, key=lambda row: row["p50_ms"])
        for row in here:
            ratio = speedup(fastest["calls"], row["calls"])
            for end in ("", "_any"):
                row |= {f"against{end}": fastest["backend"], f"speedup{end}": ratio.value}
                row |= {f"speedup{end}_low": ratio.low, f"speedup{end}_high": ratio.high}
        baselines += [] if variant == "float" else floats
    return baselines
