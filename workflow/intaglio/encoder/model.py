"""The encoder with its classification head."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.modeling_outputs import SequenceClassifierOutput

from intaglio.arithmetic import linear, softmax
from intaglio.arithmetic.integers import SMALLEST, Integers, dropout, real, requantize, rescale
from intaglio.encoder.architectures import ARCHITECTURES
from intaglio.encoder.config import EncoderConfig
from intaglio.encoder.layers import Gelu, Linear, Norm, Range, Value
from intaglio.errors import UserError

EMBEDDING_SUM_BITS = 16
RESIDUAL_BITS = 22


class Table(nn.Embedding):
    """An embedding table: rows as real values, or as 8-bit integers of one scale."""

    def __init__(self, rows: int, width: int, integer: bool) -> None:
        super().__init__(rows, width)
        self.values = Range(8) if integer else None

    def forward(self, index: Tensor) -> Any:
        """Look up rows: integers [...] to [..., width]."""
        rows = super().forward(index)
        if self.values is None:
            return rows
        if self.values.observing:
            # RoBERTa's type embeddings are zero until it is fine-tuned; a range is positive once it was observed
            self.values.largest.copy_(self.weight.detach().abs().amax().clamp_min(SMALLEST))
        return requantize(rows, self.values.scale, self.values.bits)


class Embeddings(nn.Module):
    """Word, position and type embeddings, their sum normalized."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        quantized = "linear" in config.integer
        width = config.embedding_size
        self.word = Table(config.vocabulary, width, quantized)
        self.position = Table(config.positions, width, quantized)
        self.segment = Table(config.types, width, quantized) if config.types else None
        self.norm = Norm(width, config.epsilon, "layernorm" in config.integer, EMBEDDING_SUM_BITS)
        self.project: Linear | None = None
        if width != config.hidden_size:
            self.project_input = Range(8) if quantized else None
            self.project = Linear(width, config.hidden_size)
        self.dropout = config.dropout
        self.padding_index = config.padding_index
        self.positions_from_padding = ARCHITECTURES[config.model_type].positions_from_padding

    def _positions(self, input_ids: Tensor) -> Tensor:
        if self.positions_from_padding:
            token = input_ids.ne(self.padding_index).long()
            return token.cumsum(1) * token + self.padding_index
        return torch.arange(input_ids.shape[1], device=input_ids.device).unsqueeze(0)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor | None, padding: Tensor | None) -> Value:
        """Embed tokens [batch, length] as [batch, length, hidden size]."""
        parts = [self.word(input_ids), self.position(self._positions(input_ids))]
        if self.segment is not None:
            parts.append(self.segment(torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids))
        x: Value = dropout(self.norm(parts, padding), self.dropout, self.training)
        if self.project is not None:
            x = self.project(x if self.project_input is None else self.project_input(x, padding))
        return x


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = config.heads
        self.factor = 1 / sqrt(width // config.heads)
        self.dropout = config.attention_dropout
        self.quantized = "linear" in config.integer
        self.integer_softmax = "softmax" in config.integer
        self.query, self.key, self.value = (Linear(width, width) for _ in range(3))
        self.output = Linear(width, width)
        if self.quantized:
            self.query_range, self.key_range, self.value_range, self.context_range = (Range(8) for _ in range(4))

    def _heads(self, x: Tensor) -> Tensor:
        split: Tensor = x.unflatten(-1, (self.heads, -1))
        return split.transpose(1, 2)

    def _float(self, x: Tensor, masked: Tensor | None) -> Tensor:
        q, k, v = (self._heads(layer(x)) for layer in (self.query, self.key, self.value))
        mask = None if masked is None else ~masked
        rate = self.dropout if self.training else 0.0
        context = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=rate, scale=self.factor)
        return context.transpose(1, 2).flatten(2)

    def _probabilities(self, scores: Integers, masked: Tensor | None) -> Integers:
        if self.integer_softmax:
            return softmax.softmax(scores, self.factor, masked)
        s = scores.real * self.factor
        if masked is not None:
            s = s.masked_fill(masked, float("-inf"))
        # unsigned 8 bits: of the symmetric 9-bit integers, those that are not negative
        p = rescale(s.softmax(-1), torch.full_like(scores.scale, softmax.OUTPUT_LEVELS), 9)
        return Integers(p, torch.full_like(scores.scale, 1 / softmax.OUTPUT_LEVELS))

    def _integers(self, x: Integers, masked: Tensor | None, padding: Tensor | None) -> Integers:
        layers = (self.query, self.key, self.value)
        ranges = (self.query_range, self.key_range, self.value_range)
        q, k, v = (range_(layer(x), padding) for layer, range_ in zip(layers, ranges, strict=True))
        keys = Integers(self._heads(k.values).transpose(-1, -2), k.scale)
        scores = linear.matmul(Integers(self._heads(q.values), q.scale), keys)
        p = dropout(self._probabilities(scores, masked), self.dropout, self.training)
        assert isinstance(p, Integers)
        context = linear.matmul(p, Integers(self._heads(v.values), v.scale))
        merged = Integers(context.values.transpose(1, 2).flatten(2), context.scale)
        result: Integers = self.context_range(merged, padding)
        return result

    def forward(self, x: Value, masked: Tensor | None, padding: Tensor | None) -> Value:
        """Attend over [batch, length, width]; `masked` [batch, 1, 1, length] is true where there is no token."""
        context = self._integers(x, masked, padding) if isinstance(x, Integers) else self._float(x, masked)
        result: Value = self.output(context)
        return result


class Layer(nn.Module):
    """Attention and feed-forward network, each followed by the normalized residual sum."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        quantized = "linear" in config.integer
        width, integer_norm = config.hidden_size, "layernorm" in config.integer
        self.attention_input = Range(8) if quantized else None
        self.attention = Attention(config)
        self.attention_norm = Norm(width, config.epsilon, integer_norm, RESIDUAL_BITS)
        self.intermediate_input = Range(8) if quantized else None
        self.intermediate = Linear(width, config.intermediate_size)
        self.gelu = Gelu("gelu" in config.integer, quantized)
        self.output = Linear(config.intermediate_size, width)
        self.output_norm = Norm(width, config.epsilon, integer_norm, RESIDUAL_BITS)
        self.dropout = config.dropout

    def forward(self, x: Value, masked: Tensor | None, padding: Tensor | None) -> Value:
        """Map [batch, length, width] to the same shape."""
        y = x if self.attention_input is None else self.attention_input(x, padding)
        y = dropout(self.attention(y, masked, padding), self.dropout, self.training)
        x = self.attention_norm((y, x), padding)
        y = x if self.intermediate_input is None else self.intermediate_input(x, padding)
        y = self.output(self.gelu(self.intermediate(y), padding))
        result: Value = self.output_norm((dropout(y, self.dropout, self.training), x), padding)
        return result


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


class Encoder(nn.Module):
    """Encoder and classification head over the arithmetic that `shape.integer` names."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.shape = config
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.head = Head(config)
        self.calibrated = not config.integer

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """Classify token sequences.

        Args:
            input_ids, attention_mask, token_type_ids: int64, [batch, length].
            labels: int64, [batch]; with them the result carries the cross-entropy loss.

        Raises:
            UserError: it computes on integers and no range has been calibrated.
        """
        if not self.calibrated:
            raise UserError("the integer encoder has no activation ranges yet: calibrate it on training data first")
        # The integers are carried exactly by float32 and by nothing narrower.
        narrow = self.shape.integer and torch.is_autocast_enabled(input_ids.device.type)
        with torch.autocast(input_ids.device.type, enabled=False) if narrow else nullcontext():
            logits = self._classify(input_ids, attention_mask, token_type_ids)
            loss = None if labels is None else functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)

    def _classify(self, input_ids: Tensor, attention_mask: Tensor | None, token_type_ids: Tensor | None) -> Tensor:
        masked = padding = None
        if attention_mask is not None:
            absent = attention_mask == 0
            masked, padding = absent[:, None, None, :], absent[:, :, None]
        x = self.embeddings(input_ids, token_type_ids, padding)
        for layer in self.layers:
            x = layer(x, masked, padding)
        first = Integers(x.values[:, 0], x.scale) if isinstance(x, Integers) else x[:, 0]
        logits: Tensor = self.head(real(first))
        return logits

    @contextmanager
    def calibrating(self, momentum: float) -> Iterator[None]:
        """Within this context, forward passes set the activation ranges; dropout is off, no gradient is kept."""
        training = self.training
        self.eval()
        self.calibrated = True
        self._observe(True, momentum)
        try:
            with torch.no_grad():
                yield
        finally:
            self._observe(False, momentum)
            self.calibrated = self.has_ranges()
            self.train(training)

    def has_ranges(self) -> bool:
        """Tell whether every range was observed (waits for the device)."""
        ranges = [module.largest for module in self.modules() if isinstance(module, Range)]
        return not ranges or bool((torch.stack(ranges) > 0).all())

    def _observe(self, observing: bool, momentum: float) -> None:
        for module in self.modules():
            if isinstance(module, Range):
                module.observing, module.momentum = observing, momentum
            elif isinstance(module, Linear):
                module.unsettled = observing
