"""From texts to tokens, and from tokens to batches: the same for training, evaluation and calibration.

Libraries that only some callers need are imported inside functions: each import takes most of a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

if TYPE_CHECKING:
    from transformers import DataCollatorWithPadding

# Number of texts tokenized at once, which bounds the memory for a large split.
TEXTS_AT_ONCE = 1000


class EncodedTexts(NamedTuple):
    """Texts, or pairs of texts, as tokens.

    Attributes:
        inputs: the model's inputs by name (input_ids, attention_mask, ...), one list for each text, truncated and not
            padded.
        lengths: numbers of tokens of the whole texts, special ones included.
        unknown: numbers of unknown tokens in the whole texts.
    """

    inputs: dict[str, list[list[int]]]
    lengths: list[int]
    unknown: list[int]


def encode_texts(tokenizer: Any, texts: Sequence[list[str]], max_length: int) -> EncodedTexts:
    """Return texts as tokens.

    Args:
        tokenizer: a transformers tokenizer; its `model_input_names` decide whether there are token_type_ids.
        texts: one list, or two for pairs (the longer text of a pair is truncated first).
        max_length: number of tokens at which texts are truncated, special ones included.
    """
    whole = tokenizer(*texts, verbose=False)
    inputs = {name: list(whole[name]) for name in tokenizer.model_input_names if name in whole}
    lengths = [len(ids) for ids in inputs["input_ids"]]
    unknown = [ids.count(tokenizer.unk_token_id) for ids in inputs["input_ids"]]
    long = [row for row, length in enumerate(lengths) if length > max_length]
    if long:
        of_long = ([column[row] for row in long] for column in texts)
        truncated = tokenizer(*of_long, truncation=True, max_length=max_length)
        for name, column in inputs.items():
            for row, values in zip(long, truncated[name], strict=True):
                column[row] = values
    return EncodedTexts(inputs, lengths, unknown)


def tokenize(tokenizer: Any, table: pa.Table, max_length: int) -> list[dict[str, list[int]]]:
    """Return the tokens of a few examples, in order; `read_tokens` is for whole splits.

    Args:
        tokenizer: a transformers tokenizer.
        table: with a column text_a, and text_b for pairs.
        max_length: number of tokens at which texts are truncated, special ones included.
    """
    inputs = encode_texts(tokenizer, text_columns(table), max_length).inputs
    return [dict(zip(inputs, row, strict=True)) for row in zip(*inputs.values(), strict=True)]


def text_columns(examples: pa.Table | pa.RecordBatch) -> list[list[str]]:
    """Return the texts of examples: one list, or two for pairs."""
    return [examples[name].to_pylist() for name in ("text_a", "text_b") if name in examples.schema.names]


def set_limit(tokenizer: Any, max_length: int) -> None:
    """Make a tokenizer cut texts as `tokenize` does wherever it is asked to truncate and not at which length.

    The limit is saved with the tokenizer, for transformers and for the library tokenizers alone.
    """
    tokenizer.model_max_length = max_length
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        backend.enable_truncation(max_length, direction=tokenizer.truncation_side)
        backend.no_padding()


def collate(tokenizer: Any) -> DataCollatorWithPadding:
    """Return a collator, which makes padded batches: int64 tensors [batch, longest]; label is renamed to labels."""
    from transformers import DataCollatorWithPadding

    return DataCollatorWithPadding(tokenizer, return_tensors="pt")
