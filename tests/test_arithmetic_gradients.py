"""Straight-through gradients: by hand where they are simple, else those of the real function at the real values."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from intaglio.arithmetic import gelu, layernorm, linear, softmax, sums
from intaglio.arithmetic.integers import Integers, requantize, rescale, scale_of, shorten

pytestmark = pytest.mark.usefixtures("seeded")


def _close(ours: Tensor, theirs: Tensor, tolerance: float) -> None:
    """Assert a small distance in units of the largest gradient."""
    assert torch.isfinite(ours).all()
    assert float((ours - theirs).abs().max()) <= tolerance * float(theirs.abs().max())


def test_rescale_passes_the_multiplier_inside_and_nothing_where_it_clips():
    x = torch.tensor([-600.0, -513.0, -254.0, 0.0, 253.0, 255.0, 256.0, 1000.0], requires_grad=True)
    result = rescale(x, torch.tensor(0.5))
    assert result.tolist() == [-128, -128, -127, 0, 126, 127, 127, 127]
    result.backward(torch.arange(1.0, 9.0))
    assert x.grad is not None
    # 255 / 2 is 128 after rounding, which is clipped
    assert x.grad.tolist() == [0, 0, 1.5, 2, 2.5, 0, 0, 0]


def test_rescale_by_channel():
    x = torch.tensor([[10.0, 10.0], [2000.0, 2000.0]], requires_grad=True)
    rescale(x, torch.tensor([0.5, 0.01])).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.tensor([[0.5, 0.01], [0.0, 0.01]]))


def test_shortening_passes_its_unit_inside_and_nothing_where_it_clips():
    x = torch.tensor([-5000.0, -17.0, 3.0, 1000.0, 1100.0], requires_grad=True)
    result = shorten(Integers(x, torch.tensor(0.5)), torch.tensor(3.0))
    assert result.values.tolist() == [-128, -2, 0, 125, 127] and float(result.scale) == 4
    result.real.sum().backward()
    assert x.grad is not None and x.grad.tolist() == [0, 0.5, 0.5, 0.5, 0]


def test_real_gradient_of_a_quantizer_is_one():
    x = torch.tensor([0.3, -0.9, 1.5], requires_grad=True)
    requantize(x, scale_of(torch.tensor(1.0), 8)).real.sum().backward()
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
    _close_all(ours, x, scale, linear.quantize_weight(layer.weight.detach(), layer.bias.detach(), scale), upstream)


def _close_all(
    ours: tuple[Tensor, ...], x: Tensor, scale: Tensor, found: linear.QuantizedWeight, upstream: Tensor
) -> None:
    weight = (found.values * found.scale[:, None]).requires_grad_()
    bias = (found.bias * found.scale * scale).requires_grad_()
    real = (x.detach() * scale).requires_grad_()
    (functional.linear(real, weight, bias) * upstream).sum().backward()
    for mine, theirs in zip(ours, (real.grad, weight.grad, bias.grad), strict=True):
        assert theirs is not None
        _close(mine, theirs, 1e-5)


@pytest.mark.parametrize("shape", [(6, 40), (2, 3, 1000)])
def test_linear_as_a_term_of_a_sum(shape):
    x = torch.randint(-127, 128, shape).float().requires_grad_()
    layer = torch.nn.Linear(shape[-1], 7)
    scale, sum_scale = torch.tensor(0.02), torch.tensor(3e-5)
    upstream = torch.randn(*shape[:-1], 7)
    total = sums.alone(linear.linear_term(Integers(x, scale), layer.weight, layer.bias, sum_scale))
    assert float(total.values.detach().abs().max()) < sums.BOUND
    (total.real * upstream).sum().backward()
    found = linear.quantize_weight(layer.weight.detach(), layer.bias.detach(), scale, sum_scale)
    assert x.grad is not None and layer.weight.grad is not None and layer.bias.grad is not None
    _close_all((x.grad / scale, layer.weight.grad, layer.bias.grad), x, scale, found, upstream)


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
    table = gelu.gelu_table(torch.tensor(4.0))
    upstream = torch.randn(50, 40)
    result = gelu.gelu(Integers(x, x_scale), table)
    (result.real * upstream).sum().backward()
    # the real function at the input that the codes stand for
    codes = (x.detach() * (x_scale / table.input_scale)).round()
    assert bool((codes + table.zero_point > 255).any()) and bool((codes + table.zero_point < 0).any())
    h = (codes * table.input_scale).requires_grad_()
    (functional.gelu(h) * upstream).sum().backward()
    at_bounds = (result.values == 127) | (codes + table.zero_point <= 0)
    assert x.grad is not None and h.grad is not None
    _close(x.grad / x_scale, h.grad.masked_fill(at_bounds, 0), 5e-3)
    assert (x.grad[at_bounds] == 0).all() and (x.grad[~at_bounds] != 0).float().mean() > 0.95


def test_gelu_gives_no_gradient_where_it_clips():
    x = torch.tensor([-5000.0, -3.0, 1.0, 3.0, 4.5, 5.1, 5000.0], requires_grad=True)
    table = gelu.gelu_table(torch.tensor(5.0))
    gelu.gelu(Integers(x, torch.tensor(1.0)), table).real.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == pytest.approx([0, 0, 1.083, 1.012, 1, 0, 0], abs=2e-3)


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
    result, _ = layernorm.layer_norm(Integers(x, scale), norm.weight, norm.bias, norm.eps, None)
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
        result, _ = layernorm.layer_norm(Integers(x.round(), scale), norm.weight, norm.bias, norm.eps, None)
    values = result.real
    assert torch.allclose(values[:2], norm.bias.detach().expand(2, 16), atol=1e-4)
    gradient = _norm(x.round(), scale, norm, torch.randn(3, 16))
    assert torch.isfinite(gradient).all()
    assert norm.weight.grad is not None and torch.isfinite(norm.weight.grad).all()


def test_beta_alone_can_be_trained():
    beta = torch.zeros(8, requires_grad=True)
    x = Integers(torch.arange(16.0).view(2, 8), torch.tensor(0.1))
    layernorm.layer_norm(x, torch.ones(8), beta, 1e-5, None)[0].real.sum().backward()
    assert beta.grad is not None and torch.allclose(beta.grad, torch.full((8,), 2.0))


def _term(values: list[float], kept: Tensor | None = None) -> tuple[Tensor, linear.Term]:
    """Accumulators of which 2 are 3 integers of the sum."""
    x = torch.tensor(values, requires_grad=True)
    return x, linear.Term(x, torch.full((len(values),), 3.0), torch.tensor(1.0), torch.tensor(0.5), kept)


def test_residual_sum():
    z = torch.tensor([10.0, 4e6, 4e6, 10.0, 4e6], requires_grad=True)
    x, term = _term([9.0, 8.0, 2e5, 2e5, -2e5])
    total = sums.residual(Integers(z, torch.tensor(0.25)), torch.tensor(1.0), term)
    assert total.values.tolist() == [5 + 12, 2e6 + 12, 2e6 + 16383 * 3, 5 + 16383 * 3, 2e6 - 16383 * 3]
    total.values.sum().backward()
    # the last three accumulators are clipped once shortened
    assert z.grad is not None and z.grad.tolist() == [0.5, 0.5, 0.5, 0.5, 0.5]
    assert x.grad is not None and x.grad.tolist() == [1.5, 1.5, 0, 0, 0]


def test_residual_sum_that_is_clipped():
    z = torch.tensor([4.18e6, 4.18e6], requires_grad=True)
    x, term = _term([8000.0, 0.0])
    total = sums.residual(Integers(z, torch.tensor(0.25)), torch.tensor(1.0), term)
    assert total.values.tolist() == [2**21 - 1, 2.09e6]
    total.values.sum().backward()
    assert z.grad is not None and z.grad.tolist() == [0, 0.5]
    assert x.grad is not None and x.grad.tolist() == [0, 1.5]


def test_dropped_terms():
    z = torch.tensor([8.0, 8.0], requires_grad=True)
    x, term = _term([20.0, 20.0], torch.tensor([0.0, 1.25]))
    total = sums.residual(Integers(z, torch.tensor(0.25)), torch.tensor(1.0), term)
    assert total.values.tolist() == [4, 4 + 38]
    total.values.sum().backward()
    assert z.grad is not None and z.grad.tolist() == [0.5, 0.5]
    assert x.grad is not None and x.grad.tolist() == [0, 1.875]


def test_embedding_rows():
    rows = torch.tensor([[0.5, -0.25, 3.0]], requires_grad=True)
    scale, (multiplier, _) = sums.table_scales([torch.tensor(1.0), torch.tensor(2.0)], [8, 8])
    (sums.quantize_rows(rows, scale * multiplier) * multiplier * scale).sum().backward()
    # what a training step pushes beyond the table's range is clipped
    assert rows.grad is not None and rows.grad[0].tolist() == pytest.approx([1, 1, 0])
