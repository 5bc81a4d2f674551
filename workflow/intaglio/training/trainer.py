"""transformers' Trainer with Intaglio's loss, clock, selection of weights and checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch.utils.data import Sampler
from transformers import EvalPrediction, PrinterCallback, Trainer

from intaglio.imbalance import Loss
from intaglio.kinds import kind_of
from intaglio.models.standard_scores import values_of
from intaglio.study.options import TrainingOptions
from intaglio.tokens.encoded import Encoded
from intaglio.training import resume
from intaglio.training.arguments import Steps
from intaglio.training.clock import Clock
from intaglio.training.loss import LossMeter, batch_loss
from intaglio.training.selection import Selection, evaluation_steps

_WEIGHTS = "model.safetensors"


class StageTrainer(Trainer):  # type: ignore[misc]
    """A Trainer that can be interrupted at any step and measures its training time.

    Attributes:
        work: the folder of checkpoints.
        meter: the training loss since the last log.
        clock: the time of the steps.
        selection: when to evaluate, and which weights are best.
        loss: module to minimize in place of the loss of the labels, or None.
        order: the order of the training examples in each epoch; None for a random one.
    """

    def __init__(
        self,
        work: Path,
        task: Mapping[str, Any],
        steps: Steps,
        options: TrainingOptions,
        begin: int = 0,
        loss: torch.nn.Module | None = None,
        order: Sampler[int] | None = None,
        of_labels: Loss | None = None,
        windows: Encoded | None = None,
        **kwargs: Any,
    ) -> None:
        self._order = order
        of_labels = of_labels or kind_of(task).loss
        if isinstance(of_labels, torch.nn.Module):
            of_labels = of_labels.to(kwargs["args"].device)
        super().__init__(
            compute_loss_func=partial(batch_loss, of_labels),
            compute_metrics=partial(_validation_metrics, task, windows),
            **kwargs,
        )
        self._kind, self._windows = kind_of(task), windows
        self.work, self._draft = work, work
        device = self.args.device
        self.loss = None if loss is None else loss.to(device)
        self.meter, self.clock = LossMeter(eager=device.type == "cpu"), Clock(device)
        evaluations = evaluation_steps(steps.total, steps.epoch, options.evaluations)
        self.selection = Selection(evaluations, task["metric"], options.patience, self.keep_best, begin)
        self.remove_callback(PrinterCallback)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return super()._get_train_sampler(train_dataset) if self._order is None else self._order

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Add the loss of the step to the meter."""
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        self.meter.add(loss, self.state.global_step + 1, float(self.lr_scheduler.get_last_lr()[0]))
        return loss

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Compute the given loss in training; validation uses the loss with the labels only."""
        if self.loss is None or not model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        # The model is wrapped for mixed precision; the teacher has to run in the same precision.
        with self.accelerator.autocast():
            return self.loss(model, inputs, num_items_in_batch)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> torch.Tensor:
        """Return the number of examples; the Trainer would count labels, and leave those that are -100 out."""
        return torch.tensor(sum(len(batch["labels"]) for batch in batch_samples), device=device)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Replace the Trainer's loss by the meter's mean, as the Trainer's sum would not survive an interruption."""
        if "loss" in logs:
            logs["loss"] = self.meter.drain()
            logs["learning_rate"] = self.meter.rates[self.state.global_step]
        super().log(logs, start_time)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate outside of the training time, without changing the random state of the training."""
        self.clock.pause()
        self.meter.check()
        random = torch.get_rng_state()
        try:
            metrics: dict[str, float] = super().evaluate(*args, **kwargs)
        finally:
            torch.set_rng_state(random)
        return metrics

    def _save_checkpoint(self, model: Any, trial: Any = None) -> None:
        self.clock.pause()
        self.meter.check()
        best_step = self.selection.best_step
        with resume.new_progress(self.work, self.state.global_step, best_step) as draft:
            self._draft = draft
            super()._save_checkpoint(model, trial)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        resume.assert_whole(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        super()._load_rng_state(checkpoint)
        resume.assert_whole(checkpoint)

    def _get_output_dir(self, trial: Any) -> str:  # noqa: ARG002
        """Return the folder for the Trainer's checkpoint: a draft, renamed when it is complete."""
        return str(self._draft)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:  # noqa: ARG002
        """Save only the weights, under the module's present names: resumption needs nothing else."""
        folder = Path(output_dir or self.work)
        folder.mkdir(parents=True, exist_ok=True)
        safetensors.torch.save_model(self.model, str(folder / _WEIGHTS))

    def save_progress(self) -> None:
        """Write a checkpoint now, outside of the Trainer's loop."""
        self._save_checkpoint(self.model)

    def keep_best(self, step: int) -> None:
        """Keep the present weights as the best so far."""
        with resume.durable(resume.best_folder(self.work, step), "weights") as draft:
            self._save(str(draft))

    def load_best(self) -> None:
        """Load the weights of the best evaluation into the model."""
        weights = resume.best_folder(self.work, self.selection.best_step) / _WEIGHTS
        safetensors.torch.load_model(self.model, str(weights))

    def tuned_thresholds(self) -> list[float] | None:
        """Return thresholds that are tuned on the validation split; None for kinds without them."""
        if self._kind.tune is None:
            return None
        # A request to end may have come too late to interrupt the training; this takes less time than is left then.
        self.remove_callback(resume.PeriodicSave)
        found = self.predict(self.eval_dataset)
        if self._windows is not None:
            return self._kind.tune(self._windows.targets, self._windows.outputs(found.predictions))
        return self._kind.tune(found.label_ids, found.predictions)

    @property
    def done(self) -> bool:
        """Whether the last step, or the step at which to stop early, was done and evaluated."""
        step = self.state.global_step
        return self.selection.evaluated == step and (self.selection.stopped or step == self.state.max_steps)


def _validation_metrics(
    task: Mapping[str, Any], windows: Encoded | None, prediction: EvalPrediction
) -> dict[str, float]:
    """Return the task's metric and the mean loss over the examples.

    Windows are those of question answering, in the order of the predictions.

    The Trainer's own loss is replaced: it overweights a short last batch, and has the weights of training.
    """
    logits, labels = prediction.predictions, prediction.label_ids
    logits = logits[0] if isinstance(logits, tuple) else logits
    if windows is not None:
        return windows.validation(task, logits)
    return kind_of(task).validation(task, labels, values_of(logits, task))
