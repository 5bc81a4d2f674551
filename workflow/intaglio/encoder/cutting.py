"""Cutting of heads and neurons: the smaller encoder computes what the full one would with their outputs at zero."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from intaglio.encoder.config import EncoderConfig
from intaglio.encoder.model import Encoder


@dataclass(frozen=True)
class Kept:
    """The remaining indices of heads and of neurons in each layer, ascending."""

    heads: tuple[tuple[int, ...], ...]
    neurons: tuple[tuple[int, ...], ...]

    def shape(self, full: EncoderConfig) -> EncoderConfig:
        """Return the shape of what remains of an encoder of shape `full`."""
        heads, neurons = (tuple(len(layer) for layer in kept) for kept in (self.heads, self.neurons))
        return replace(full, heads=heads, neurons=neurons)


def multiply_adds(shape: EncoderConfig, length: int) -> int:
    """Return the number of multiplications in all layers' matrix products for a text of `length` tokens.

    A layer of h heads of width w and f neurons on hidden states of width d takes, per token, 4dhw for query, key, value
    and output, 2hw * length for scores and context, and 2df for the feed-forward network.
    """
    d = shape.hidden_size
    return length * sum(
        heads * shape.head_width * (4 * d + 2 * length) + 2 * d * neurons
        for heads, neurons in zip(shape.heads, shape.neurons, strict=True)
    )


def cut_out(encoder: Encoder, kept: Kept) -> Encoder:
    """Return a copy of a float encoder that has only these heads and neurons."""
    small = Encoder(kept.shape(encoder.shape)).to(encoder.head.output.weight)
    weights = encoder.state_dict()
    for number, (heads, neurons) in enumerate(zip(kept.heads, kept.neurons, strict=True)):
        features = _features(heads, encoder.shape.head_width)
        for name in ("attention.query", "attention.key", "attention.value"):
            _take(weights, f"layers.{number}.{name}", features, inputs=False)
        _take(weights, f"layers.{number}.attention.output", features, inputs=True)
        _take(weights, f"layers.{number}.intermediate", neurons, inputs=False)
        _take(weights, f"layers.{number}.output", neurons, inputs=True)
    small.load_state_dict(weights)
    return small.train(encoder.training)


def _features(heads: Sequence[int], width: int) -> list[int]:
    """Return the indices of these heads' features among those of all heads side by side."""
    return [head * width + feature for head in heads for feature in range(width)]


def _take(weights: dict[str, Tensor], layer: str, indices: Sequence[int], inputs: bool) -> None:
    """Keep only these inputs or outputs of a linear layer, whose weight is [out, in], in place."""
    weight, bias = f"{layer}.weight", f"{layer}.bias"
    chosen = torch.tensor(indices, device=weights[weight].device)
    weights[weight] = weights[weight].index_select(int(inputs), chosen)
    if not inputs:
        weights[bias] = weights[bias].index_select(0, chosen)
