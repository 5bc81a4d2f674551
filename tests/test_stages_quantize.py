"""What quantization itself does to predictions, before training makes up for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from intaglio.checkpoint import Checkpoint
from intaglio.encoder.files import read_encoder
from intaglio.errors import UserError
from intaglio.stages.changes import Changes
from intaglio.stages.quantize import calibrate_ranges, compare_predictions
from intaglio.study.options import FinetuneOptions, QuantizeOptions
from intaglio.tokens.encoded import batches_of
from intaglio.training.examples import drawn_examples
from intaglio.training.job import StageJob
from stage_runs import finetune, load_checkpoint, quantize
from tiny import tiny_data, tiny_model

ALL = frozenset({"linear", "gelu", "softmax", "layernorm"})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A fine-tuned checkpoint and its data."""
    root = tmp_path_factory.mktemp("quantize")
    data = tiny_data(root / "data", n=64)
    options = FinetuneOptions(batch_size=8, epochs=1, learning_rate=1e-3)
    finetune(tiny_model(root / "model"), data, options, 1, 32, root / "work", root / "parent")
    return root / "parent", data


def test_the_share_of_changed_predictions_is_counted_and_recorded(made: tuple[Path, Path], tmp_path: Path) -> None:
    parent, data = made
    options = QuantizeOptions(batch_size=8, max_steps=1, calibration_examples=64)
    quantize(parent, data, options, 1, 32, tmp_path / "work", tmp_path / "output")
    conversion = Checkpoint(tmp_path / "output").record["conversion"]
    model, tokenizer = load_checkpoint(parent)
    job = StageJob(parent, data, options, 1, 32, tmp_path, tmp_path)
    batches = batches_of(drawn_examples(job, tokenizer, 64), tokenizer)
    encoder = read_encoder(parent, ALL)
    calibrate_ranges(encoder, batches, options.momentum)
    changed = 0
    with torch.no_grad():
        for batch in batches:
            before, after = model(**batch).logits, encoder(**batch).logits
            changed += sum(int(a.argmax()) != int(b.argmax()) for a, b in zip(before, after, strict=True))
    assert conversion["difference"] == pytest.approx(changed / 64)
    assert conversion["tolerance"] == 0.4
    assert (conversion["difference_low"], conversion["difference_high"]) == Changes(changed, 64).interval


def test_a_calibration_that_breaks_the_model_fails_with_its_figures(made: tuple[Path, Path]) -> None:
    parent, data = made
    model, tokenizer = load_checkpoint(parent)
    job = StageJob(parent, data, QuantizeOptions(), 1, 32, parent, parent)
    examples = drawn_examples(job, tokenizer, 32)
    batches = batches_of(examples, tokenizer)
    encoder = read_encoder(parent, ALL)
    calibrate_ranges(encoder, batches, 0.95)
    with torch.no_grad():
        # A head that says the opposite: every prediction changes.
        encoder.head.output.weight.neg_()
        encoder.head.output.bias.neg_()
    with pytest.raises(UserError, match=r"\d+ of 32 predictions .* change .*; tolerance: 40.0% is allowed") as caught:
        compare_predictions(job, model, encoder, batches, examples)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("rate", [1e30, 1e38])
@pytest.mark.parametrize(
    "integer", [("linear", "gelu", "softmax", "layernorm"), ("linear", "softmax"), ("linear", "gelu")], ids="-".join
)
@pytest.mark.parametrize(
    ("recalibrations", "message"),
    [
        # Weights of 1e30 may give a finite loss once, which depends on how the processor sums.
        (0, "the loss became (nan|inf) at step [23], learning rate"),
        (6, r"the range of \S+ is (nan|inf); training has diverged by step 1; lower learning_rate"),
    ],
)
def test_a_training_that_diverges_at_once_says_so(
    made: tuple[Path, Path], tmp_path: Path, recalibrations: int, message: str, integer: Any, rate: float
) -> None:
    parent, data = made
    options = {"learning_rate": rate, "warmup": 0, "recalibrations": recalibrations, "freeze": 1.0}
    chosen = QuantizeOptions(integer=integer, batch_size=8, max_steps=6, **options)
    with pytest.raises(UserError, match=message) as caught:
        quantize(parent, data, chosen, 1, 32, tmp_path / "work", tmp_path / "output")
    assert "\n" not in str(caught.value)
