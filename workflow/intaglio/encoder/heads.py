"""The heads of the encoder, in floating point: classification by the first token, and answers among all tokens.

What follows integers is computed in 64 bits and rounded to 32, in every executor: its sums then round to the same 32
bits in whatever order they are added, so that logits do not depend on the executor, the batch or the machine.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from intaglio.encoder.architectures import ARCHITECTURES
from intaglio.encoder.config import EncoderConfig
from intaglio.encoder.padding import PADDING


def rounded_linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """Return a linear layer's result, computed in float64 and rounded to float32."""
    result: Tensor = functional.linear(x.double(), layer.weight.double(), layer.bias.double())
    return result.float()


class Head(nn.Module):
    """The classifier on the first token, in floating point."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        architecture = ARCHITECTURES[config.model_type]
        self.drops_first = architecture.drops_first
        self.activation = architecture.activation
        self.dropout = config.head_dropout
        self.rounds = bool(config.integer)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.labels)

    def forward(self, x: Tensor) -> Tensor:
        """Classify [batch, width]: logits [batch, labels]."""
        if self.rounds and not self.training:
            activated = self.activation(rounded_linear(self.dense, x).double()).float()
            return rounded_linear(self.output, activated)
        if self.drops_first:
            x = functional.dropout(x, self.dropout, self.training)
        x = self.activation(self.dense(x))
        logits: Tensor = self.output(functional.dropout(x, self.dropout, self.training))
        return logits


class SpanHead(nn.Module):
    """The first and last tokens of answers: a layer over every token, in floating point."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.dropout = config.head_dropout
        self.rounds = bool(config.integer)
        self.output = nn.Linear(config.hidden_size, config.labels)

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, length, width] to logits [batch, length, 2]."""
        if self.rounds and not self.training:
            return rounded_linear(self.output, x)
        logits: Tensor = self.output(functional.dropout(x, self.dropout, self.training))
        return logits


def logits_of_tokens(head: nn.Module, x: Tensor, padding: Tensor | None) -> Tensor:
    """Return the logits of a `SpanHead`, [batch, length, 2]; padding enters as zeros, and its logits are `PADDING`.

    Args:
        head: the head.
        x: the encoder's result, [batch, length, width].
        padding: true at padding, [batch, length, 1].
    """
    logits: Tensor = head(x if padding is None else x.masked_fill(padding, 0.0))
    return logits if padding is None else logits.masked_fill(padding, PADDING)
