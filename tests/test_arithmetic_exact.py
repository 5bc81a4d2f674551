"""Simulated arithmetic equals the specification in plain integers (tests/reference.py), to the bit."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from math import isqrt as root_of
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import reference
from intaglio.arithmetic import gelu, integers, layernorm, linear, softmax, sqrt, sums
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
SCALES = st.floats(2.0**-26, 8.0, width=32)


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


def real(values: Any, device: str = "cpu") -> torch.Tensor:
    """These numbers in float32, rounded."""
    return torch.as_tensor(np.asarray(values, np.float32), device=device)


def plain(values: torch.Tensor) -> np.ndarray:
    """The integers that a float tensor carries."""
    wide = values.detach().double().cpu().numpy()
    assert (wide == np.rint(wide)).all()
    return wide.astype(np.int64)


def equal(values: torch.Tensor, expected: np.ndarray) -> None:
    np.testing.assert_array_equal(plain(values), expected)


def derived(found: Any, derive: Callable[[Fraction], Any], value: float) -> None:
    """Assert that a constant is what its definition gives, for this value or for what float32 may have made of it."""
    near = [derive(Fraction(value) * (1 + Fraction(d, 10**6))) for d in (0, -1, 1)]
    assert found in near, (found, near)


# Roundings


@pytest.mark.parametrize("device", DEVICES)
@FEW
@given(SEEDS, FILLS, MULTIPLIERS, st.sampled_from([(-128, 127), (-127, 127), (0, 255)]), st.booleans())
def test_requantization(device, seed, kind, multiplier, bounds, per_channel):
    random = np.random.default_rng(seed)
    accumulators = fill(kind, (64, 33), int(random.choice([300, 2**15, 2**24])), random)
    factor = np.float32(multiplier) * (random.random(33).astype(np.float32) + np.float32(0.5) if per_channel else 1)
    result = integers.rescale(tensor(accumulators, device), real(factor, device), *bounds)
    equal(result, reference.requantize(accumulators, np.float32(factor), *bounds))


def test_ties_go_to_even():
    halves = torch.arange(-7.0, 8.0)
    assert integers.rescale(halves, torch.tensor(0.5)).tolist() == [round(v / 2) for v in range(-7, 8)]


@pytest.mark.parametrize("device", DEVICES)
@FEW
@given(SEEDS, FILLS, st.integers(0, 20))
def test_shortening(device, seed, kind, shift):
    z = fill(kind, (20, 33), 2**24 - 2**21, np.random.default_rng(seed))
    scale = torch.tensor(2.0**-12, device=device)
    result = integers.shorten(Integers(tensor(z, device), scale), torch.tensor(float(shift), device=device))
    equal(result.values, reference.shorten(z, shift))
    assert float(result.scale) == 2.0 ** (shift - 12)


def test_shifts_round_halves_up():
    x = Integers(torch.tensor([-6.0, -5, -3, -2, -1, 0, 1, 2, 3]), torch.tensor(1.0))
    assert integers.shorten(x, torch.tensor(1.0)).values.tolist() == [-3, -2, -1, -1, 0, 0, 1, 1, 2]
    assert integers.shorten(x, torch.tensor(0.0)).values.tolist() == x.values.tolist()


@FEW
@given(SEEDS, st.floats(1e-4, 1e3))
def test_real_values_are_quantized_by_the_same_rule(seed, range_):
    x = torch.randn(20, 30, generator=torch.Generator().manual_seed(seed % 2**31)) * range_
    scale = integers.scale_of(torch.tensor(range_), 8)
    result = integers.requantize(x, scale)
    exact = np.clip(np.rint(x.double().numpy() / float(scale)), -128, 127)
    # two roundings of float32: off by one only next to a tie
    assert np.abs(plain(result.values) - exact).max() <= 1
    assert float((result.real - x.clamp(-range_ * 128 / 127, range_)).abs().max()) <= float(scale) * 0.5 + range_ * 4e-7


@given(st.one_of(st.floats(2.0**-100, 2.0**100, width=32), st.builds(lambda e: 2.0**e, st.integers(-100, 100))))
def test_floor_of_the_logarithm(x):
    assert float(integers.floor_log2(torch.tensor(x))) == reference.floor_log2(Fraction(x))


# Linear layers

# Real weights of which every channel is hard on the sum: rounded up all, of one sign, a few large.
WEIGHTS = st.sampled_from(["normal", "equal", "one sign", "large few", "up", "zero"])


def real_weight(kind: str, shape: tuple[int, int], random: np.random.Generator) -> np.ndarray:
    width = shape[1]
    if kind == "equal":
        return np.ones(shape) * random.uniform(0.01, 10, (shape[0], 1))
    if kind == "one sign":
        return np.abs(random.normal(size=shape)) * 0.01
    if kind == "large few":
        return random.standard_t(2, shape)
    if kind == "up":
        # in units of the scale that the sum allows, just above a half
        unit = np.floor(98_303 / width - 0.5) - 0.5 + 1e-3
        return np.full(shape, max(unit, 0.5 + 1e-3)) * random.choice([-1, 1], shape)
    return random.normal(size=shape) * (kind != "zero")


def quantized(
    kind: str, outputs: int, width: int, random: np.random.Generator, sum_scale: torch.Tensor | None, device: str
) -> tuple[linear.QuantizedWeight, np.ndarray, np.ndarray, float]:
    """A layer's constants, its real weight and bias, and the scale of its input."""
    weight = real(real_weight(kind, (outputs, width), random) * 10.0 ** random.uniform(-4, 2), device)
    bias = real(random.normal(size=outputs) * 10.0 ** random.uniform(-4, 4), device)
    input_scale = torch.tensor(10.0 ** random.uniform(-4, 0), device=device, dtype=torch.float32)
    found = linear.quantize_weight(weight, bias, input_scale, sum_scale)
    return found, weight.double().cpu().numpy(), bias.double().cpu().numpy(), float(input_scale)


def check_products(found: linear.QuantizedWeight, x: np.ndarray, device: str) -> np.ndarray:
    accumulators = reference.linear(x, plain(found.values), plain(found.bias))
    scale = torch.tensor(0.5, device=device)
    equal(linear.accumulate(Integers(tensor(x, device).unsqueeze(0), scale), found)[0], accumulators)
    return accumulators


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ["uniform", "saturated", "one sign", "all large"])
@pytest.mark.parametrize("width", [1, 384, 775, 1301, 1536, 3072, 4096])
def test_linear(width, kind, device):
    random = np.random.default_rng(width)
    x = fill(kind, (5, width), 128, random)
    for weights in ("normal", "equal", "one sign", "up"):
        found, _, _, _ = quantized(weights, 6, width, random, None, device)
        check_products(found, x, device)
        # the input that makes a sum of absolute values
        check_products(found, np.where(plain(found.values)[:1] < 0, 127, -128), device)


@pytest.mark.parametrize("device", DEVICES)
@FEW
@given(SEEDS, FILLS, WEIGHTS, st.integers(1, 4096))
def test_linear_property(device, seed, kind, weights, width):
    random = np.random.default_rng(seed)
    found, weight, bias, input_scale = quantized(weights, 3, width, random, None, device)
    check_products(found, fill(kind, (4, width), 127, random), device)
    # the smallest scale that keeps the widths, and the nearest integers, to what float32 knows of them
    scale = found.scale.double().cpu().numpy()
    smallest = np.maximum(reference.weight_scale(weight, bias, input_scale), integers.SMALLEST)
    assert np.allclose(scale, smallest, rtol=3e-4, atol=0)
    assert (np.abs(plain(found.values) * scale[:, None] - weight) <= scale[:, None] * 0.5001).all()
    unit = scale * input_scale
    assert (np.abs(plain(found.bias) * unit - bias) <= unit * 0.5 + np.abs(bias) * 1e-6).all()


@pytest.mark.parametrize("device", DEVICES)
@FEW
@given(SEEDS, FILLS, WEIGHTS, st.integers(1, 4096), st.floats(-9, 3))
@example(0, "saturated", "up", 4096, -8.9)
@example(0, "one sign", "equal", 1024, -7.5)
def test_term_of_a_sum(device, seed, kind, weights, width, size):
    random = np.random.default_rng(seed)
    sum_scale = torch.tensor(10.0**size, device=device, dtype=torch.float32)
    found, weight, bias, input_scale = quantized(weights, 3, width, random, sum_scale, device)
    assert found.multiplier is not None and found.shift is not None
    accumulators = check_products(found, fill(kind, (4, width), 128, random), device)
    a, multiplier = int(found.shift), plain(found.multiplier)

    before = np.maximum(reference.weight_scale(weight, bias, input_scale), integers.SMALLEST)
    near = [reference.term_constants(before * d, input_scale, float(sum_scale)) for d in (1, 1 - 3e-4, 1 + 3e-4)]
    assert a in [shift for shift, _ in near]
    if all(shift == a for shift, _ in near):
        _, low, high = (m for _, m in near)
        assert all(one <= m <= other for m, one, other in zip(multiplier, low, high, strict=True))
    scale = found.scale.double().cpu().numpy()
    cut = multiplier == 1023
    assert np.allclose((multiplier * float(sum_scale) / (input_scale * 2.0**a))[~cut], scale[~cut], rtol=1e-6)
    assert (scale >= before * (1 - 3e-4)).all()
    # half of what the shift drops is in the bias
    unit, half = scale * input_scale, (1 << a) // 2
    assert (np.abs((plain(found.bias) - half) * unit - bias) <= unit * 0.5 + np.abs(bias) * 1e-6).all()

    part = linear.Term(
        tensor(accumulators, device), found.multiplier, found.shift, sum_scale.new_tensor(float(sum_scale))
    )
    equal(sums.alone(part).values, reference.alone(reference.term(accumulators, a, multiplier)))


def test_a_term_is_never_wider_than_its_accumulators_allow():
    """Where the multiplier is cut the weights keep within their sum."""
    weight, bias = torch.ones(2, 4096), torch.zeros(2)
    found = linear.quantize_weight(weight, bias, torch.tensor(1.0), torch.tensor(1e-9))
    assert plain(found.multiplier).tolist() == [1023, 1023] and int(found.shift) == 0
    reference.linear(np.full((1, 4096), -128), plain(found.values), plain(found.bias))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ["uniform", "saturated", "one sign", "all large"])
@pytest.mark.parametrize("depth", [1, 64, 512])
def test_products_of_activations(depth, kind, device):
    random = np.random.default_rng(depth)
    a, b = fill(kind, (2, 3, 4, depth), 128, random), fill(kind, (2, 3, depth, 5), 128, random)
    scale = torch.tensor(0.5, device=device)
    product = linear.matmul(Integers(tensor(a, device), scale), Integers(tensor(b, device), scale))
    equal(product.values, reference.matmul(a, b))


# Sums


@pytest.mark.parametrize("device", DEVICES)
@FEW
@given(SEEDS, FILLS, FILLS, st.integers(0, 20), st.integers(0, 20))
@example(0, "one sign", "one sign", 0, 0)
@example(0, "saturated", "saturated", 1, 3)
def test_residual_sum(device, seed, kind, other, skip, shift):
    random = np.random.default_rng(seed)
    z = fill(kind, (3, 5, 8), 2**24 - 2**22, random)
    accumulators = fill(other, (3, 5, 8), int(random.choice([5000, 2**20, 2**24 - 1])), random)
    multiplier = random.integers(1, 1024, 8)
    scale = torch.tensor(2.0**-15, device=device)
    part = linear.Term(
        tensor(accumulators, device), tensor(multiplier, device), torch.tensor(float(shift), device=device), scale
    )
    total = sums.residual(Integers(tensor(z, device), scale), torch.tensor(float(skip), device=device), part)
    equal(total.values, reference.residual(z, skip, reference.term(accumulators, shift, multiplier)))


@given(SCALES, SCALES)
@example(1.0, 1.0)
@example(0.25, 1.0)
def test_shift_into_a_sum(wide, wanted):
    derived(
        int(sums.residual_shift(torch.tensor(wide), torch.tensor(wanted))),
        lambda x: reference.residual_shift(float(np.float32(wide)), float(x)),
        float(np.float32(wanted)),
    )


@FEW
@given(SEEDS, st.lists(st.floats(2.0**-30, 2.0**13, width=32), min_size=1, max_size=3))
@example(0, [1e-10, 1e4, 3.0])
@example(0, [1e-10, 1e-10, 1e-10])
def test_sum_of_embeddings(seed, ranges):
    random = np.random.default_rng(seed)
    scale, found = sums.table_scales([torch.tensor(r) for r in ranges], [8] * len(ranges))
    exact = sum(ranges) / (2**21 - 512)
    assert float(scale) == pytest.approx(exact, rel=1e-6)
    multipliers = [int(m) for m in found]
    for mine, theirs, range_ in zip(multipliers, reference.table_multipliers(ranges), ranges, strict=True):
        assert mine == theirs or abs(mine - range_ / (127 * exact)) < 1e-2
    rows = []
    for range_, m in zip(ranges, found, strict=True):
        table = real(random.uniform(-1, 1, (7, 9)) * range_)
        q = sums.quantize_rows(table, scale * m)
        rows.append(plain(q))
        unit = float(scale * m)
        # nothing is clipped, and 127 is nearly used up
        assert np.abs(plain(q) * unit - table.double().numpy()).max() <= unit * 0.501
    total = sum(tensor(q) * m for q, m in zip(rows, found, strict=True))
    assert isinstance(total, torch.Tensor)
    equal(total, reference.embeddings(rows, multipliers))
    reference.embeddings([np.full(3, 127)] * len(ranges), multipliers)


# GELU


def check_table(range_: float, device: str) -> gelu.GeluTable:
    table = gelu.gelu_table(torch.tensor(range_, device=device, dtype=torch.float32))
    scale, z, multiplier = reference.gelu_constants(float(np.float32(range_)))
    assert float(table.input_scale) == pytest.approx(scale, rel=3e-7)
    # an integer may be missed by what float32 rounds
    assert int(table.zero_point) == z or abs(2.51 / scale - int(table.zero_point)) < 1e-3
    mine = gelu.OUTPUT_SCALE / table.scale
    assert float(mine) == pytest.approx(multiplier, rel=3e-7)
    entries = reference.gelu_entries(table.input_scale.item(), int(table.zero_point), mine.item())
    equal(table.entries, entries)
    return table


@pytest.mark.parametrize("device", DEVICES)
@FEW
@given(SEEDS, FILLS, st.floats(1e-7, 0.5), st.floats(1e-3, 300.0))
def test_gelu(device, seed, kind, unit, range_):
    random = np.random.default_rng(seed)
    table = check_table(range_, device)
    accumulators = fill(kind, (9, 40), int(random.choice([2**10, 2**20, 2**24])), random)
    x_scale = real(unit * random.uniform(0.5, 2, 40), device)
    result = gelu.gelu(Integers(tensor(accumulators, device), x_scale), table)
    multiplier = (x_scale / table.input_scale).cpu().numpy()
    equal(result.values, reference.gelu(accumulators, multiplier, int(table.zero_point), plain(table.entries)))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("range_", [1e-10, 1e-3, 0.17, 0.2, 1.0, 1.255, 2.51, 5.0, 20.0, 125.4, 128.0, 1e4])
def test_gelu_tables(range_, device):
    check_table(range_, device)


# Softmax


def constants(found: softmax.DistanceScale) -> tuple[int, int, int, int]:
    return int(found.down), int(found.top), int(found.multiplier), int(found.shift)


def check_constants(found: tuple[int, int, int, int], mu: float) -> None:
    a, top, m, b = found
    derived(a, lambda x: reference.distance_constants(x)[0], mu)
    derived(b, lambda x: reference.distance_constants(x)[3], mu)
    exact = max(mu, 2.0**-18) * 2.0 ** (a + b)
    assert m == 4096 <= exact + 1 or abs(m - exact) <= 0.501
    assert abs(top - min(4096 * 2**b / max(m, 1), 2**30 >> a)) < 1.01
    assert top <= 2**13 and top << a <= 2**30


@given(st.floats(-12, 6))
@example(-3.0)
@example(6.0)
@example(-12.0)
def test_constants_of_distances(size):
    scale = float(np.float32(10.0**size))
    check_constants(constants(softmax.distance_scale(torch.tensor(scale))), scale / reference.STEP)


def test_exponential_of_every_input():
    distance = np.arange(4096)
    equal(softmax.exp_integers(tensor(distance)), reference.exponential(distance))


@pytest.mark.parametrize("device", DEVICES)
@FEW
@given(SEEDS, FILLS, st.sampled_from([1, 2, 7, 64, 129, 512, 705, 1409]), st.floats(-9, 3), st.booleans())
@example(0, "zero", 512, 0.0, False)
@example(0, "zero", 2819, 0.0, False)
@example(0, "saturated", 512, -5.0, True)
@example(0, "one sign", 30, -9.0, True)
@example(0, "constant", 1, 0.0, True)
def test_softmax(device, seed, kind, length, size, masking):
    random = np.random.default_rng(seed)
    scores = fill(kind, (2, 3, 4, length), int(random.choice([50, 5000, 2**20, 2**23])), random)
    masked = None
    if masking:
        masked = random.random((2, 1, 1, length)) < 0.5
        # an example with a single token, and one whose last positions are padding
        masked[0, ..., 1:] = True
        masked[..., 0] = False
    mask = None if masked is None else torch.from_numpy(masked).to(device)
    scale = softmax.distance_scale(torch.tensor(10.0**size, device=device, dtype=torch.float32))
    result = softmax.softmax_integers(tensor(scores, device), scale, mask)
    expected = reference.softmax(scores, constants(scale), masked)
    equal(result, expected)
    if masked is not None:
        assert (expected[np.broadcast_to(masked, scores.shape)] == 0).all()
        assert (expected[0, ..., 0] == 255).all()


def test_sums_of_exponentials_at_every_size():
    """Rows of every length from 1 to the longest that the widths allow, equal and unequal."""
    random = np.random.default_rng(0)
    scale = softmax.distance_scale(torch.tensor(1e-3))
    for length in [*range(1, 200, 7), 352, 353, 704, 705, 1408, 1409, 2000, 2819]:
        scores = np.stack([np.zeros(length, np.int64), fill("uniform", (length,), 500, random)])
        equal(softmax.softmax_integers(tensor(scores), scale, None), reference.softmax(scores, constants(scale)))
    assert softmax.LONGEST == 2819


@pytest.mark.parametrize("size", [-12.0, -9.0, -6.0, -3.0, 0.0, 3.0])
def test_padding_never_counts(size):
    """However small the scale of the scores, and wherever their largest is."""
    for height in (-(2**23), -5, 0, 2**23):
        scores = np.full((1, 40), height)
        masked = np.arange(40)[None] >= 3
        scale = softmax.distance_scale(torch.tensor(10.0**size))
        result = softmax.softmax_integers(tensor(scores), scale, torch.from_numpy(masked))
        assert result[0].tolist() == [85.0] * 3 + [0.0] * 37
        equal(result, reference.softmax(scores, constants(scale), masked))


def test_in_a_row_without_any_token_all_are_equal():
    masked = np.ones((1, 3), bool)
    scale = softmax.distance_scale(torch.tensor(1.0))
    result = softmax.softmax_integers(torch.tensor([[5.0, 1.0, -3.0]]), scale, torch.from_numpy(masked))
    assert result.tolist() == [[85, 85, 85]]
    equal(result, reference.softmax(np.array([[5, 1, -3]]), constants(scale), masked))


# LayerNorm


def test_square_root_is_math_isqrt():
    roots = torch.arange(2**14, 2**15)
    squares = roots**2
    assert (sqrt.isqrt(squares) == roots).all()
    assert (sqrt.isqrt(squares[1:] - 1) == roots[:-1]).all()
    assert (sqrt.isqrt(squares + 1) == roots).all()
    random = torch.randint(2**28, 2**30, (5000,))
    assert sqrt.isqrt(random).tolist() == [root_of(int(n)) for n in random]


@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.integers(1, 2**41),
            st.builds(lambda e, d: min(max(2**e + d, 1), 2**41), st.integers(0, 41), st.integers(-2, 2)),
        ),
        min_size=1,
        max_size=20,
    )
)
def test_numbers_are_shifted_for_the_square_root(device, numbers):
    normal, half = sqrt.normalize(torch.tensor(numbers, device=device))
    assert all(2**28 <= n < 2**30 for n in normal.tolist())
    expected = [reference.square_root(n) for n in numbers]
    assert list(zip(sqrt.isqrt(normal).tolist(), half.tolist(), strict=True)) == expected


WIDTHS = st.one_of(st.sampled_from([1, 2, 3, 32, 128, 255, 256, 384, 768, 1000, 1023, 1024]), st.integers(1, 1024))


@pytest.mark.parametrize("device", DEVICES)
@FEW
@given(
    SEEDS, FILLS, WIDTHS, st.sampled_from([1, 3, 100, 5000, 2**16, 2**21 - 1]), st.floats(-12, -5), st.floats(-12, 1)
)
@example(0, "saturated", 1024, 2**21 - 1, -12, -5)
@example(0, "saturated", 1024, 1, -12, 0)
@example(0, "one sign", 1024, 2**21 - 1, -12, -5)
@example(0, "constant", 768, 2**21 - 1, -5, -10)
@example(0, "sparse", 1024, 2**21 - 1, -12, 0)
@example(0, "normal", 384, 2**21 - 1, -5, -6)
def test_layer_norm(device, seed, kind, width, bound, epsilon, size):
    random = np.random.default_rng(seed)
    x = fill(kind, (6, width), bound, random)
    gamma = random.integers(-511, 512, width) if seed % 3 else random.choice([-511, 511], width)
    beta = random.integers(-(2**22), 2**22 + 1, width) if seed % 3 else np.sign(gamma) * 2**22
    scale = torch.tensor(10.0**size, device=device, dtype=torch.float32)
    guard = layernorm.guards(10.0**epsilon, scale, width)
    one = torch.ones((), device=device)
    affine = layernorm.Affine(tensor(gamma, device), tensor(beta, device), one, one)
    guards = [int(g) for g in guard]
    for mine, theirs in zip(guards, reference.guards(10.0**epsilon, width, float(scale)), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-12, abs=1.01 if mine != theirs else 0)
    # the library's form, where there is one, and torch's
    for form in (layernorm._forward, layernorm._on_torch):
        result, *_ = form(tensor(x, device), guard, affine)
        equal(result, reference.layer_norm(x, gamma, beta, guards))
        if kind in ("constant", "zero", "one sign"):
            equal(result, np.broadcast_to(beta, x.shape))


def test_layer_norm_of_rows_of_every_size():
    """Rows from one unit to the whole width in one batch: each has a shift of its own."""
    random = np.random.default_rng(0)
    rows = [fill("normal", (384,), 2**bits - 1, random) for bits in range(1, 22)]
    rows += [fill(kind, (384,), 2**bits - 1, random) for bits in (1, 8, 13, 21) for kind in ("saturated", "sparse")]
    rows.append(np.eye(1, 384, dtype=np.int64)[0] * (2**21 - 1))
    x, width = np.stack(rows), 384
    affine = layernorm.Affine(torch.full((width,), 511.0), torch.zeros(width), torch.ones(()), torch.ones(()))
    guard = layernorm.guards(1e-12, torch.tensor(1.0), width)
    for form in (layernorm._forward, layernorm._on_torch):
        result, *_ = form(tensor(x), guard, affine)
        equal(result, reference.layer_norm(x, np.full(width, 511), np.zeros(width, np.int64), [int(g) for g in guard]))


def test_dividends():
    for width in range(1, 1025):
        assert layernorm.reciprocal_constants(width) == reference.dividend(width)


@FEW
@given(SEEDS, st.floats(1e-3, 1e3), st.floats(0, 1e4), st.one_of(st.none(), st.floats(1e-5, 10)))
def test_gamma_and_beta_as_integers(seed, size, offset, short):
    random = torch.Generator().manual_seed(seed % 2**31)
    gamma, beta = torch.randn(50, generator=random) * size, torch.randn(50, generator=random) * offset
    short_scale = None if short is None else torch.tensor(short)
    found = layernorm.quantize_affine(gamma, beta, short_scale)
    reference.within(plain(found.gamma), 511), reference.within(plain(found.beta), 2**22)
    scale = float(found.scale)
    near = [
        reference.affine(
            gamma.double().numpy() * d, beta.double().numpy() * d, None if short is None else float(short_scale)
        )
        for d in (1, 1 - 1e-6, 1 + 1e-6)
    ]
    matching = [float(exact) for exact, shift in near if shift == int(found.shift)]
    assert matching and min(abs(scale / exact - 1) for exact in matching) < 3e-6
    assert ((found.gamma * scale * 512 - gamma).abs() <= scale * 512 * 0.501).all()
    assert ((found.beta.double() * scale - beta).abs() <= scale * 0.5 + beta.abs() * 2e-7).all()


# Dropout


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


def test_dropout_of_a_term_leaves_integers():
    z = Integers(torch.tensor([1000.0, 1000.0, 1000.0]), torch.tensor(1.0))
    kept = torch.tensor([0.0, 1 / 0.9, 1 / 0.9])
    part = linear.Term(torch.tensor([500.0, 500.0, -7.0]), torch.full((3,), 3.0), torch.tensor(1.0), z.scale, kept)
    # (500 >> 1) * 3 / 0.9 is 833.3, (-7 >> 1) * 3 / 0.9 is -13.3
    assert sums.residual(z, torch.tensor(0.0), part).values.tolist() == [1000, 1833, 987]
