"""Distillation: a student, of fewer layers or another pretrained model, learns to do what a fine-tuned model does."""

from __future__ import annotations

import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

from transformers import AutoModelForSequenceClassification, AutoTokenizer

from intaglio.checkpoint import load_checkpoint
from intaglio.encoder.checkpoint import is_ours
from intaglio.encoder.parts import layer_parts
from intaglio.errors import UserError
from intaglio.models.classifier import pretrained_classifier
from intaglio.models.dropout import override_dropout
from intaglio.stages.checkpoint import read_record, training_record, write_checkpoint
from intaglio.study.options import DistilOptions
from intaglio.tasks.tokenize import read_task
from intaglio.training.distillation import evenly, taught_by
from intaglio.training.train import train


def distil(
    parent: Path,
    data: Path,
    options: DistilOptions,
    seed: int,
    max_length: int,
    work: Path,
    output: Path,
    teacher: Path | None = None,
    student: Path | None = None,
) -> None:
    """Train a student and write a [checkpoint], a transformers model; goes on where an interrupted job left `work`.

    Args:
        parent: the float [checkpoint] of the same seed; its layers are copied where there is no `student`.
        data: a [data] artifact.
        options: what to do.
        seed: of a pretrained student's new head, of the order of the data and of dropout.
        max_length: tokens at which texts are cut.
        work: folder for checkpoints, of this job alone; removed in the end.
        output: the [checkpoint] artifact to write.
        teacher: a [checkpoint] artifact; None lets the parent teach.
        student: a [model] artifact with the teacher's vocabulary.

    Raises:
        UserError: an artifact is damaged, student and teacher do not fit, or the loss is not finite.
        Preempted: the job was asked to leave; its progress is saved.
    """
    read_record(parent)
    if student is None:
        network, tokenizer = _of_parent(parent, options)
    else:
        network = pretrained_classifier(student, read_task(data)["labels"], options, seed, max_length)
        tokenizer = AutoTokenizer.from_pretrained(student)
    loss = taught_by(teacher or parent, network, tokenizer, data, max_length, options.distillation)
    # The loss is computed in float32 whatever the precision of the two models.
    result = train(network, tokenizer, data, options, seed, max_length, work, precision="auto", loss=loss)
    record = training_record(result, options, seed, parent)
    write_checkpoint(output, network.save_pretrained, tokenizer, record, result.history)
    shutil.rmtree(work, ignore_errors=True)


def _of_parent(parent: Path, options: DistilOptions) -> tuple[Any, Any]:
    """Return a student of the parent's layers, and the tokenizer that it shares with it.

    Raises:
        UserError: the parent is damaged or no model of transformers.
    """
    if is_ours(parent):
        raise UserError(f"{parent}: cut or quantized, so its layers cannot be copied; name a `student`")
    model, tokenizer = load_checkpoint(parent)
    return with_layers(model, options), tokenizer


def with_layers(model: Any, options: DistilOptions) -> Any:
    """Return a classifier with evenly spaced layers of another, and all else that is beside its layers, as copies.

    Args:
        model: of transformers.
        options: how many layers, null for half of them rounded up, and the dropout.

    Raises:
        UserError: there are fewer layers than are asked for, or their place is not known.
    """
    layers = layer_parts(model)
    count = -(-len(layers) // 2) if options.layers is None else options.layers
    if count > len(layers):
        raise UserError(f"layers: {count} in the student, but the model to copy them from has {len(layers)}")
    config = deepcopy(model.config)
    config.num_hidden_layers = count
    override_dropout(config, options)
    student = AutoModelForSequenceClassification.from_config(config)
    # All its names are among the model's, whose further layers find no place.
    weights = model.state_dict()
    student.load_state_dict({name: weights[name] for name in student.state_dict()})
    for own, index in zip(layer_parts(student), evenly(count, len(layers)), strict=True):
        own.block.load_state_dict(layers[index].block.state_dict())
    return student
