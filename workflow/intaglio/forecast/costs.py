"""What finished jobs took, as their artifacts tell."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from intaglio.planning.jobs import STORE
from intaglio.store import MANIFEST

_RECORD = "training.json"


@dataclass(frozen=True)
class Cost:
    """A finished job.

    Attributes:
        folder: of its result.
        rule: its rule.
        of: what it is made of, without seed: data, model and stages, as in the name of its folder.
        seconds: from the start of its process to its result; of a resumed job, of its last attempt. None if untold.
        size: bytes of its result.
        training: seconds of training, of all attempts; None for a job without steps.
        examples: number of examples trained on, repeated ones included.
        gpu: name of the GPU that it used, or None.
        device: what it ran on, to tell the user.
        allocation: number of its SLURM job, or None.
        probed: whether it was a probe.
    """

    folder: Path
    rule: str
    of: str
    seconds: float | None
    size: int
    training: float | None
    examples: int
    gpu: str | None
    device: str | None
    allocation: str | None
    probed: bool = False

    @property
    def model(self) -> str:
        """The model's name, as in the name of its folder."""
        return self.of.split(".")[1] if "." in self.of else self.of


def cost_of(folder: Path, rule: str, probed: bool = False) -> Cost | None:
    """Return what the job that made an artifact took; None if the folder is not an artifact."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError):
        return None
    record = _record(folder)
    made = manifest.get("made", {})
    steps = record.get("steps")
    # The first steps of a probe take longer.
    training = steps * record["step_seconds_median"] if steps and probed else record.get("train_seconds")
    machine = record.get("machine") or manifest["about"].get("machine") or {}
    return Cost(
        folder=folder,
        rule=rule,
        of=made_of(folder.name),
        seconds=made.get("seconds"),
        size=sum(manifest["files"].values()),
        training=training if steps else None,
        examples=steps * record["options"]["batch_size"] if steps else 0,
        gpu=machine.get("gpu"),
        device=record.get("device") or manifest["about"].get("device"),
        allocation=made.get("allocation"),
        probed=probed,
    )


def all_costs(store: Path = STORE) -> Iterator[Cost]:
    """Yield what is known of every finished job in the store."""
    for manifest in sorted(store.glob(f"*/*/{MANIFEST}")):
        found = cost_of(manifest.parent, manifest.parent.parent.name)
        if found is not None:
            yield found


def made_of(name: str) -> str:
    """Return the readable part of an artifact's folder name, without seed and key."""
    readable = name.rpartition(".")[0]
    before, _, seed = readable.rpartition(".")
    return before if before and seed[:1] == "s" and seed[1:].isdigit() else readable


def _record(folder: Path) -> dict[str, Any]:
    path = folder / _RECORD
    content: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return content
