"""Pruning by magnitude: the smallest weights become zero, at once or on the way, and the others are trained on.

Gradual pruning follows Zhu and Gupta 2017 (arXiv 1710.01878).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import set_seed

from intaglio.checkpoint import Checkpoint
from intaglio.encoder.files import save_encoder
from intaglio.encoder.model import Encoder
from intaglio.encoder.parts import linear_layers
from intaglio.errors import UserError
from intaglio.models.dropout import override_dropout
from intaglio.stages.masks import HeldMasks, choose_masks, cubic_sparsity, set_to_zero, sparsity_rows
from intaglio.stages.prepared import Prepared
from intaglio.study.options import PruneOptions
from intaglio.training.distillation import taught_by
from intaglio.training.job import Learner, StageJob


def prepare(job: StageJob[PruneOptions]) -> Prepared:
    """Return the parent, transformers' or an encoder, with masks that remove weights and hold what was removed.

    Raises:
        UserError: the parent is quantized or pruned already, is damaged, of an architecture that is not known here, or
            has widths that 2:4 cannot take; or the teacher does not fit.
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
        loss=taught_by(job, model, parent.tokenizer),
    )

    def facts() -> dict[str, Any]:
        _check_result(model, options)
        return {"sparsity": sparsity_rows(model)}

    save = partial(save_encoder, model, config) if isinstance(model, Encoder) else model.save_pretrained
    return Prepared(learner, save, facts)


class GradualMasks(HeldMasks):
    """Removes more and more weights, by the cubic schedule.

    What it has removed is in the weights, so a resumed job goes on from there.
    """

    def __init__(self, model: Any, options: PruneOptions) -> None:
        super().__init__(model)
        self.options = options

    def sparsities(self, total: int) -> dict[int, float]:
        """Return the sparsity after every step that removes, in a training of so many steps."""
        options = self.options
        progress = [number / options.prunings for number in range(1, options.prunings + 1)]
        last = options.pruning * total
        return {max(1, round(last * share)): cubic_sparsity(options.removed, share) for share in progress}

    def on_optimizer_step(self, args: Any, state: Any, control: Any, /, **kwargs: Any) -> None:
        """Remove weights if it is time, and hold what was removed."""
        sparsity = self.sparsities(state.max_steps).get(state.global_step + 1)
        if sparsity is not None:
            self.masks = _choose(self.layers, self.options, sparsity)
        super().on_optimizer_step(args, state, control, **kwargs)


def prune_now(model: Any, options: PruneOptions) -> None:
    """Bring a model to its final sparsity at once."""
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
    """Make sure that the zeros are as many, and where, as the options want them.

    Zeros are chosen before other weights: were they too few or too many, another choice would not be the same.
    """
    layers = list(linear_layers(model).values())
    masks = _choose(layers, options, options.removed)
    if not all(torch.equal(layer.weight == 0, mask) for layer, mask in zip(layers, masks, strict=True)):
        raise RuntimeError(f"prune: the weights are not {options.removed} zero, {sparsity_rows(model)}")
