"""A bundle from a finished run."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

import intaglio
from intaglio.bundle.card import GRAPH, facts_of_card
from intaglio.bundle.compared import compare
from intaglio.checkpoint import Checkpoint
from intaglio.errors import UserError
from intaglio.export.export import ISLANDS_LIMIT
from intaglio.export.parity import Limit
from intaglio.native.runner import FORM
from intaglio.onnx.session import RECORD
from intaglio.planning.found import find_run, run_name
from intaglio.planning.versions import OF_STEPS
from intaglio.predict.arguments import NATIVE
from intaglio.predict.decode import QUESTIONS
from intaglio.predict.opened import FACTS, FORMAT, sha256_of
from intaglio.predict.tokenized import TOKENIZER_FILE
from intaglio.preprocess import english_stop_words
from intaglio.spans import LONGEST_ANSWER
from intaglio.store import new_artifact, open_artifact
from intaglio.tasks.stored import read_task
from intaglio.tokens.windows import shape_of

# What runs a bundle: files of this package, of which it imports no others. It stands in a folder of the bundle.
CODE = "code"
PROGRAM = (
    *("__init__.py", "errors.py", "preprocess.py", "quota.py", "spans.py", "suffixes.py"),
    *("onnx/__init__.py", "onnx/options.py", "openvino/__init__.py", "openvino/session.py"),
    *(f"reading/{name}.py" for name in ("__init__", "raw_table", "text", "delimited", "read")),
    *(
        f"predict/{name}.py"
        for name in ("__init__", "arguments", "decode", "model", "opened", "rows", "tokenized", "write")
    ),
    *(f"predict/{name}.py" for name in ("progress", "stream", "command")),
)
# Files that are made of templates.
_WRITTEN = ("predict.py", "example.py", "README.md")
_PACKAGE = Path(intaglio.__file__).parent


def write_bundle(results: Path, name: str, output: Path | None = None) -> Path:
    """Write a run as a folder to deploy, compared with its evaluation; return the folder.

    It holds the model in its portable form (model.onnx; of an 8-bit model for OpenVINO, model.xml and model.bin) and,
    of an integer model, in its native form (native/), the tokenizer, bundle.json (labels, thresholds and all that
    predictions need), predict.py and example.py with the code that they need (code/), a model card (README.md), and the
    manifest with the SHA-256 of every file.

    Args:
        results: folder of the study's results, `results/STUDY`; paths in its plan are relative to the working folder.
        name: the run, see `find_run`.
        output: the artifact to write; by default bundle/TASK.MODEL.VARIANT.SEED in `results`.

    Raises:
        UserError: the run is unknown or not finished, its task or its form cannot be bundled, or the bundle does not
            give the logits of the evaluation.
    """
    study, run = find_run(results, name)
    folder = results.parent if results.suffix == ".json" else results
    output = folder / "bundle" / run_name(run, ".") if output is None else output
    export = Path(run["export"])
    about: dict[str, Any] = {"run": run_name(run), "study": study["study"]}
    for kind in ("data", "checkpoint", "export", "evaluation"):
        open_artifact(Path(run[kind]), kind)
    facts = _facts(study, run)
    with new_artifact(output, "bundle", about) as draft:
        for file in export.glob(GRAPH):
            shutil.copyfile(file, draft / file.name)
        if (export / FORM).is_dir():
            shutil.copytree(export / FORM, draft / NATIVE, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copyfile(export / TOKENIZER_FILE, draft / TOKENIZER_FILE)
        (draft / FACTS).write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
        for part in PROGRAM:
            target = draft / CODE / "intaglio" / part
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(_PACKAGE / part, target)
        differences = compare(draft, facts["forms"], run, _limit(export))
        for written, text in _rendered(facts_of_card(folder, study, run, facts, differences, draft)).items():
            (draft / written).write_text(text)
        for compiled in list(draft.rglob("__pycache__")):
            shutil.rmtree(compiled)
        files = (path for path in sorted(draft.rglob("*")) if path.is_file())
        about["sha256"] = {str(path.relative_to(draft)): sha256_of(path) for path in files}
    return output


def _facts(study: Mapping[str, Any], run: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of bundle.json.

    Raises:
        UserError: the run cannot be bundled.
    """
    export, name = Path(run["export"]), run_name(run)
    record = json.loads((export / RECORD).read_text())
    task, asked = read_task(Path(run["data"])), study["tasks"][run["task"]]
    checkpoint = Checkpoint(Path(run["checkpoint"]))
    if not (export / TOKENIZER_FILE).is_file():
        raise UserError(f"{name}: its tokenizer has no {TOKENIZER_FILE}, so it cannot be bundled")
    labels = task["labels"] if task["kind"] != QUESTIONS else ["answer", *(["none"] if task["unanswerable"] else [])]
    return {
        "format": FORMAT,
        "run": name,
        "kind": task["kind"],
        "labels": labels,
        "thresholds": checkpoint.thresholds,
        "text": asked["text"],
        "preprocess": _preprocess(asked["preprocess"], asked["language"]),
        "windows": _windows(task, study["max_length"]) if task["kind"] == QUESTIONS else None,
        "max_length": study["max_length"],
        "inputs": record["inputs"],
        "pad_token": checkpoint.tokenizer.pad_token_id,
        "truncation_side": checkpoint.tokenizer.truncation_side,
        # As the evaluation does: ranges that are computed at every call depend on the other texts in it.
        "batch_size": 1 if record.get("int8") else 32,
        "forms": [*([NATIVE] if (export / FORM).is_dir() else []), record["format"]],
        "integer": record["integer"],
    }


def _preprocess(steps: Sequence[str], language: str) -> dict[str, Any]:
    """Return the steps that change texts, with the words and the libraries that they need where the bundle runs."""
    return {
        "steps": list(steps),
        "language": language,
        "stop_words": sorted(english_stop_words()) if "stop_words" in steps else None,
        "libraries": {name: importlib.metadata.version(name) for step in steps for name in OF_STEPS.get(step, ())},
    }


def _windows(task: Mapping[str, Any], max_length: int) -> dict[str, Any]:
    """Return how questions are read and answered."""
    stride, longest = shape_of(task, max_length)
    answers = {"longest_answer": task.get("longest_answer") or LONGEST_ANSWER, "unanswerable": task["unanswerable"]}
    return {"stride": stride, "longest_question": longest, **answers}


def _limit(export: Path) -> Limit:
    """Return what is allowed between logits and the evaluation's, which another device may have computed."""
    record = json.loads((export / RECORD).read_text())
    # A value on the edge between two 8-bit integers may become either of them.
    return ISLANDS_LIMIT if record.get("int8") else Limit(record["tolerance"], record["measure"])


def _rendered(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return the contents of the files that are made of templates."""
    templates = Environment(
        loader=PackageLoader("intaglio.bundle"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return {file: templates.get_template(f"{file}.jinja").render(facts) for file in _WRITTEN}
