"""Stages as functions, for tests: every stage runs in the same way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from intaglio.checkpoint import Checkpoint
from intaglio.stages.run import run_stage
from intaglio.training.job import StageJob


def _stage() -> Any:
    def run(*arguments: Any, **named: Any) -> None:
        """Run the stage of these options; see `StageJob` for the arguments."""
        run_stage(StageJob(*arguments, **named))

    return run


finetune, distil, prune, cut, quantize, int8 = (_stage() for _ in range(6))


def load_checkpoint(path: Path) -> tuple[Any, Any]:
    """Return the model of a checkpoint and its tokenizer."""
    checkpoint = Checkpoint(path)
    return checkpoint.load(), checkpoint.tokenizer
