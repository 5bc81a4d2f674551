"""How far integers are from the real functions: the bounds that docs/arithmetic.md states."""

from __future__ import annotations

from math import log

import numpy as np
import pytest
import torch
from scipy.special import erf
from torch.nn import functional

from intaglio.arithmetic import gelu, layernorm, linear, softmax
from intaglio.arithmetic.integers import Integers, largest, requantize, scale_of

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


def test_integer_polynomials_are_those_of_the_paper():
    h = torch.arange(-2560, 2561).float()
    x = h.double().numpy() / 256
    wanted = x * 0.5 * (1 + _i_erf(x / np.sqrt(2)))
    ours = gelu.gelu_real(Integers(h, torch.tensor(2.0**-8))).double().numpy()
    # b and 1 as integers, and the low bits of erf
    assert np.abs(ours - wanted).max() <= 5e-4
    distance = torch.arange(16 * 256).float()
    z, low = np.divmod(np.arange(16 * 256), 256)
    wanted = 2.0**-z * (0.3585 * (1.353 - low * log(2) / 256) ** 2 + 0.344)
    ours = softmax.exp_integers(distance).double().numpy() * 0.3585 * softmax.INPUT_SCALE**2 * 16
    assert np.abs(ours - wanted).max() <= 8e-4


def test_gelu_error():
    h = torch.arange(-2560, 2561).float()
    real = h / 256
    error = (gelu.gelu_real(Integers(h, torch.tensor(2.0**-8))) - functional.gelu(real)).abs()
    assert float(error.max()) <= 0.0184
    # 8 bits add half of their unit
    scale = torch.tensor(10 / 127)
    error = (gelu.gelu(Integers(h, torch.tensor(2.0**-8)), scale).real - functional.gelu(real)).abs()
    assert float(error.max()) <= 0.0184 + float(scale) / 2


def test_gelu_reaches_as_far_as_its_input():
    accumulators = Integers(torch.tensor([-3e4, 100.0, 127.0, 3e4]), torch.tensor(1.0))
    assert gelu.gelu_real(accumulators).tolist() == pytest.approx([0, 100, 127, 32767 / 256], rel=1e-4)


def test_exponential_error():
    distance = torch.arange(softmax.FARTHEST + 1).float()
    ours = softmax.exp_integers(distance) * 0.3585 * softmax.INPUT_SCALE**2 * 16
    assert float((ours - torch.exp(-distance * softmax.INPUT_SCALE)).abs().max()) <= 2.9e-3


@pytest.mark.parametrize("spread", [1.0, 4.0, 10.0])
@pytest.mark.parametrize("length", [1, 8, 64, 128, 512])
def test_softmax_error(length, spread):
    torch.manual_seed(0)
    scores = (torch.randn(100, length) * spread * 1000).round()
    exact = (scores.double() / 1000 / 8).softmax(-1)
    ours = softmax.softmax(Integers(scores, torch.tensor(1e-3)), 1 / 8, None).real
    # 1/255 is the unit of the result
    assert float((ours - exact).abs().max()) * 255 <= 1.1


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
    ours = layernorm.layer_norm(Integers(x, scale), torch.ones(width), torch.zeros(width), 1e-5).real
    exact = functional.layer_norm((x * scale).double(), (width,), eps=1e-5)
    error = (ours - exact).abs()
    # half a step of the grid, half a unit of the input in the mean, and the rounding of the deviation
    assert bool((error <= 2.0**-10 + scale / 2 + 2.5e-4 * exact.abs()).all())
    assert float(error.max()) <= 1.8e-3


@pytest.mark.parametrize(("bits", "largest_", "deviation"), [(16, 0.02, 0.005), (16, 0.1, 0.02), (22, 1e-3, 3e-4)])
def test_layer_norm_where_epsilon_counts(bits, largest_, deviation):
    torch.manual_seed(0)
    scale = scale_of(torch.tensor(2 * largest_), bits)
    x = (torch.randn(100, 384) * deviation / scale).round().clamp(-largest(bits), largest(bits))
    ours = layernorm.layer_norm(Integers(x, scale), torch.ones(384), torch.zeros(384), 1e-5).real
    exact = functional.layer_norm((x * scale).double(), (384,), eps=1e-5)
    assert float((ours - exact).abs().max()) <= 1.7e-3


def test_linear_error():
    torch.manual_seed(0)
    layer = torch.nn.Linear(768, 768)
    x = torch.randn(64, 768)
    q = requantize(x, scale_of(x.abs().amax(), 8), 8)
    exact = layer(x).detach()
    error = linear.linear(q, layer.weight, layer.bias).real.detach() - exact
    assert float(error.square().mean().sqrt() / exact.square().mean().sqrt()) <= 0.015
