"""From a checkpoint to the [export] artifact: an ONNX file whose results were compared with the checkpoint's."""

from __future__ import annotations

import filecmp
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from intaglio.arithmetic.operations import OPERATIONS
from intaglio.checkpoint import Checkpoint, Engine, graph_files, save_tokenizer
from intaglio.encoder.files import CONFIG, SECTION
from intaglio.encoder.model import Encoder
from intaglio.errors import UserError
from intaglio.export.native_form import add_native_form
from intaglio.export.parity import (
    MEAN_OF_TEXTS,
    Batch,
    Limit,
    check_batches,
    graph_output,
    head_input_of,
    logits_of,
    text_differences,
)
from intaglio.export.sizes import size_rows
from intaglio.metrics import REGRESSION
from intaglio.native.runner import FORM
from intaglio.onnx.float_graph import LOGITS, float_graph, graph_inputs
from intaglio.onnx.graph import save
from intaglio.onnx.session import MODEL, RECORD
from intaglio.openvino.session import input_names
from intaglio.schemas import SIZES, write_table
from intaglio.store import new_artifact

if TYPE_CHECKING:
    import onnx

# Name of the classification head's input in the graph of an integer encoder, float32 [batch, width].
HIDDEN = "hidden"
# Integers agree bit for bit (compared at the input of the head), so for `int` only the head's rounding remains. Of a
# partly integer MiniLM, some 1 of 20 random texts differs at all, by 0.001 to 0.3: by as much as torch's own logits
# do with LayerNorm in 64 bits. The mean was 0.025 at most. With the bias of one layer's queries lost it was 0.07, with
# ReLU for GELU in one of the first layers 0.18 and 0.25, in the last one only 0.026.
INTEGER_LIMIT, ISLANDS_LIMIT, FLOAT_LIMIT = Limit(1e-5), Limit(0.05, MEAN_OF_TEXTS), Limit(1e-3)


def export(checkpoint: Path, output: Path) -> None:
    """Write a checkpoint as an [export]: model.onnx, tokenizer, config.json with the names of labels, and two records.

    Integer models have a native form beside the graph (`intaglio.export.native_form`). In place of model.onnx, an 8-bit
    model for OpenVINO has model.xml and model.bin.

    export.json names operations and inputs of the graph, and thresholds that were tuned;
    sizes.parquet has the sizes of file, tensors and checkpoint.

    Raises:
        UserError: the checkpoint is damaged or cannot be expressed in ONNX, or the file computes something else.
    """
    opened = Checkpoint(checkpoint)
    about: dict[str, Any] = {"checkpoint": opened.about}
    model = None if opened.engine else opened.load()
    with new_artifact(output, "export", about) as draft:
        record = _hand_on(opened, opened.engine, draft) if opened.engine else _write(opened, model, draft)
        write_table(draft / "sizes.parquet", size_rows(checkpoint, draft, model), SIZES)
        about |= {name: record[name] for name in ("measure", "difference", "tolerance")}
        if opened.thresholds is not None:
            record["thresholds"] = opened.record["thresholds"]
        save_tokenizer(opened.tokenizer, draft)
        plain = {name: value for name, value in opened.described.items() if name != SECTION}
        (draft / CONFIG).write_text(json.dumps(plain, indent=1, sort_keys=True) + "\n")
        (draft / RECORD).write_text(json.dumps(record, indent=1) + "\n")


def _write(checkpoint: Checkpoint, model: Any, draft: Path) -> dict[str, Any]:
    """Write the graph of a checkpoint's model in torch; return the content of export.json."""
    tokenizer = checkpoint.tokenizer
    inputs = graph_inputs(tokenizer)
    integer = [operation for operation in OPERATIONS if operation in checkpoint.integers]
    graph = _graph(checkpoint.path, model, inputs, integer)
    save(graph, draft / MODEL)
    batches = check_batches(tokenizer, checkpoint.described)
    difference, limit = _check(checkpoint, model, draft / MODEL, integer, batches)
    if integer:
        add_native_form(checkpoint.path, model, draft / FORM, limit, batches)
    kept = {"keep_float": sorted(checkpoint.keep_float)} if checkpoint.keep_float else {}
    compared = {"measure": limit.measure, "difference": difference, "tolerance": limit.tolerance}
    return _record(graph, integer) | kept | compared


def _graph(checkpoint: Path, model: Any, inputs: list[str], integer: Sequence[str]) -> onnx.ModelProto:
    if not integer:
        return float_graph(checkpoint, model, inputs)
    from intaglio.onnx.integer_graph import integer_onnx

    return integer_onnx(model, "token_type_ids" in inputs)


def _hand_on(checkpoint: Checkpoint, engine: Engine, draft: Path) -> dict[str, Any]:
    """Copy the graph of a checkpoint that is a graph already; return the content of export.json.

    Raises:
        UserError: the copy differs.
    """
    files = graph_files(checkpoint.path, engine)
    for file in files:
        shutil.copyfile(file, draft / file.name)
        if not filecmp.cmp(file, draft / file.name, shallow=False):
            raise UserError(f"{checkpoint}: the copy of {file.name} is another file; check the disk and export again")
    options = checkpoint.described[SECTION]["int8"]
    if engine == "openvino":
        method, record = "static", {"format": "openvino", "integer": [], "inputs": input_names(files[0])}
    else:
        import onnx

        method, record = options["method"], _record(onnx.load(files[0], load_external_data=False), [])
    # Between linear layers, everything is floating point.
    floating = [operation for operation in OPERATIONS if operation != "linear" or method == "weights"]
    return record | {
        "int8": method,
        "floating": floating,
        "measure": FLOAT_LIMIT.measure,
        "difference": 0.0,
        "tolerance": 0.0,
    }


def _record(graph: onnx.ModelProto, integer: Sequence[str]) -> dict[str, Any]:
    return {
        "format": "onnx",
        "opset": next(used.version for used in graph.opset_import if used.domain in ("", "ai.onnx")),
        "integer": list(integer),
        "floating": [operation for operation in OPERATIONS if operation not in integer],
        "inputs": [given.name for given in graph.graph.input],
    }


def _check(
    checkpoint: Checkpoint, model: Any, file: Path, integer: Sequence[str], batches: list[Batch]
) -> tuple[float, Limit]:
    """Compare the file with the checkpoint; return the difference of logits, and what is allowed.

    Raises:
        UserError: it is more, or integers differ.
    """
    limit = FLOAT_LIMIT if not integer else ISLANDS_LIMIT
    if checkpoint.is_integer_only:
        limit = INTEGER_LIMIT
        _check_integers(checkpoint.path, model, file, batches)
    expected = logits_of(model)
    if checkpoint.described.get("problem_type") == REGRESSION:
        # Values have any size, and so has the rounding of their last digits.
        largest = max(float(expected(batch).abs().max()) for batch in batches)
        limit = replace(limit, tolerance=limit.tolerance * max(1.0, largest))
    difference = limit.of(text_differences(expected, graph_output(file, LOGITS), batches))
    if difference > limit.tolerance:
        raise UserError(
            f"{checkpoint}: its ONNX model is not exported, for logits differ by {difference:.3g} from the checkpoint's"
            f" where {limit.tolerance:.3g} is allowed ({limit.measure}); leave the variant out, and report it with the "
            "checkpoint"
        )
    return difference, limit


def _check_integers(checkpoint: Path, encoder: Encoder, file: Path, batches: list[Batch]) -> None:
    """Compare the integers bit for bit, at the input of the classification head."""
    import onnx

    graph = onnx.load(file)
    shown = file.with_name("check.onnx")
    graph.graph.output.append(onnx.helper.make_tensor_value_info(HIDDEN, onnx.TensorProto.FLOAT, None))
    onnx.save(graph, shown)
    try:
        # With weights as stored, and as this CPU runs them.
        expected = head_input_of(encoder)
        graphs = [graph_output(shown, HIDDEN, as_stored) for as_stored in (True, False)]
        difference = max(float(text_differences(expected, graph, batches).max()) for graph in graphs)
    finally:
        shown.unlink()
    if difference:
        raise UserError(
            f"{checkpoint}: its ONNX model is not exported, for its integers differ from the checkpoint's, by"
            f" {difference:.3g} in what enters the classifier where 0 is allowed; report it with the checkpoint"
        )
