"""The heads of the encoder, in floating point: classification by the first token, and answers among all tokens."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from intaglio.encoder.architectures import ARCHITECTURES
from intaglio.encoder.config import EncoderConfig
from intaglio.encoder.padding import PADDING


class Head(nn.Module):
    """The classifier on the first token, in floating point."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        architecture = ARCHITECTURES[config.model_type]
        self.drops_first = architecture.drops_first
        self.activation = architecture.activation
        self.dropout = config.head_dropout
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.labels)

    def forward(self, x: Tensor) -> Tensor:
        """Classify [batch, width]: logits [batch, labels]."""
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
        self.output = nn.Linear(config.hidden_size, config.labels)

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, length, width] to logits [batch, length, 2]."""
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
