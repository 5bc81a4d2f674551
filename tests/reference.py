"""The integer specification (docs/arithmetic.md) in plain integers: NumPy's int64 and Python's own, no torch.

Written from the definitions, without the package: what simulated arithmetic must equal to the bit. Every width that the
specification declares is asserted here, so a test that passes has also shown that nothing is wider. Floats are only
what is known before the data is seen: scales, and the constants that are derived from them (exactly, as fractions).
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import ceil, floor, isqrt, log, sqrt
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.int64]]
Reals = np.ndarray[Any, np.dtype[np.float64]]

EXACT = 2**24
SUM_BOUND = 2**21 - 1
# GELU: erf(x) = sgn(x) [a (min(|x|, -b) + b)^2 + 1] on a grid of 1/256
GELU_B = round(1.769 * sqrt(2) * 256)
GELU_ONE = round(2 / 0.2888 * 256**2)
# exponential: 0.3585 (p + 1.353)^2 + 0.344 on a grid of ln 2 / 256
STEP = log(2) / 256
EXP_B = round(1.353 / STEP)
EXP_C = round(0.344 / 0.3585 / STEP**2)


def within(values: Array, bound: int) -> Array:
    """Assert that no magnitude exceeds the bound."""
    assert np.abs(values).max(initial=0) <= bound, f"{np.abs(values).max()} exceeds {bound}"
    return values


def unsigned(values: Array, bits: int) -> Array:
    """Assert that so many bits hold these numbers, none of them negative."""
    assert values.min(initial=0) >= 0
    return within(values, 2**bits - 1)


def bit_length(n: Array) -> Array:
    """Bits of non-negative integers below 2^62."""
    length = np.zeros_like(n)
    for bit in range(62):
        length[n >> bit > 0] = bit + 1
    return length


def round_shift(n: Array, shift: int) -> Array:
    """round(n >> shift): halves up."""
    return n if shift == 0 else (n + (1 << shift - 1)) >> shift


def to_even(n: Array, shift: Array) -> Array:
    """n / 2^shift to the nearest integer, ties to even; shift >= 0."""
    shift = np.minimum(shift, 62)
    quotient = n >> shift
    rest = n - (quotient << shift)
    half = np.where(shift > 0, np.int64(1) << np.maximum(shift - 1, 0), 1)
    up = (rest > half) | ((rest == half) & (quotient % 2 == 1) & (shift > 0))
    rounded: Array = quotient + up
    return rounded


def significant(n: Array) -> tuple[Array, Array]:
    """f32(n): n rounded to 24 significant bits, ties to even, as (mantissa, exponent)."""
    exponent = np.maximum(bit_length(np.abs(n)) - 24, 0)
    return within(to_even(n, exponent), EXACT), exponent


def dyadic(multiplier: Any) -> tuple[Array, Array]:
    """A float32 as (24-bit integer, exponent of two)."""
    mantissa, exponent = np.frexp(np.asarray(multiplier, np.float32).astype(np.float64))
    return (mantissa * 2**24).astype(np.int64), exponent.astype(np.int64) - 24


def nearest(n: Array, multiplier: Any) -> Array:
    """rint(f32(n) * multiplier): the product to 24 bits, that to an integer (or 2^30 and more)."""
    mantissa, exponent = dyadic(multiplier)
    short, first = significant(n)
    product, second = significant(within(short * mantissa, 2**48))
    shift = first + second + exponent
    return np.where(shift >= 0, product << np.clip(shift, 0, 30), to_even(product, np.maximum(-shift, 0)))


def requantize(n: Array, multiplier: Any, low: int = -128, high: int = 127) -> Array:
    """To 8 bits."""
    return np.clip(nearest(within(n, EXACT), multiplier), low, high)


def floor_log2(x: Fraction) -> int:
    """floor(log2(x)), exactly."""
    guess = x.numerator.bit_length() - x.denominator.bit_length()
    return guess if x >= Fraction(2) ** guess else guess - 1


def ceil_log2(x: Fraction) -> int:
    return floor_log2(x) + (Fraction(2) ** floor_log2(x) != x)


def clamp(x: int, low: int, high: int) -> int:
    return min(max(x, low), high)


# Linear layers


def weight_scale(weight: Reals, bias: Reals, input_scale: float) -> Reals:
    """The smallest scale of each channel of weight [out, in] that keeps every width."""
    size = np.abs(weight)
    sums = size.sum(1) / (98_303 - weight.shape[1] / 2)
    scale: Reals = np.maximum(np.maximum(size.max(1) / 127, np.abs(bias) / (input_scale * 2**21)), sums)
    return scale


def term_constants(scale: Reals, input_scale: float, sum_scale: float) -> tuple[int, list[int]]:
    """(a, M of each channel) of a layer whose result is a term of a sum."""
    rho = [Fraction(float(s)) * Fraction(input_scale) / Fraction(sum_scale) for s in scale]
    a = clamp(floor_log2(1023 / max(rho)), 0, 20)
    return a, [min(max(1, ceil(r * 2**a)), 1023) for r in rho]


def linear(x: Array, weight: Array, bias: Array) -> Array:
    """Accumulators of x [rows, in], 8 bits, weight [out, in], 8 bits; half a unit of a shift may be in bias [out]."""
    within(x, 128), within(weight, 127), within(bias, 2**21 + 2**19)
    size = within(np.abs(weight).sum(1), 98_400)
    # whatever the input, and whatever part of the sum has been taken
    within(128 * size + np.abs(bias), EXACT - 1)
    return within(x @ weight.T + bias, EXACT - 1)


def matmul(a: Array, b: Array) -> Array:
    within(a, 255), within(b, 128)
    return within(a @ b, EXACT)


# Sums


def term(accumulators: Array, a: int, multiplier: Array) -> Array:
    """A linear layer's term of a sum; the half of its rounding is in the accumulators."""
    unsigned(multiplier, 10)
    return within(np.clip(within(accumulators, EXACT) >> a, -16_383, 16_383) * multiplier, EXACT)


def residual_shift(wide: float, wanted: float) -> int:
    """k: from LayerNorm's result to the sum."""
    return clamp(ceil_log2(Fraction(wanted) / Fraction(wide)), 0, 20)


def residual(z: Array, k: int, part: Array) -> Array:
    return np.clip(within((within(z, EXACT) >> k) + part, 2**25), -SUM_BOUND, SUM_BOUND)


def alone(part: Array) -> Array:
    return np.clip(part, -SUM_BOUND, SUM_BOUND)


def table_multipliers(ranges: list[float]) -> list[int]:
    """M of each embedding table of these largest magnitudes; the scale of the sum is sum(ranges) / (2^21 - 512)."""
    scale = sum(map(Fraction, ranges)) / (2**21 - 512)
    return [ceil(Fraction(r) / (127 * scale)) for r in ranges]


def embeddings(rows: list[Array], multipliers: Sequence[int | Array]) -> Array:
    parts = [within(q, 127) * m for q, m in zip(rows, multipliers, strict=True)]
    return within(np.stack(parts).sum(0), SUM_BOUND)


# GELU


def gelu_constants(range_: float) -> tuple[float, int, float]:
    """(input scale, zero point, multiplier of the entries) for results up to range_."""
    scale = (range_ + 2.51) / 255
    return scale, min(ceil(2.51 / scale), 254), 2.0**-3 / (2 * GELU_ONE) / (range_ / 127)


def gelu_entries(scale: Any, z: int, multiplier: Any) -> Array:
    """The table of 256 results; scale and multiplier are float32."""
    grid = np.clip(nearest(np.arange(256) - z, np.float32(scale) * np.float32(256)), -32_767, 32_767)
    squared = within((np.minimum(np.abs(grid), GELU_B) - GELU_B) ** 2, 2**19 - 1)
    one_plus_erf = unsigned(np.sign(grid) * (GELU_ONE - squared) + GELU_ONE, 20)
    g = within(grid * (one_plus_erf >> 5), 2**30)
    return np.clip(nearest(g, multiplier), -128, 127)


def gelu(accumulators: Array, multiplier: Any, z: int, entries: Array) -> Array:
    """GELU of accumulators: multiplier leads from their scale to the table's."""
    return entries[np.clip(nearest(within(accumulators, EXACT), multiplier) + z, 0, 255)]


# Softmax


def distance_constants(mu: Fraction) -> tuple[int, int, int, int]:
    """(a, top, M, b) for scores of which one is mu steps of the grid."""
    mu = max(mu, Fraction(1, 2**18))
    a = clamp(ceil_log2(4096 / mu) - 13, 0, 17)
    b = clamp(10 - floor_log2(mu * 2**a), 0, 11)
    m = min(round(mu * 2 ** (a + b)), 4096)
    return a, min(ceil(Fraction(4096 * 2**b, max(m, 1))), 2**30 >> a), m, b


def exponential(distance: Array) -> Array:
    """exp(-distance ln 2 / 256), 13 bits."""
    unsigned(distance, 12)
    polynomial = unsigned((EXP_B - (distance & 255)) ** 2 + EXP_C, 19)
    return within(polynomial >> (6 + (distance >> 8)), 5951)


def softmax(scores: Array, constants: tuple[int, int, int, int], masked: Array | None = None) -> Array:
    """Scores [..., n] to unsigned 8 bits; masked is true where there is padding."""
    a, top, m, b = constants
    within(scores, 2**23)
    present = np.ones(scores.shape, bool) if masked is None else ~np.broadcast_to(masked, scores.shape)
    scores = np.where(present, scores, -(2**30))
    d = scores.max(-1, keepdims=True) - scores
    within(np.where(present, d, 0), EXACT), within(d, 2**31 - 1)
    short = within(np.minimum(d, top << a) >> a, 2**13)
    assert m <= 4096
    t = np.minimum(within(short * m, EXACT) >> b, 4095)
    e = exponential(t)
    assert (e[~present & present.any(-1, keepdims=True)] == 0).all(), "padding counts"
    total = unsigned(e.sum(-1, keepdims=True), 24)
    shift = bit_length(total) - 13
    assert (shift >= 0).all()
    s = unsigned(total >> shift, 13)
    r = unsigned((within(255 * 2**15 + s // 2, EXACT)) // s, 11)
    p = unsigned(((within(e * r, EXACT) >> (14 + shift)) + 1) >> 1, 8)
    # the same as one rounded shift
    assert (p == (e * r + (1 << (14 + shift))) >> (15 + shift)).all()
    within(p.sum(-1), 511)
    return p


# LayerNorm


def affine(gamma: Reals, beta: Reals, short_scale: float | None) -> tuple[Fraction, int]:
    """(scale of the result, shift to its 8 bits) of real gamma and beta."""
    need = max(
        Fraction(float(np.abs(gamma).max())) / 511, Fraction(float(np.abs(beta).max())) / 2**13, Fraction(1, 10**10)
    )
    if short_scale is None:
        return need / 512, 0
    b = clamp(9 + floor_log2(Fraction(short_scale) / need), 1, 20)
    return max(Fraction(short_scale) / 2**b, need / 512), b


def guards(epsilon: float, width: int, scale: float) -> list[int]:
    """What epsilon adds to the sum of squares, for shifts of 0 to 11."""
    guard = Fraction(epsilon) * width / Fraction(scale) ** 2
    return [clamp(round(guard / 4**shift), 1, 2**40) for shift in range(12)]


def square_root(n: int) -> tuple[int, int]:
    """(root, h): sqrt(n) is root * 2^-h, root of 15 bits; n in [1, 2^41]."""
    assert 1 <= n <= 2**41
    h = (30 - n.bit_length()) // 2
    normal = n << 2 * h if h >= 0 else n >> -2 * h
    assert 2**28 <= normal < 2**30
    root = isqrt(normal)
    assert 2**14 <= root < 2**15
    return root, h


def dividend(width: int) -> tuple[int, int]:
    """(P, R): R is the integer nearest to sqrt(width) * 2^P."""
    p = 25 - isqrt(width).bit_length()
    r = isqrt(width << 2 * p)
    r += (2 * r + 1) ** 2 < width << 2 * p + 2
    assert EXACT <= r <= 2**25
    return p, r


def normalized(y: Array, guard: list[int]) -> list[int]:
    """N of a row: its deviations over their standard deviation, on the grid 2^-9."""
    width = len(y)
    p, dividend_ = dividend(width)
    shift = max(0, int(np.abs(y).max()).bit_length() - 12)
    u = within(round_shift(y, shift), 4096)
    v = int(within(u**2, EXACT).sum()) + guard[shift]
    root, h = square_root(v)
    r = (dividend_ + root // 2) // root
    assert r < 2**11
    e = p - 9 - h
    product = within(u * r, EXACT)
    assert e <= 0 or np.abs(product + (1 << e - 1)).max() <= EXACT
    n = round_shift(product, e) if e >= 0 else product << -e
    within(n, min(16_416, floor(512 * sqrt(width) * 1.002) + 1))
    return [int(value) for value in n]


def layer_norm(x: Array, gamma: Array, beta: Array, guard: list[int]) -> Array:
    """x [rows, width] to the result, 25 bits."""
    within(x, SUM_BOUND), within(gamma, 511), within(beta, 2**22)
    width = x.shape[1]
    total = within(x.sum(1, keepdims=True), 2**32 - 1)
    y = within(x - (total + width // 2) // width, 2**22)
    n = np.array([normalized(row, guard) for row in y])
    return within(within(n * gamma, EXACT) + beta, EXACT - 2**21)


def shorten(z: Array, shift: int) -> Array:
    """round(z >> shift), 8 bits."""
    return np.clip(round_shift(within(z, EXACT - 2**19), shift), -128, 127)
