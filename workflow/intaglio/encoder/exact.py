"""An integer encoder with some of its operations exact, for analysis: their quantizers are off, the others' are on.

What is exact is still carried as `Integers` of the same scales, but neither rounded nor clipped. So every operation of
every layer can be switched, those too that no executor can mix.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from intaglio.arithmetic import softmax, sums
from intaglio.arithmetic.integers import HIGH, LOW, Integers, real
from intaglio.arithmetic.operations import OPERATIONS
from intaglio.encoder.config import EncoderConfig
from intaglio.encoder.layers import Gelu, Hidden, Linear, Norm, Residual, Value
from intaglio.encoder.model import Encoder, Layer, Softmax

# Tables, their sum, LayerNorm and projection; and LayerNorm alone.
EMBEDDINGS, EMBEDDINGS_NORM = "embeddings", "embeddings.layernorm"
_Hook = Callable[..., Any]


def switches(shape: EncoderConfig) -> list[str]:
    """Return the operations on integers that can be exact, as `LAYER.OPERATION`, and `EMBEDDINGS`."""
    layers = range(len(shape.heads))
    return [EMBEDDINGS] + [f"{at}.{name}" for at in layers for name in OPERATIONS if shape.on_integers(name, at)]


@contextmanager
def exactly(encoder: Encoder, twin: Encoder, exact: Collection[str]) -> Iterator[None]:
    """Within this context, some operations of an integer encoder are exact.

    `LAYER.linear` are the layer's linear ones and both products of attention, with the 8 bits of all that goes into
    them; `LAYER.layernorm` are its LayerNorms and residual sums.

    Args:
        encoder: calibrated, in evaluation mode.
        twin: its `float_twin`.
        exact: some of `switches`, and `EMBEDDINGS_NORM`.
    """
    with ExitStack() as hooks:
        for module, hook in _hooks(encoder, twin, frozenset(exact)):
            hooks.callback(module.register_forward_hook(hook).remove)
        yield


def _hooks(encoder: Encoder, twin: Encoder, exact: frozenset[str]) -> Iterator[tuple[nn.Module, _Hook]]:
    """Yield modules, and hooks that replace what they return."""
    if EMBEDDINGS_NORM in exact:
        yield encoder.embeddings.norm, partial(_norm, True, False)
    yield encoder.embeddings, partial(_embedded, twin if EMBEDDINGS in exact else None, "0.linear" in exact)
    for number, layer in enumerate(encoder.layers):
        assert isinstance(layer, Layer)
        linear, gelu, softmaxes, norm = (f"{number}.{name}" in exact for name in OPERATIONS)
        attention = layer.attention
        if linear:
            for part in (attention.query, attention.key, attention.value, layer.intermediate):
                yield part, _accumulated
            for name in ("query", "key", "value", "context"):
                yield getattr(attention, f"{name}_range"), _unrounded
        for residual in (layer.attention_residual, layer.output_residual):
            yield residual, partial(_summed, linear, norm)
        yield attention.softmax, partial(_probabilities, linear, softmaxes)
        yield layer.gelu, partial(_activated, linear, gelu)
        yield layer.attention_norm, partial(_norm, norm, linear)
        # The next layer's products take the 8 bits.
        yield layer.output_norm, partial(_norm, norm, f"{number + 1}.linear" in exact)


def _carried(y: Tensor, like: Value, rounds: bool = False) -> Value:
    """Return real values as `like` has them, as integers or not; rounded to 8 bits, or as they are."""
    if not isinstance(like, Integers):
        return y
    values = y / like.scale
    return Integers(values.round().clamp(LOW, HIGH) if rounds else values, like.scale)


def _hidden(y: Tensor, like: Hidden, exact_narrow: bool) -> Hidden:
    return Hidden(_carried(y, like.wide), _carried(y, like.narrow, not exact_narrow))


def _embedded(twin: Encoder | None, linear: bool, _: nn.Module, inputs: tuple[Any, ...], output: Hidden) -> Hidden:
    if twin is None:
        return _hidden(real(output.wide), output, linear) if linear else output
    return _hidden(real(twin.embeddings(*inputs).wide), output, linear)


def _norm(exact: bool, linear: bool, norm: Norm, inputs: tuple[Any, ...], output: Hidden) -> Hidden:
    if not exact and not linear:
        return output
    y = real(output.wide)
    if exact:
        y = functional.layer_norm(real(inputs[0]), norm.normalized_shape, norm.weight, norm.bias, norm.eps)
    return _hidden(y, output, linear)


def _accumulated(layer: Linear, inputs: tuple[Any, ...], output: Integers) -> Integers:
    return Integers(functional.linear(real(inputs[0]), layer.weight, layer.bias) / output.scale, output.scale)


def _unrounded(_: nn.Module, inputs: tuple[Any, ...], output: Integers) -> Value:
    return _carried(real(inputs[0]), output)


def _summed(linear: bool, norm: bool, _: Residual, inputs: tuple[Any, ...], output: Value) -> Value:
    if not linear and not norm:
        return output
    wide, layer, x = inputs[:3]
    term = functional.linear(real(x), layer.weight, layer.bias) if linear else real(layer(x))
    total = _carried(real(wide) + term, output)
    if norm or not isinstance(total, Integers):
        return total
    return Integers(total.values.round().clamp(-sums.BOUND, sums.BOUND), total.scale)


def _probabilities(linear: bool, exact: bool, module: Softmax, inputs: tuple[Any, ...], output: Integers) -> Integers:
    if not exact and (module.integer or not linear):
        return output
    scores, masked = inputs
    s = scores.real * module.factor
    p = (s if masked is None else s.masked_fill(masked, float("-inf"))).softmax(-1) * softmax.LEVELS
    return Integers(p if linear else p.round(), output.scale)


def _activated(linear: bool, exact: bool, module: Gelu, inputs: tuple[Any, ...], output: Value) -> Value:
    if not exact and (module.integer or not linear):
        return output
    return _carried(functional.gelu(real(inputs[0])), output, not linear)
