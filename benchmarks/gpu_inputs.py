"""Make the folder of files that gpu.sh needs, on a machine with a network.

    python benchmarks/gpu_inputs.py FOLDER

It holds MiniLM with weights in bfloat16 (45 MB), 2,000 sentences as CSV, and wheels, for Python 3.12 on x86-64, of the
packages that a machine with PyTorch and transformers may lack.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import load_file, save_file

from intaglio.catalogue import KNOWN_MODELS, KNOWN_TASKS
from intaglio.models.prepare import prepare_model
from intaglio.reading.fetch import fetch
from intaglio.store import MANIFEST
from intaglio.study.schema import Pretrained
from intaglio.study.sources import WEIGHTS_FILE
from intaglio.study.task import Task
from intaglio.tasks.prepare import prepare_data

SENTENCES = 2000
# datasets and pydantic, with what they need, in the pinned versions.
PACKAGES = ("datasets", "dill", "multiprocess", "pydantic", "pydantic_core", "annotated-types", "typing-inspection")
PINS = Path(__file__).resolve().parents[1] / "envs" / "requirements.lock"
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


def write_model(folder: Path, work: Path) -> None:
    """Write MiniLM's files, the weights in half the bytes; the pipeline reads them as float32."""
    pretrained = Pretrained.model_validate(KNOWN_MODELS["minilm"])
    fetch(pretrained.source, "model", work / "model-source")
    prepare_model(pretrained, work / "model-source", folder)
    # Now a folder of the user's own.
    (folder / MANIFEST).unlink()
    weights = load_file(folder / WEIGHTS_FILE)
    halved = {name: one.bfloat16() if one.is_floating_point() else one for name, one in weights.items()}
    save_file(halved, folder / WEIGHTS_FILE, {"format": "pt"})


def write_sentences(path: Path, work: Path) -> None:
    """Write sentences of film reviews with their labels."""
    task = Task.model_validate({**KNOWN_TASKS["movie"], "max_train": SENTENCES})
    fetch(task.source, "data", work / "data-source")
    prepare_data(task, work / "data-source", work / "data")
    table = pd.read_parquet(work / "data" / "train.parquet")
    texts, labels = table["text_a"], [task.labels[label] for label in table["label"]]
    pd.DataFrame({"text": texts, "label": labels}).to_csv(path, index=False)


def download(folder: Path) -> None:
    """Download the wheels."""
    packages = [line for line in PINS.read_text().splitlines() if line.partition("==")[0] in PACKAGES]
    wanted = ["--python-version", "3.12", "--implementation", "cp", *(f"--platform={name}" for name in PLATFORMS)]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    subprocess.run([*command, *wanted, "--dest", str(folder), *packages], check=True)


def main(folder: Path) -> None:
    """Make the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        write_model(folder / "minilm", Path(work))
        write_sentences(folder / "sentences.csv", Path(work))
    download(folder / "wheels")


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main(Path(sys.argv[1]))
