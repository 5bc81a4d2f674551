"""The shape of an encoder, from a transformers configuration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from intaglio.arithmetic.operations import OPERATIONS, SEPARABLE, Operation
from intaglio.encoder.architectures import ARCHITECTURES
from intaglio.encoder.transformers_head import finds_answers
from intaglio.errors import UserError


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes, dropout rates and the set of integer operations.

    Attributes:
        head_width: size of an attention head.
        heads, neurons: number of heads and of neurons in each layer, in order; cutting makes them differ.
        every_token: whether the head is one for question answering, over every token.
        weight_bits, embedding_bits: bits of the weights of linear layers and of word embeddings, 8 or 4.
        keep_float: operations of single layers that stay in floating point, as `LAYER.OPERATION`; of `SEPARABLE`.

    Raises:
        UserError: there are integer operations without `linear`, whose integers they take, or fewer bits without them;
            or what stays in floating point is not in the encoder.
    """

    model_type: str
    integer: frozenset[Operation]
    vocabulary: int
    positions: int
    types: int
    embedding_size: int
    hidden_size: int
    head_width: int
    heads: tuple[int, ...]
    neurons: tuple[int, ...]
    labels: int
    epsilon: float
    dropout: float
    attention_dropout: float
    head_dropout: float
    padding_index: int
    every_token: bool = False
    weight_bits: int = 8
    embedding_bits: int = 8
    keep_float: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if self.integer and "linear" not in self.integer:
            raise UserError(f"integer operations {sorted(self.integer)}: 'linear' must be among them")
        if not self.integer and (self.weight_bits, self.embedding_bits) != (8, 8):
            raise UserError("bits: only weights of integer operations have fewer than 8; name 'linear' as one")
        known = {f"{layer}.{name}" for layer in range(len(self.heads)) for name in SEPARABLE if name in self.integer}
        if self.keep_float - known:
            raise UserError(
                f"keep_float: {min(self.keep_float - known)!r} is no integer operation of a layer here; give some of "
                f"{sorted(self.integer & set(SEPARABLE))} of the layers 0 to {len(self.heads) - 1}, as in '0.gelu'"
            )

    def on_integers(self, operation: Operation, layer: int) -> bool:
        """Return whether an operation of a layer runs on integers."""
        return operation in self.integer and f"{layer}.{operation}" not in self.keep_float

    @property
    def only_integers(self) -> bool:
        """Whether everything between the embeddings and the head runs on integers."""
        return self.integer == frozenset(OPERATIONS) and not self.keep_float


def from_transformers(
    config: Any,
    integer: frozenset[Operation],
    heads: Sequence[int] | None = None,
    neurons: Sequence[int] | None = None,
    bits: Mapping[str, int] | None = None,
    keep_float: Iterable[str] = (),
) -> EncoderConfig:
    """Read the shape of an encoder from the configuration of one of the `ARCHITECTURES`.

    Args:
        config: a transformers configuration.
        integer: operations to run on integers.
        heads, neurons: numbers left in each layer by cutting; None for all of them.
        bits: of `weights` and of `embeddings`; 8 where nothing is said.
        keep_float: operations of single layers that stay in floating point.

    Raises:
        UserError: the architecture, or one of its options, is not supported.
    """
    kind = config.model_type
    if kind not in ARCHITECTURES:
        raise UserError(
            f"model type {kind!r} can neither run on integers nor be cut ({', '.join(ARCHITECTURES)} can), but"
            " finetune, prune, distil and int8 take it"
        )
    distil = kind == "distilbert"
    activation = config.activation if distil else config.hidden_act
    if activation not in ("gelu", "gelu_python"):
        raise UserError(f"activation {activation!r}: the encoder computes GELU, by erf, and no other")
    if not distil and getattr(config, "position_embedding_type", "absolute") not in (None, "absolute"):
        raise UserError("position embeddings other than absolute ones are not supported")
    if getattr(config, "is_decoder", False):
        raise UserError("a decoder (is_decoder in its configuration) is not an encoder")
    dropout = config.dropout if distil else config.hidden_dropout_prob
    answers = finds_answers(config)
    if answers:
        head = config.qa_dropout if distil else 0.0
    else:
        head = config.seq_classif_dropout if distil else getattr(config, "classifier_dropout", None)
    layers, all_heads = config.num_hidden_layers, config.num_attention_heads
    all_neurons = config.hidden_dim if distil else config.intermediate_size
    return EncoderConfig(
        model_type=kind,
        integer=integer,
        vocabulary=config.vocab_size,
        positions=config.max_position_embeddings,
        types=0 if distil else config.type_vocab_size,
        embedding_size=config.embedding_size if kind == "electra" else config.hidden_size,
        hidden_size=config.hidden_size,
        head_width=config.hidden_size // all_heads,
        heads=tuple(heads or [all_heads] * layers),
        neurons=tuple(neurons or [all_neurons] * layers),
        labels=config.num_labels,
        epsilon=1e-12 if distil else config.layer_norm_eps,
        dropout=dropout,
        attention_dropout=config.attention_dropout if distil else config.attention_probs_dropout_prob,
        head_dropout=dropout if head is None else head,
        padding_index=config.pad_token_id,
        every_token=answers,
        weight_bits=(bits or {}).get("weights", 8),
        embedding_bits=(bits or {}).get("embeddings", 8),
        keep_float=frozenset(keep_float),
    )
