"""Post-training quantization to 8 bits: from a float checkpoint to a graph that ONNX Runtime or OpenVINO executes.

The predictions of the graph are compared with those of the parent on validation examples.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from intaglio.checkpoint import Checkpoint, Engine, graph_files, open_graph
from intaglio.encoder.files import CONFIG, SECTION
from intaglio.errors import UserError
from intaglio.kinds import kind_of
from intaglio.machine import device_name
from intaglio.metrics import named
from intaglio.onnx.calibration import activation_ranges
from intaglio.onnx.float_graph import float_graph, graph_inputs
from intaglio.onnx.graph import save
from intaglio.onnx.int8_graph import quantize_graph
from intaglio.onnx.linear import floating_products, linear_inputs, separate_attention, share_weights
from intaglio.onnx.session import MODEL
from intaglio.openvino.int8 import AccuracyControl, LinearLayers, quantize_with_nncf
from intaglio.openvino.session import IR
from intaglio.stages.changes import prediction_changes
from intaglio.stages.prepared import Prepared
from intaglio.study.options import Int8Options
from intaglio.tokens.encoded import Encoded, Rows, joined_logits, read_encoded
from intaglio.training.job import StageJob
from intaglio.training.train import TrainingResult

if TYPE_CHECKING:
    import onnx

# Number of validation examples on which predictions are compared.
_COMPARED = 500
# Facts of the parent's record that remain true: zeros stay zeros, and cut parts stay cut.
_KEPT = ("sparsity", "cut")
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
    training, validation = (
        read_encoded(job.data, split, tokenizer, job.max_length) for split in ("train", "validation")
    )
    examples = training.rows.take(_rows(len(training.rows), options.calibration_examples, job.seed))
    inputs = graph_inputs(tokenizer)
    start = time.perf_counter()
    graph = float_graph(parent.path, model, inputs)
    if options.engine == "openvino":
        layers = _write_for_openvino(job, graph, inputs, examples, validation)
    else:
        layers = _write_for_onnxruntime(job, graph, inputs, examples)
    _check_layers(parent, model, layers, options)
    seconds = time.perf_counter() - start
    logits = predict_singly(open_graph(job.work, options.engine), validation.rows)
    conversion = _compare(job, model, validation, logits)
    if options.max_drop is not None:
        conversion["measure"] += f"; {layers.floating} of {layers.total} linear layers in floating point"
    tune = kind_of(job.task).tune
    result = TrainingResult(
        seconds=seconds,
        validation=validation.validation(job.task, logits),
        device=device_name("cpu"),
        thresholds=tune(validation.targets, validation.outputs(logits)) if tune else None,
    )
    facts = {"conversion": conversion} | {name: before[name] for name in _KEPT if name in before}
    described = parent.described | {SECTION: {"int8": options.model_dump(mode="json")}}
    return Prepared(result, partial(_save_graph, job.work, options.engine, described), lambda: facts)


def _save_graph(work: Path, engine: Engine, described: dict[str, Any], folder: Path) -> None:
    """Copy a graph with its files into a checkpoint's folder, and write config.json."""
    for part in graph_files(work, engine):
        shutil.copyfile(part, folder / part.name)
    (folder / CONFIG).write_text(json.dumps(described, indent=1, sort_keys=True) + "\n")


def _score(
    job: StageJob[Int8Options], validation: Encoded, rows: Sequence[int], logits: Sequence[NDArray[np.float32]]
) -> float:
    """Return the task's metric on these rows, negative if lower values are better."""
    metric = named(job.task["metric"])
    value = validation.take(np.array(rows)).validation(job.task, joined_logits(logits))[metric.name]
    return value if metric.higher_is_better else -value


def _write_for_onnxruntime(
    job: StageJob[Int8Options], graph: onnx.ModelProto, inputs: list[str], examples: Rows
) -> LinearLayers:
    """Quantize a float graph, and write it into the work folder."""
    options = job.options
    separate_attention(graph)
    share_weights(graph)
    ranges = {}
    if options.method == "static":
        names = linear_inputs(graph)
        batches, threads = _singly(inputs, examples), torch.get_num_threads()
        ranges = activation_ranges(graph, names, batches, options.calibration, options.percentile, threads, job.work)
    found = quantize_graph(graph, options.method, options.per_channel, ranges)
    save(graph, job.work / MODEL)
    left = len(floating_products(graph))
    return LinearLayers(found + left, left)


def _write_for_openvino(
    job: StageJob[Int8Options],
    graph: onnx.ModelProto,
    inputs: list[str],
    examples: Rows,
    validation: Encoded,
) -> LinearLayers:
    """Quantize a float graph with NNCF, and write it into the work folder."""
    control = None
    if job.options.max_drop is not None:
        control = AccuracyControl(
            [(row, place) for place, row in enumerate(_singly(inputs, validation.rows))],
            partial(_score, job, validation),
            job.options.max_drop / named(job.task["metric"]).scale,
        )
    return quantize_with_nncf(graph, _singly(inputs, examples), control, job.work / IR)


def _singly(inputs: list[str], examples: Rows) -> list[dict[str, NDArray[np.int64]]]:
    """Return inputs of a graph, one example at a time, so that there is no padding."""
    return [{name: np.array([example[name]]) for name in inputs} for example in examples]


def _check_layers(parent: Checkpoint, model: Any, layers: LinearLayers, options: Int8Options) -> None:
    """Refuse a graph with linear layers in floating point, unless control of its accuracy put them back.

    Raises:
        UserError: a linear layer is in floating point.
    """
    found = layers.total - layers.floating
    if layers.total and (found == layers.total or options.max_drop is not None):
        return
    kinds = ", ".join(sorted({str(p.dtype).removeprefix("torch.") for p in model.parameters()}))
    raise UserError(
        f"{parent}: int8 takes only {found} of {layers.total} linear layers (weights: {kinds}); it needs float32 "
        "weights: fine-tune the model again, or take one of another type"
    )


def _rows(total: int, count: int, seed: int) -> NDArray[np.int64]:
    """Return randomly drawn rows, ascending; all of them if there are not more than `count`."""
    return np.sort(np.random.default_rng(seed).choice(total, min(count, total), replace=False))


@torch.inference_mode()
def predict_singly(model: Any, examples: Rows) -> _Logits:
    """Return the joined logits of tokenized examples, each in a batch of its own, without padding."""
    tensors = ({name: torch.tensor([tokens]) for name, tokens in example.items()} for example in examples)
    return joined_logits([model(**inputs).logits.float().numpy() for inputs in tensors])


def _compare(job: StageJob[Int8Options], model: Any, validation: Encoded, logits: _Logits) -> dict[str, Any]:
    """Compare predictions with the parent's, on randomly drawn validation examples; return the result for the record.

    Raises:
        UserError: the share of changed predictions is significantly above the tolerance, over all examples or over
            those of one predicted class; or logits are not finite.
    """
    parent, options = job.parent, job.options
    rows = validation.rows_of(_rows(len(validation.targets), _COMPARED, job.seed))
    compared = validation.take(rows)
    expected = predict_singly(model, compared.rows)
    if not np.isfinite(expected).all() or not np.isfinite(logits).all():
        raise UserError(f"{parent}: logits are not finite; the training has diverged, lower its learning rate")
    kind, thresholds = kind_of(job.task), parent.thresholds
    before, after = (kind.decode(compared.outputs(found), thresholds) for found in (expected, logits[rows]))
    changes = prediction_changes(job.task, before, after)
    excess = changes.excess(options.tolerance)
    if excess:
        raise UserError(
            f"{parent}: {_called(options)} int8 changes {excess} on the validation split; tolerance: "
            f"{options.tolerance:.1%} is allowed; {_advice(options)}, or allow more"
        )
    return changes.total.facts("changed predictions", options.tolerance)


def _called(options: Int8Options) -> str:
    return "NNCF's" if options.engine == "openvino" else options.method


def _advice(options: Int8Options) -> str:
    if options.engine == "openvino":
        return "set a max_drop, or take more calibration_examples"
    if not options.per_channel:
        return "set per_channel: true"
    if options.method == "static":
        return "take another calibration, more calibration_examples, or method: dynamic"
    return "take method: weights" if options.method == "dynamic" else "quantize by training instead (stage: quantize)"
