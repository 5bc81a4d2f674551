"""Checks of a model's tokenizer against the model and against its own files."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import tokenizers
from transformers import AutoTokenizer

from intaglio.errors import UserError, first_line

# Texts on which tokenizers are compared: capitals, accents, digits, punctuation, other scripts, repeated spaces.
TEXTS = ("The film was great.", "Ça coûte 12,50 € — déjà vu!", "don't  stop\tat U.S. prices", "日本語 and ελληνικά")
_log = logging.getLogger(__name__)


def open_tokenizer(folder: Path, config: Any, name: str) -> Any:
    """Return the tokenizer of a model's folder.

    Raises:
        UserError: the tokenizer cannot be built, has no padding token, makes ids beyond the embedding, or makes other
            ids than its own tokenizer.json.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        ids = [token for text in TEXTS for token in tokenizer(text)["input_ids"]]
    except Exception as error:  # the kind of error depends on the tokenizer's class and on the missing file
        raise UserError(f"{name}: its tokenizer cannot be built ({first_line(error)})") from error
    if tokenizer.pad_token_id is None:
        raise UserError(f"{name}: its tokenizer has no padding token; name one (`pad_token`) in tokenizer_config.json")
    _check_rows(tokenizer, ids, config, name)
    _check_own_file(folder, tokenizer, name)
    _warn_of_case(tokenizer, name)
    return tokenizer


def _check_rows(tokenizer: Any, ids: list[int], config: Any, name: str) -> None:
    rows = getattr(config, "vocab_size", None)
    largest = max(max(tokenizer.get_vocab().values()), max(ids))
    if rows is not None and largest >= rows:
        raise UserError(
            f"{name}: its tokenizer has ids up to {largest}, its embedding {rows} rows; call resize_token_embeddings"
            " after adding tokens, and save the model again"
        )


def _check_own_file(folder: Path, tokenizer: Any, name: str) -> None:
    """Compare the tokenizer that transformers builds with the one that tokenizer.json describes."""
    file = folder / "tokenizer.json"
    if not file.is_file():
        return
    own = tokenizers.Tokenizer.from_file(str(file))
    own.no_truncation()
    own.no_padding()
    for text in TEXTS:
        built = tokenizer(text, add_special_tokens=False)["input_ids"]
        if built != own.encode(text, add_special_tokens=False).ids:
            raise UserError(
                f"{name}: transformers builds another tokenizer than tokenizer.json describes, for {text!r} has other"
                " ids; save it with PreTrainedTokenizerFast(tokenizer_file=...).save_pretrained, which names its class"
            )


def _warn_of_case(tokenizer: Any, name: str) -> None:
    """Warn of tokens with capitals that a lowercasing tokenizer never makes."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or backend.normalizer is None or backend.normalizer.normalize_str("A") != "a":
        return
    special = set(tokenizer.all_special_tokens)
    lost = [token for token in tokenizer.get_vocab() if token not in special and token != token.lower()]
    # Placeholders such as [unused1] are in lower case; some vocabularies have a few such tokens by mistake.
    if lost:
        _log.warning(
            "%s: its tokenizer makes all letters small, so %d tokens with capitals are never reached; a cased"
            ' vocabulary needs "do_lower_case": false in tokenizer_config.json',
            name,
            len(lost),
        )
