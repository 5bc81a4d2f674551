"""Pruning by magnitude: the smallest weights become zero, at once or gradually, and the others are trained.

Gradual pruning follows Zhu and Gupta 2017 (arXiv 1710.01878).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import set_seed

from intaglio import ranks
from intaglio.checkpoint import Checkpoint
from intaglio.distillation import distillation_loss
from intaglio.encoder.files import save_encoder
from intaglio.encoder.model import Encoder
from intaglio.encoder.parts import linear_layers
from intaglio.errors import UserError
from intaglio.models.dropout import override_dropout
from intaglio.stages.masks import HeldMasks, choose_masks, cubic_sparsity, set_to_zero, sparsity_rows
from intaglio.stages.prepared import Prepared
from intaglio.study.options import PruneOptions
from intaglio.training.job import Learner, StageJob


def prepare(job: StageJob[PruneOptions]) -> Prepared:
    """Return the parent, transformers' model or an encoder, with callbacks that remove weights and keep them at zero.

    Raises:
        UserError: the parent is quantized or pruned already, is damaged, has an unsupported architecture, or has widths
            that 2:4 cannot take; or the teacher does not fit.
    """
    parent, options = job.parent, job.options
    if parent.is_quantized:
        raise UserError(f"{parent}: is quantized already, and its integers are final; prune starts from floating point")
    config = parent.config()
    override_dropout(config, options)
    model = parent.load(config=config)
    _check_parent(model, options, parent)
    gradual = options.schedule == "gradual"
    if not gradual:
        prune_now(model, options)
    set_seed(job.seed)
    learner = Learner(
        model,
        parent.tokenizer,
        callbacks=[GradualMasks(model, options) if gradual else HeldMasks(model)],
        unsettled=options.pruning if gradual else 0.0,
        loss=distillation_loss(job, model, parent.tokenizer),
    )

    def facts() -> dict[str, Any]:
        _check_result(model, options)
        return {"sparsity": sparsity_rows(model)}

    save = partial(save_encoder, model, config) if isinstance(model, Encoder) else model.save_pretrained
    return Prepared(learner, save, facts)


class GradualMasks(HeldMasks):
    """Removes weights gradually, by the cubic schedule.

    The weights contain what was removed, so a resumed job continues from there.
    """

    def __init__(self, model: Any, options: PruneOptions) -> None:
        super().__init__(model)
        self.options = options

    def sparsities(self, total: int) -> dict[int, float]:
        """Return the sparsity after every step that removes weights, for this total number of steps."""
        options = self.options
        progress = [number / options.prunings for number in range(1, options.prunings + 1)]
        last = options.pruning * total
        return {max(1, round(last * share)): cubic_sparsity(options.removed, share) for share in progress}

    def on_optimizer_step(self, args: Any, state: Any, control: Any, /, **kwargs: Any) -> None:
        """Remove weights if it is due, and keep removed ones at zero."""
        sparsity = self.sparsities(state.max_steps).get(state.global_step + 1)
        if sparsity is not None:
            self.masks = _choose(self.layers, self.options, sparsity)
            ranks.agree(self.masks)
        super().on_optimizer_step(args, state, control, **kwargs)


def prune_now(model: Any, options: PruneOptions) -> None:
    """Remove weights up to the final sparsity at once."""
    layers = list(linear_layers(model).values())
    set_to_zero(layers, _choose(layers, options, options.removed))


def _choose(layers: Sequence[nn.Linear], options: PruneOptions, sparsity: float) -> list[Tensor]:
    return choose_masks([layer.weight for layer in layers], sparsity, options.scope, options.structure)


def _check_parent(model: Any, options: PruneOptions, parent: Checkpoint) -> None:
    layers = list(linear_layers(model).values())
    wanted = sum(int(mask.sum()) for mask in _choose(layers, options, options.removed))
    zeros = sum(row["zeros"] for row in sparsity_rows(model))
    if zeros > wanted:
        raise UserError(
            f"{parent}: {zeros} of its weights are zero already, more than the {wanted} that sparsity: "
            f"{options.removed} asks for; give a larger one, or start from a model that is not pruned"
        )


def _check_result(model: Any, options: PruneOptions) -> None:
    """Check that the zeros have the number and the pattern that the options require.

    Zeros are chosen before other weights: with too few or too many zeros, the choice would differ from them.
    """
    layers = list(linear_layers(model).values())
    masks = _choose(layers, options, options.removed)
    if not all(torch.equal(layer.weight == 0, mask) for layer, mask in zip(layers, masks, strict=True)):
        raise RuntimeError(f"prune: the weights are not {options.removed} zero, {sparsity_rows(model)}")
