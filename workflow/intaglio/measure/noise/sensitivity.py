"""Which layer and which operation cost an integer model most: each is switched, one at a time, without training.

An integer model is switched towards floating point, a float model towards integers that are calibrated and not trained.
The model's own weights in floating point are what all are compared with.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch

from intaglio.arithmetic.operations import OPERATIONS, SEPARABLE
from intaglio.checkpoint import Checkpoint
from intaglio.encoder.config import EncoderConfig
from intaglio.encoder.exact import EMBEDDINGS, EMBEDDINGS_NORM, exactly, switches
from intaglio.encoder.files import read_encoder
from intaglio.encoder.inner import float_twin, reshaped
from intaglio.encoder.model import Encoder
from intaglio.encoder.padding import PADDING
from intaglio.errors import UserError
from intaglio.measure.noise.tensors import Batches, decibels, drawn_batches
from intaglio.stages.quantize import calibrate_ranges
from intaglio.store import new_file
from intaglio.study.options import QuantizeOptions

_Logits = list[torch.Tensor]


@dataclass(frozen=True)
class Sensitivity:
    """What it costs that one thing of a model is switched.

    Attributes:
        switched: an operation in all layers (`gelu`), in one (`3.gelu`), a whole layer (`layer 3`), `embeddings`, or
            weights that get 8 bits (`weights in 8 bits`); "nothing" or "everything" in the first row.
        to: `float`, `integers`, or `8 bits`.
        snr_db: signal to noise of the logits, in dB; infinite without noise.
        gain_db: by how much that is more than in the first row, in dB.
        option: the option of the stage quantize that takes it; "" if none does.
    """

    switched: str
    to: str
    snr_db: float
    gain_db: float
    option: str


@torch.inference_mode()
def sensitivities(checkpoint: Path, data: Path, max_length: int, count: int = 128, seed: int = 0) -> list[Sensitivity]:
    """Rank what a model gains or loses by each operation, layer by layer; after a first row, the most decisive first.

    An integer model gains most by what is first in floating point; a float model loses most by what is first on
    integers.

    Args:
        checkpoint: a [checkpoint] of the stage quantize, or one in floating point.
        data: the [tokens] artifact of its task and tokenizer, or [data].
        max_length: number of tokens at which texts are truncated.
        count: number of validation rows, drawn at random.
        seed: of the draw.

    Raises:
        UserError: the checkpoint is an 8-bit graph or of another architecture, or an artifact is damaged.
    """
    opened = Checkpoint(checkpoint)
    if opened.kind == "graph":
        raise UserError(
            f"{checkpoint}: is an 8-bit graph; give a checkpoint in floating point, or of the stage quantize"
        )
    batches = drawn_batches(data, "validation", opened.tokenizer, max_length, count, seed)
    if opened.integers:
        return _to_float(opened.load(), batches)
    options = QuantizeOptions()
    encoder = read_encoder(checkpoint, frozenset(OPERATIONS))
    drawn = drawn_batches(data, "train", opened.tokenizer, max_length, options.calibration_examples, seed)
    calibrate_ranges(encoder, drawn, options.momentum)
    return _to_integers(encoder, batches)


def write_sensitivities(found: Sequence[Sensitivity], path: Path) -> None:
    """Write a ranking as CSV, a column for each attribute of `Sensitivity`."""
    with new_file(path) as draft, draft.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [column.name for column in fields(Sensitivity)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(each) for each in found)


def _to_float(encoder: Encoder, batches: Batches) -> list[Sensitivity]:
    """Return what an integer model gains by each thing in floating point, or in 8 bits for 4."""
    twin, shape = float_twin(encoder), encoder.shape
    expected = _logits(twin, batches)
    base = _noise(expected, _logits(encoder, batches))
    found = []
    for name, exact, option in _groups(shape):
        with exactly(encoder, twin, exact | ({EMBEDDINGS_NORM} if name == "layernorm" else set())):
            noise = _noise(expected, _logits(encoder, batches))
        found.append(Sensitivity(name, "float", noise, noise - base, option))
    for name, of in (("weights", "weight_bits"), ("embeddings", "embedding_bits")):
        if getattr(shape, of) < 8:
            noise = _noise(expected, _logits(reshaped(encoder, **{of: 8}), batches))
            found.append(Sensitivity(f"{name} in 8 bits", "8 bits", noise, noise - base, "bits"))
    return [Sensitivity("nothing", "float", base, 0.0, ""), *sorted(found, key=lambda each: -each.snr_db)]


def _to_integers(encoder: Encoder, batches: Batches) -> list[Sensitivity]:
    """Return what each thing alone costs on integers, where all else is in floating point."""
    twin, everything = float_twin(encoder), set(switches(encoder.shape))
    expected = _logits(twin, batches)
    base = _noise(expected, _logits(encoder, batches))
    found = []
    for name, alone, option in _groups(encoder.shape):
        with exactly(encoder, twin, everything - alone):
            noise = _noise(expected, _logits(encoder, batches))
        found.append(Sensitivity(name, "integers", noise, noise - base, option))
    return [Sensitivity("everything", "integers", base, 0.0, ""), *sorted(found, key=lambda each: each.snr_db)]


def _groups(shape: EncoderConfig) -> Iterator[tuple[str, set[str], str]]:
    """Yield what is switched together: its name, some of `switches`, and the option of quantize that keeps it float."""
    known = switches(shape)
    yield EMBEDDINGS, {EMBEDDINGS}, ""
    for operation in OPERATIONS:
        if found := {name for name in known if name.endswith(f".{operation}")}:
            yield operation, found, "" if operation == "linear" else "integer"
    for layer in range(len(shape.heads)):
        of_layer = {name for name in known if name.startswith(f"{layer}.")}
        yield f"layer {layer}", of_layer, ""
        for name in sorted(of_layer):
            yield name, {name}, "keep_float" if name.partition(".")[2] in SEPARABLE else ""


def _logits(model: Encoder, batches: Batches) -> _Logits:
    return [model(**batch).logits for batch in batches]


def _noise(expected: _Logits, found: _Logits) -> float:
    """Return the signal to noise of logits in dB, without those of padding."""
    signal = noise = 0.0
    for x, y in zip(expected, found, strict=True):
        present = x != PADDING
        exact = x[present].double()
        signal += float(exact.square().sum())
        noise += float((exact - y[present].double()).square().sum())
    return decibels(signal, noise)
