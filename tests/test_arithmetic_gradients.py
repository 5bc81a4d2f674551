"""Straight-through gradients: by hand where they are simple, else those of the real function at the real values."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from intaglio.arithmetic import gelu, layernorm, linear, softmax
from intaglio.arithmetic.integers import Integers, requantize, rescale, scale_of


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def _close(ours: Tensor, theirs: Tensor, tolerance: float) -> None:
    """Assert a small distance in units of the largest gradient."""
    assert torch.isfinite(ours).all()
    assert float((ours - theirs).abs().max()) <= tolerance * float(theirs.abs().max())


def test_rescale_passes_the_multiplier_inside_and_nothing_where_it_clips():
    x = torch.tensor([-600.0, -509.0, -254.0, 0.0, 253.0, 255.0, 256.0, 1000.0], requires_grad=True)
    result = rescale(x, torch.tensor(0.5), 8)
    assert result.tolist() == [-127, -127, -127, 0, 126, 127, 127, 127]
    result.backward(torch.arange(1.0, 9.0))
    assert x.grad is not None
    # 255 / 2 is 128 after rounding, which is clipped; -254 / 2 is the last integer inside
    assert x.grad.tolist() == [0, 0, 1.5, 2, 2.5, 0, 0, 0]


def test_rescale_by_channel():
    x = torch.tensor([[10.0, 10.0], [2000.0, 2000.0]], requires_grad=True)
    rescale(x, torch.tensor([0.5, 0.01]), 8).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.tensor([[0.5, 0.01], [0.0, 0.01]]))


def test_real_gradient_of_a_quantizer_is_one():
    x = torch.tensor([0.3, -0.9, 1.5], requires_grad=True)
    requantize(x, scale_of(torch.tensor(1.0), 8), 8).real.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == pytest.approx([1, 1, 0])


@pytest.mark.parametrize("shape", [(6, 40), (2, 3, 40), (2, 3, 1000)])
def test_linear(shape):
    width = shape[-1]
    x = torch.randint(-127, 128, shape).float().requires_grad_()
    layer = torch.nn.Linear(width, 7)
    scale = torch.tensor(0.02)
    upstream = torch.randn(*shape[:-1], 7)
    (linear.linear(Integers(x, scale), layer.weight, layer.bias).real * upstream).sum().backward()
    ours = (x.grad * (1 / scale), layer.weight.grad, layer.bias.grad)

    # the same in floating point, at what the integers stand for
    q, weight_scale, b = linear.quantize_weight(layer.weight.detach(), layer.bias.detach(), scale)
    weight = (q * weight_scale[:, None]).requires_grad_()
    bias = (b * weight_scale * scale).requires_grad_()
    real = (x.detach() * scale).requires_grad_()
    (functional.linear(real, weight, bias) * upstream).sum().backward()
    for mine, theirs in zip(ours, (real.grad, weight.grad, bias.grad), strict=True):
        _close(mine, theirs, 1e-5)


def test_first_layer_whose_input_needs_no_gradient():
    layer = torch.nn.Linear(5, 3)
    x = Integers(torch.ones(2, 5), torch.tensor(0.5))
    linear.linear(x, layer.weight, layer.bias).real.sum().backward()
    assert layer.weight.grad is not None and torch.allclose(layer.weight.grad, torch.ones(3, 5))


def test_products_of_activations():
    a, b = torch.randint(-127, 128, (2, 4, 6)).float(), torch.randint(-127, 128, (2, 6, 5)).float()
    a.requires_grad_(), b.requires_grad_()
    linear.matmul(Integers(a, torch.tensor(0.5)), Integers(b, torch.tensor(0.25))).real.sum().backward()
    assert a.grad is not None and torch.equal(a.grad, (b.sum(-1)[:, None, :] * 0.125).expand_as(a).detach())


def test_gelu():
    x = torch.randint(-3000, 3000, (50, 40)).float().requires_grad_()
    x_scale = torch.rand(40) * 1e-3 + 1e-3
    scale = torch.tensor(4.0 / 127)
    upstream = torch.randn(50, 40)
    result = gelu.gelu(Integers(x, x_scale), scale)
    (result.real * upstream).sum().backward()
    real = (x.detach() * x_scale).requires_grad_()
    inside = functional.gelu(real.detach()) < 4 + float(scale) / 2
    assert not inside.all()
    (functional.gelu(real) * upstream * inside).sum().backward()
    assert x.grad is not None and real.grad is not None
    # at the edge of the range the integer and the real GELU may disagree on which side they are
    edge = (real.detach() - 4).abs() < 0.1
    _close((x.grad / x_scale)[~edge], real.grad[~edge], 3e-3)
    clipped = result.values.detach() == 127
    assert (x.grad[clipped & (real.detach() > 4.1)] == 0).all()


def test_gelu_gives_no_gradient_where_16_bits_clip_its_input():
    x = torch.tensor([100.0, 126.0, 129.0, 5000.0], requires_grad=True)
    gelu.gelu(Integers(x, torch.tensor(1.0)), scale_of(torch.tensor(127.996), 8)).real.sum().backward()
    assert x.grad is not None and x.grad.tolist() == pytest.approx([1, 1, 0, 0])


@pytest.mark.parametrize("masking", [False, True])
def test_softmax(masking):
    scores = torch.randint(-40000, 40000, (3, 2, 9, 20)).float().requires_grad_()
    masked = None
    if masking:
        masked = torch.zeros(3, 1, 1, 20, dtype=torch.bool)
        masked[1, ..., 5:] = True
    scale, factor = torch.tensor(1e-3), 0.125
    upstream = torch.randn(3, 2, 9, 20)
    (softmax.softmax(Integers(scores, scale), factor, masked).real * upstream).sum().backward()
    real = (scores.detach() * scale).requires_grad_()
    logits = real * factor
    if masked is not None:
        logits = logits.masked_fill(masked, float("-inf"))
    (logits.softmax(-1) * upstream).sum().backward()
    assert scores.grad is not None and real.grad is not None
    _close(scores.grad / scale, real.grad, 0.02)
    if masked is not None:
        assert (scores.grad[masked.expand_as(scores)] == 0).all()


def _norm(x: Tensor, scale: Tensor, norm: torch.nn.LayerNorm, upstream: Tensor) -> Tensor:
    """Return the gradient with respect to the real input; gamma's and beta's are in the module."""
    x = x.clone().requires_grad_()
    result = layernorm.layer_norm(Integers(x, scale), norm.weight, norm.bias, norm.eps)
    (result.real * upstream).sum().backward()
    assert x.grad is not None
    return x.grad / scale


@pytest.mark.parametrize("width", [32, 384])
def test_layer_norm(width):
    norm = torch.nn.LayerNorm(width)
    with torch.no_grad():
        norm.weight.add_(torch.randn(width) * 0.3)
        norm.bias.add_(torch.randn(width))
    scale = scale_of(torch.tensor(10.0), 22)
    x, upstream = (torch.randn(4, 11, width) / scale).round(), torch.randn(4, 11, width)
    ours = _norm(x, scale, norm, upstream), norm.weight.grad, norm.bias.grad
    norm.zero_grad()
    real = (x * scale).requires_grad_()
    (norm(real) * upstream).sum().backward()
    for mine, theirs in zip(ours, (real.grad, norm.weight.grad, norm.bias.grad), strict=True):
        assert mine is not None and theirs is not None
        _close(mine, theirs, 3e-3)


def test_layer_norm_of_a_constant_row():
    norm = torch.nn.LayerNorm(16)
    torch.nn.init.normal_(norm.bias)
    scale = torch.tensor(1e-4)
    x = torch.full((3, 16), 700.0)
    x[1], x[2] = 0, torch.randn(16) * 1000
    with torch.no_grad():
        values = layernorm.layer_norm(Integers(x, scale), norm.weight, norm.bias, norm.eps).real
    assert torch.allclose(values[:2], norm.bias.detach().expand(2, 16), atol=1e-4)
    gradient = _norm(x.round(), scale, norm, torch.randn(3, 16))
    assert torch.isfinite(gradient).all()
    assert norm.weight.grad is not None and torch.isfinite(norm.weight.grad).all()


def test_beta_alone_can_be_trained():
    beta = torch.zeros(8, requires_grad=True)
    x = Integers(torch.arange(16.0).view(2, 8), torch.tensor(0.1))
    layernorm.layer_norm(x, torch.ones(8), beta, 1e-5).real.sum().backward()
    assert beta.grad is not None and torch.allclose(beta.grad, torch.full((8,), 2.0))


def test_residual_addition():
    a = torch.tensor([10.0, 100.0, 2000.0], requires_grad=True)
    b = torch.tensor([1.0, 100.0, 0.0], requires_grad=True)
    total = layernorm.add([Integers(a, torch.tensor(0.5)), Integers(b, torch.tensor(0.25))], torch.tensor(0.5), 8)
    assert total.values.tolist() == [10, 127, 127]
    total.values.sum().backward()
    assert a.grad is not None and b.grad is not None
    # the sum clips the second, the part itself the third
    assert a.grad.tolist() == [1, 0, 0] and b.grad.tolist()[:2] == [0.5, 0]
