"""Distillation: a student with fewer layers, or another pretrained model, is trained by a fine-tuned model."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from transformers import AutoTokenizer

from intaglio.checkpoint import Checkpoint
from intaglio.distillation import distillation_loss, evenly_spaced
from intaglio.encoder.parts import count_layers, layer_blocks, shares_layers
from intaglio.encoder.transformers_head import from_config
from intaglio.errors import UserError
from intaglio.models.classifier import pretrained_classifier
from intaglio.models.dropout import override_dropout
from intaglio.stages.prepared import Prepared
from intaglio.study.options import DistilOptions
from intaglio.training.job import Learner, StageJob


def prepare(job: StageJob[DistilOptions]) -> Prepared:
    """Return the student, a transformers model; the parent teaches if no other teacher is given.

    Raises:
        UserError: an artifact is damaged, or student and teacher do not fit each other.
    """
    parent = job.parent
    if job.student is None:
        model, tokenizer = _of_parent(parent, job.options), parent.tokenizer
    else:
        model = pretrained_classifier(job.student, job.task, job.options, job.seed, job.max_length)
        tokenizer = AutoTokenizer.from_pretrained(job.student, trust_remote_code=False)
    loss = distillation_loss(job, model, tokenizer, parent.path)
    # The loss is computed in float32, whatever the precision of the two models.
    return Prepared(Learner(model, tokenizer, precision="auto", loss=loss), model.save_pretrained)


def _of_parent(parent: Checkpoint, options: DistilOptions) -> Any:
    """Return a student made of the parent's layers.

    Raises:
        UserError: the parent is not a transformers model.
    """
    if parent.kind == "encoder":
        raise UserError(f"{parent}: cut or quantized, so its layers cannot be copied; name a `student`")
    return with_layers(parent.load(), options)


def with_layers(model: Any, options: DistilOptions) -> Any:
    """Return a copy of a classifier with fewer, evenly spaced layers.

    Args:
        model: a transformers classifier.
        options: number of layers (null for half of them, rounded up), and dropout.

    Raises:
        UserError: there are fewer layers than requested, or the architecture is not supported.
    """
    total = count_layers(model)
    count = -(-total // 2) if options.layers is None else options.layers
    if count > total:
        raise UserError(f"layers: {count} in the student, but the model to copy them from has {total}")
    config = deepcopy(model.config)
    config.num_hidden_layers = count
    override_dropout(config, options)
    student = from_config(config)
    # All its names are in the model; the model's additional layers have no place.
    weights = model.state_dict()
    student.load_state_dict({name: weights[name] for name in student.state_dict()})
    if not shares_layers(model):
        layers = layer_blocks(model)
        for own, index in zip(layer_blocks(student), evenly_spaced(count, total), strict=True):
            own.load_state_dict(layers[index].state_dict())
    return student
