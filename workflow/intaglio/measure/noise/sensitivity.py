"""Which operation of which layer costs an integer model most: each is put back into floating point, one at a time.

Nothing is trained. The model's own weights in floating point are what all are compared with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from intaglio.arithmetic.operations import OPERATIONS, SEPARABLE
from intaglio.checkpoint import Checkpoint
from intaglio.encoder.config import EncoderConfig
from intaglio.encoder.inner import float_twin
from intaglio.encoder.model import Encoder
from intaglio.encoder.padding import PADDING
from intaglio.errors import UserError
from intaglio.measure.noise.tensors import Batches, decibels, drawn_batches

_Logits = list[NDArray[np.float32]]


@dataclass(frozen=True)
class Sensitivity:
    """What a model gains if one thing of it is exact.

    Attributes:
        exact: what is in floating point, or in 8 bits: `3.gelu`, `layernorm`, `weights`; "" for nothing.
        noise: signal to noise of the logits, in dB; infinite without noise.
        gain: by how much that is more than with nothing exact, in dB.
    """

    exact: str
    noise: float
    gain: float


@torch.inference_mode()
def sensitivities(checkpoint: Path, data: Path, max_length: int, count: int = 128, seed: int = 0) -> list[Sensitivity]:
    """Return what an integer model gains by each operation in floating point, the largest gain first.

    Args:
        checkpoint: a [checkpoint] of the stage quantize.
        data: the [tokens] artifact of its task and tokenizer, or [data].
        max_length: number of tokens at which texts are truncated.
        count: number of validation rows, drawn at random.
        seed: of the draw.

    Raises:
        UserError: the checkpoint is not one of integers, or an artifact is damaged.
    """
    opened = Checkpoint(checkpoint)
    if not opened.integers:
        raise UserError(f"{checkpoint}: has no integer operations; give the checkpoint of a stage quantize")
    encoder = opened.load()
    batches = drawn_batches(data, "validation", opened.tokenizer, max_length, count, seed)
    shape = encoder.shape
    expected = _logits(float_twin(encoder), batches)
    base = _noise(expected, _logits(encoder, batches))
    found = []
    for exact, other in _one_exact(shape):
        noise = _noise(expected, _logits(_variant(encoder, other), batches))
        found.append(Sensitivity(exact, noise, noise - base))
    return [Sensitivity("", base, 0.0), *sorted(found, key=lambda each: -each.noise)]


def _one_exact(shape: EncoderConfig) -> Iterator[tuple[str, EncoderConfig]]:
    """Yield names and shapes of the encoder with one thing more in floating point, or in 8 bits."""
    for operation in OPERATIONS:
        if operation == "linear" or operation not in shape.integer:
            continue
        kept = frozenset(name for name in shape.keep_float if not name.endswith(operation))
        yield operation, replace(shape, integer=shape.integer - {operation}, keep_float=kept)
        for layer in range(len(shape.heads)) if operation in SEPARABLE else ():
            if shape.on_integers(operation, layer):
                name = f"{layer}.{operation}"
                yield name, replace(shape, keep_float=shape.keep_float | {name})
    if shape.weight_bits < 8:
        yield "weights", replace(shape, weight_bits=8)
    if shape.embedding_bits < 8:
        yield "embeddings", replace(shape, embedding_bits=8)


def _variant(encoder: Encoder, shape: EncoderConfig) -> Encoder:
    """Return an encoder of another shape with the weights and ranges of this one."""
    made = Encoder(shape)
    missing, _ = made.load_state_dict(encoder.state_dict(), strict=False)
    assert not missing, missing
    made.calibrated = True
    return made.eval()


def _logits(model: Callable[..., object], batches: Batches) -> _Logits:
    return [model(**batch).logits.numpy() for batch in batches]  # type: ignore[attr-defined]


def _noise(expected: _Logits, found: _Logits) -> float:
    """Return the signal to noise of logits in dB, without those of padding."""
    signal = noise = 0.0
    for ours, theirs in zip(found, expected, strict=True):
        present = theirs != PADDING
        signal += float(np.square(theirs[present], dtype=np.float64).sum())
        noise += float(np.square(ours[present].astype(np.float64) - theirs[present]).sum())
    return decibels(signal, noise)
