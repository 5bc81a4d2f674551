"""Nothing that comes with a file is run, and no secret is written."""

from __future__ import annotations

import ast
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import fakes
from intaglio.errors import UserError, of_the_user
from intaglio.models.prepare import prepare_model
from intaglio.plots.draw import write_plots
from intaglio.report.pages import write_pages
from intaglio.store import MANIFEST
from intaglio.study.options import FinetuneOptions
from intaglio.study.schema import Pretrained
from intaglio.study.task import Task
from intaglio.summary.summarize import write_summary
from intaglio.tasks.prepare import prepare_data
from intaglio.tokens.artifact import write_tokens
from intaglio.training.job import Learner, StageJob
from intaglio.training.train import train
from stage_runs import SigtermAt, finetune
from study_on_files import ROOT
from tiny import tiny_data, tiny_model, tiny_tokenizer

PACKAGE = ROOT / "workflow" / "intaglio"
SOURCES = [*PACKAGE.rglob("*.py"), *ROOT.glob("benchmarks/*.py")]
SCRIPT = "<script>alert(1)</script>"


class Attack:
    """What runs a command when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.trace}",)


@pytest.fixture
def trace(tmp_path: Path) -> Iterator[Path]:
    """The file that appears where code was run."""
    yield tmp_path / "trace"
    assert not (tmp_path / "trace").exists()


@pytest.fixture
def attack(trace: Path) -> bytes:
    """A pickle that torch, too, takes for one of its own."""
    file = trace.with_name("attack.pt")
    torch.save(Attack(trace), file)
    pickle.loads(pickle.dumps(Attack(trace)))
    # It works.
    trace.unlink()
    return file.read_bytes()


def calls(name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every call of a function or method of this name in the code: place and keywords."""
    for file in SOURCES:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if called == name or called.endswith(f".{name}"):
                    given = {word.arg: ast.unparse(word.value) for word in node.keywords if word.arg}
                    yield f"{file.relative_to(ROOT)}:{node.lineno}: {called}", given


def test_the_code_loads_no_pickle() -> None:
    loads = [
        (place, given) for place, given in calls("load") if re.search(r"torch\.load$|joblib|pickle|np\.load$", place)
    ]
    assert loads and all("torch.load" in place and given.get("weights_only") == "True" for place, given in loads), loads
    for name in ("loads", "Unpickler", "read_pickle", "load_npz", "eval", "exec", "load_state_dict_from_url"):
        unsafe = [place for place, _ in calls(name) if not place.endswith(("json.loads", ".eval", "_C.exec"))]
        assert not unsafe, unsafe
    for file in SOURCES:
        text = file.read_text()
        for word in (
            "import pickle",
            "import joblib",
            "import dill",
            "import shelve",
            "allow_pickle=True",
            "yaml.load(",
        ):
            assert word not in text, f"{file}: {word}"
        assert "trust_remote_code=True" not in text and "weights_only=False" not in text


def test_the_code_runs_none_that_comes_with_a_model() -> None:
    opened = [found for found in calls("from_pretrained") if "intaglio/" in found[0]]
    assert len(opened) > 8
    for place, given in opened:
        if "Auto" in place:
            assert given.get("trust_remote_code") == "False", place
        else:
            assert given.get("use_safetensors") == "True", place


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A user's folder of a model."""
    folder = tiny_model(tmp_path / "own")
    (folder / MANIFEST).unlink()
    return folder


def step(folder: Path) -> None:
    entry = Pretrained.model_validate({"source": {"kind": "files", "path": str(folder)}})
    prepare_model(entry, None, folder.parent / "made")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_weights_that_are_a_pickle_are_refused(own: Path, attack: bytes, name: str) -> None:
    (own / "model.safetensors").unlink()
    (own / name).write_bytes(attack)
    with pytest.raises(UserError) as caught:
        step(own)
    assert name in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(Exception, match=r"safetensors|header|no file named"):
        finetune(own, tiny_data(own.parent / "data"), FinetuneOptions(), 1, 16, own.parent / "w", own.parent / "out")


def test_beside_safetensors_a_pickle_is_not_even_copied(own: Path, attack: bytes) -> None:
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "tokenizer.pkl"):
        (own / name).write_bytes(attack)
    step(own)
    assert not {path.name for path in (own.parent / "made").iterdir()} & {"pytorch_model.bin", "training_args.bin"}


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    "name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "model.safetensors", "training_args.bin"]
)
def test_a_checkpoint_of_a_training_that_holds_a_pickle_is_refused(own: Path, attack: bytes, name: str) -> None:
    from transformers import AutoModelForSequenceClassification

    data, root = tiny_data(own.parent / "data"), own.parent
    options = FinetuneOptions(batch_size=16, epochs=1, learning_rate=1e-3)

    def run(moment: int | None) -> None:
        model = AutoModelForSequenceClassification.from_pretrained(own)
        learner = Learner(model, tiny_tokenizer(), callbacks=[SigtermAt(moment)])
        train(StageJob(own, data, options, 1, 16, root / "work", root / "out"), learner)

    with pytest.raises(SystemExit):
        run(2)
    (progress,) = (root / "work").glob("progress-*")
    (progress / "checkpoint-2" / name).write_bytes(attack)
    manifest = json.loads((progress / MANIFEST).read_text())
    manifest["files"][f"checkpoint-2/{name}"] = len(attack)
    (progress / MANIFEST).write_text(json.dumps(manifest))
    if name == "training_args.bin":
        # Nobody reads it.
        run(None)
        return
    with pytest.raises(Exception, match=r"no state of a training|[Hh]eader") as caught:
        run(None)
    assert name == "model.safetensors" or "\n" not in (of_the_user(caught.value) or "\n")


@pytest.mark.parametrize("suffix", ["parquet", "arrow", "csv", "jsonl", "csv.gz"])
def test_data_that_are_a_pickle_are_refused(tmp_path: Path, attack: bytes, suffix: str) -> None:
    file = tmp_path / f"train.{suffix}"
    file.write_bytes(attack)
    about = {"source": {"kind": "files", "train": str(file)}, "text": ["text"], "label": "label", "labels": ["a", "b"]}
    with pytest.raises((UserError, ValueError)):
        prepare_data(Task.model_validate(about), None, tmp_path / "data")


def test_tokens_that_are_a_pickle_are_refused(own: Path, attack: bytes) -> None:
    root = own.parent
    write_tokens(tiny_data(root / "data"), own, 16, root / "tokens")
    file = root / "tokens/train.arrow"
    file.write_bytes(attack + bytes(file.stat().st_size - len(attack)))
    with pytest.raises(UserError, match=r"tokens/train\.arrow is damaged"):
        finetune(own, root / "tokens", FinetuneOptions(), 1, 16, root / "work", root / "out")


CODE = """
from pathlib import Path
Path({trace!r}).touch()
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast
class Own(BertConfig):
    model_type = {kind!r}
class OwnModel(BertForSequenceClassification):
    config_class = Own
class OwnTokenizer(PreTrainedTokenizerFast):
    pass
"""


@pytest.mark.parametrize("kind", ["bert", "its-own"])
def test_code_that_comes_with_a_model_is_never_run(own: Path, trace: Path, kind: str) -> None:
    (own / "code.py").write_text(CODE.format(trace=str(trace), kind=kind))
    names = {"AutoConfig": "code.Own", "AutoModelForSequenceClassification": "code.OwnModel"}
    for file, added in {
        "config.json": {"model_type": kind, "auto_map": names},
        "tokenizer_config.json": {"auto_map": {"AutoTokenizer": ["code.OwnTokenizer", "code.OwnTokenizer"]}},
    }.items():
        described = json.loads((own / file).read_text())
        (own / file).write_text(json.dumps({**described, **added}))
    try:
        step(own)
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert kind == "bert"
        assert not list((own.parent / "made").glob("*.py"))
    # Nor where a stage is run by hand on such a folder.
    data, options = tiny_data(own.parent / "data"), FinetuneOptions(batch_size=16, max_steps=1)
    try:
        finetune(own, data, options, 1, 16, own.parent / "work", own.parent / "out")
    except Exception as error:
        assert kind == "its-own" or "trust_remote_code" in str(error)


def test_what_comes_from_data_is_text_in_every_page_and_plot(tmp_path: Path) -> None:
    task = {"labels": [f"{SCRIPT}{place}" for place in range(2)], "source": {"kind": "files", "train": "a.csv"}}
    task |= {"text": ["text"], "label": "label", "splits": {"train": "train", "test": "test"}}
    content = fakes.study(tasks={"movie": {}}, variants=("float", "int"))
    about = content["tasks"]["movie"]
    about["labels"] = [f"{SCRIPT}{place}" for place in range(len(about["labels"]))]
    about["positive"] = about["positive"] and about["labels"][0]
    content["description"] = SCRIPT
    plan = fakes.results(tmp_path, content)
    # A device, an error and a warning, as programs and libraries print them.
    for file in tmp_path.glob("checkpoint/*/training.json"):
        record = json.loads(file.read_text())
        changed = {**record, "device": SCRIPT, "warnings": [f"]]>{SCRIPT}"]}
        file.write_text(json.dumps(changed))
        manifest = json.loads(file.with_name(MANIFEST).read_text())
        manifest["files"][file.name] = file.stat().st_size
        file.with_name(MANIFEST).write_text(json.dumps(manifest))
    failed = next(tmp_path.glob("checkpoint/*int-1"))
    shutil.rmtree(failed)
    (tmp_path / "work" / failed.name).mkdir(parents=True)
    (tmp_path / "work" / failed.name / "failure.json").write_text(json.dumps({"error": f"the loss became {SCRIPT}"}))
    write_summary(plan, tmp_path / "summary", partial=True)
    write_pages(tmp_path / "summary", tmp_path / "pages", tmp_path / "report.html")
    write_plots(tmp_path / "summary", tmp_path / "plots")
    files = [tmp_path / "report.html", *tmp_path.glob("plots/*.svg")]
    texts = {file.name: file.read_text() for file in files}
    assert len(texts) > 12
    assert not [name for name, text in texts.items() if SCRIPT in text]
    escaped = {name for name, text in texts.items() if "&lt;script" in text}
    assert {"report.html", "confusion.svg"} <= escaped
    # Also where a figure's rows hold it.
    assert "\\u003cscript" in texts["report.html"]


def test_a_job_prints_and_writes_no_secret(tmp_path: Path) -> None:
    """Not even where it fails with a traceback, or names what it cannot reach."""
    secrets = {"HF_TOKEN": "hf_SECRET1", "AWS_SECRET_ACCESS_KEY": "SECRET2", "WANDB_API_KEY": "SECRET3"}
    index = "https://someone:SECRET4@localhost:1/simple"
    environment = {
        **os.environ,
        **secrets,
        "PIP_INDEX_URL": index,
        "PIP_RETRIES": "0",
        "PYTHONPATH": str(PACKAGE.parent),
    }
    environment |= {"HF_ENDPOINT": "http://localhost:1", "HF_HOME": str(tmp_path / "hub")}
    hub = {"kind": "hub", "repo": "some/model", "revision": "0" * 40, "what": "model"}
    package = {"kind": "package", "requirement": "none==1.0", "sha256": "0" * 64, "path": "x", "what": "data"}
    jobs = [["fetch", "--options", json.dumps(options), "--output", "out"] for options in (hub, package)]
    jobs.append(["evaluate", "--checkpoint", "none", "--data", "none", "--max-length", "8", "--output", "out"])
    for number, job in enumerate(jobs):
        command = [sys.executable, "-m", "intaglio", "--log", f"log{number}", *job]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 2, done.stderr
        assert "SECRET" not in done.stdout + done.stderr
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) >= len(jobs)
    assert not [path for path in written if b"SECRET" in path.read_bytes()]
