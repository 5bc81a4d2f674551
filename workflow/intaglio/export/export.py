"""From a checkpoint to the [export] artifact: an ONNX file that was seen to compute what the checkpoint does."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from intaglio.arithmetic.operations import OPERATIONS
from intaglio.encoder.checkpoint import CONFIG, OURS, is_ours
from intaglio.encoder.model import Encoder
from intaglio.errors import UserError
from intaglio.export.parity import Batch, check_batches, head_input_of, largest_difference, logits_of
from intaglio.export.session import MODEL, RECORD
from intaglio.stages.load import load_checkpoint
from intaglio.store import new_artifact, open_artifact

if TYPE_CHECKING:
    import onnx

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
LOGITS = "logits"
# The input of the classification head in the graph of an integer encoder, float32 [batch, width].
HIDDEN = "hidden"
# Largest difference of a logit. Integers agree to the bit (compared where they enter the head), so that in `int` only
# the head's floating point remains. Between islands of floating point its last digit can turn an integer by one, which
# travels through all layers: on random tokens and MiniLM that was 0.06; a wrong graph is further off.
INTEGER_TOLERANCE, ISLANDS_TOLERANCE, FLOAT_TOLERANCE = 1e-5, 0.25, 1e-3
# A protobuf message can hold no more.
_LARGEST_FILE = 2**31 - 2**20


def export(checkpoint: Path, output: Path) -> None:
    """Write a checkpoint as an [export]: model.onnx, tokenizer, config.json with the labels' names, export.json.

    Raises:
        UserError: the checkpoint is damaged or of a kind that ONNX cannot express, or the file computes something else.
    """
    about: dict[str, Any] = {"checkpoint": open_artifact(checkpoint, "checkpoint")}
    model, tokenizer = load_checkpoint(checkpoint)
    config = json.loads((checkpoint / CONFIG).read_text())
    inputs = [name for name in INPUTS if name in tokenizer.model_input_names]
    integer = [operation for operation in OPERATIONS if is_ours(checkpoint) and operation in model.shape.integer]
    graph = _graph(checkpoint, model, inputs, integer)
    batches = check_batches(tokenizer, config)
    with new_artifact(output, "export", about) as draft:
        _save(graph, draft / MODEL)
        about["difference"], about["tolerance"] = _check(checkpoint, model, draft / MODEL, integer, batches)
        tokenizer.save_pretrained(draft)
        plain = {name: value for name, value in config.items() if name != OURS}
        (draft / CONFIG).write_text(json.dumps(plain, indent=1, sort_keys=True) + "\n")
        record = {
            "format": "onnx",
            "opset": next(used.version for used in graph.opset_import if used.domain in ("", "ai.onnx")),
            "integer": integer,
            "floating": [operation for operation in OPERATIONS if operation not in integer],
            "inputs": [given.name for given in graph.graph.input],
            "difference": about["difference"],
            "tolerance": about["tolerance"],
        }
        (draft / RECORD).write_text(json.dumps(record, indent=1) + "\n")


def _graph(checkpoint: Path, model: Any, inputs: list[str], integer: Sequence[str]) -> onnx.ModelProto:
    if integer:
        from intaglio.export.integer_onnx import integer_onnx

        return integer_onnx(model, "token_type_ids" in inputs)
    from intaglio.export.float_onnx import float_onnx

    try:
        return float_onnx(model, inputs)
    except torch.onnx.OnnxExporterError as error:
        kind = json.loads((checkpoint / CONFIG).read_text())["model_type"]
        raise UserError(
            f"{checkpoint}: torch.onnx cannot export a {kind!r} "
            f"({str(error).strip().splitlines()[0]}); take a model of another type"
        ) from error


def _save(graph: onnx.ModelProto, path: Path) -> None:
    """Write one file, or the weights beside it where they are beyond what one can hold."""
    import onnx

    large = sum(len(tensor.raw_data) for tensor in graph.graph.initializer) > _LARGEST_FILE
    onnx.save(graph, path, save_as_external_data=large, location=f"{path.name}.data")


def _check(
    checkpoint: Path, model: Any, file: Path, integer: Sequence[str], batches: list[Batch]
) -> tuple[float, float]:
    """Compare the file with the checkpoint; return the largest difference of a logit, and what is allowed.

    Raises:
        UserError: it is more than that, or integers differ.
    """
    tolerance = FLOAT_TOLERANCE if not integer else ISLANDS_TOLERANCE
    if len(integer) == len(OPERATIONS):
        tolerance = INTEGER_TOLERANCE
        _check_integers(checkpoint, model, file, batches)
    difference = largest_difference(logits_of(model), file, LOGITS, batches)
    if difference > tolerance:
        raise UserError(
            f"{checkpoint}: its ONNX model is not exported, for logits differ by {difference:.3g} from the checkpoint's"
            f" where {tolerance:.3g} is allowed; leave the variant out, and report it with the checkpoint"
        )
    return difference, tolerance


def _check_integers(checkpoint: Path, encoder: Encoder, file: Path, batches: list[Batch]) -> None:
    """Compare to the bit what the integers have become where they enter the classification head."""
    import onnx

    graph = onnx.load(file)
    shown = file.with_name("check.onnx")
    graph.graph.output.append(onnx.helper.make_tensor_value_info(HIDDEN, onnx.TensorProto.FLOAT, None))
    onnx.save(graph, shown)
    try:
        # As anyone runs the file, and as it is run here.
        expected = head_input_of(encoder)
        difference = max(largest_difference(expected, shown, HIDDEN, batches, as_stored) for as_stored in (True, False))
    finally:
        shown.unlink()
    if difference:
        raise UserError(
            f"{checkpoint}: its ONNX model is not exported, for its integers differ from the checkpoint's, by"
            f" {difference:.3g} in what enters the classifier where 0 is allowed; report it with the checkpoint"
        )
