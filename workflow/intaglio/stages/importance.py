"""Importance of an encoder's heads and neurons, and the choice of those to keep.

A unit (head or neuron) is multiplied by a gate of 1. To first order, removing it changes the loss by the derivative
with respect to the gate, which is the sum over positions and features of the unit's output times its gradient.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from intaglio.encoder.config import EncoderConfig
from intaglio.encoder.cutting import Kept, multiply_adds
from intaglio.encoder.parts import layer_parts
from intaglio.errors import UserError
from intaglio.kinds import KINDS, TaskKind
from intaglio.metrics import SINGLE_LABEL
from intaglio.study.options import CutOptions

# Neurons are kept in blocks: kernels tile products by this number (two vectors of AVX-512 in float32, one of AVX2, a
# tile of the sparse tensor cores in int8), and a remainder would cost as much as a whole tile.
NEURONS = 32
# Resolution of the share that reaches a speed-up.
SHARES = 1000


@dataclass(frozen=True)
class Units:
    """A number per head and neuron: for each layer, [examples or 1, heads] and [examples or 1, neurons]."""

    heads: Sequence[Tensor]
    neurons: Sequence[Tensor]

    @classmethod
    def ones(cls, shape: EncoderConfig, examples: int, device: torch.device) -> Units:
        """Return gates of 1 for every example, with gradients."""
        heads, neurons = (
            [torch.ones(examples, count, device=device, requires_grad=True) for count in counts]
            for counts in (shape.heads, shape.neurons)
        )
        return cls(heads, neurons)

    @classmethod
    def only(cls, kept: Kept, shape: EncoderConfig, device: torch.device) -> Units:
        """Return gates that are 1 for kept units and 0 for others."""
        heads, neurons = (
            [
                torch.zeros(1, count, device=device).index_fill(1, torch.tensor(of_layer, device=device), 1.0)
                for count, of_layer in zip(counts, indices, strict=True)
            ]
            for counts, indices in ((shape.heads, kept.heads), (shape.neurons, kept.neurons))
        )
        return cls(heads, neurons)


@contextmanager
def gated(model: Any, gates: Units) -> Iterator[None]:
    """Within this context, the outputs of a model's heads and neurons are multiplied by gates.

    Raises:
        UserError: the architecture is not supported.
    """
    with ExitStack() as stack:
        for parts, heads, neurons in zip(layer_parts(model), gates.heads, gates.neurons, strict=True):
            for linear, gate in ((parts.attention_output, heads), (parts.output, neurons)):
                stack.callback(linear.register_forward_pre_hook(partial(_multiply, gate)).remove)
        yield


def _multiply(gate: Tensor, _: nn.Module, given: tuple[Tensor, ...]) -> Tensor:
    """Multiply [batch, length, units * width], with units side by side, by [batch or 1, units]."""
    units: Tensor = given[0].unflatten(-1, (gate.shape[-1], -1))
    return (units * gate[:, None, :, None]).flatten(-2)


def importance(
    model: Any, shape: EncoderConfig, batches: Iterable[Mapping[str, Tensor]], kind: TaskKind = KINDS[SINGLE_LABEL]
) -> Units:
    """Return Taylor scores, averaged over examples: for each layer, [1, heads] and [1, neurons].

    The score of a head is |derivative of an example's loss| (Michel et al. 2019, arXiv 1905.10650, eq. 2), that of a
    neuron is the derivative squared (Molchanov et al. 2019, arXiv 1906.10771, of gates).

    Args:
        model: a classifier in evaluation mode.
        shape: shape of the model.
        batches: inputs of the model, with labels.
        kind: the kind of task, which defines the loss.
    """
    heads, neurons = ([torch.zeros(1, count) for count in counts] for counts in (shape.heads, shape.neurons))
    examples = 0
    for batch in batches:
        inputs = {name: tensor.to(model.device) for name, tensor in batch.items() if name != "labels"}
        labels = batch["labels"].to(model.device)
        gates = Units.ones(shape, len(labels), labels.device)
        with gated(model, gates):
            loss = kind.loss(model(**inputs).logits, labels)
        gradients = torch.autograd.grad(loss, [*gates.heads, *gates.neurons])
        for score, gradient in zip(heads, gradients[: len(heads)], strict=True):
            score += gradient.abs().sum(0).cpu()
        for score, gradient in zip(neurons, gradients[len(heads) :], strict=True):
            score += gradient.square().sum(0).cpu()
        examples += len(labels)
    return Units([score / examples for score in heads], [score / examples for score in neurons])


def choose(scores: Units, shape: EncoderConfig, options: CutOptions, length: int) -> Kept:
    """Choose the units to keep, by their scores.

    Args:
        scores: as returned by `importance`.
        shape: shape of the model.
        options: `sparsity`, a share of heads and of neurons, or `speedup`, and `scope`.
        length: number of tokens per text for which the speed-up is computed.

    Raises:
        UserError: the speed-up is not possible.
    """

    def kept(sparsity: float) -> Kept:
        heads = _most_important(scores.heads, sparsity, options.scope == "global", 1)
        return Kept(heads, _most_important(scores.neurons, sparsity, options.scope == "global", NEURONS))

    def speedup(share: int) -> float:
        return multiply_adds(shape, length) / multiply_adds(kept(share / SHARES).shape(shape), length)

    if options.speedup is None:
        return kept(options.removed)
    share = bisect_left(range(SHARES), options.speedup, key=speedup)
    if share == SHARES:
        raise UserError(
            f"speedup: {options.speedup} is not reached; with one head and at most {NEURONS} neurons a layer this "
            f"model's layers take {speedup(SHARES - 1):.3g} times fewer multiplications; ask for less"
        )
    return kept(share / SHARES)


def _most_important(
    scores: Sequence[Tensor], sparsity: float, together: bool, grain: int
) -> tuple[tuple[int, ...], ...]:
    """Return the units of each layer to keep, ascending; at least one block per layer.

    Args:
        scores: of each layer, [1, units].
        sparsity: share of all blocks to remove.
        together: whether layers compete, their scores divided by their Euclidean norm (as in Michel et al.); otherwise
            every layer loses the same share.
        grain: number of units per block; blocks are filled from the most to the least important unit.
    """
    ranked = [score[0].sort(descending=True, stable=True) for score in scores]
    blocks = [[float(block.sum()) for block in values.double().split(grain)] for values, _ in ranked]
    if together:
        norms = [float(values.double().norm()) or 1.0 for values, _ in ranked]
        # Within a layer the blocks' scores descend, so a layer always keeps its first blocks.
        others = sorted(
            (-worth / norm, layer)
            for layer, (found, norm) in enumerate(zip(blocks, norms, strict=True))
            for worth in found[1:]
        )
        total = max(len(blocks), round((1 - sparsity) * sum(map(len, blocks))))
        winners = [layer for _, layer in others[: total - len(blocks)]]
        counts = [1 + winners.count(layer) for layer in range(len(blocks))]
    else:
        counts = [max(1, round((1 - sparsity) * len(found))) for found in blocks]
    return tuple(
        tuple(sorted(indices[: count * grain].tolist())) for (_, indices), count in zip(ranked, counts, strict=True)
    )
