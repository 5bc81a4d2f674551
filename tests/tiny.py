"""Models and data small enough for tests: random weights, a tokenizer built by hand, sentences that can be learned."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    DistilBertConfig,
    ElectraConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
    XLMRobertaConfig,
)

from intaglio.metrics import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from intaglio.store import new_artifact

ARCHITECTURES = ("bert", "roberta", "electra", "distilbert")
# One list of telling words a label; the rest tells nothing.
TELLING = (("bad", "awful", "poor", "dull"), ("good", "great", "fine", "lovely"), ("maybe", "perhaps", "so", "meh"))
PLAIN = ("the", "a", "film", "story", "was", "is", "very", "quite", "and", "of", "actor", "scene", "song", "long")
MAX_LENGTH = 48


def tiny_tokenizer(arch: str = "bert") -> PreTrainedTokenizerFast:
    """Return a WordPiece tokenizer with RoBERTa's special tokens and positions of them, or else BERT's."""
    roberta = arch in ("roberta", "xlm-roberta")
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"] if roberta else ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    cls, pad, sep, unk, mask = special if roberta else (special[index] for index in (2, 0, 3, 1, 4))
    words = [word for group in TELLING for word in group]
    pieces = list("abcdefghijklmnopqrstuvwxyz") + [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"] + ["."]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys([*special, *words, *PLAIN, *pieces]))}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token=unk))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} $B:1 {sep}:1",
        special_tokens=[(cls, vocabulary[cls]), (sep, vocabulary[sep])],
    )
    names = ["input_ids", "attention_mask"] if roberta or arch == "distilbert" else None
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **{"cls_token": cls, "pad_token": pad, "sep_token": sep, "unk_token": unk, "mask_token": mask},
        model_input_names=names or ["input_ids", "token_type_ids", "attention_mask"],
        model_max_length=MAX_LENGTH,
    )


def tiny_config(arch: str = "bert", labels: Sequence[str] = ("negative", "positive"), of: str | None = None):
    """Return the configuration of a two-layer encoder of hidden size 32 with two heads, for a kind of task."""
    tokenizer = tiny_tokenizer(arch)
    common = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
        "problem_type": of,
    }
    if arch == "distilbert":
        return DistilBertConfig(
            dim=32, n_layers=2, n_heads=2, hidden_dim=64, max_position_embeddings=MAX_LENGTH, **common
        )
    common |= {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    if arch in ("roberta", "xlm-roberta"):
        # Positions start behind the padding index.
        return (RobertaConfig if arch == "roberta" else XLMRobertaConfig)(
            max_position_embeddings=MAX_LENGTH + 2, type_vocab_size=1, bos_token_id=0, eos_token_id=2, **common
        )
    if arch == "electra":
        return ElectraConfig(embedding_size=16, max_position_embeddings=MAX_LENGTH, **common)
    return BertConfig(max_position_embeddings=MAX_LENGTH, **common)


def tiny_model(
    folder: Path,
    arch: str = "bert",
    labels: Sequence[str] = ("negative", "positive"),
    seed: int = 0,
    kind: str = "model",
    of: str | None = None,
) -> Path:
    """Write a randomly initialized model with its tokenizer as an artifact ([model], or another kind).

    Its biases and LayerNorm parameters are random too: the zeros and ones of a fresh model could hide a missing term.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForSequenceClassification.from_config(tiny_config(arch, labels, of))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
    with new_artifact(folder, kind) as draft:
        model.save_pretrained(draft)
        tiny_tokenizer(arch).save_pretrained(draft)
    return folder


def tiny_checkpoint(
    folder: Path, arch: str = "bert", labels: Sequence[str] = ("negative", "positive"), of: str | None = None
) -> Path:
    """Write a randomly initialized model as a [checkpoint], without a training record."""
    return tiny_model(folder, arch, labels, kind="checkpoint", of=of)


def tiny_sentences(n: int, classes: int, seed: int, kind: str = SINGLE_LABEL) -> pd.DataFrame:
    """Return `n` sentences of 1 to 25 words, columns text and label; some words are from the lists of its labels.

    The label of a regression task is the number of words from the second list minus those from the first.
    """
    chance = random.Random(seed)
    rows = []
    for index in range(n):
        label: int | float | list[int] = index % classes
        words = [chance.choice(PLAIN) for _ in range(chance.randint(0, 21))]
        if kind == REGRESSION:
            counts = [chance.randint(0, 3) for _ in range(2)]
            label = float(counts[1] - counts[0])
            words += [chance.choice(TELLING[side]) for side in (0, 1) for _ in range(counts[side])] or ["a"]
        elif kind == MULTI_LABEL:
            label = [int(chance.random() < 0.4) for _ in range(classes)]
            words += [chance.choice(TELLING[at]) for at in range(classes) if label[at] for _ in range(2)] or ["a"]
        else:
            words += [chance.choice(TELLING[index % classes]) for _ in range(chance.randint(1, 3))]
        chance.shuffle(words)
        rows.append({"text": " ".join(words) + ".", "label": label})
    chance.shuffle(rows)
    return pd.DataFrame(rows)


def tiny_data(
    folder: Path,
    n: int = 64,
    labels: Sequence[str] = ("negative", "positive"),
    pair: bool = False,
    test_sets: Sequence[str] = ("test",),
    metric: str = "accuracy",
    seed: int = 0,
    positive: str | None = None,
    kind: str = SINGLE_LABEL,
    unit: float = 1.0,
    zero: float = 0.0,
) -> Path:
    """Write a [data] artifact: `n` training examples, a quarter as many to validate, half as many in each test set.

    Values of regression are in a unit, above zero: zero + unit * value.
    """
    about: dict[str, dict[str, object]] = {"examples": {}, "labels": {}}
    sizes = {"train": n, "validation": n // 4, **dict.fromkeys(test_sets, n // 2)}
    with new_artifact(folder, "data", about) as draft:
        for number, (split, size) in enumerate(sizes.items()):
            frame = tiny_sentences(size, len(labels), 1000 * seed + number, kind)
            frame.insert(0, "id", [f"{split}-{index}" for index in range(size)])
            frame = frame.rename(columns={"text": "text_a"})
            if pair:
                frame.insert(2, "text_b", tiny_sentences(size, len(labels), 1000 * seed + 500 + number)["text"])
            if kind == REGRESSION:
                frame["label"] = zero + unit * frame["label"]
            frame = frame.astype({"label": {SINGLE_LABEL: "int64", REGRESSION: "float64"}.get(kind, object)})
            frame.to_parquet(draft / f"{split}.parquet", index=False)
            about["examples"][split] = size
            if kind == SINGLE_LABEL:
                about["labels"][split] = {name: int((frame["label"] == i).sum()) for i, name in enumerate(labels)}
        task = {"kind": kind, "labels": list(labels), "positive": positive, "metric": metric}
        task |= {"test_sets": list(test_sets), "pair": pair}
        if kind == REGRESSION:
            task |= {"mean": zero, "deviation": 1.5 * unit}
        (draft / "task.json").write_text(json.dumps(task, indent=1) + "\n")
    return folder
