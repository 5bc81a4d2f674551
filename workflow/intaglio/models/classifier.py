"""Classifiers that start from a pretrained encoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModelForSequenceClassification, set_seed

from intaglio import store
from intaglio.errors import UserError
from intaglio.models.dropout import override_dropout
from intaglio.study.options import TrainingOptions
from intaglio.tasks.tokenize import longest_input


def pretrained_classifier(model: Path, labels: list[str], options: TrainingOptions, seed: int, max_length: int) -> Any:
    """Return a pretrained encoder with a head for these labels, which the seed draws if the model has none that fits.

    Args:
        model: a [model] artifact, or a folder as transformers saves it.
        labels: names, in the order of their numbers.
        options: whose dropout it gets.
        seed: of the head.
        max_length: tokens that it must take.

    Raises:
        UserError: the model is damaged, has no weights in safetensors, or cannot take so many tokens.
    """
    config = _config(model, labels, options, max_length)
    set_seed(seed)
    try:
        return AutoModelForSequenceClassification.from_pretrained(
            model, config=config, use_safetensors=True, ignore_mismatched_sizes=True
        )
    except OSError as error:
        raise UserError(f"{model}: no weights in model.safetensors; bring a model that has them") from error


def _config(model: Path, labels: list[str], options: TrainingOptions, max_length: int) -> Any:
    """Return the model's configuration with the task's labels and the options' dropout.

    Raises:
        UserError: there is none, or the model cannot take `max_length` tokens.
    """
    if (model / store.MANIFEST).is_file():
        store.open_artifact(model, "model")
    if not (model / "config.json").is_file():
        raise UserError(f"{model}: no config.json; a model is a folder as transformers saves it")
    longest = longest_input(json.loads((model / "config.json").read_text()))
    if longest is not None and max_length > longest:
        raise UserError(f"max_length: {max_length} tokens, but {model} takes {longest} at most")
    config = AutoConfig.from_pretrained(
        model,
        num_labels=len(labels),
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
        problem_type="single_label_classification",
    )
    override_dropout(config, options)
    return config
