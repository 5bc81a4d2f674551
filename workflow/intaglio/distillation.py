"""Distillation loss of a student: labels, and the teacher's outputs, hidden states and attention relations.

Every term is a mean over the tokens of an example, and then over the examples of the optimizer batch. So neither
padding nor gradient accumulation changes it.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from math import gcd, sqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from intaglio.arithmetic.integers import real
from intaglio.checkpoint import Checkpoint
from intaglio.encoder.layers import Hidden
from intaglio.encoder.parts import layer_parts
from intaglio.errors import UserError
from intaglio.imbalance import Loss
from intaglio.kinds import KINDS, TaskKind, kind_of
from intaglio.metrics import SINGLE_LABEL
from intaglio.models.standard_scores import label_loss, to_scores
from intaglio.study.options import Distillation
from intaglio.tasks.stored import read_split
from intaglio.tokens.tokenize import tokenize
from intaglio.training.job import StageJob
from intaglio.training.loss import batch_loss

# Largest number of heads that relations are split into (48 for base-sized models; Wang et al. 2021, section 4.1), and
# the smallest width of a head.
_MOST_HEADS, _NARROWEST_HEAD = 48, 8

# Number of validation texts on which the tokenizers of teacher and student are compared.
_COMPARED_TEXTS = 100

Pairs = list[tuple[nn.Module, nn.Module]]


def distillation_loss(
    job: StageJob[Any], student: nn.Module, tokenizer: Any, teacher: Path | None = None
) -> DistillationLoss | None:
    """Return the distillation loss of a job; None if it has neither a teacher nor `distillation` options.

    Args:
        job: the job with its teacher, its data and the weights of the terms.
        student: the model to train, transformers' or an encoder.
        tokenizer: the student's.
        teacher: default teacher, a [checkpoint] artifact of any width and number of layers.

    Raises:
        UserError: there are weights without a teacher or the reverse, or the teacher does not fit the student or the
            task.
    """
    folder, weights = job.teacher or teacher, job.options.distillation
    if folder is None and weights is None:
        return None
    if folder is None or weights is None:
        given, absent = ("distillation", "--teacher") if folder is None else ("--teacher", "distillation")
        raise UserError(f"{given}: there is no {absent} to go with it; give both or none")
    known = Checkpoint(folder)
    model, its_tokenizer = known.load(), known.tokenizer
    if its_tokenizer.get_vocab() != tokenizer.get_vocab():
        raise UserError(
            f"distillation: the vocabulary of the teacher {known} is another than the student's, so the two read "
            "different tokens; choose a student or a teacher with the same vocabulary"
        )
    if job.task["labels"] != known.labels:
        raise UserError(
            f"distillation: the teacher {known} tells {known.labels} apart, the task {job.task['labels']}; choose "
            "another"
        )
    if known.longest_input is not None and job.max_length > known.longest_input:
        raise UserError(
            f"max_length: {job.max_length} tokens, but the teacher {known} takes {known.longest_input} at most"
        )
    texts = read_split(job.data, "validation").slice(0, _COMPARED_TEXTS)
    of_teacher, of_student = (tokenize(each, texts, job.max_length) for each in (its_tokenizer, tokenizer))
    if any(one["input_ids"] != other["input_ids"] for one, other in zip(of_teacher, of_student, strict=True)):
        raise UserError(
            f"distillation: the tokenizer of the teacher {known} makes other tokens of validation texts than the"
            " student's, though their vocabularies are the same (is one of them lowercasing?); take the same tokenizer"
        )
    lacks = "token_type_ids" in set(its_tokenizer.model_input_names) - set(tokenizer.model_input_names)
    separator = its_tokenizer.sep_token_id if lacks else None
    to_scores(model, job.task)
    return DistillationLoss(
        model, student, weights, separator, kind_of(job.task), label_loss(job.task, job.data, job.seed)
    )


class DistillationLoss(nn.Module):
    """The loss of a student. The teacher is part of it, and is neither trained nor saved with the student."""

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        weights: Distillation,
        separator: int | None = None,
        kind: TaskKind = KINDS[SINGLE_LABEL],
        loss: Loss | None = None,
    ) -> None:
        """Pair the layers of teacher and student.

        Args:
            teacher, student: classifiers of transformers, or encoders.
            weights: of the terms.
            kind: of the task.
            loss: of the labels; None for that of the kind.
            separator: id of the token that ends a text, for a teacher that needs `token_type_ids` where batches have
            none.

        Raises:
            UserError: hidden states are compared but differ in width, or the layers' architecture is not supported.
        """
        super().__init__()
        self.teacher = teacher.eval().requires_grad_(False)
        self.weights = weights
        self._kind = kind
        self._loss = loss or kind.loss
        self.separator = separator
        self._names = set(inspect.signature(teacher.forward).parameters) - {"labels"}
        self._hidden = _layers(teacher, student) if weights.hidden else []
        self._attention = _attention(teacher, student) if weights.relations else []

    def forward(self, model: nn.Module, inputs: Mapping[str, Tensor], examples: Tensor | int | None = None) -> Tensor:
        """Return the loss of an optimizer batch, or the share of this part in it.

        Args:
            model: the student, possibly wrapped.
            inputs: the student's, with `labels` and `attention_mask`, int64 [examples, length]. Labels are [0] if these
                are no part of the batch (see `ranks.share_of`).
            examples: number of examples in the whole optimizer batch; None for the mean of these examples.
        """
        given = {name: tensor for name, tensor in inputs.items() if name != "labels"}
        labels, mask = inputs["labels"], inputs["attention_mask"]
        compared = self._hidden + self._attention
        with torch.no_grad(), _outputs_of(teacher for teacher, _ in compared) as taught:
            targets = self.teacher(**self._of_teacher(given)).logits
        with _outputs_of(student for _, student in compared) as learned:
            outputs = model(**given)
        # Sums over many tokens and small differences of logarithms need a higher precision than bf16.
        with torch.autocast(labels.device.type, enabled=False):
            loss = self.weights.logits * self._kind.divergence(targets, outputs.logits, self.weights.temperature)
            for teacher, student in self._hidden:
                distance = hidden_distance(taught[teacher], learned[student], mask)
                loss = loss + self.weights.hidden / len(self._hidden) * distance
            for teacher, student in self._attention:
                loss = loss + self.weights.relations * relation_divergence(taught[teacher], learned[student], mask)
            taught_loss = loss[: len(labels)].sum() / (len(labels) if examples is None else examples)
            return taught_loss + self.weights.labels * batch_loss(self._loss, outputs, labels, examples)

    def _of_teacher(self, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the inputs that the teacher takes, adding token types of pairs if the student has none."""
        inputs = dict(given)
        if self.separator is not None:
            # [CLS] first [SEP] second [SEP], as BERT's tokenizers lay out a pair.
            ends = (given["input_ids"] == self.separator).long()
            inputs["token_type_ids"] = (ends.cumsum(1) > ends).long() * given["attention_mask"]
        return {name: tensor for name, tensor in inputs.items() if name in self._names}


def evenly_spaced(layers: int, total: int) -> list[int]:
    """Return, for each of `layers` layers, the index of its counterpart among `total`: evenly spaced, last to last.

    For 6 of 12 these are 1, 3, 5, 7, 9 and 11, counted from 0. If `layers` exceeds `total`, indices repeat.
    """
    return [-(-number * total // layers) - 1 for number in range(1, layers + 1)]


def hidden_distance(teacher: Tensor, student: Tensor, mask: Tensor) -> Tensor:
    """Return the mean squared difference over the tokens of an example and the width, [examples].

    Args:
        teacher, student: [examples, length, width].
        mask: 1 for a token, 0 for padding, [examples, length].
    """
    return _mean_of_tokens((teacher - student).square().mean(-1), mask)


def relation_divergence(teacher: Tensor, student: Tensor, mask: Tensor) -> Tensor:
    """Return KL(teacher || student) of self-attention relations, [examples] (MiniLMv2; Wang et al. 2021, section 3.1).

    The relations of queries, of keys or of values are softmax(X X^T / sqrt(width)) over the tokens, for each of a
    number of heads that divides both widths, independent of the models' own attention heads. The divergence is the mean
    over heads and tokens.

    Args:
        teacher, student: queries, keys or values of all heads side by side, [examples, length, width], of any widths.
        mask: 1 for a token, 0 for padding, [examples, length].
    """
    heads = relation_heads(teacher.shape[-1], student.shape[-1])
    log_p, log_q = (_log_relations(x, mask, heads) for x in (teacher, student))
    divergence = functional.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)
    return _mean_of_tokens(divergence.mean(1), mask)


def relation_heads(width: int, other: int) -> int:
    """Return the number of heads that both widths are split into: at most 48, each wide enough."""
    common = gcd(width, other)
    most = min(_MOST_HEADS, max(1, min(width, other) // _NARROWEST_HEAD))
    return max(heads for heads in range(1, most + 1) if common % heads == 0)


def _log_relations(x: Tensor, mask: Tensor, heads: int) -> Tensor:
    """Return the logarithms of relations, [examples, heads, length, length]."""
    split = x.unflatten(-1, (heads, -1)).transpose(1, 2)
    scores = split @ split.transpose(-1, -2) / sqrt(split.shape[-1])
    # Not minus infinity: its difference to itself, which has weight zero, is NaN.
    scores = scores.masked_fill(mask[:, None, None, :] == 0, torch.finfo(scores.dtype).min)
    logarithms: Tensor = scores.log_softmax(-1)
    return logarithms


def _mean_of_tokens(x: Tensor, mask: Tensor) -> Tensor:
    total: Tensor = (x * mask).sum(1)
    return total / mask.sum(1)


def _layers(teacher: nn.Module, student: nn.Module) -> Pairs:
    """Return pairs of the teacher's and the student's layers."""
    of_teacher, of_student = layer_parts(teacher), layer_parts(student)
    widths = [parts[-1].output.out_features for parts in (of_teacher, of_student)]
    if widths[0] != widths[1]:
        raise UserError(
            f"distillation.hidden: hidden states are {widths[1]} wide in the student and {widths[0]} in the teacher; "
            "set it to 0: `relations` compares any widths"
        )
    indices = evenly_spaced(len(of_student), len(of_teacher))
    return [(of_teacher[index].block, own.block) for index, own in zip(indices, of_student, strict=True)]


def _attention(teacher: nn.Module, student: nn.Module) -> Pairs:
    """Return the queries, keys and values of the last layers in pairs of teacher and student."""
    taught, learned = layer_parts(teacher)[-1], layer_parts(student)[-1]
    return [(taught.query, learned.query), (taught.key, learned.key), (taught.value, learned.value)]


@contextmanager
def _outputs_of(modules: Iterable[nn.Module]) -> Iterator[dict[nn.Module, Tensor]]:
    """Yield the outputs of modules within this context, as real values in float32."""
    found: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, _: Any, output: Any) -> None:
        value = output.wide if isinstance(output, Hidden) else output[0] if isinstance(output, tuple) else output
        # Converted immediately: the next operation may overwrite integers.
        found[module] = real(value).float()

    hooks = [module.register_forward_hook(keep) for module in modules]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
