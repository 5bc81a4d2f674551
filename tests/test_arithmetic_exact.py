"""Simulated arithmetic equals the specification in plain integers (tests/reference.py), to the bit."""

from __future__ import annotations

from math import isqrt as root_of

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import reference
from intaglio.arithmetic import gelu, integers, layernorm, linear, softmax, sqrt
from intaglio.arithmetic.integers import Integers

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
FEW = settings(max_examples=60, deadline=None)
SEEDS = st.integers(0, 2**32 - 1)
FILLS = st.sampled_from(["uniform", "normal", "saturated", "one sign", "all large", "constant", "zero", "sparse"])
MULTIPLIERS = st.one_of(
    st.floats(2.0**-40, 2.0**8, width=32),
    # powers of two and short fractions: results that lie on ties
    st.builds(lambda n, e: n * 2.0**e, st.integers(1, 15), st.integers(-26, 2)),
)


def fill(kind: str, shape: tuple[int, ...], bound: int, random: np.random.Generator) -> np.ndarray:
    """Integers of at most this magnitude."""
    if kind == "uniform":
        return random.integers(-bound, bound + 1, shape)
    if kind == "normal":
        return np.clip(
            np.rint(random.normal(size=shape) * bound * random.choice([1e-3, 0.05, 0.5])), -bound, bound
        ).astype(np.int64)
    if kind == "saturated":
        return random.choice([-bound, bound], shape)
    if kind == "one sign":
        return np.full(shape, bound)
    if kind == "all large":
        # a sum that float32 would round on the way, in either direction
        return random.integers(bound * 3 // 4, bound + 1, shape)
    if kind == "constant":
        return np.broadcast_to(random.integers(-bound, bound + 1, (*shape[:-1], 1)), shape).copy()
    if kind == "sparse":
        return np.where(random.random(shape) < 0.02, random.integers(-bound, bound + 1, shape), 0)
    return np.zeros(shape, np.int64)


def tensor(values: object, device: str = "cpu") -> torch.Tensor:
    """Exactly these numbers in float32."""
    result = torch.as_tensor(np.asarray(values), device=device).float()
    assert (result.double().cpu().numpy() == values).all()
    return result


def plain(values: torch.Tensor) -> np.ndarray:
    """The integers that a float tensor carries."""
    wide = values.detach().double().cpu().numpy()
    assert (wide == np.rint(wide)).all()
    return wide.astype(np.int64)


def equal(values: torch.Tensor, expected: np.ndarray) -> None:
    np.testing.assert_array_equal(plain(values), expected)


@pytest.mark.parametrize("device", DEVICES)
@FEW
@given(SEEDS, FILLS, MULTIPLIERS, st.sampled_from([8, 9, 16, 22]), st.booleans())
def test_requantization(device, seed, kind, multiplier, bits, per_channel):
    random = np.random.default_rng(seed)
    accumulators = reference.rounded(fill(kind, (64, 33), int(random.choice([300, 2**15, 2**24, 2**31 - 1])), random))
    factor = np.float32(multiplier) * (random.random(33).astype(np.float32) + np.float32(0.5) if per_channel else 1)
    result = integers.rescale(tensor(accumulators, device), tensor(np.float32(factor), device), bits)
    equal(result, reference.requantize(accumulators, np.float32(factor), bits))


@FEW
@given(st.lists(st.integers(-(2**31) + 1, 2**31 - 1), min_size=1, max_size=40))
@example([2**24 + 1, 2**24 + 3, -(2**24) - 1, 2**31 - 1])
def test_an_accumulator_is_rounded_to_24_bits(numbers):
    exact = torch.tensor(numbers, dtype=torch.float64)
    equal(exact.float(), reference.rounded(np.array(numbers)))
    equal(
        integers.rescale(exact.float(), torch.tensor(2.0**-8), 24), reference.requantize(np.array(numbers), 2.0**-8, 24)
    )


def test_ties_go_to_even():
    halves = torch.arange(-7.0, 8.0)
    assert integers.rescale(halves, torch.tensor(0.5), 8).tolist() == [round(v / 2) for v in range(-7, 8)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ["uniform", "saturated", "one sign", "all large", "zero"])
@pytest.mark.parametrize("width", [1, 384, linear.CHUNK, linear.CHUNK + 1, 1301, 1536, 3072, 4096])
def test_linear(width, kind, device):
    random = np.random.default_rng(width)
    x, weight = fill(kind, (5, width), 127, random), fill(kind, (6, width), 127, random)
    bias = fill(kind, (6,), 2**22, random)
    expected = reference.rounded(reference.linear(x, weight, bias))
    equal(linear.accumulate(tensor(x, device), tensor(weight, device), tensor(bias, device)), expected)
    frozen = linear.linear_frozen(
        Integers(tensor(x, device).view(1, 5, width), torch.tensor(0.5, device=device)),
        tensor(weight, device),
        torch.ones(6, device=device),
        tensor(bias, device),
    )
    equal(frozen.values[0], expected)
    equal(linear.accumulate(tensor(x, device), tensor(weight, device), None), reference.rounded(x @ weight.T))


@FEW
@given(SEEDS, FILLS, st.integers(1, 900))
def test_linear_property(seed, kind, width):
    random = np.random.default_rng(seed)
    x, weight = fill(kind, (4, width), 127, random), fill("uniform", (3, width), 127, random)
    bias = random.integers(-(2**22), 2**22 + 1, 3)
    expected = reference.rounded(reference.linear(x, weight, bias))
    equal(linear.accumulate(tensor(x), tensor(weight), tensor(bias)), expected)


@FEW
@given(SEEDS, st.floats(1e-6, 1e3), st.floats(1e-4, 10))
def test_weights_are_quantized_symmetrically(seed, size, input_scale):
    random = torch.Generator().manual_seed(seed % 2**31)
    weight = torch.randn(7, 12, generator=random) * size
    weight[0] = 0
    weight[1, 3], weight[2, 3] = -weight[1].abs().max() * 2, weight[2].abs().max() * 2
    bias = torch.randn(7, generator=random) * size * 10 ** float(torch.randint(-3, 5, (1,), generator=random))
    q, scale, b = linear.quantize_weight(weight, bias, torch.tensor(input_scale))
    reference.within(plain(q), 127), reference.within(plain(b), 2**22)
    assert (scale > 0).all()
    # the nearest integer, to what float32 knows of it
    assert ((q.double() * scale.double()[:, None] - weight).abs() <= scale.double()[:, None] * 0.50002).all()
    unit = scale.double() * input_scale
    assert ((b.double() * unit - bias).abs() <= unit * 0.5 + bias.abs() * 2e-7).all()
    # channels that no bias widens use the whole range, in both directions
    q, _, _ = linear.quantize_weight(weight, None, torch.tensor(input_scale))
    assert q[1].min() == -127 and q[2].max() == 127 and (q[0] == 0).all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ["uniform", "saturated", "one sign", "all large"])
@pytest.mark.parametrize("depth", [1, 64, 512])
def test_products_of_activations(depth, kind, device):
    random = np.random.default_rng(depth)
    a, b = fill(kind, (2, 3, 4, depth), 127, random), fill(kind, (2, 3, depth, 5), 127, random)
    scale = torch.tensor(0.5, device=device)
    product = linear.matmul(Integers(tensor(a, device), scale), Integers(tensor(b, device), scale))
    equal(product.values, reference.matmul(a, b))


@pytest.mark.parametrize("device", DEVICES)
@FEW
@given(SEEDS, FILLS, st.floats(1e-7, 0.5), st.floats(1e-3, 2.0))
def test_gelu(device, seed, kind, unit, scale):
    random = np.random.default_rng(seed)
    accumulators = reference.rounded(fill(kind, (9, 40), int(random.choice([2**10, 2**20, 2**27])), random))
    x_scale = torch.full((40,), unit, device=device)
    result = gelu.gelu(Integers(tensor(accumulators, device), x_scale), torch.tensor(scale, device=device))
    multiplier = (gelu.OUTPUT_SCALE / result.scale).item()
    equal(result.values, reference.gelu(accumulators, (x_scale * 256).cpu().numpy(), multiplier))


def test_gelu_of_every_input():
    h = np.arange(-32767, 32768)
    for scale in (2.0**-8, 0.0123, 0.5, 1.0):
        result = gelu.gelu(Integers(tensor(h), torch.tensor(2.0**-8)), torch.tensor(scale))
        equal(result.values, reference.gelu(h, np.float32(1), (gelu.OUTPUT_SCALE / result.scale).item()))


def test_exponential_of_every_input():
    distance = np.arange(softmax.FARTHEST + 1)
    equal(softmax.exp_integers(tensor(distance)), reference.exponential(distance))


@pytest.mark.parametrize("device", DEVICES)
@FEW
@given(SEEDS, FILLS, st.sampled_from([1, 2, 7, 64, 129, 512, 705, 1100]), st.floats(1e-5, 3.0), st.booleans())
@example(0, "zero", 512, 1.0, False)
@example(0, "saturated", 512, 1e-5, True)
@example(0, "constant", 1, 1.0, True)
def test_softmax(device, seed, kind, length, multiplier, masking):
    random = np.random.default_rng(seed)
    scores = fill(kind, (2, 3, 4, length), int(random.choice([50, 5000, 127 * 127 * 64])), random)
    masked = None
    if masking:
        masked = random.random((2, 1, 1, length)) < 0.5
        # an example with a single token, and one whose last positions are padding
        masked[0, ..., 1:] = True
        masked[..., 0] = False
    mask = None if masked is None else torch.from_numpy(masked).to(device)
    result = softmax.softmax_integers(tensor(scores, device), torch.tensor(multiplier, device=device), mask)
    expected = reference.softmax(scores, multiplier, masked)
    equal(result, expected)
    assert expected.min() >= 0 and expected.max() <= 255
    if masked is not None:
        assert (expected[np.broadcast_to(masked, scores.shape)] == 0).all()
        assert (expected[0, ..., 0] == 255).all()


def test_a_row_without_any_token_is_zero():
    result = softmax.softmax_integers(torch.ones(1, 3), torch.tensor(1.0), torch.ones(1, 3, dtype=torch.bool))
    assert (result == 0).all()


def test_square_root_is_math_isqrt():
    roots = torch.arange(2**14, 2**15)
    squares = roots**2
    assert (sqrt.isqrt(squares) == roots).all()
    assert (sqrt.isqrt(squares[1:] - 1) == roots[:-1]).all()
    assert (sqrt.isqrt(squares + 1) == roots).all()
    random = torch.randint(2**28, 2**30, (5000,))
    assert sqrt.isqrt(random).tolist() == [root_of(int(n)) for n in random]


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.integers(1, 2**31 - 1),
        st.builds(lambda e, d: min(max(2**e + d, 1), 2**31 - 1), st.integers(0, 31), st.integers(-2, 2)),
    )
)
def test_numbers_are_shifted_for_the_square_root(n):
    normal, half = sqrt.normalize(torch.tensor([n]))
    assert 2**28 <= int(normal) < 2**30
    assert (int(sqrt.isqrt(normal)), int(half)) == reference.square_root(n)


@pytest.mark.parametrize("device", DEVICES)
@FEW
@given(
    SEEDS,
    FILLS,
    st.sampled_from([(16, 32), (16, 128), (22, 384), (22, 768), (22, 1000), (22, 1024), (16, 1)]),
    st.sampled_from([1e-12, 1e-5]),
    st.floats(1e-10, 1.0),
)
@example(0, "saturated", (22, 1024), 1e-12, 1e-5)
@example(0, "one sign", (22, 1024), 1e-12, 1e-5)
@example(0, "constant", (22, 768), 1e-5, 1e-10)
@example(0, "normal", (16, 384), 1e-5, 1e-6)
def test_layer_norm(device, seed, kind, shape, epsilon, scale):
    bits, width = shape
    random = np.random.default_rng(seed)
    x = fill(kind, (6, width), reference.largest(bits), random)
    gamma, beta = random.integers(-511, 512, width), random.integers(-(2**22), 2**22 + 1, width)
    unit = torch.tensor(scale, device=device)
    guard = epsilon / unit.double().square()
    result, y, _ = layernorm._forward(tensor(x, device), guard, tensor(gamma, device), tensor(beta, device))
    equal(result, reference.layer_norm(x, bits, gamma, beta, float(guard * width)))
    # deviations of different rows are kept apart
    assert (plain(y).sum(1) <= width).all()


@FEW
@given(SEEDS, st.floats(1e-3, 1e3), st.floats(0, 1e4))
def test_gamma_and_beta_as_integers(seed, size, offset):
    random = torch.Generator().manual_seed(seed % 2**31)
    gamma, beta = torch.randn(50, generator=random) * size, torch.randn(50, generator=random) * offset
    g, b, scale = layernorm.quantize_affine(gamma, beta)
    reference.within(plain(g), 511), reference.within(plain(b), 2**22)
    assert ((g * scale * 512 - gamma).abs() <= scale * 512 * 0.501).all()
    assert ((b.double() * scale - beta).abs() <= scale * 0.5 + beta.abs() * 2e-7).all()


@pytest.mark.parametrize("device", DEVICES)
@FEW
@given(SEEDS, FILLS, st.sampled_from([16, 22]), st.integers(2, 3))
def test_residual_addition(device, seed, kind, bits, count):
    random = np.random.default_rng(seed)
    target = np.float32(random.uniform(1e-6, 1e-2))
    parts, expected = [], []
    for index in range(count):
        values = reference.rounded(fill(kind, (3, 5, 8), int(random.choice([127, 2**23, 2**27])), random))
        # the first has a scale for each channel, as accumulators have
        scale = random.uniform(1e-9, 1e-3, 8 if index == 0 else ()).astype(np.float32)
        parts.append(Integers(tensor(values, device), tensor(scale, device)))
        expected.append((values, (tensor(scale) / tensor(target)).numpy()))
    total = layernorm.add(parts, tensor(target, device), bits)
    equal(total.values, reference.add(expected, bits))


@FEW
@given(SEEDS, st.floats(1e-4, 1e3), st.sampled_from([8, 16, 22]))
def test_real_values_are_quantized_by_the_same_rule(seed, range_, bits):
    x = torch.randn(20, 30, generator=torch.Generator().manual_seed(seed % 2**31)) * range_
    scale = integers.scale_of(torch.tensor(range_), bits)
    result = integers.requantize(x, scale, bits)
    bound = reference.largest(bits)
    exact = np.clip(np.rint(x.double().numpy() / float(scale)), -bound, bound)
    # two roundings of float32: off by one only next to a tie
    assert np.abs(plain(result.values) - exact).max() <= 1
    reference.within(plain(result.values), bound)
    assert float((result.real - x.clamp(-range_, range_)).abs().max()) <= float(scale) * 0.5 + range_ * 4e-7


def test_dropout_leaves_integers():
    torch.manual_seed(0)
    x = Integers(torch.randint(-127, 128, (50, 40)).float(), torch.tensor(0.25))
    dropped = integers.dropout(x, 0.2, training=True)
    assert isinstance(dropped, Integers)
    kept = dropped.values != 0
    assert torch.equal(dropped.values[kept], x.values[kept])
    assert float(dropped.scale) == pytest.approx(0.25 / 0.8)
    assert 0.7 < float(kept.float().mean()) < 0.85
    assert integers.dropout(x, 0.2, training=False) is x and integers.dropout(x, 0.0, training=True) is x
