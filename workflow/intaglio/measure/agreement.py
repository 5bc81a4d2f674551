"""Whether all backends compute the same, before any of them is timed."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from intaglio.errors import UserError
from intaglio.measure.backends import COMPILED, ONNXRUNTIME, TORCH, Opened, Place, opened
from intaglio.measure.inputs import Point, padded_inputs
from intaglio.measure.models import is_int8, is_integer

# The head of an integer model is floating point: engines sum it in different orders. In shares of the largest logit; an
# integer that differs by one anywhere before the head changes logits by a hundred times as much.
ROUNDING = 1e-5
log = logging.getLogger(__name__)


def agreeing(
    wanted: Sequence[Place], checkpoint: Path, export: Path, point: Point, threads: int
) -> Iterator[tuple[Opened, float]]:
    """Open a model in one place after the other, compare it, and yield it while it is open.

    A place where the model cannot be compiled is left out, and a warning says so.

    Args:
        wanted: backends on devices.
        checkpoint: a [checkpoint] artifact.
        export: the [export] artifact made of it.
        point: batch size and length of the padded batch that is compared.
        threads: CPU threads.

    Yields:
        The model, and the largest absolute difference of its logits to those of the reference: torch on the CPU, or
        ONNX Runtime for what it alone can run.

    Raises:
        UserError: a model that computes on integers alone gives other logits somewhere (but for the float head's
            rounding), or some model gives logits that are not finite.
    """
    reference = Place(ONNXRUNTIME if is_int8(checkpoint) else TORCH, "cpu")
    expected = None
    # The reference first, so that it is opened once.
    for place in sorted(wanted, key=lambda place: place != reference):
        if expected is None and place != reference:
            with opened(reference, checkpoint, export, threads) as model:
                expected = _logits(model, point)
        with opened(place, checkpoint, export, threads) as model:
            logits = _tried(model, point)
            if logits is None:
                continue
            expected = logits if expected is None else expected
            yield model, _difference(checkpoint, place, logits, expected)
            del model


def _tried(model: Opened, point: Point) -> torch.Tensor | None:
    """Return logits; None, with a warning, where the model cannot be compiled."""
    try:
        return _logits(model, point)
    except Exception as error:
        if model.place.backend != COMPILED or not _of_compiler(error):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        log.warning("profile.backends: torch.compile fails on %s (%s); it is left out", model.place.device, reason)
        return None


def _difference(checkpoint: Path, place: Place, logits: torch.Tensor, expected: torch.Tensor) -> float:
    difference = float((logits - expected).abs().max())
    if not difference < float("inf"):
        raise UserError(f"{checkpoint}: {place.backend} on {place.device} gives logits that are not finite")
    if is_integer(checkpoint) and difference > ROUNDING * max(1.0, float(expected.abs().max())):
        raise UserError(
            f"{checkpoint}: an integer model must give the same logits everywhere, but those of {place.backend} on "
            f"{place.device} differ from torch's by {difference:.1e}; please report it, it is a defect"
        )
    return difference


def _of_compiler(error: Exception) -> bool:
    # Only where something was compiled: it takes as long to import as torch itself.
    from torch._dynamo.exc import TorchDynamoException

    return isinstance(error, TorchDynamoException)


@torch.inference_mode()
def _logits(model: Opened, point: Point) -> torch.Tensor:
    output: Any = model.model(**padded_inputs(model.tokenizer, point, model.place.device))
    return torch.as_tensor(output.logits).float().cpu().clone()
