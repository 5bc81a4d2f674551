"""Whether all backends compute the same, before any of them is timed."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from intaglio.checkpoint import Checkpoint
from intaglio.errors import UserError
from intaglio.measure.backends import backend
from intaglio.measure.inputs import Point, padded_inputs
from intaglio.measure.places import Opened, Place, opened, reference

# The head of an integer model is floating point: engines sum it in different orders. In shares of the largest logit; an
# integer that differs by one anywhere before the head changes logits by a hundred times as much.
ROUNDING = 1e-5
_log = logging.getLogger(__name__)


def agreeing(
    wanted: Sequence[Place], checkpoint: Checkpoint, export: Path, point: Point, threads: int
) -> Iterator[tuple[Opened, float]]:
    """Open a model in one place after the other, compare it, and yield it while it is open.

    A place where the backend cannot run the model, as where it cannot be compiled, is left out with a warning.

    Args:
        wanted: backends on devices.
        checkpoint: what was trained.
        export: the [export] artifact made of it.
        point: batch size and length of the padded batch that is compared.
        threads: CPU threads.

    Yields:
        The model, and the largest absolute difference of its logits to those of `places.reference`.

    Raises:
        UserError: a model that computes on integers alone gives other logits somewhere (but for the float head's
            rounding), or some model gives logits that are not finite.
    """
    first = reference(checkpoint)
    expected = None
    # The reference first, so that it is opened once.
    for place in sorted(wanted, key=lambda place: place != first):
        if expected is None and place != first:
            with opened(first, checkpoint, export, threads) as model:
                expected = _logits(model, point)
        with opened(place, checkpoint, export, threads) as model:
            logits = _tried(model, point)
            if logits is None:
                continue
            expected = logits if expected is None else expected
            yield model, _difference(checkpoint, place, logits, expected)
            del model


def _tried(model: Opened, point: Point) -> torch.Tensor | None:
    """Return logits; None, with a warning, where the backend fails without a defect of the model."""
    try:
        return _logits(model, point)
    except Exception as error:
        reason = backend(model.place.backend).failure(error)
        if reason is None:
            raise
        _log.warning("profile.backends: %s fails on %s (%s); it is left out", *model.place, reason)
        return None


def _difference(checkpoint: Checkpoint, place: Place, logits: torch.Tensor, expected: torch.Tensor) -> float:
    difference = float((logits - expected).abs().max())
    if not difference < float("inf"):
        raise UserError(f"{checkpoint}: {place.backend} on {place.device} gives logits that are not finite")
    if checkpoint.is_integer_only and difference > ROUNDING * max(1.0, float(expected.abs().max())):
        raise UserError(
            f"{checkpoint}: an integer model must give the same logits everywhere, but those of {place.backend} on "
            f"{place.device} differ from torch's by {difference:.1e}; please report it, it is a defect"
        )
    return difference


@torch.inference_mode()
def _logits(model: Opened, point: Point) -> torch.Tensor:
    output: Any = model.model(**padded_inputs(model.tokenizer, point, model.place.device))
    return torch.as_tensor(output.logits).float().cpu().clone()
