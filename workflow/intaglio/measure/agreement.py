"""Whether all backends compute the same, before any of them is timed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from intaglio.errors import UserError
from intaglio.measure.backends import COMPILED, ONNXRUNTIME, TORCH, Place, opened
from intaglio.measure.inputs import Point, padded_inputs
from intaglio.measure.models import is_int8, is_integer

# The head of an integer model is floating point: engines sum it in different orders. In shares of the largest logit; an
# integer that differs by one anywhere before the head changes logits by a hundred times as much.
ROUNDING = 1e-5
log = logging.getLogger(__name__)


def differences(
    wanted: Sequence[Place], checkpoint: Path, export: Path, point: Point, threads: int
) -> dict[Place, float]:
    """Return the largest absolute difference of logits to those of torch on the CPU, on one padded batch.

    What only ONNX Runtime can run is compared with itself there.

    A place where the model cannot be compiled is missing, and a warning says so.

    Args:
        wanted: backends on devices.
        checkpoint: a [checkpoint] artifact.
        export: the [export] artifact made of it.
        point: batch size and length of that batch.
        threads: CPU threads.

    Raises:
        UserError: a model that computes on integers alone gives other logits somewhere (but for the float head's
            rounding), or some model gives logits that are not finite.
    """
    reference = Place(ONNXRUNTIME if is_int8(checkpoint) else TORCH, "cpu")
    expected = _logits(reference, checkpoint, export, point, threads)
    exact = is_integer(checkpoint)
    found = {}
    for place in wanted:
        try:
            logits = expected if place == reference else _logits(place, checkpoint, export, point, threads)
        except Exception as error:
            if place.backend != COMPILED or not _of_compiler(error):
                raise
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            log.warning("profile.backends: torch.compile fails on %s (%s); it is left out", place.device, reason)
            continue
        difference = float((logits - expected).abs().max())
        if not difference < float("inf"):
            raise UserError(f"{checkpoint}: {place.backend} on {place.device} gives logits that are not finite")
        if exact and difference > ROUNDING * max(1.0, float(expected.abs().max())):
            raise UserError(
                f"{checkpoint}: an integer model must give the same logits everywhere, but those of {place.backend} on "
                f"{place.device} differ from torch's by {difference:.1e}; please report it, it is a defect"
            )
        found[place] = difference
    return found


def _of_compiler(error: Exception) -> bool:
    # Only where something was compiled: it takes as long to import as torch itself.
    from torch._dynamo.exc import TorchDynamoException

    return isinstance(error, TorchDynamoException)


@torch.inference_mode()
def _logits(place: Place, checkpoint: Path, export: Path, point: Point, threads: int) -> torch.Tensor:
    with opened(place, checkpoint, export, threads) as it:
        output: Any = it.model(**padded_inputs(it.tokenizer, point, place.device))
        return torch.as_tensor(output.logits).float().cpu().clone()
