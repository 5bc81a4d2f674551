"""The places in which a checkpoint can run: the backends of a study on the devices of this machine."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from intaglio.checkpoint import Checkpoint
from intaglio.errors import UserError
from intaglio.measure.backends import REGISTRY, backend
from intaglio.study.profile import Profile

_log = logging.getLogger(__name__)


class Place(NamedTuple):
    """A backend, by its name in profile.backends, and a device."""

    backend: str
    device: str


@dataclass(frozen=True)
class Opened:
    """A model opened in a backend.

    Attributes:
        place: the backend and the device.
        model: called with input_ids, attention_mask and, if the tokenizer makes them, token_type_ids (int64, [batch,
            length], on the device); its output has `logits` ([batch, labels]).
        tokenizer: the checkpoint's tokenizer.
        gpu_bytes: memory that torch allocated on the GPU to open it.
    """

    place: Place
    model: Any
    tokenizer: Any
    gpu_bytes: int = 0


def devices(wanted: Sequence[str]) -> list[str]:
    """Return those of the wanted devices (cpu, cuda) that this machine has."""
    return [device for device in wanted if device == "cpu" or torch.cuda.is_available()]


def places_of(checkpoint: Checkpoint, backends: Sequence[str], devices: Sequence[str]) -> list[Place]:
    """Return the places in which a checkpoint can run, and log in one line which are left out.

    Raises:
        UserError: none of the backends runs it.
    """
    found = places(backends, devices)
    refused: dict[str, list[str]] = {}
    for name in dict.fromkeys(place.backend for place in found):
        reason = backend(name).refusal(checkpoint)
        if reason is not None:
            refused.setdefault(reason, []).append(name)
    left = [place for place in found if not any(place.backend in names for names in refused.values())]
    if found and not left:
        raise UserError(f"profile.backends: {checkpoint}: {'; '.join(refused)}; {remedy(checkpoint, backends)}")
    for reason, names in refused.items():
        _log.info("%s: %s; %s left out", checkpoint, reason, ", ".join(names))
    return left


def places(backends: Sequence[str], devices: Sequence[str]) -> list[Place]:
    """Return the wanted backends on the devices that they support, and log in one line what this machine lacks."""
    found = [Place(name, device) for device in devices for name in backends if device in backend(name).devices]
    missing = {place: backend(place.backend).missing(place.device) for place in found}
    lacking: dict[str, list[str]] = {}
    for place, what in missing.items():
        if what is not None and place.backend not in lacking.setdefault(what, []):
            lacking[what].append(place.backend)
    # Nobody asked for those that are on by default.
    level = logging.INFO if tuple(backends) == Profile.model_fields["backends"].default else logging.WARNING
    for what, names in lacking.items():
        _log.log(level, "profile.backends: %s for %s; left out", what, ", ".join(names))
    return [place for place in found if missing[place] is None]


def reference(checkpoint: Checkpoint) -> Place:
    """Return the place that others are compared with: the first backend that runs a checkpoint on the CPU."""
    on_cpu = (name for name in REGISTRY if "cpu" in backend(name).devices)
    return Place(next(name for name in on_cpu if backend(name).refusal(checkpoint) is None), "cpu")


def remedy(checkpoint: Checkpoint, backends: Sequence[str]) -> str:
    """Return what to add to a study with these backends so that a checkpoint can run."""
    name = reference(checkpoint).backend
    return "add cpu to profile.devices" if name in backends else f"add {name}"


@contextmanager
def opened(place: Place, checkpoint: Checkpoint, export: Path, threads: int) -> Iterator[Opened]:
    """Open a checkpoint in a backend; on leaving, free its memory and its threads.

    Args:
        place: the backend and the device.
        checkpoint: the trained model.
        export: the [export] artifact of the checkpoint.
        threads: of ONNX Runtime; `cpu_threads` sets torch's.

    Raises:
        UserError: an artifact is damaged.
    """
    try:
        yield _opened(place, checkpoint, export, threads)
    finally:
        gc.collect()
        backend(place.backend).forget()


def _opened(place: Place, checkpoint: Checkpoint, export: Path, threads: int) -> Opened:
    before = _on_gpu(place)
    model = backend(place.backend).open(checkpoint, export, place.device, threads)
    return Opened(place, model, checkpoint.tokenizer, _on_gpu(place) - before)


def _on_gpu(place: Place) -> int:
    return torch.cuda.memory_allocated() if place.device == "cuda" else 0
