"""Stages as functions, interruptions of their training, and comparison of their results."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from intaglio.checkpoint import HISTORY, Checkpoint
from intaglio.schemas import TRAINING_HISTORY, read_table
from intaglio.stages.run import run_stage
from intaglio.training.job import StageJob


def _stage() -> Any:
    def run(*arguments: Any, **named: Any) -> None:
        """Run the stage of these options; see `StageJob` for the arguments."""
        run_stage(StageJob(*arguments, **named))

    return run


finetune, distil, prune, cut, continued, quantize, int8 = (_stage() for _ in range(7))


def load_checkpoint(path: Path) -> tuple[Any, Any]:
    """Return the model of a checkpoint and its tokenizer."""
    checkpoint = Checkpoint(path)
    return checkpoint.load(), checkpoint.tokenizer


class SigtermAt(TrainerCallback):  # type: ignore[misc]
    """Sends SIGTERM to its own process: after a step, or in every evaluation."""

    def __init__(self, moment: int | str | None) -> None:
        self.moment = moment

    def on_step_end(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        if state.global_step == self.moment:
            signal.raise_signal(signal.SIGTERM)

    def on_prediction_step(self, *_: Any, **__: Any) -> None:
        if self.moment == "evaluation":
            signal.raise_signal(signal.SIGTERM)


def outcome(path: Path) -> tuple[dict[str, torch.Tensor], Any, dict[str, Any]]:
    """Return weights, training history and facts of a checkpoint that do not depend on time."""
    record = Checkpoint(path).record
    facts = {key: record[key] for key in ("steps", "epochs", "best_step", "validation")}
    return load_file(path / "model.safetensors"), read_table(path / HISTORY, TRAINING_HISTORY), facts


def assert_same_outcome(first: Path, second: Path) -> None:
    """Assert that two trainings ended with the same weights, history and facts, bit for bit."""
    (weights, history, facts), (others, other_history, other_facts) = outcome(first), outcome(second)
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert history.equals(other_history)
    assert facts == other_facts
