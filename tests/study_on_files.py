"""A whole study that takes seconds: a tiny random model and a few made-up sentences, both as files."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from tiny import tiny_model, tiny_sentences

ROOT = Path(__file__).parents[1]
# Before a command: a network namespace of its own, where the kernel lets us have one.
_ALONE = ["unshare", "-rn"]
OFFLINE = _ALONE if shutil.which("unshare") and subprocess.run([*_ALONE, "true"]).returncode == 0 else []


def write_study(folder: Path, **changes: Any) -> Path:
    """Write the study with its model and data under `folder`, its paths relative to it; return the study file."""
    if not (folder / "model").exists():
        tiny_model(folder / "model")
        for name, count in (("train", 120), ("test", 40)):
            sentences = tiny_sentences(count, 2, seed=count)
            named = sentences.assign(label=sentences["label"].map({0: "negative", 1: "positive"}))
            named.to_csv(folder / f"{name}.csv", index=False)
    study: dict[str, Any] = {
        "study": "tiny",
        "seeds": [1],
        "max_length": 24,
        "models": {"tiny": {"source": {"kind": "files", "path": "model"}}},
        "tasks": {
            "words": {
                "source": {"kind": "files", "train": "train.csv", "test": "test.csv"},
                "text": ["text"],
                "label": "label",
                "labels": ["negative", "positive"],
            }
        },
        "variants": {"float": None, "int": None},
        "stages": {"finetune": {"epochs": 1, "learning_rate": 1e-3}, "quantize": {"epochs": 1}},
        "profile": {
            **{"batch_sizes": [1], "lengths": [16], "headline": [1, 16], "calls": 3, "warmup": 1, "threads": 1},
            "backends": ["torch", "onnxruntime", "native"],
        },
        "resources": {"cpus": 1, "memory_mb": 2000, "train_minutes": 5, "measure_minutes": 5},
        "bootstrap": 100,
    }
    study.update(changes)
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(study))
    return path


def snakemake(
    folder: Path, *arguments: str, check: bool = True, snakefile: Path | None = None, before: Sequence[str] = ()
) -> str:
    """Run the workflow in `folder` on its study file, after the words of `before`, and return what it printed."""
    program = Path(sys.executable).parent / "snakemake"
    command = [*before, program, "--snakefile", snakefile or ROOT / "Snakefile", "--directory", folder, *arguments]
    command += ["--configfile", folder / "study.yaml"]
    done = subprocess.run(
        [str(part) for part in command], cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert done.returncode == 0 or not check, done.stdout
    return done.stdout


def planned(folder: Path, snakefile: Path | None = None, *arguments: str) -> dict[str, int]:
    """Return how many jobs of each rule `snakemake -n` would run."""
    printed = snakemake(folder, "-n", *arguments, snakefile=snakefile)
    table = re.search(r"^job +count\n[- ]+\n(.*?)\n\n", printed, re.MULTILINE | re.DOTALL)
    if table is None:
        return {}
    counts = {line.split()[0]: int(line.split()[1]) for line in table[1].splitlines()}
    return {rule: count for rule, count in counts.items() if rule not in ("all", "study", "total")}
