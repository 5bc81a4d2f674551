"""Tensors inside an encoder, by layer and operation, to compare one on integers with the same one in floating point."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from intaglio.arithmetic.integers import real
from intaglio.encoder.layers import Hidden
from intaglio.encoder.model import Attention, Encoder, Layer

# What a layer computes, in its order; the two outputs are with the residual sum.
OF_LAYER = (
    *("query", "key", "value", "softmax", "context", "attention_output", "attention_layernorm"),
    *("intermediate", "gelu", "output", "output_layernorm"),
)
# Of a layer, or of none: the embeddings and the logits.
InnerPlace = tuple[int | None, str]


def float_twin(encoder: Encoder) -> Encoder:
    """Return an encoder with the weights of another one, in floating point, in evaluation mode, on its device."""
    floating = {"integer": frozenset(), "weight_bits": 8, "embedding_bits": 8, "keep_float": frozenset()}
    return reshaped(encoder, **floating)


def reshaped(encoder: Encoder, **changes: Any) -> Encoder:
    """Return an encoder with the weights and ranges of another one, after `changes` of its shape that need no more."""
    made = Encoder(replace(encoder.shape, **changes))
    missing, _ = made.load_state_dict(encoder.state_dict(), strict=False)
    assert not missing, missing
    made.calibrated = encoder.calibrated
    return made.to(next(encoder.parameters()).device).eval()


def inner_tensors(encoder: Encoder, inputs: Mapping[str, Tensor]) -> dict[InnerPlace, Tensor]:
    """Return what an encoder computes from a batch on the way to its logits, and these, as real values.

    Args:
        encoder: in evaluation mode, on integers or not.
        inputs: as for the encoder, int64 [batch, length].

    Returns:
        By layer and name of `OF_LAYER`: softmax [batch, heads, length, length], and the others [batch, length, width].
        Of an integer encoder, LayerNorm's results are those that residual sums take, `intermediate` are accumulators,
        and the others have the bits that the next operation takes. Without a layer, `embeddings` and `logits`.
    """
    found: dict[InnerPlace, Tensor] = {}
    with ExitStack() as hooks:
        for place, module in _modules(encoder).items():
            keep: Callable[..., None] = partial(_keep, found, place)
            hooks.callback(module.register_forward_hook(keep).remove)
        found[None, "logits"] = encoder(**inputs).logits
    return found


def _modules(encoder: Encoder) -> dict[InnerPlace, nn.Module]:
    """Return the module that computes each tensor, but for softmax in floating point."""
    modules: dict[InnerPlace, nn.Module] = {(None, "embeddings"): encoder.embeddings}
    for number, layer in enumerate(encoder.layers):
        assert isinstance(layer, Layer)
        attention = layer.attention
        for name in ("query", "key", "value"):
            modules[number, name] = getattr(attention, f"{name}_range" if attention.quantized else name)
        if attention.quantized:
            modules[number, "softmax"] = attention.softmax
        modules[number, "context"] = attention
        modules[number, "attention_output"] = layer.attention_residual
        modules[number, "attention_layernorm"] = layer.attention_norm
        modules[number, "intermediate"] = layer.intermediate
        modules[number, "gelu"] = layer.gelu
        modules[number, "output"] = layer.output_residual
        modules[number, "output_layernorm"] = layer.output_norm
    return modules


def _keep(
    found: dict[InnerPlace, Tensor], place: InnerPlace, module: nn.Module, inputs: tuple[Any, ...], output: Any
) -> None:
    found[place] = real(output.wide if isinstance(output, Hidden) else output)
    if isinstance(module, Attention) and not module.quantized:
        layer, masked = place[0], inputs[1]
        query, key = (found[layer, name].unflatten(-1, (-1, module.head_width)) for name in ("query", "key"))
        scores = torch.einsum("bqhw,bkhw->bhqk", query, key) * module.factor
        scores = scores if masked is None else scores.masked_fill(masked, float("-inf"))
        found[layer, "softmax"] = scores.softmax(-1)
