"""Results of every kind of job on a tiny model, summarized in numbers that are the same on any processor.

    make golden

updates tests/golden.json for kinds that are new, or whose declared version (or library) has changed; it refuses if
results changed under the same version. To begin again with all kinds, delete the file first.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import onnx
import onnx.numpy_helper
import pandas as pd
import pyarrow as pa
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from intaglio.cli import main
from intaglio.planning.versions import decided_by
from intaglio.study.options import STAGES, TrainingOptions
from intaglio.study.profile import Profile
from intaglio.study.task import Task
from tiny import tiny_data, tiny_model, tiny_sentences

FILE = Path(__file__).parent / "golden.json"
LENGTH = 24
# Dropout draws other numbers elsewhere; one evaluation leaves nothing to choose.
TRAINING = {"max_steps": 6, "batch_size": 16, "learning_rate": 1e-3, "dropout": 0.0, "attention_dropout": 0.0}
OPTIONS: dict[str, dict[str, Any]] = {
    "finetune": {"precision": "fp32"},
    "distil": {"layers": 1, "distillation": {"hidden": 1.0, "relations": 1.0}},
    "prune": {"prunings": 3},
    "cut": {"importance_examples": 32},
    "continue": {"like": "quantize"},
    "quantize": {"calibration_examples": 32, "tolerance": 1.0, "learning_rate": 1e-4},
    "int8": {"method": "static", "calibration_examples": 32, "tolerance": 1.0},
}
# Results that go into those of another kind here.
MADE_OF: dict[str, tuple[str, ...]] = {
    **{stage: ("finetune",) for stage in OPTIONS if stage != "finetune"},
    "evaluate": ("finetune", "quantize", "int8", "integer", "noise"),
    "export": ("finetune", "quantize", "integer"),
    "profile": ("finetune", "quantize", "integer", "export"),
}
STAGE_KINDS = tuple(stage for stage in OPTIONS if stage in STAGES)
KINDS = ("data", "model", "tokens", *STAGE_KINDS, "evaluate", "export", "profile")
# Of floating point: other processors sum in another order. Integers, names and counts agree exactly.
TOLERANCE = 2e-3
# A mask's constants in a graph are beyond it.
LARGEST = 1e30

Summary = dict[str, Any]


def basis(kind: str) -> list[str]:
    """Return versions and libraries that a kind's entry was written under."""
    kinds = [kind, *MADE_OF.get(kind, ())]
    return list(dict.fromkeys(part for name in kinds for part in decided_by(name)))


def defaults(kind: str) -> Summary:
    """Return the default options of a kind: keys leave them out, so another default is another result."""
    if kind in STAGES:
        return STAGES[kind]().model_dump(mode="json")
    if kind == "profile":
        return Profile().model_dump(mode="json")
    if kind == "data":
        fields = Task.model_fields.items()
        plain = {name: field.default for name, field in fields if not field.is_required() and not field.default_factory}
        return json.loads(json.dumps(plain))
    return {}


class Results:
    """The results of every kind, made in a folder on first use."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def summary(self, kind: str) -> Summary:
        """Return a summary of the results of a kind of job."""
        own: Callable[[], Summary] | None = getattr(self, f"_{kind}", None)
        return own() if own else self._stage(kind)

    @cached_property
    def pretrained(self) -> Path:
        return tiny_model(self.folder / "pretrained")

    @cached_property
    def examples(self) -> Path:
        return tiny_data(self.folder / "examples")

    def stage(self, stage: str) -> Path:
        """Return the checkpoint that a stage makes from the common start."""
        output = self.folder / stage
        if not output.exists():
            fresh = stage == "finetune"
            before = ("--model", self.pretrained) if fresh else ("--parent", self.stage("finetune"))
            training = TRAINING if issubclass(STAGES[stage], TrainingOptions) else {}
            options = json.dumps({**training, **OPTIONS[stage]})
            common = ("--seed", 1, "--max-length", LENGTH, "--work", self.folder / "work" / stage, "--output", output)
            run(stage, *before, "--data", self.examples, "--options", options, *common)
        return output

    def export(self, checkpoint: Path) -> Path:
        output = self.folder / f"export-{checkpoint.name}"
        if not output.exists():
            run("export", "--checkpoint", checkpoint, "--output", output)
        return output

    def _stage(self, stage: str) -> Summary:
        output = self.stage(stage)
        if stage == "int8":
            return graph(next(output.glob("*.onnx")))
        parent = self.pretrained if stage == "finetune" else self.stage("finetune")
        weights, before = load_file(output / "model.safetensors"), load_file(parent / "model.safetensors")
        matrices = [tensor for tensor in weights.values() if tensor.dim() == 2]
        same = [name for name in weights if name in before and weights[name].shape == before[name].shape]
        history = pd.read_parquet(output / "history.parquet")
        return {
            "tensors": len(weights),
            "numbers": sum(tensor.numel() for tensor in weights.values()),
            "zeros": sum(int((tensor == 0).sum()) for tensor in matrices),
            "matrices": norm(matrices),
            "vectors": norm([tensor for tensor in weights.values() if tensor.dim() < 2]),
            "moved": norm([weights[name] - before[name] for name in same]),
            "losses": history[history["name"] == "loss"]["value"].tolist(),
            "validation_losses": history[history["name"] == "validation_loss"]["value"].tolist(),
        }

    def _data(self) -> Summary:
        for name, count in (("train", 60), ("test", 20)):
            tiny_sentences(count, 2, seed=count).to_csv(self.folder / f"{name}.csv", index=False)
        source = {"kind": "files", "train": str(self.folder / "train.csv"), "test": str(self.folder / "test.csv")}
        names = {"labels": ["negative", "positive"], "label_values": ["0", "1"]}
        options = {"source": source, "text": ["text"], "label": "label", **names}
        run("data", "--options", json.dumps(options), "--output", self.folder / "data")
        files = sorted((self.folder / "data").glob("*.parquet"))
        return {file.stem: hashed(pd.read_parquet(file).to_json(orient="records")) for file in files}

    def _model(self) -> Summary:
        given = tiny_model(self.folder / "given")
        options = {"source": {"kind": "files", "path": str(given)}}
        run("model", "--options", json.dumps(options), "--output", self.folder / "model")
        weights = load_file(self.folder / "model" / "model.safetensors")
        tokenizer = AutoTokenizer.from_pretrained(self.folder / "model")
        return {
            "files": sorted(file.name for file in (self.folder / "model").iterdir()),
            "weights": norm(list(weights.values())),
            "tokens": tokenizer("A good film, and a dull story.", "Quite lovely!")["input_ids"],
        }

    def _tokens(self) -> Summary:
        output = self.folder / "tokens"
        common = ("--max-length", LENGTH, "--output", output)
        run("tokens", "--data", self.examples, "--model", self.pretrained, *common)
        tables = {file.stem: pa.ipc.open_stream(file).read_all() for file in sorted(output.glob("*.arrow"))}
        return {name: hashed(table.to_pandas().to_json(orient="records")) for name, table in tables.items()}

    def _evaluate(self) -> Summary:
        summary = {}
        for name in ("finetune", "quantize", "int8"):
            checkpoint = self.stage(name)
            output = self.folder / f"evaluation-{name}"
            common = ("--data", self.examples, "--max-length", LENGTH, "--output", output)
            run("evaluate", "--checkpoint", checkpoint, *common)
            predictions = pd.read_parquet(output / "predictions.parquet")
            metrics = pd.read_parquet(output / "metrics.parquet")
            logits = torch.tensor([row.tolist() for row in predictions["logits"]])
            if name == "quantize":
                noise = pd.read_parquet(output / "noise.parquet")
                summary["noise"] = {"tensors": len(noise), "decibels": float(noise["snr_db"].mean())}
            summary[name] = {
                "columns": [sorted(table.columns) for table in (predictions, metrics)],
                "rows": len(predictions),
                "logits": logits.abs().mean().item(),
                "margins": (logits[:, 1] - logits[:, 0]).mean().item(),
                "metrics": sorted(set(metrics["metric"])),
                "accuracy": float((predictions["label"] == predictions["prediction"]).mean()),
            }
        return summary

    def _export(self) -> Summary:
        exports = {name: self.export(self.stage(name)) for name in ("finetune", "quantize")}
        return {name: {**graph(folder / "model.onnx"), "sizes": sizes(folder)} for name, folder in exports.items()}

    def _profile(self) -> Summary:
        checkpoint, output = self.stage("quantize"), self.folder / "profile"
        few = {"batch_sizes": [1], "lengths": [16], "headline": [1, 16], "calls": 2, "warmup": 1, "threads": 1}
        options = json.dumps({**few, "devices": ["cpu"]})
        export = ("--export", self.export(checkpoint))
        run("profile", "--checkpoint", checkpoint, *export, "--options", options, "--output", output)
        latency, operators = (pd.read_parquet(output / f"{name}.parquet") for name in ("latency", "operators"))
        exact = latency[latency["backend"] == "torch"]
        return {
            # What reads a table wants its columns.
            "columns": [sorted(table.columns) for table in (latency, operators)],
            "backends": sorted(set(latency["backend"])),
            # The specification says: the same integers, so the same logits.
            "exact": bool((exact["max_difference"] == 0).all()),
            "operators": sorted(set(operators[operators["backend"] == "onnxruntime"]["operator"])),
        }


def sizes(export: Path) -> Summary:
    """Return the columns of the sizes' table, and the bytes of the file's tensors by data type."""
    table = pd.read_parquet(export / "sizes.parquet")
    tensors = table[table["component"] == "tensors"]
    by_type = dict(zip(tensors["dtype"], tensors["bytes"].astype(int).tolist(), strict=True))
    return {"columns": sorted(table.columns), "tensors": by_type}


def run(*arguments: object) -> None:
    """Run a command of Intaglio in this process, where torch is imported already."""
    if main([str(argument) for argument in arguments]):
        raise SystemExit(f"golden: {arguments[0]} failed")


def norm(tensors: list[torch.Tensor]) -> float:
    return math.sqrt(sum(float(tensor.double().square().sum()) for tensor in tensors))


def hashed(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def graph(file: Path) -> Summary:
    """Return the operators of an ONNX model, and its numbers by type."""
    model = onnx.load(file)
    numbers: Counter[str] = Counter()
    for tensor in model.graph.initializer:
        numbers[onnx.TensorProto.DataType.Name(tensor.data_type)] += math.prod(tensor.dims)
    arrays = [torch.tensor(onnx.numpy_helper.to_array(tensor)) for tensor in model.graph.initializer]
    floats = [values for values in arrays if values.is_floating_point()]
    integers = [values for values in arrays if not values.is_floating_point()]
    return {
        "operators": dict(sorted(Counter(node.op_type for node in model.graph.node).items())),
        "numbers": dict(sorted(numbers.items())),
        "floats": norm([values[values.abs() < LARGEST] for values in floats]),
        "integers": norm([values.double() for values in integers]),
    }


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """Return where two summaries differ, floating point beyond `TOLERANCE`."""
    if isinstance(old, dict) and isinstance(new, dict):
        names = sorted({*old, *new})
        each = (differences(old.get(name), new.get(name), f"{where}.{name}".strip(".")) for name in names)
        return [line for lines in each for line in lines]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [line for index, (a, b) in pairs for line in differences(a, b, f"{where}.{index}")]
    if type(old) is float and type(new) is float:
        same = math.isclose(old, new, rel_tol=TOLERANCE, abs_tol=TOLERANCE / 10)
    else:
        same = type(old) is type(new) and old == new
    return [] if same else [f"{where}: {old} is now {new}"]


def other_defaults(old: Summary, new: Summary) -> list[str]:
    """Return the options whose defaults have changed, without those that were added or removed."""
    others = [name for name in old if name in new and old[name] != new[name]]
    return [f"default of {name}: {old[name]} is now {new[name]}" for name in others]


def problems(kind: str, entry: Summary, summary: Summary) -> list[str]:
    """Return what changed under the same version; nothing if the file's entry has another version."""
    return [*differences(entry["result"], summary), *other_defaults(entry["defaults"], defaults(kind))]


def write() -> int:
    """Write the entries that may be written; return the number of others."""
    entries = json.loads(FILE.read_text()) if FILE.exists() else {}
    refused = 0
    with tempfile.TemporaryDirectory() as folder:
        results = Results(Path(folder))
        for kind in KINDS:
            summary = results.summary(kind)
            same = kind in entries and entries[kind]["basis"] == basis(kind)
            changed = problems(kind, entries[kind], summary) if same else []
            if changed:
                refused += 1
                print(
                    f"golden: {kind} changed under the same version; raise it in planning/versions.py:", file=sys.stderr
                )
                print(*(f"  {line}" for line in changed), sep="\n", file=sys.stderr)
            elif not same or entries[kind]["defaults"] != defaults(kind):
                entries[kind] = {"basis": basis(kind), "defaults": defaults(kind), "result": summary}
                print(f"golden: {kind} written")
    FILE.write_text(json.dumps({kind: entries[kind] for kind in KINDS if kind in entries}, indent=1) + "\n")
    return refused


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    torch.set_num_threads(1)
    sys.exit(write())
