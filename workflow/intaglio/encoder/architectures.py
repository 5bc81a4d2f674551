"""What distinguishes the architectures: names of weights, and classification heads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import gelu, relu


@dataclass(frozen=True)
class Architecture:
    """How a transformers checkpoint maps onto Intaglio's encoder.

    Attributes:
        renames: (name in transformers, name in the encoder), applied to every weight's name in this order.
        activation: between the two layers of the classification head.
        layers: path of the layers in transformers' base model.
        linear: paths of query, key, value, attention output, intermediate and output in a layer.
        drops_first: whether the head begins with dropout.
        positions_from_padding: whether positions count from after the padding index (RoBERTa).
    """

    renames: tuple[tuple[str, str], ...]
    activation: Callable[[Tensor], Tensor]
    layers: str = "encoder.layer"
    linear: tuple[str, ...] = (
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.output.dense",
        "intermediate.dense",
        "output.dense",
    )
    drops_first: bool = False
    positions_from_padding: bool = False


_EMBEDDINGS = (
    ("embeddings.word_embeddings.", "embeddings.word."),
    ("embeddings.position_embeddings.", "embeddings.position."),
    ("embeddings.token_type_embeddings.", "embeddings.segment."),
    ("embeddings.LayerNorm.", "embeddings.norm."),
)
_BERT_LAYERS = (
    ("encoder.layer.", "layers."),
    ("attention.self.", "attention."),
    ("attention.output.dense.", "attention.output."),
    ("attention.output.LayerNorm.", "attention_norm."),
    ("intermediate.dense.", "intermediate."),
    (".output.dense.", ".output."),
    (".output.LayerNorm.", ".output_norm."),
)
# The head for question answering, the same in all of them.
_ANSWERS = ("qa_outputs.", "head.output.")
_TWO_LAYER_HEAD = (("classifier.dense.", "head.dense."), ("classifier.out_proj.", "head.output."))

ARCHITECTURES = {
    "bert": Architecture(
        (
            ("bert.pooler.dense.", "head.dense."),
            ("bert.", ""),
            *_EMBEDDINGS,
            *_BERT_LAYERS,
            ("classifier.", "head.output."),
        ),
        torch.tanh,
    ),
    "roberta": Architecture(
        (("roberta.", ""), *_EMBEDDINGS, *_BERT_LAYERS, *_TWO_LAYER_HEAD),
        torch.tanh,
        drops_first=True,
        positions_from_padding=True,
    ),
    "electra": Architecture(
        (
            ("electra.embeddings_project.", "embeddings.project.dense."),
            ("electra.", ""),
            *_EMBEDDINGS,
            *_BERT_LAYERS,
            *_TWO_LAYER_HEAD,
        ),
        gelu,
        drops_first=True,
    ),
    "distilbert": Architecture(
        (
            ("distilbert.transformer.layer.", "layers."),
            ("distilbert.", ""),
            *_EMBEDDINGS,
            ("attention.q_lin.", "attention.query."),
            ("attention.k_lin.", "attention.key."),
            ("attention.v_lin.", "attention.value."),
            ("attention.out_lin.", "attention.output."),
            ("sa_layer_norm.", "attention_norm."),
            ("ffn.lin1.", "intermediate."),
            ("ffn.lin2.", "output."),
            ("output_layer_norm.", "output_norm."),
            ("pre_classifier.", "head.dense."),
            ("classifier.", "head.output."),
        ),
        relu,
        layers="transformer.layer",
        linear=(
            "attention.q_lin",
            "attention.k_lin",
            "attention.v_lin",
            "attention.out_lin",
            "ffn.lin1",
            "ffn.lin2",
        ),
    ),
}


# The same as RoBERTa, under other names and with other vocabularies.
ARCHITECTURES |= dict.fromkeys(("xlm-roberta", "camembert"), ARCHITECTURES["roberta"])


def encoder_name(model_type: str, name: str) -> str:
    """Return the name in the encoder of a weight of a transformers checkpoint."""
    for old, new in (*ARCHITECTURES[model_type].renames, _ANSWERS):
        name = name.replace(old, new, 1)
    return name
