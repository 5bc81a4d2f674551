"""Comparison of all backends' results, before any of them is timed."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from intaglio.checkpoint import Checkpoint
from intaglio.encoder.padding import PADDING
from intaglio.errors import UserError
from intaglio.measure.backends import backend
from intaglio.measure.inputs import Point, padded_inputs
from intaglio.measure.places import Opened, Place, opened, reference

# Tolerance for the head of an integer model, which is floating point and summed in different orders, relative to the
# largest logit. An integer that differs by one anywhere before the head changes logits a hundred times as much.
ROUNDING = 1e-5
_log = logging.getLogger(__name__)


def agreeing(
    wanted: Sequence[Place], checkpoint: Checkpoint, export: Path, point: Point, threads: int, held: ExitStack
) -> Iterator[tuple[Opened, float]]:
    """Open a model in each place, compare it with the reference, and yield it.

    If a backend cannot run the model in a place (for example, cannot compile it), the place is left out with a warning.

    Args:
        wanted: backends on devices.
        checkpoint: the trained model.
        export: the [export] artifact of the checkpoint.
        point: batch size and length of the padded batch for the comparison.
        threads: number of CPU threads.
        held: keeps the models open.

    Yields:
        The model, and the largest absolute difference of its logits to those of `places.reference`.

    Raises:
        UserError: an integer-only model gives other logits in some place (beyond the rounding of its float head), or
            logits are not finite.
    """
    first = reference(checkpoint)
    expected = None
    # The reference comes first, so that it is opened once.
    for place in sorted(wanted, key=lambda place: place != first):
        if expected is None and place != first:
            with opened(first, checkpoint, export, threads) as model:
                expected = _logits(model, point)
        with ExitStack() as closing:
            try:
                model = closing.enter_context(opened(place, checkpoint, export, threads))
                logits = _logits(model, point)
            except Exception as error:
                reason = backend(place.backend).failure(error)
                if reason is None:
                    raise
                _log.warning("profile.backends: %s fails on %s (%s); it is left out", *place, reason)
                continue
            expected = logits if expected is None else expected
            difference = _difference(checkpoint, place, logits, expected)
            held.push(closing.pop_all())
        yield model, difference
        del model


def _difference(checkpoint: Checkpoint, place: Place, logits: torch.Tensor, expected: torch.Tensor) -> float:
    difference = float((logits - expected).abs().max())
    if not difference < float("inf"):
        raise UserError(f"{checkpoint}: {place.backend} on {place.device} gives logits that are not finite")
    largest = float(expected.masked_fill(expected == PADDING, 0.0).abs().max())
    if checkpoint.is_integer_only and difference > ROUNDING * max(1.0, largest):
        raise UserError(
            f"{checkpoint}: an integer model must give the same logits everywhere, but those of {place.backend} on "
            f"{place.device} differ from torch's by {difference:.1e}; please report it, it is a defect"
        )
    return difference


@torch.inference_mode()
def _logits(model: Opened, point: Point) -> torch.Tensor:
    output: Any = model.model(**padded_inputs(model.tokenizer, point, model.place.device))
    return torch.as_tensor(output.logits).float().cpu().clone()
