"""Post-training quantization to 8 bits: from a float checkpoint to a graph that ONNX Runtime executes.

The predictions of the graph are compared with those of the parent on validation examples.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from intaglio.checkpoint import Checkpoint
from intaglio.encoder.files import CONFIG, SECTION
from intaglio.errors import UserError
from intaglio.machine import device_name
from intaglio.onnx.calibration import activation_ranges
from intaglio.onnx.float_graph import float_graph, graph_inputs
from intaglio.onnx.graph import model_files, save
from intaglio.onnx.int8_graph import quantize_graph
from intaglio.onnx.linear import floating_products, linear_inputs, separate_attention, share_weights
from intaglio.onnx.runtime import OnnxModel
from intaglio.onnx.session import MODEL, open_session
from intaglio.stages.changes import prediction_changes
from intaglio.stages.prepared import Prepared
from intaglio.study.options import Int8Options
from intaglio.tasks.kinds import classes_of, kind_of
from intaglio.tasks.tokenize import read_split, tokenize
from intaglio.training.job import StageJob
from intaglio.training.train import TrainingResult

# Number of validation examples on which predictions are compared.
_COMPARED = 500
# Facts of the parent's record that remain true: zeros stay zeros, and cut parts stay cut.
_KEPT = ("sparsity", "cut")
_Example = dict[str, list[int]]
_Logits = NDArray[np.float32]


def prepare(job: StageJob[Int8Options]) -> Prepared:
    """Return the parent as an 8-bit graph, which takes the place of weights in the checkpoint.

    Nothing is trained; the training time is the time to export, calibrate and quantize.

    Raises:
        UserError: the parent is quantized already, is damaged or cannot be expressed in ONNX, or too many predictions
            change.
    """
    parent, options = job.parent, job.options
    if parent.is_quantized:
        raise UserError(f"{parent}: is quantized already; int8 starts from a float checkpoint")
    before = parent.record
    job.work.mkdir(parents=True, exist_ok=True)
    model, tokenizer = parent.load(), parent.tokenizer
    examples = tokenize(tokenizer, _drawn(job, "train", options.calibration_examples), job.max_length)
    start = time.perf_counter()
    _write_graph(parent, model, graph_inputs(tokenizer), examples, options, job.work)
    seconds = time.perf_counter() - start
    quantized = OnnxModel(open_session(job.work / MODEL, torch.get_num_threads()))
    validation = read_split(job.data, "validation")
    tokens = tokenize(tokenizer, validation, job.max_length)
    logits = predict_singly(quantized, tokens)
    conversion = _compare(job, model, tokens, logits)
    result = TrainingResult(
        seconds=seconds,
        validation=kind_of(job.task).validation(
            job.task["metric"], classes_of(job.task), validation["label"].to_numpy(), logits
        ),
        device=device_name("cpu"),
    )
    facts = {"conversion": conversion} | {name: before[name] for name in _KEPT if name in before}
    described = parent.described | {SECTION: {"int8": options.model_dump(mode="json")}}
    return Prepared(result, partial(_save_graph, job.work / MODEL, described), lambda: facts)


def _save_graph(file: Path, described: dict[str, Any], folder: Path) -> None:
    """Copy a graph with its files into a checkpoint's folder, and write config.json."""
    import onnx

    graph = onnx.load(file, load_external_data=False).graph
    for part in model_files(file, graph):
        shutil.copyfile(part, folder / part.name)
    (folder / CONFIG).write_text(json.dumps(described, indent=1, sort_keys=True) + "\n")


def _write_graph(
    parent: Checkpoint, model: Any, inputs: list[str], examples: Sequence[_Example], options: Int8Options, work: Path
) -> None:
    """Write the quantized graph into the work folder.

    Raises:
        UserError: torch cannot express the model in ONNX, or a linear layer would stay in floating point.
    """
    graph = float_graph(parent.path, model, inputs)
    separate_attention(graph)
    share_weights(graph)
    ranges = {}
    if options.method == "static":
        # One example at a time, so that there is no padding.
        batches = [{name: np.array([example[name]]) for name in inputs} for example in examples]
        threads = torch.get_num_threads()
        names = linear_inputs(graph)
        ranges = activation_ranges(graph, names, batches, options.calibration, options.percentile, threads, work)
    found = quantize_graph(graph, options.method, options.per_channel, ranges)
    left = len(floating_products(graph))
    if left or not found:
        kinds = ", ".join(sorted({str(p.dtype).removeprefix("torch.") for p in model.parameters()}))
        raise UserError(
            f"{parent}: int8 takes only {found} of {found + left} linear layers (weights: {kinds}); it needs float32 "
            "weights: fine-tune the model again, or take one of another type"
        )
    save(graph, work / MODEL)


def _drawn(job: StageJob[Int8Options], split: str, count: int) -> Any:
    """Return randomly drawn rows of a split; all of them if there are not more than `count`."""
    table = read_split(job.data, split)
    return table.take(_rows(table.num_rows, count, job.seed))


def _rows(total: int, count: int, seed: int) -> NDArray[np.int64]:
    return np.sort(np.random.default_rng(seed).choice(total, min(count, total), replace=False))


@torch.inference_mode()
def predict_singly(model: Any, examples: Sequence[_Example]) -> _Logits:
    """Return the logits [examples, labels] of tokenized examples, each in a batch of its own, without padding."""
    tensors = ({name: torch.tensor([tokens]) for name, tokens in example.items()} for example in examples)
    return np.concatenate([model(**inputs).logits.float().numpy() for inputs in tensors])


def _compare(job: StageJob[Int8Options], model: Any, tokens: Sequence[_Example], logits: _Logits) -> dict[str, Any]:
    """Compare predictions with the parent's, on randomly drawn validation examples; return the result for the record.

    Raises:
        UserError: the share of changed predictions is significantly above the tolerance, over all examples or over
            those of one predicted class; or logits are not finite.
    """
    parent, options = job.parent, job.options
    rows = _rows(len(tokens), _COMPARED, job.seed)
    expected = predict_singly(model, [tokens[row] for row in rows])
    if not np.isfinite(expected).all() or not np.isfinite(logits).all():
        raise UserError(f"{parent}: logits are not finite; the training has diverged, lower its learning rate")
    changes = prediction_changes(expected.argmax(axis=1), logits[rows].argmax(axis=1), job.task["labels"])
    excess = changes.excess(options.tolerance)
    if excess:
        raise UserError(
            f"{parent}: {options.method} int8 changes {excess} on the validation split; tolerance: "
            f"{options.tolerance:.1%} is allowed; {_advice(options)}, or allow more"
        )
    return changes.total.facts("changed predictions", options.tolerance)


def _advice(options: Int8Options) -> str:
    if not options.per_channel:
        return "set per_channel: true"
    if options.method == "static":
        return "take another calibration, more calibration_examples, or method: dynamic"
    return "take method: weights" if options.method == "dynamic" else "quantize by training instead (stage: quantize)"
