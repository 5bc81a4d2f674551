"""Post-training quantization to 8 bits: from a float checkpoint to a graph that ONNX Runtime executes.

What comes out is held against what goes in: on validation examples, few predictions may change.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from intaglio.checkpoint import load_checkpoint
from intaglio.encoder.checkpoint import CONFIG, OURS, is_quantized
from intaglio.errors import UserError
from intaglio.machine import device_name
from intaglio.onnx.calibration import calibrate
from intaglio.onnx.float_graph import float_graph, graph_inputs
from intaglio.onnx.graph import model_files, save
from intaglio.onnx.int8_graph import quantize
from intaglio.onnx.linear import linear_inputs, separate_attention
from intaglio.onnx.runtime import OnnxModel
from intaglio.onnx.session import MODEL, open_session
from intaglio.stages.checkpoint import read_record, training_record, write_checkpoint
from intaglio.study.options import Int8Options
from intaglio.tasks.kinds import classes_of, kind_of
from intaglio.tasks.tokenize import read_split, read_task, tokenize
from intaglio.training.resume import clear_failure
from intaglio.training.train import TrainingResult

# Validation examples on which the parent predicts too.
COMPARED = 500
# What the parent's record says of its weights: zeros stay zeros, and what was cut stays cut.
_KEPT = ("sparsity", "cut")
Example = dict[str, list[int]]
Logits = NDArray[np.float32]


def int8(parent: Path, data: Path, options: Int8Options, seed: int, max_length: int, work: Path, output: Path) -> None:
    """Quantize a float checkpoint to 8 bits and write a [checkpoint] that holds model.onnx in the place of weights.

    Its training time is that of exporting, calibrating and quantizing.

    Args:
        parent: the float [checkpoint] of the same seed.
        data: a [data] artifact.
        options: what to do.
        seed: of the draw of the examples that are calibrated on and compared on.
        max_length: tokens at which texts are cut.
        work: folder for graphs on their way, of this job alone; removed in the end.
        output: the [checkpoint] artifact to write.

    Raises:
        UserError: the parent is quantized already, is damaged or cannot be expressed in ONNX, or too many predictions
            change.
    """
    before = read_record(parent)
    if is_quantized(parent):
        raise UserError(f"{parent}: is quantized already; int8 starts from a float checkpoint")
    clear_failure(work)
    work.mkdir(parents=True, exist_ok=True)
    model, tokenizer = load_checkpoint(parent)
    examples = tokenize(tokenizer, _drawn(data, "train", options.calibration_examples, seed), max_length)
    start = time.perf_counter()
    _write_graph(parent, model, graph_inputs(tokenizer), examples, options, work)
    seconds = time.perf_counter() - start
    quantized = OnnxModel(open_session(work / MODEL, torch.get_num_threads()))
    task, validation = read_task(data), read_split(data, "validation")
    tokens = tokenize(tokenizer, validation, max_length)
    logits = predict(quantized, tokens)
    conversion = _compare(parent, model, tokens, logits, options, seed)
    result = TrainingResult(
        model=model,
        seconds=seconds,
        step_seconds_mean=0.0,
        step_seconds_median=0.0,
        steps=0,
        epochs=0.0,
        best_step=0,
        validation=kind_of(task).validation(task["metric"], classes_of(task), validation["label"].to_numpy(), logits),
        history=[],
        device=device_name("cpu"),
    )
    record = training_record(result, options, seed, parent) | {"conversion": conversion}
    record |= {name: before[name] for name in _KEPT if name in before}
    described = json.loads((parent / CONFIG).read_text()) | {OURS: {"int8": options.model_dump(mode="json")}}

    def put(folder: Path) -> None:
        import onnx

        graph = onnx.load(work / MODEL, load_external_data=False).graph
        for file in model_files(work / MODEL, graph):
            shutil.copyfile(file, folder / file.name)
        (folder / CONFIG).write_text(json.dumps(described, indent=1, sort_keys=True) + "\n")

    write_checkpoint(output, put, tokenizer, record, result.history)
    shutil.rmtree(work, ignore_errors=True)


def _write_graph(
    parent: Path, model: Any, inputs: list[str], examples: Sequence[Example], options: Int8Options, work: Path
) -> None:
    """Write the quantized graph into the work folder."""
    graph = float_graph(parent, model, inputs)
    separate_attention(graph)
    ranges = {}
    if options.method == "static":
        # One example at a time, so that nothing is padded.
        batches = [{name: np.array([example[name]]) for name in inputs} for example in examples]
        threads = torch.get_num_threads()
        names = linear_inputs(graph)
        ranges = calibrate(graph, names, batches, options.calibration, options.percentile, threads, work)
    quantize(graph, options.method, options.per_channel, ranges)
    save(graph, work / MODEL)


def _drawn(data: Path, split: str, count: int, seed: int) -> Any:
    """Return so many rows of a split, or all, drawn by the seed."""
    table = read_split(data, split)
    return table.take(_rows(table.num_rows, count, seed))


def _rows(total: int, count: int, seed: int) -> NDArray[np.int64]:
    return np.sort(np.random.default_rng(seed).choice(total, min(count, total), replace=False))


@torch.inference_mode()
def predict(model: Any, examples: Sequence[Example]) -> Logits:
    """Return the logits of tokenized examples, [examples, labels], each on its own: no padding, no others' ranges."""
    tensors = ({name: torch.tensor([tokens]) for name, tokens in example.items()} for example in examples)
    return np.concatenate([model(**inputs).logits.float().numpy() for inputs in tensors])


def _compare(
    parent: Path, model: Any, tokens: Sequence[Example], logits: Logits, options: Int8Options, seed: int
) -> dict[str, Any]:
    """Return what share of predictions changes from the parent's, on validation examples drawn by the seed.

    Raises:
        UserError: it is more than the options allow, or a logit is not finite.
    """
    rows = _rows(len(tokens), COMPARED, seed)
    expected = predict(model, [tokens[row] for row in rows])
    if not np.isfinite(expected).all() or not np.isfinite(logits).all():
        raise UserError(f"{parent}: logits are not finite; the training has diverged, lower its learning rate")
    changed = int((expected.argmax(axis=1) != logits[rows].argmax(axis=1)).sum())
    share = changed / len(rows)
    if share > options.tolerance:
        raise UserError(
            f"{parent}: {options.method} int8 changes {changed} of {len(rows)} predictions on the validation split, "
            f"{share:.1%} where tolerance: {options.tolerance:.1%} is allowed; {_advice(options)}, or allow more"
        )
    return {"measure": "changed predictions", "difference": share, "tolerance": options.tolerance}


def _advice(options: Int8Options) -> str:
    if not options.per_channel:
        return "set per_channel: true"
    if options.method == "static":
        return "take another calibration, more calibration_examples, or method: dynamic"
    return "take method: weights" if options.method == "dynamic" else "quantize by training instead (stage: quantize)"
