"""How far integers are from the real functions: the bounds that docs/arithmetic.md states."""

from __future__ import annotations

from math import log

import numpy as np
import pytest
import torch
from scipy.special import erf
from torch.nn import functional

from intaglio.arithmetic import gelu, layernorm, linear, softmax, sums
from intaglio.arithmetic.integers import Integers, requantize, scale_of

A, B = -0.2888, -1.769


def _i_erf(x: np.ndarray) -> np.ndarray:
    return np.sign(x) * (A * (np.clip(np.abs(x), None, -B) + B) ** 2 + 1)


def test_polynomials_of_the_paper():
    x = np.linspace(-4, 4, 100_001)
    difference = x * 0.5 * (_i_erf(x / np.sqrt(2)) - erf(x / np.sqrt(2)))
    # table 1 of the paper: i-GELU is 0.018 from GELU at most, 0.0082 in the mean of squares
    assert np.abs(difference).max() <= 0.0182
    assert np.sqrt((difference**2).mean()) <= 0.0082
    p = np.linspace(-log(2), 0, 100_001)
    assert np.abs(0.3585 * (p + 1.353) ** 2 + 0.344 - np.exp(p)).max() <= 2.13e-3


# Real value of one in what `exp_integers` gives.
EXP_UNIT = 0.3585 * softmax.INPUT_SCALE**2 * 64


def test_integer_polynomials_are_those_of_the_paper():
    h = torch.arange(-2560, 2561).float()
    x = h.double().numpy() / 256
    wanted = x * 0.5 * (1 + _i_erf(x / np.sqrt(2)))
    ours = (gelu.gelu_integers(h) * gelu.OUTPUT_SCALE).double().numpy()
    # b and 1 as integers, and the low bits of erf
    assert np.abs(ours - wanted).max() <= 5e-4
    distance = torch.arange(16 * 256).float()
    z, low = np.divmod(np.arange(16 * 256), 256)
    wanted = 2.0**-z * (0.3585 * (1.353 - low * log(2) / 256) ** 2 + 0.344)
    ours = softmax.exp_integers(distance).double().numpy() * EXP_UNIT
    assert np.abs(ours - wanted).max() <= 8e-4


@pytest.mark.parametrize("range_", [0.5, 1.0, 3.0, 5.0, 10.0, 20.0, 60.0, 120.0])
def test_gelu_error(range_):
    scale = torch.tensor(range_ / 2**22)
    accumulators = (torch.linspace(-10, range_, 200_001) / scale).round()
    table = gelu.gelu_table(torch.tensor(range_))
    ours = gelu.gelu(Integers(accumulators, scale), table).real
    error = (ours - functional.gelu(accumulators * scale)).abs()
    # the polynomial, half a unit of the input at GELU's steepest, half a unit of the result
    assert float(error.max()) <= 0.0184 + 1.13 * float(table.input_scale) / 2 + float(table.scale) / 2
    if range_ >= 10:
        assert float(error.max()) <= 1.02 * float(table.scale)


def test_gelu_beyond_its_range():
    table = gelu.gelu_table(torch.tensor(5.0))
    ours = gelu.gelu(Integers(torch.tensor([-3e4, -4.0, 4.99, 5.2, 3e4]), torch.tensor(1.0)), table)
    assert ours.real.tolist() == pytest.approx([0, 0, 5, 5, 5], abs=float(table.scale))


def test_gelu_reaches_as_far_as_the_grid():
    table = gelu.gelu_table(torch.tensor(1000.0))
    assert float(table.entries.max() * table.scale) == pytest.approx(128, abs=float(table.scale))


def test_exponential_error():
    distance = torch.arange(softmax.FARTHEST + 1).float()
    ours = softmax.exp_integers(distance) * EXP_UNIT
    assert float((ours - torch.exp(-distance * softmax.INPUT_SCALE)).abs().max()) <= 2.9e-3


@pytest.mark.parametrize("scale", [2e-5, 1e-3, 0.05])
@pytest.mark.parametrize("spread", [1.0, 4.0, 10.0])
@pytest.mark.parametrize("length", [1, 8, 64, 128, 512])
def test_softmax_error(length, spread, scale):
    torch.manual_seed(0)
    scores = (torch.randn(100, length) * spread / scale).round()
    exact = (scores.double() * scale / 8).softmax(-1)
    ours = softmax.softmax(Integers(scores, torch.tensor(scale)), 1 / 8, None).real
    # 1/255 is the unit of the result
    assert float((ours - exact).abs().max()) * 255 <= 1.1


@pytest.mark.parametrize("scale", [1e-6, 1e-7, 1e-9, 1e-12])
def test_softmax_of_scores_that_are_all_but_equal(scale):
    """Below a certain scale distances are exaggerated, but stay small."""
    torch.manual_seed(0)
    scores = torch.randint(-(2**20), 2**20, (100, 3)).float()
    exact = (scores.double() * scale / 8).softmax(-1)
    ours = softmax.softmax(Integers(scores, torch.tensor(scale)), 1 / 8, None).real
    assert float((ours - exact).abs().max()) * 255 <= 2.5


def test_softmax_of_scores_that_are_far_apart():
    """No score is clipped, however large: only distances from the largest are."""
    scores = torch.tensor([[2000.0, 1999.0, 0.0, -3e6], [3.0, 3.0, -2000.0, -5000.0]])
    ours = softmax.softmax(Integers(scores, torch.tensor(1.0)), 1.0, None).real
    assert float((ours - scores.softmax(-1)).abs().max()) <= 1 / 255


@pytest.mark.parametrize("spread", [4.0, 40.0, 400.0])
@pytest.mark.parametrize("width", [32, 384, 768, 1024])
def test_layer_norm_error(width, spread):
    """Rows keep their precision where the range of the layer is hundreds of times their own deviation."""
    torch.manual_seed(0)
    scale = scale_of(torch.tensor(2 * spread), 22)
    x = (torch.randn(100, width) / scale).round()
    ours, _ = layernorm.layer_norm(Integers(x, scale), torch.ones(width), torch.zeros(width), 1e-5, None)
    exact = functional.layer_norm((x * scale).double(), (width,), eps=1e-5)
    error = (ours.real - exact).abs()
    assert float(error.max()) <= 5e-3
    assert float(error.square().mean().sqrt()) <= 9e-4


@pytest.mark.parametrize(("largest", "deviation"), [(1e-3, 3e-4), (0.02, 0.005), (1.0, 2e-3)])
def test_layer_norm_where_epsilon_counts(largest, deviation):
    torch.manual_seed(0)
    scale = scale_of(torch.tensor(2 * largest), 22)
    x = (torch.randn(100, 384) * deviation / scale).round().clamp(-sums.BOUND, sums.BOUND)
    ours, _ = layernorm.layer_norm(Integers(x, scale), torch.ones(384), torch.zeros(384), 1e-5, None)
    exact = functional.layer_norm((x * scale).double(), (384,), eps=1e-5)
    assert float((ours.real - exact).abs().max()) <= 5e-3


@pytest.mark.parametrize("short", [False, True])
def test_layer_norm_with_gamma_and_beta(short):
    torch.manual_seed(0)
    gamma, beta = torch.rand(384) * 0.5 + 0.75, torch.randn(384) * 0.1
    scale = scale_of(torch.tensor(20.0), 22)
    x = (torch.randn(100, 384) / scale).round()
    wide, shift = layernorm.layer_norm(Integers(x, scale), gamma, beta, 1e-5, torch.tensor(5 / 127) if short else None)
    error = (wide.real - functional.layer_norm(x * scale, (384,), gamma, beta, 1e-5)).abs()
    assert float(error.max()) <= 0.01 and float(error.square().mean().sqrt()) <= 1.2e-3
    if short:
        assert float(wide.scale * 2**shift) == pytest.approx(5 / 127, rel=1e-6)


def _relative(x: torch.Tensor, exact: torch.Tensor) -> float:
    return float((x - exact).square().mean().sqrt() / exact.square().mean().sqrt())


@pytest.mark.parametrize("width", [768, 3072])
def test_linear_error(width):
    torch.manual_seed(0)
    layer = torch.nn.Linear(width, 768)
    x = torch.randn(64, width)
    q = requantize(x, scale_of(x.abs().amax(), 8))
    assert _relative(linear.linear(q, layer.weight, layer.bias).real.detach(), layer(x).detach()) <= 0.015


@pytest.mark.parametrize("outlier", [1.0, 10.0, 30.0, 100.0])
def test_a_term_of_a_sum_is_as_exact_as_its_accumulators(outlier):
    """Also where one channel is so much larger than the others that their multipliers are small."""
    torch.manual_seed(0)
    layer, x = torch.nn.Linear(768, 768), torch.randn(64, 768)
    with torch.no_grad():
        layer.weight[5] *= outlier
        exact = layer(x)
        q = requantize(x, scale_of(x.abs().amax(), 8))
        plain = linear.linear(q, layer.weight, layer.bias).real
        term = sums.alone(linear.linear_term(q, layer.weight, layer.bias, exact.abs().max() * 2 / sums.BOUND)).real
    others = torch.arange(768) != 5
    assert _relative(term[:, others], exact[:, others]) <= 1.05 * _relative(plain[:, others], exact[:, others])
