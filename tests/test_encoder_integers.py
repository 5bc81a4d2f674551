"""The eight integer points of the lattice on all four architectures: what they compute, and what does not change it."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor

from encoders import ARCHITECTURES, INT, INTEGER_POINTS, POINTS, batch, calibrated, loss_of, name, random_model
from intaglio.arithmetic import linear
from intaglio.arithmetic.integers import Integers
from intaglio.encoder.files import convert
from intaglio.encoder.layers import Hidden, Linear, Residual
from intaglio.encoder.model import Encoder


def _logits(encoder: Encoder, inputs: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return encoder(**inputs).logits


def _hidden(encoder: Encoder, inputs: dict[str, Tensor]) -> Tensor:
    """Integers that the head gets, [batch, width]."""
    seen: list[Hidden] = []
    handle = encoder.layers[-1].register_forward_hook(lambda _m, _i, output: seen.append(output))
    _logits(encoder, inputs)
    handle.remove()
    wide = seen[0].wide
    assert isinstance(wide, Integers)
    return wide.values[:, 0]


@pytest.mark.parametrize("point", INTEGER_POINTS, ids=name)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_integers_are_near_the_float_model(arch, point):
    encoder, model = calibrated(point, arch)
    # examples that the ranges have seen: nothing is clipped
    inputs = batch(model, rows=8, length=20)
    ours, theirs = _logits(encoder, inputs), _logits(model, inputs)
    spread = float(theirs.std(0).max())
    assert float((ours - theirs).abs().max()) <= 0.1 * spread
    assert float((ours - theirs).square().mean().sqrt()) <= 0.04 * spread
    assert not torch.equal(ours, theirs)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_an_example_does_not_see_its_batch(arch):
    encoder, model = calibrated(INT, arch)
    inputs = batch(model, rows=6, length=20)
    hidden, logits = _hidden(encoder, inputs), _logits(encoder, inputs)
    for row, length in enumerate(inputs["attention_mask"].sum(1).tolist()):
        alone = {key: value[row : row + 1, :length] for key, value in inputs.items()}
        assert torch.equal(_hidden(encoder, alone)[0], hidden[row])
        # the head is floating point: what a matrix product of another shape rounds may differ
        assert torch.allclose(_logits(encoder, alone)[0], logits[row], rtol=0, atol=1e-6)
        without_mask = {"input_ids": alone["input_ids"]}
        assert torch.equal(_hidden(encoder, without_mask)[0], hidden[row])


@pytest.mark.parametrize("size", [1.0, 1e-2, 1e-5])
def test_padding_does_not_count_however_small_the_scores_are(size):
    model = random_model()
    with torch.no_grad():
        for layer in model.bert.encoder.layer:
            for part in (layer.attention.self.query, layer.attention.self.key):
                part.weight.mul_(size), part.bias.mul_(size)
    encoder, inputs = convert(model, INT), batch(model, rows=6, length=20)
    with encoder.calibrating(momentum=0.95):
        encoder(**inputs)
    hidden = _hidden(encoder, inputs)
    for row, length in enumerate(inputs["attention_mask"].sum(1).tolist()):
        alone = {"input_ids": inputs["input_ids"][row : row + 1, :length]}
        assert torch.equal(_hidden(encoder, alone)[0], hidden[row])


@pytest.mark.parametrize("point", POINTS, ids=name)
def test_training_decreases_the_loss(point):
    torch.manual_seed(0)
    encoder, model = calibrated(point, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)
    inputs = batch(model, rows=16, length=8)
    labels = (inputs["input_ids"][:, 1] % 2).long()
    encoder.train()
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=2e-3)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = loss_of(encoder, inputs, labels)
        loss.backward()
        for key, parameter in encoder.named_parameters():
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), key
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) / 5 < 0.6 * losses[0]
    with torch.no_grad():
        evaluated = loss_of(encoder.eval(), inputs, labels)
    assert float(evaluated) < 0.6 * losses[0]


@pytest.mark.parametrize("point", INTEGER_POINTS, ids=name)
def test_gradients_point_where_the_float_ones_do(point):
    encoder, model = calibrated(point)
    inputs, labels = batch(model, rows=16, length=12), torch.arange(16) % 2
    loss_of(encoder, inputs, labels).backward()
    float_encoder = convert(model, frozenset())
    loss_of(float_encoder, inputs, labels).backward()
    for (key, ours), theirs in zip(encoder.named_parameters(), float_encoder.parameters(), strict=True):
        if ours.grad.numel() > 100 and theirs.grad.norm() > 1e-6:
            cosine = torch.cosine_similarity(ours.grad.flatten(), theirs.grad.flatten(), dim=0)
            assert float(cosine) > 0.85, key
            assert 0.8 < float(ours.grad.norm() / theirs.grad.norm()) < 1.25, key


def test_autocast_does_not_reach_the_integers():
    encoder, model = calibrated()
    inputs = batch(model)
    expected = _logits(encoder, inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(_logits(encoder, inputs), expected)


def _counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    calls: list[int] = []
    original = linear.quantize_weight

    def counting(*arguments):
        calls.append(1)
        return original(*arguments)

    monkeypatch.setattr(linear, "quantize_weight", counting)
    return calls


def test_weights_are_quantized_again_when_they_change(monkeypatch):
    encoder, model = calibrated()
    inputs = batch(model)
    layers = sum(isinstance(module, Linear) for module in encoder.modules())
    sums = sum(isinstance(module, Residual) for module in encoder.modules())
    before = _logits(encoder, inputs)
    calls = _counted(monkeypatch)

    def quantized(change) -> bool:
        """Whether a change makes the next evaluation quantize every weight once, and the one after it none."""
        calls.clear()
        result = change()
        calls.clear()
        first = _logits(encoder, inputs)
        count = len(calls)
        assert torch.equal(_logits(encoder, inputs), first) and len(calls) == count, result
        return count == layers

    state = {key: value.clone() for key, value in encoder.state_dict().items()}

    def step() -> None:
        encoder.train()
        loss_of(encoder, inputs, torch.zeros(4, dtype=torch.long)).backward()
        torch.optim.AdamW(encoder.parameters(), lr=1e-2).step()
        encoder.eval()

    def step_in_evaluation_mode() -> None:
        loss_of(encoder, inputs, torch.zeros(4, dtype=torch.long)).backward()
        torch.optim.AdamW(encoder.parameters(), lr=1e-2).step()

    def calibrate() -> None:
        with encoder.calibrating(0.5):
            encoder(**batch(model, seed=9))

    assert not quantized(lambda: None)
    assert quantized(step) and not torch.equal(_logits(encoder, inputs), before)
    changed = _logits(encoder, inputs)
    assert quantized(step_in_evaluation_mode) and not torch.equal(_logits(encoder, inputs), changed)
    assert quantized(lambda: encoder.load_state_dict(state)) and torch.equal(_logits(encoder, inputs), before)
    assert quantized(calibrate)
    # while the ranges move, a bias fits the scale of one batch alone; a sum is observed before its scale is known
    calls.clear()
    with encoder.calibrating(0.5):
        for seed in range(3):
            encoder(**batch(model, seed=seed))
    assert len(calls) == 3 * (layers + sums)
    # to another device, as far as a machine without one can tell
    assert quantized(lambda: encoder.to(torch.float64).to(torch.float32))


def test_inference_mode():
    encoder, model = calibrated()
    inputs = batch(model)
    with torch.inference_mode():
        first = encoder(**inputs).logits.clone()
        assert torch.equal(encoder(**inputs).logits, first)
    assert torch.equal(_logits(encoder, inputs), first)
    assert torch.equal(encoder(**inputs).logits, first)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda encoder: pickle.loads(pickle.dumps(encoder))])
@pytest.mark.parametrize("training", [False, True])
def test_copies(clone, training):
    encoder, model = calibrated()
    inputs = batch(model)
    expected = _logits(encoder, inputs)
    if training:
        encoder.train()
        loss_of(encoder, inputs, torch.zeros(4, dtype=torch.long)).backward()
    twin = clone(encoder).eval()
    assert torch.equal(_logits(twin, inputs), expected)
    # a copy is not bound to what it was copied from
    torch.nn.init.zeros_(encoder.head.output.weight)
    assert torch.equal(_logits(twin, inputs), expected)
    twin.load_state_dict({key: value * 1.5 for key, value in twin.state_dict().items()})
    assert not torch.equal(_logits(twin, inputs), expected)


def test_ranges_move_with_momentum_and_only_while_observing():
    model = random_model()
    encoder = convert(model, INT)
    first, second = batch(model, seed=1), batch(model, seed=2)

    def range_() -> float:
        return float(encoder.layers[0].attention_norm.output.largest)

    with encoder.calibrating(0.75):
        encoder(**first)
        start = range_()
    alone = convert(model, INT)
    with alone.calibrating(0.75):
        alone(**second)
    other = float(alone.layers[0].attention_norm.output.largest)
    with encoder.calibrating(0.75):
        encoder(**second)
    assert range_() == pytest.approx(0.75 * start + 0.25 * other, rel=1e-2)
    settled = range_()
    encoder.train()(**first)
    _logits(encoder.eval(), first)
    assert range_() == settled
