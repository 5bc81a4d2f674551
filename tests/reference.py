"""The integer specification (docs/arithmetic.md) in plain integers: NumPy's int64 and Python's own, no float, no torch.

Written from the definitions, without the package: what simulated arithmetic must equal to the bit. Every width that the
specification declares is asserted here, so a test that passes has also shown that nothing is wider.
"""

from __future__ import annotations

from fractions import Fraction
from math import isqrt, log, sqrt
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.int64]]

# GELU: erf(x) = sgn(x) [a (min(|x|, -b) + b)^2 + 1] on a grid of 1/256
GELU_B = round(1.769 * sqrt(2) * 256)
GELU_ONE = round(2 / 0.2888 * 256**2)
# exponential: 0.3585 (p + 1.353)^2 + 0.344 on a grid of ln 2 / 256
EXP_B = round(1.353 * 256 / log(2))
EXP_C = round(0.344 / 0.3585 * (256 / log(2)) ** 2)


def within(values: Array, bound: int) -> Array:
    """Assert that no magnitude exceeds the bound."""
    assert np.abs(values).max(initial=0) <= bound, f"{np.abs(values).max()} exceeds {bound}"
    return values


def largest(bits: int) -> int:
    return 2 ** (bits - 1) - 1


def bit_length(n: Array) -> Array:
    """Bits of non-negative integers below 2^62."""
    length = np.zeros_like(n)
    for bit in range(62):
        length[n >> bit > 0] = bit + 1
    return length


def shift_right(n: Array, shift: Array) -> Array:
    """n / 2^shift to the nearest integer, ties to even; shift >= 0."""
    shift = np.minimum(shift, 62)
    quotient = n >> shift
    rest = n - (quotient << shift)
    half = np.where(shift > 0, np.int64(1) << np.maximum(shift - 1, 0), 1)
    up = (rest > half) | ((rest == half) & (quotient % 2 == 1) & (shift > 0))
    return quotient + up


def significant(n: Array) -> tuple[Array, Array]:
    """n rounded to 24 significant bits, ties to even, as (mantissa, exponent)."""
    exponent = np.maximum(bit_length(np.abs(n)) - 24, 0)
    return within(shift_right(n, exponent), 2**24), exponent


def rounded(n: Array) -> Array:
    """n rounded to 24 significant bits."""
    mantissa, exponent = significant(n)
    return mantissa << exponent


def dyadic(multiplier: Any) -> tuple[Array, Array]:
    """A float32 as (24-bit integer, exponent of two)."""
    mantissa, exponent = np.frexp(np.asarray(multiplier, np.float32).astype(np.float64))
    return (mantissa * 2**24).astype(np.int64), exponent.astype(np.int64) - 24


def times(n: Array, mantissa: Array, exponent: Array, bound: int) -> Array:
    """The rounding rule: n and its product with mantissa * 2^exponent to 24 bits, that to an integer, clipped."""
    short, first = significant(n)
    product, second = significant(within(short * mantissa, 2**48))
    shift = first + second + exponent
    # 24 bits shifted to the left by more than 30 are beyond every bound
    integer = np.where(shift >= 0, product << np.clip(shift, 0, 30), shift_right(product, np.maximum(-shift, 0)))
    return np.clip(integer, -bound, bound)


def requantize(n: Array, multiplier: Any, bits: int) -> Array:
    return times(n, *dyadic(multiplier), largest(bits))


def linear(x: Array, weight: Array, bias: Array) -> Array:
    """x [rows, in] of 8 bits, weight [out, in] of 8 bits, bias [out] of at most 2^22: accumulators of 32 bits."""
    within(x, 127), within(weight, 127), within(bias, 2**22)
    return within(x @ weight.T + bias, 2**31 - 1)


def matmul(a: Array, b: Array) -> Array:
    return within(a @ b, 2**24)


def gelu(accumulators: Array, input_multiplier: Any, output_multiplier: Any) -> Array:
    h = requantize(accumulators, input_multiplier, 16)
    squared = within((np.minimum(np.abs(h), GELU_B) - GELU_B) ** 2, 2**19 - 1)
    one_plus_erf = within(np.sign(h) * (GELU_ONE - squared) + GELU_ONE, 2**20 - 1) >> 5
    product = within(h * within(one_plus_erf, 2**15 - 1), 2**30)
    return requantize(product, output_multiplier, 8)


def exponential(distance: Array) -> Array:
    """exp(-distance ln 2 / 256), 15 bits."""
    within(distance, 4095)
    z = distance >> 8
    polynomial = within((EXP_B - (distance & 255)) ** 2 + EXP_C, 2**19 - 1)
    return within(polynomial >> (z + 4), 2**15 - 1)


def softmax(scores: Array, multiplier: Any, masked: Array | None = None) -> Array:
    """Scores [..., n] to unsigned 8 bits; masked is true where a position does not count."""
    present = np.ones(scores.shape, bool) if masked is None else ~np.broadcast_to(masked, scores.shape)
    top = np.where(present, scores, -(2**40)).max(-1, keepdims=True)
    distance = requantize(np.where(present, top - scores, 0), multiplier, 13)
    e = np.where(present, exponential(distance), 0)
    total = within(e.sum(-1, keepdims=True), 2**24 - 1 if scores.shape[-1] <= 704 else 2**31 - 1)
    reciprocal = (255 << 30) // np.maximum(total, 1)
    within(reciprocal[total > 0], 2**24 - 1)
    return np.minimum(times(e, reciprocal, np.int64(-30), 2**9), 255)


def square_root(n: int) -> tuple[int, int]:
    """(root, half) with sqrt(n) = root * 2^-half up to rounding, root of 15 bits; n in [1, 2^31)."""
    assert 1 <= n < 2**31
    half = (30 - n.bit_length()) // 2
    normal = n << 2 * half if half >= 0 else n >> -2 * half
    assert 2**28 <= normal < 2**30
    return isqrt(normal), half


def layer_norm(x: Array, bits: int, gamma: Array, beta: Array, guard: float) -> Array:
    """x [rows, width] of so many bits; guard is epsilon times the width in squared units of x."""
    within(x, largest(bits)), within(gamma, 511), within(beta, 2**22)
    width = x.shape[1]
    total = within(x.sum(1, keepdims=True), 2**31 - 1 if width <= 1024 else 2**33)
    y = within(x - (total + width // 2) // width, 2**bits)
    room = isqrt((2**31 - 1) // width).bit_length() - 1
    precision = 30 - isqrt(width).bit_length()
    # the integer nearest to sqrt(width) * 2^precision
    root_width = isqrt(width << 2 * precision)
    root_width += (2 * root_width + 1) ** 2 < width << 2 * precision + 2
    rows = []
    for row in y:
        shift = max(0, int(np.abs(row).max()).bit_length() - room)
        while Fraction(guard) / 4**shift >= 2**30:
            shift += 1
        small = row if shift == 0 else (row + 2 ** (shift - 1)) >> shift
        squares = int((within(small, 2**room) ** 2).sum())
        assert squares < 2**31
        root, half = square_root(min(squares + max(1, round(Fraction(guard) / 4**shift)), 2**31 - 1))
        reciprocal = root_width // root
        assert reciprocal < 2**17
        exponent = half - (precision - 9 + shift)
        rows.append(times(row, np.int64(reciprocal), np.int64(exponent), largest(15)))
    return within(within(np.stack(rows) * gamma, largest(15) * 511) + beta, 2**24 - 1)


def add(parts: list[tuple[Array, Any]], bits: int) -> Array:
    """Integers with the multipliers that bring them to the scale of the sum."""
    total = np.int64(0)
    for part, multiplier in parts:
        total = np.clip(total + requantize(part, multiplier, bits), -largest(bits), largest(bits))
    return np.asarray(total)
