"""The constants of a trained integer encoder: integers, and scales where floating point begins or ends."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Any

import torch
from torch import Tensor

from intaglio.arithmetic import gelu, layernorm, softmax, sums
from intaglio.arithmetic.linear import QuantizedWeight
from intaglio.encoder.config import EncoderConfig
from intaglio.encoder.layers import Linear, Norm, Residual
from intaglio.encoder.model import Attention, Embeddings, Encoder, Layer
from intaglio.errors import UserError
from intaglio.execution.checks import check_shape, check_state, check_widths


@dataclass(frozen=True)
class LinearConstants:
    """A linear layer.

    Attributes:
        weight, bias: int8 [out, in]; int32 [out].
        scale: float32 [out], the real value of 1 in an accumulator.
        multiplier: int32 [out] for a term of a sum, else None.
        shift: number of bits by which accumulators are shifted before the multiplication.
    """

    weight: Tensor
    bias: Tensor
    scale: Tensor
    multiplier: Tensor | None = None
    shift: int = 0


@dataclass(frozen=True)
class NormConstants:
    """LayerNorm.

    On integers, gamma and beta are int32 [width], `guards` (int64) is the share of epsilon in the sum of squares for
    every shift, and `short_shift` shifts the result to its 8 bits (None if no layer takes 8 bits). In floating point,
    gamma and beta are float32, and `inverse` is 1 / scale of the 8 bits.
    """

    gamma: Tensor
    beta: Tensor
    epsilon: float
    integer: bool
    guards: Tensor | None = None
    short_shift: int | None = None
    inverse: Tensor | None = None


@dataclass(frozen=True)
class GeluConstants:
    """GELU: `multiplier` [out] maps accumulators to codes, `table` int8 [256] maps codes to results.

    `input_step` maps codes less the zero point to the polynomial's grid, and `output_multiplier` maps the polynomial to
    results. In floating point, `scale` [out] is that of accumulators, and `inverse` is 1 / scale of the result.
    """

    integer: bool
    multiplier: Tensor | None = None
    zero_point: int = 0
    table: Tensor | None = None
    input_step: Tensor | None = None
    output_multiplier: Tensor | None = None
    scale: Tensor | None = None
    inverse: Tensor | None = None


@dataclass(frozen=True)
class SoftmaxConstants:
    """Softmax: `intaglio.arithmetic.softmax.DistanceScale` as integers; in floating point the `scale` of scores."""

    integer: bool
    heads: int
    down: int = 0
    top: int = 0
    multiplier: int = 0
    shift: int = 0
    scale: Tensor | None = None
    factor: float = 1.0


@dataclass(frozen=True)
class LayerConstants:
    """A layer.

    `*_multiplier` map accumulators to 8 bits, float32 [out] or without dimension; `projections` are query, key and
    value, one above the other; `*_skip` shift LayerNorm's results for residual sums.
    """

    projections: LinearConstants
    projections_multiplier: Tensor
    softmax: SoftmaxConstants
    context_multiplier: Tensor
    attention_output: LinearConstants
    attention_skip: int
    attention_norm: NormConstants
    intermediate: LinearConstants
    gelu: GeluConstants
    output: LinearConstants
    output_skip: int
    output_norm: NormConstants


@dataclass(frozen=True)
class EmbeddingConstants:
    """Tables, int8 [rows, width], and their multipliers in the sum; `scale` of the sum, for floating point only.

    A table of 4 bits has a multiplier for each row, int32 [rows].
    """

    tables: tuple[Tensor, ...]
    multipliers: tuple[int | Tensor, ...]
    scale: Tensor
    norm: NormConstants
    padding_index: int
    positions_from_padding: bool
    projection: LinearConstants | None = None
    projection_short_shift: int = 0
    projection_inverse: Tensor | None = None


@dataclass(frozen=True)
class Constants:
    """The whole encoder; `scale` is that of the last layer's result. `head` is the encoder's own, in floating point."""

    shape: EncoderConfig
    embeddings: EmbeddingConstants
    layers: tuple[LayerConstants, ...]
    scale: Tensor
    head: Any


def _linear(quantized: QuantizedWeight, input_scale: Tensor) -> LinearConstants:
    multiplier = None if quantized.multiplier is None else quantized.multiplier.to(torch.int32)
    shift = 0 if quantized.shift is None else int(quantized.shift)
    weight, bias = quantized.values.to(torch.int8), quantized.bias.to(torch.int32)
    return LinearConstants(weight, bias, quantized.scale * input_scale, multiplier, shift)


def _plain(layer: Linear, input_scale: Tensor) -> LinearConstants:
    return _linear(layer.quantized(input_scale), input_scale)


def _norm(layer: Norm, input_scale: Tensor) -> tuple[NormConstants, Tensor, Tensor]:
    """Return LayerNorm's constants and the scales of its result and of its 8 bits."""
    short = layer.output.scale if layer.output else None
    if not layer.integer:
        inverse = None if short is None else 1 / short
        real = torch.ones_like(input_scale)
        constants = NormConstants(layer.weight, layer.bias, layer.eps, False, inverse=inverse)
        return constants, real, real if short is None else short
    affine = layernorm.quantize_affine(layer.weight, layer.bias, short)
    guards = layernorm.guards(layer.eps, input_scale, layer.normalized_shape[0]).long()
    constants = NormConstants(
        affine.gamma.to(torch.int32),
        affine.beta.to(torch.int32),
        layer.eps,
        True,
        guards,
        None if short is None else int(affine.shift),
    )
    return constants, affine.scale, affine.scale * torch.exp2(affine.shift)


def _residual(sum_: Residual, layer: Linear, wide: Tensor, narrow: Tensor) -> tuple[LinearConstants, int, Tensor]:
    """Return the linear layer's constants, the shift of LayerNorm's result in the sum, and the scale of the sum."""
    if sum_.sum is None:
        return _plain(layer, narrow), 0, wide
    skip = sums.residual_shift(wide, sum_.sum.scale)
    scale = wide * torch.exp2(skip)
    return _linear(layer.quantized(narrow, scale), narrow), int(skip), scale


def _softmax(attention: Attention, scale: Tensor) -> SoftmaxConstants:
    if not attention.softmax.integer:
        return SoftmaxConstants(False, attention.heads, scale=scale, factor=attention.factor)
    down, top, multiplier, shift = map(int, astuple(softmax.distance_scale(scale * attention.factor)))
    return SoftmaxConstants(True, attention.heads, down, top, multiplier, shift)


def _gelu(layer: Layer, intermediate: LinearConstants) -> tuple[GeluConstants, Tensor]:
    """Return GELU's constants and the scale of its result."""
    assert layer.gelu.output is not None
    if not layer.gelu.integer:
        scale = layer.gelu.output.scale
        return GeluConstants(False, scale=intermediate.scale, inverse=1 / scale), scale
    table = gelu.gelu_table(layer.gelu.output.largest)
    multiplier = intermediate.scale / table.input_scale
    constants = GeluConstants(
        True,
        multiplier,
        int(table.zero_point),
        table.entries.to(torch.int8),
        table.input_scale / gelu.GRID,
        gelu.OUTPUT_SCALE / table.scale,
    )
    return constants, table.scale


def _layer(layer: Layer, wide: Tensor, narrow: Tensor) -> tuple[LayerConstants, Tensor, Tensor]:
    attention = layer.attention
    projections = [_plain(part, narrow) for part in (attention.query, attention.key, attention.value)]
    scales = [found.scale for found in (attention.query_range, attention.key_range, attention.value_range)]
    multipliers = [part.scale / scale for part, scale in zip(projections, scales, strict=True)]
    context_scale = attention.context_range.scale
    probability = torch.full_like(scales[2], 1 / softmax.LEVELS)
    attention_output, attention_skip, sum_scale = _residual(
        layer.attention_residual, attention.output, wide, context_scale
    )
    attention_norm, wide, narrow = _norm(layer.attention_norm, sum_scale)
    intermediate = _plain(layer.intermediate, narrow)
    gelu_constants, gelu_scale = _gelu(layer, intermediate)
    output, output_skip, sum_scale = _residual(layer.output_residual, layer.output, wide, gelu_scale)
    output_norm, wide, narrow = _norm(layer.output_norm, sum_scale)
    constants = LayerConstants(
        projections=LinearConstants(
            torch.cat([part.weight for part in projections]),
            torch.cat([part.bias for part in projections]),
            torch.cat([part.scale for part in projections]),
        ),
        projections_multiplier=torch.cat(multipliers),
        softmax=_softmax(attention, scales[0] * scales[1]),
        context_multiplier=probability * scales[2] / context_scale,
        attention_output=attention_output,
        attention_skip=attention_skip,
        attention_norm=attention_norm,
        intermediate=intermediate,
        gelu=gelu_constants,
        output=output,
        output_skip=output_skip,
        output_norm=output_norm,
    )
    return constants, wide, narrow


def _embeddings(embeddings: Embeddings) -> tuple[EmbeddingConstants, Tensor, Tensor]:
    scale, most = embeddings.scales()
    rows = [table.quantized(table.weight, scale, m) for table, m in zip(embeddings.tables, most, strict=True)]
    norm, wide, narrow = _norm(embeddings.norm, scale)
    projected: dict[str, Any] = {}
    if embeddings.project is not None:
        assert embeddings.project.output is not None
        short = embeddings.project.output.scale
        if embeddings.project.integer:
            wide = short * 2.0**-sums.PROJECTION_SHIFT
            projected["projection"] = _linear(embeddings.project.dense.quantized(narrow, wide), narrow)
            projected["projection_short_shift"] = sums.PROJECTION_SHIFT
            narrow = wide * torch.exp2(torch.full_like(wide, sums.PROJECTION_SHIFT))
        else:
            projected["projection"] = _plain(embeddings.project.dense, narrow)
            projected["projection_inverse"] = 1 / short
            narrow = short
    constants = EmbeddingConstants(
        tuple(integers.to(torch.int8) for integers, _ in rows),
        tuple(m.flatten().to(torch.int32) if m.dim() else int(m) for _, m in rows),
        scale,
        norm,
        embeddings.padding_index,
        embeddings.positions_from_padding,
        **projected,
    )
    return constants, wide, narrow


@torch.no_grad()
def constants_of(encoder: Encoder) -> Constants:
    """Return the constants of a calibrated integer encoder.

    Raises:
        UserError: the encoder is in floating point or not calibrated, or its integers could overflow.
    """
    check_shape(encoder.shape)
    check_state(encoder)
    if not encoder.has_ranges():
        raise UserError("the integer encoder has no activation ranges yet: calibrate it on training data first")
    try:
        constants = _constants(encoder)
    except (OverflowError, ValueError) as error:
        # raised by Python for the conversion of infinity or NaN to an integer
        raise UserError("weights or ranges so far apart that integers would overflow; calibrate again") from error
    check_widths(constants)
    return constants


def _constants(encoder: Encoder) -> Constants:
    embeddings, wide, narrow = _embeddings(encoder.embeddings)
    layers = []
    for layer in encoder.layers:
        assert isinstance(layer, Layer)
        found, wide, narrow = _layer(layer, wide, narrow)
        layers.append(found)
    return Constants(encoder.shape, embeddings, tuple(layers), wide, encoder.head)
