"""Classifiers that start from a pretrained encoder."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, set_seed

from intaglio import store
from intaglio.checkpoint import longest_input
from intaglio.encoder.files import read_config
from intaglio.encoder.transformers_head import from_config, set_head
from intaglio.errors import UserError
from intaglio.metrics import QUESTION_ANSWERING
from intaglio.models.dropout import override_dropout
from intaglio.models.standard_scores import to_values
from intaglio.models.weights import head_keys, output_layer, read_classifier
from intaglio.study.training_options import TrainingOptions

_log = logging.getLogger(__name__)


def pretrained_classifier(
    model: Path, task: Mapping[str, Any], options: TrainingOptions, seed: int, max_length: int
) -> Any:
    """Return a pretrained encoder in float32 with a head for a task.

    The head of a fine-tuned classifier is kept if it is for the same kind of task and its labels have the same names;
    its rows are reordered by name. Any other head is initialized at random from the seed; for regression, it starts at
    the mean of the training values and with their deviation.

    Args:
        model: a [model] artifact, or a folder as transformers saves it.
        task: the content of the data's task.json.
        options: options of the stage; its dropout is used.
        seed: of the head's initialization.
        max_length: number of tokens that the model has to take.

    Raises:
        UserError: the model is damaged, its weights do not fit its configuration, or `max_length` is too long for it.
    """
    labels: list[str] = task["labels"]
    config = _config(model, task, options, max_length)
    set_seed(seed)
    classifier, present = read_classifier(model, config, str(model))
    # Heads for question answering are all for the same two outputs, whatever they are called.
    if task["kind"] == QUESTION_ANSWERING:
        return classifier
    # A pretrained model may have a part of the head (ModernBERT has its first layer), a classifier has all of it.
    if len(present) < len(head_keys(classifier)):
        to_values(classifier, task)
        return classifier
    former, kind = _former_head(model)
    if kind in (None, task["kind"]) and sorted(former) == sorted(labels):
        _reorder(classifier, [former.index(label) for label in labels])
    else:
        _log.warning("%s is a model for %s, the task has %s: it gets a new head", model, former, labels)
        _draw_head(classifier, seed)
        to_values(classifier, task)
    return classifier


def _former_head(model: Path) -> tuple[list[str], str | None]:
    """Return the names of the labels that a model was saved with, in the order of their indices, and its kind of task.

    The kind is None if it is not known: older versions of transformers did not save it.
    """
    config = AutoConfig.from_pretrained(model, local_files_only=True, trust_remote_code=False)
    return [str(config.id2label[number]) for number in sorted(config.id2label)], config.problem_type


@torch.no_grad()
def _reorder(classifier: Any, rows: Sequence[int]) -> None:
    """Reorder the rows of the head's last layer, one per label."""
    for parameter in output_layer(classifier).parameters():
        parameter.copy_(parameter[list(rows)])


@torch.no_grad()
def _draw_head(classifier: Any, seed: int) -> None:
    """Initialize the whole head at random, as for a model without one."""
    set_seed(seed)
    fresh = from_config(classifier.config).state_dict()
    for key in head_keys(classifier):
        classifier.get_parameter(key).copy_(fresh[key])


def _config(model: Path, task: Mapping[str, Any], options: TrainingOptions, max_length: int) -> Any:
    """Return the model's configuration with the task's labels and the options' dropout.

    Raises:
        UserError: there is no configuration, or the model cannot take `max_length` tokens.
    """
    if (model / store.MANIFEST).is_file():
        store.open_artifact(model, "model")
    longest = longest_input(read_config(model))
    if longest is not None and max_length > longest:
        raise UserError(f"max_length: {max_length} tokens, but {model} takes {longest} at most")
    labels, answers = task["labels"], task["kind"] == QUESTION_ANSWERING
    config = AutoConfig.from_pretrained(
        model,
        num_labels=len(labels),
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
        problem_type=None if answers else task["kind"],
        trust_remote_code=False,
    )
    set_head(config, answers)
    config.dtype = torch.float32
    override_dropout(config, options)
    return config
