"""The integer encoder, written once over a set of operations, which execute it (`on_torch`) or write a graph (ONNX).

Operations exchange integers: 8 bits into products, 25 into and out of LayerNorm and sums. If a variant keeps an
operation in floating point, its inputs are dequantized and its results quantized.
"""

from __future__ import annotations

from typing import Any, Protocol

from intaglio.execution.constants import (
    Constants,
    EmbeddingConstants,
    GeluConstants,
    LayerConstants,
    LinearConstants,
    NormConstants,
    SoftmaxConstants,
)

# A value of the executor: a tensor, or a name in a graph.
_Value = Any


class Operations(Protocol):
    """Operations of the encoder. `x8` are int8, other integers int32, all of shape [batch, length, width]."""

    def token_indices(self, constants: EmbeddingConstants) -> list[_Value]:
        """Return the index tensors into the tables, [batch, length] each."""

    def embed(self, constants: EmbeddingConstants, indices: list[_Value]) -> _Value:
        """Return the sum of the tables' rows times their multipliers."""

    def linear(self, x8: _Value, constants: LinearConstants) -> _Value:
        """Return accumulators with bias."""

    def linear_short(self, x8: _Value, constants: LinearConstants, multiplier: Any) -> _Value:
        """Return accumulators requantized to 8 bits."""

    def split(self, x8: _Value) -> tuple[_Value, _Value, _Value]:
        """Split every row into thirds."""

    def linear_gelu(self, x8: _Value, constants: LinearConstants, gelu: GeluConstants) -> _Value:
        """Return GELU of accumulators, 8 bits."""

    def linear_term(self, x8: _Value, constants: LinearConstants) -> _Value:
        """Return `clip(accumulators >> shift) * multiplier`."""

    def clip_sum(self, term: _Value) -> _Value:
        """Clip a term of a sum to 22 bits."""

    def residual(self, wide: _Value, skip: int, term: _Value) -> _Value:
        """Return `(wide >> skip) + term`, clipped to 22 bits."""

    def norm(self, x: _Value, constants: NormConstants) -> _Value:
        """Return LayerNorm of a sum."""

    def shorten(self, x: _Value, shift: int) -> _Value:
        """Return `x >> shift`, rounded and clipped to 8 bits."""

    def scores(self, query: _Value, key: _Value) -> _Value:
        """Return the products of queries and keys of every head, [batch, heads, length, length]."""

    def softmax(self, scores: _Value, constants: SoftmaxConstants) -> _Value:
        """Return uint8 probabilities, zero at padding."""

    def context(self, probabilities: _Value, value: _Value, multiplier: Any) -> _Value:
        """Return probabilities times values, heads side by side, requantized to 8 bits."""

    def dequantize(self, x: _Value, scale: Any) -> _Value:
        """Return real values."""

    def quantize(self, x: _Value, inverse: Any) -> _Value:
        """Quantize real values to 8 bits."""

    def add_real(self, x: _Value, y: _Value) -> _Value:
        """Add real values."""

    def gelu_real(self, x: _Value) -> _Value:
        """Return GELU of real values."""

    def norm_real(self, x: _Value, constants: NormConstants) -> _Value:
        """Return LayerNorm of real values."""

    def softmax_real(self, scores: _Value, constants: SoftmaxConstants) -> _Value:
        """Return softmax of dequantized scores, quantized to uint8."""


def _normalized(on: Operations, x: _Value, constants: NormConstants) -> tuple[_Value, _Value]:
    """Return LayerNorm's result and its 8 bits (the result itself if no layer takes 8 bits)."""
    if constants.integer:
        wide = on.norm(x, constants)
        return wide, wide if constants.short_shift is None else on.shorten(wide, constants.short_shift)
    wide = on.norm_real(x, constants)
    return wide, wide if constants.inverse is None else on.quantize(wide, constants.inverse)


def run_embeddings(on: Operations, constants: EmbeddingConstants, integer: bool) -> tuple[_Value, _Value]:
    """Return the result of the embeddings and its 8 bits; `integer`: whether LayerNorm runs on integers."""
    total = on.embed(constants, on.token_indices(constants))
    x = total if integer else on.dequantize(total, constants.scale)
    wide, short = _normalized(on, x, constants.norm)
    if constants.projection is None:
        return wide, short
    if integer:
        wide = on.clip_sum(on.linear_term(short, constants.projection))
        return wide, on.shorten(wide, constants.projection_short_shift)
    wide = on.dequantize(on.linear(short, constants.projection), constants.projection.scale)
    return wide, on.quantize(wide, constants.projection_inverse)


def _summed(on: Operations, wide: _Value, skip: int, x8: _Value, constants: LinearConstants) -> _Value:
    if constants.multiplier is not None:
        return on.residual(wide, skip, on.linear_term(x8, constants))
    return on.add_real(wide, on.dequantize(on.linear(x8, constants), constants.scale))


def _attended(on: Operations, x8: _Value, layer: LayerConstants) -> _Value:
    query, key, value = on.split(on.linear_short(x8, layer.projections, layer.projections_multiplier))
    scores = on.scores(query, key)
    softmax = on.softmax if layer.softmax.integer else on.softmax_real
    return on.context(softmax(scores, layer.softmax), value, layer.context_multiplier)


def _activated(on: Operations, x8: _Value, layer: LayerConstants) -> _Value:
    if layer.gelu.integer:
        return on.linear_gelu(x8, layer.intermediate, layer.gelu)
    accumulated = on.dequantize(on.linear(x8, layer.intermediate), layer.gelu.scale)
    return on.quantize(on.gelu_real(accumulated), layer.gelu.inverse)


def run_layer(on: Operations, wide: _Value, short: _Value, layer: LayerConstants) -> tuple[_Value, _Value]:
    """Return a layer's result and its 8 bits, from those of the layer before."""
    context = _attended(on, short, layer)
    total = _summed(on, wide, layer.attention_skip, context, layer.attention_output)
    wide, short = _normalized(on, total, layer.attention_norm)
    total = _summed(on, wide, layer.output_skip, _activated(on, short, layer), layer.output)
    return _normalized(on, total, layer.output_norm)


def run(on: Operations, constants: Constants) -> _Value:
    """Return the last layer's result [batch, length, width]: integers of scale `constants.scale`, or real values."""
    wide, short = run_embeddings(on, constants.embeddings, "layernorm" in constants.shape.integer)
    for layer in constants.layers:
        wide, short = run_layer(on, wide, short, layer)
    return wide
