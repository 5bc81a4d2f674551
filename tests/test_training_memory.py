"""Training where the GPU's memory does not suffice for a part of an optimizer batch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from intaglio.allocation import Preempted
from intaglio.errors import UserError
from intaglio.study.options import FinetuneOptions
from intaglio.training.job import Learner, StageJob
from intaglio.training.train import train
from stage_runs import SigtermAt
from tiny import tiny_data, tiny_model, tiny_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("memory")
    tiny_model(root / "model")
    # 60 examples: the last batch of 16 is of 12.
    tiny_data(root / "data", n=60)
    return root


@dataclass
class Memory:
    """Memory that does not suffice for a backward pass of more examples than `most`, from its n-th one on.

    It ends when the gradients of the head are there already, and none of what is below.
    """

    most: int
    passes: int = 0
    from_: int = 0
    failed: int = 0

    def __call__(self, _: Any, __: Any, output: Any) -> None:
        if output.requires_grad:
            output.register_hook(self._check)

    def _check(self, gradient: torch.Tensor) -> None:
        self.passes += 1
        if len(gradient) > self.most and self.passes > self.from_:
            self.failed += 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.fixture
def trained(folder: Path, tmp_path: Path) -> Any:
    def run(memory: Memory | None = None, leave: int | None = None, dropout: float = 0.0, **options: Any) -> Any:
        """Train the tiny model with a memory; return the result and the weights."""
        model = AutoModelForSequenceClassification.from_pretrained(
            folder / "model", hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout
        )
        if memory is not None:
            model.bert.pooler.dense.register_forward_hook(memory)
        chosen = FinetuneOptions(batch_size=16, epochs=2, learning_rate=1e-3, checkpoint_minutes=60, **options)
        learner = Learner(model, tiny_tokenizer(), callbacks=[SigtermAt(leave)])
        result = train(StageJob(folder / "model", folder / "data", chosen, 1, 32, tmp_path / "work", tmp_path), learner)
        return result, torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    return run


def curve(result: Any, name: str = "loss") -> list[float]:
    return [row["value"] for row in result.history if row["name"] == name]


# In the first step, and in the second part of the third one, whose first part has to be computed again.
@pytest.mark.parametrize(("parts", "from_", "step"), [(1, 0, 1), (2, 5, 3)])
def test_halves_train_as_the_whole(
    trained: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, parts: int, from_: int, step: int
) -> None:
    memory = Memory(16 // parts - 1, from_=from_)
    whole, weights = trained(gradient_accumulation=parts)
    (tmp_path / "work").rename(tmp_path / "whole")
    halved, found = trained(memory, gradient_accumulation=parts)
    assert memory.failed == 1
    assert halved.steps == whole.steps == 8
    assert curve(halved) == pytest.approx(curve(whole), abs=1e-6)
    assert (found - weights).abs().max() < 1e-5
    assert whole.warnings == []
    (said,) = halved.warnings
    assert said in caplog.text
    assert said.startswith(f"the GPU's memory did not suffice for {16 // parts} examples at a time: from step {step} ")


def test_a_resumed_training_goes_on_with_halves_to_the_bit(trained: Any, tmp_path: Path) -> None:
    whole, weights = trained(Memory(8), dropout=0.1)
    (tmp_path / "work").rename(tmp_path / "whole")
    memory = Memory(8)
    with pytest.raises(Preempted):
        trained(memory, leave=3, dropout=0.1)
    resumed, found = trained(memory, dropout=0.1)
    assert memory.failed == 1
    assert torch.equal(found, weights)
    assert (curve(resumed), resumed.warnings) == (curve(whole), whole.warnings)


@pytest.mark.parametrize(("most", "options"), [(3, {}), (0, {"gradient_accumulation": 16})])
def test_it_is_halved_once(trained: Any, most: int, options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="raise gradient_accumulation, or lower batch_size or max_length") as caught:
        trained(Memory(most), **options)
    assert "\n" not in str(caught.value)
