"""The encoder with its head."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.modeling_outputs import SequenceClassifierOutput

from intaglio.arithmetic import linear, softmax, sums
from intaglio.arithmetic.integers import SMALLEST, Integers, dropout, real, rescale, shorten
from intaglio.encoder.architectures import ARCHITECTURES
from intaglio.encoder.config import EncoderConfig
from intaglio.encoder.heads import Head, SpanHead, logits_of_tokens
from intaglio.encoder.layers import Gelu, Hidden, Linear, Norm, Range, Residual, Value
from intaglio.errors import UserError


class Table(nn.Embedding):
    """An embedding table with the range of its values, which have `bits` bits among integers."""

    def __init__(self, rows: int, width: int, integer: bool, bits: int = 8) -> None:
        super().__init__(rows, width)
        self.values = Range() if integer else None
        self.bits = bits

    def range(self) -> Tensor:
        """Return the largest magnitude of the table when last observed."""
        assert self.values is not None
        if self.values.observing:
            # RoBERTa's type embeddings are zero before fine-tuning; an observed range has to be positive
            self.values.largest.copy_(self.weight.detach().abs().amax().clamp_min(SMALLEST))
        return self.values.largest

    def quantized(self, rows: Tensor, scale: Tensor, multiplier: Tensor) -> tuple[Tensor, Tensor]:
        """Return rows of the table as integers [..., width], and their multipliers (`sums.row_multipliers`)."""
        multipliers = sums.row_multipliers(rows, scale, multiplier, self.bits)
        return sums.quantize_rows(rows, scale * multipliers, self.bits), multipliers


class Embeddings(nn.Module):
    """Sum of word, position and type embeddings, normalized."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.quantized = "linear" in config.integer
        width = config.embedding_size
        projected = width != config.hidden_size
        integer_norm = "layernorm" in config.integer
        # The other tables are small: fewer bits would save next to nothing.
        self.word = Table(config.vocabulary, width, self.quantized, config.embedding_bits)
        self.position = Table(config.positions, width, self.quantized)
        self.segment = Table(config.types, width, self.quantized) if config.types else None
        self.norm = Norm(width, config.epsilon, integer_norm, self.quantized)
        self.project = Projection(config) if projected else None
        self.dropout = config.dropout
        self.padding_index = config.padding_index
        self.positions_from_padding = ARCHITECTURES[config.model_type].positions_from_padding

    @property
    def tables(self) -> list[Table]:
        """The tables of words, positions and, where there are any, types."""
        return [table for table in (self.word, self.position, self.segment) if table is not None]

    def scales(self) -> tuple[Tensor, list[Tensor]]:
        """Return the scale of the sum of rows, and the largest multiplier of each table in it (`sums.table_scales`)."""
        return sums.table_scales([table.range() for table in self.tables], [table.bits for table in self.tables])

    def _positions(self, input_ids: Tensor) -> Tensor:
        if self.positions_from_padding:
            token = input_ids.ne(self.padding_index).long()
            return token.cumsum(1) * token + self.padding_index
        return torch.arange(input_ids.shape[1], device=input_ids.device).unsqueeze(0)

    def _sum(self, indices: list[Tensor]) -> Value:
        rows: list[Tensor] = [table(index) for table, index in zip(self.tables, indices, strict=True)]
        if not self.quantized:
            return sum(rows[1:], start=rows[0])
        scale, most = self.scales()
        found = [table.quantized(row, scale, m) for table, row, m in zip(self.tables, rows, most, strict=True)]
        parts = [integers * multiplier for integers, multiplier in found]
        return Integers(sum(parts[1:], parts[0]), scale)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor | None, padding: Tensor | None) -> Hidden:
        """Embed tokens [batch, length] as [batch, length, hidden size]."""
        indices = [input_ids, self._positions(input_ids)]
        if self.segment is not None:
            indices.append(torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids)
        x: Hidden = self.norm(self._sum(indices), padding, self.dropout)
        return x if self.project is None else self.project(x.narrow, padding)


class Projection(nn.Module):
    """Linear layer from narrow embeddings to the hidden size (ELECTRA)."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.dense = Linear(config.embedding_size, config.hidden_size, config.weight_bits)
        self.output = Range() if "linear" in config.integer else None
        self.integer = "layernorm" in config.integer

    def forward(self, x: Value, padding: Tensor | None) -> Hidden:
        """Project [batch, length, width] to [batch, length, hidden size]."""
        if not self.integer:
            y = real(self.dense(x))
            return Hidden(y, y if self.output is None else self.output(y, padding))
        assert isinstance(x, Integers) and self.output is not None
        if self.output.observing:
            self.output.observe(self.dense(x), padding)
        term = self.dense.term(x, self.output.scale * 2.0**-sums.PROJECTION_SHIFT)
        wide = sums.alone(replace(term, spent=self.training))
        return Hidden(wide, shorten(wide, torch.full_like(term.scale, sums.PROJECTION_SHIFT)))


class Softmax(nn.Module):
    """Softmax of accumulators, as probabilities of 8 bits without sign."""

    def __init__(self, integer: bool, factor: float) -> None:
        super().__init__()
        self.integer = integer
        self.factor = factor

    def forward(self, scores: Integers, masked: Tensor | None) -> Integers:
        """Return softmax of `scores * factor` over the last dimension, zero where `masked`."""
        if self.integer:
            return softmax.softmax(scores, self.factor, masked, self.training)
        s = scores.real * self.factor
        if masked is not None:
            s = s.masked_fill(masked, float("-inf"))
        p = rescale(s.softmax(-1), torch.full_like(scores.scale, softmax.LEVELS), -1, softmax.LEVELS + 1)
        return Integers(p, torch.full_like(scores.scale, 1 / softmax.LEVELS))


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, config: EncoderConfig, number: int) -> None:
        super().__init__()
        self.heads = heads = config.heads[number]
        self.head_width = config.head_width
        self.factor = 1 / sqrt(config.head_width)
        self.dropout = config.attention_dropout
        self.quantized = "linear" in config.integer
        self.softmax = Softmax(config.on_integers("softmax", number), self.factor)
        features = heads * config.head_width
        width, bits = config.hidden_size, config.weight_bits
        self.query, self.key, self.value = (Linear(width, features, bits) for _ in range(3))
        self.output = Linear(features, width, bits)
        if self.quantized:
            self.query_range, self.key_range, self.value_range, self.context_range = (Range() for _ in range(4))

    def _heads(self, x: Tensor) -> Tensor:
        split: Tensor = x.unflatten(-1, (-1, self.head_width))
        return split.transpose(1, 2)

    def _float(self, x: Tensor, masked: Tensor | None) -> Tensor:
        q, k, v = (self._heads(layer(x)) for layer in (self.query, self.key, self.value))
        # The mask is expanded to one row per query: ONNX exporters would otherwise take the number from the queries,
        # which prevents fusion.
        mask = None if masked is None else (~masked).expand(-1, -1, x.shape[1], -1)
        rate = self.dropout if self.training else 0.0
        context = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=rate, scale=self.factor)
        return context.transpose(1, 2).flatten(2)

    def _integers(self, x: Integers, masked: Tensor | None, padding: Tensor | None) -> Integers:
        layers = (self.query, self.key, self.value)
        ranges = (self.query_range, self.key_range, self.value_range)
        q, k, v = (range_(layer(x), padding, self.training) for layer, range_ in zip(layers, ranges, strict=True))
        keys = Integers(self._heads(k.values).transpose(-1, -2), k.scale)
        scores = linear.matmul(Integers(self._heads(q.values), q.scale), keys)
        p = dropout(self.softmax(scores, masked), self.dropout, self.training)
        assert isinstance(p, Integers)
        context = linear.matmul(p, Integers(self._heads(v.values), v.scale))
        merged = Integers(context.values.transpose(1, 2).flatten(2), context.scale)
        result: Integers = self.context_range(merged, padding, self.training)
        return result

    def forward(self, x: Value, masked: Tensor | None, padding: Tensor | None) -> Value:
        """Return the context vectors of [batch, length, width]; `masked` [batch, 1, 1, length] is true at padding.

        The output layer is not included: its result is a term of the residual sum.
        """
        return self._integers(x, masked, padding) if isinstance(x, Integers) else self._float(x, masked)


class Layer(nn.Module):
    """Attention and feed-forward network, each followed by a normalized residual sum."""

    def __init__(self, config: EncoderConfig, number: int) -> None:
        super().__init__()
        last = number == len(config.heads) - 1
        neurons = config.neurons[number]
        quantized, integer_norm = "linear" in config.integer, "layernorm" in config.integer
        width, bits = config.hidden_size, config.weight_bits
        self.attention = Attention(config, number)
        self.attention_residual = Residual(integer_norm, config.dropout)
        self.attention_norm = Norm(width, config.epsilon, integer_norm, quantized)
        self.intermediate = Linear(width, neurons, bits)
        self.gelu = Gelu(config.on_integers("gelu", number), quantized)
        self.output = Linear(neurons, width, bits)
        self.output_residual = Residual(integer_norm, config.dropout)
        # The last layer's result is not quantized: the classification head is floating point.
        self.output_norm = Norm(width, config.epsilon, integer_norm, quantized and not last)

    def forward(self, x: Hidden, masked: Tensor | None, padding: Tensor | None) -> Hidden:
        """Map [batch, length, width] to [batch, length, width]."""
        y = self.attention(x.narrow, masked, padding)
        x = self.attention_norm(self.attention_residual(x.wide, self.attention.output, y, padding), padding)
        y = self.gelu(self.intermediate(x.narrow), padding)
        result: Hidden = self.output_norm(self.output_residual(x.wide, self.output, y, padding), padding)
        return result


def _first(x: Value) -> Value:
    """Return the first tokens of [batch, length, width]."""
    return Integers(x.values[:, 0], x.scale) if isinstance(x, Integers) else x[:, 0]


class Encoder(nn.Module):
    """Encoder and classification head; `shape.integer` names the operations on integers."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.shape = config
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(Layer(config, number) for number in range(len(config.heads)))
        self.head = SpanHead(config) if config.every_token else Head(config)
        self.calibrated = not config.integer

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """Classify token sequences.

        Args:
            input_ids, attention_mask, token_type_ids: int64, [batch, length].

        Raises:
            UserError: the encoder computes on integers and its ranges are not calibrated.
        """
        if not self.calibrated:
            raise UserError("the integer encoder has no activation ranges yet: calibrate it on training data first")
        # Autocast is off for integers: only float32 carries them exactly.
        narrow = self.shape.integer and torch.is_autocast_enabled(input_ids.device.type)
        with torch.autocast(input_ids.device.type, enabled=False) if narrow else nullcontext():
            logits = self._classify(input_ids, attention_mask, token_type_ids)
        return SequenceClassifierOutput(logits=logits)

    def _classify(self, input_ids: Tensor, attention_mask: Tensor | None, token_type_ids: Tensor | None) -> Tensor:
        masked = padding = None
        if attention_mask is not None:
            absent = attention_mask == 0
            masked, padding = absent[:, None, None, :], absent[:, :, None]
        x = self.embeddings(input_ids, token_type_ids, padding)
        for layer in self.layers:
            x = layer(x, masked, padding)
        if self.shape.every_token:
            return logits_of_tokens(self.head, real(x.wide), padding)
        logits: Tensor = self.head(real(_first(x.wide)))
        return logits

    @contextmanager
    def calibrating(self, momentum: float) -> Iterator[None]:
        """Within this context, forward passes update the activation ranges, without dropout and gradients."""
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
        """Return whether every range was observed (synchronizes with the device)."""
        ranges = [module.largest for module in self.modules() if isinstance(module, Range)]
        return not ranges or bool((torch.stack(ranges) > 0).all())

    def _observe(self, observing: bool, momentum: float) -> None:
        for module in self.modules():
            if isinstance(module, Range):
                module.observing, module.momentum = observing, momentum
            elif isinstance(module, Linear):
                module.unsettled = observing
