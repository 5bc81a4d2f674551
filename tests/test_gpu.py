"""What only a machine with a GPU shows: CUDA computes the integers of the CPU, and training runs on it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from encoders import ARCHITECTURES, INT, batch, calibrated, loss_of
from intaglio.checkpoint import Checkpoint
from intaglio.execution.on_torch import integer_model
from intaglio.measure.evaluate import evaluate
from intaglio.study.options import FinetuneOptions, QuantizeOptions
from stage_runs import finetune, quantize
from tiny import tiny_data, tiny_model

pytestmark = pytest.mark.gpu
DEVICE = "cuda"


CASES = [
    # Fewer rows than torch's int8 product takes on a GPU, and many of them, padded.
    *(
        (form, arch, *shape)
        for form in ("simulated", "integers")
        for arch in ARCHITECTURES
        for shape in [(1, 5), (6, 16)]
    ),
    ("compiled", "bert", 6, 16),
]


@pytest.mark.parametrize(("form", "arch", "rows", "length"), CASES)
def test_the_integers_are_those_of_the_cpu(form: str, arch: str, rows: int, length: int) -> None:
    encoder, model = calibrated(INT, arch)
    inputs = batch(model, rows, length)
    with torch.inference_mode():
        expected = integer_model(encoder)(**inputs).logits
        moved = encoder.to(DEVICE) if form == "simulated" else integer_model(encoder).to(DEVICE)
        if form == "compiled":
            moved.compile()
        found = moved(**{name: tensor.to(DEVICE) for name, tensor in inputs.items()}).logits.cpu()
    # Another order of sums in the floating-point head; a wrong integer would differ far more.
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("precision", ["highest", "high"])
def test_gradients_of_a_step_are_those_of_the_cpu(precision: str) -> None:
    """TF32 ("high") changes only the gradients' own products: the simulated integers are exact in it."""
    encoder, model = calibrated()
    inputs, labels = batch(model, 8, 20), torch.arange(8) % 2
    gradients = []
    for device in ("cpu", DEVICE):
        moved = encoder.to(device).eval()
        moved.zero_grad()
        torch.set_float32_matmul_precision(precision)
        try:
            loss_of(moved, {name: tensor.to(device) for name, tensor in inputs.items()}, labels.to(device)).backward()
        finally:
            torch.set_float32_matmul_precision("highest")
        parts = [parameter.grad for parameter in moved.parameters() if parameter.grad is not None]
        gradients.append(torch.cat([part.cpu().flatten() for part in parts]))
    error = (gradients[1] - gradients[0]).norm() / gradients[0].norm()
    assert error < (1e-4 if precision == "highest" else 1e-2)


def test_stages_train_and_evaluate(tmp_path: Path) -> None:
    data = tiny_data(tmp_path / "data", n=64)
    parent, integers = tmp_path / "float", tmp_path / "int"
    options = FinetuneOptions(batch_size=8, epochs=1, learning_rate=1e-3)
    finetune(tiny_model(tmp_path / "model"), data, options, 1, 32, tmp_path / "work", parent)
    fewest = QuantizeOptions(batch_size=8, max_steps=2, calibration_examples=32)
    quantize(parent, data, fewest, 1, 32, tmp_path / "work-int", integers)
    evaluate(integers, data, 32, tmp_path / "evaluated")
    assert Checkpoint(integers).record["steps"] == 2
    assert (tmp_path / "evaluated" / "metrics.parquet").is_file()
