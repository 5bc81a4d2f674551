"""transformers' Trainer with Intaglio's loss, clock, selection of weights and checkpoints."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import safetensors.torch
import torch
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader, Sampler
from transformers import EvalPrediction, PrinterCallback, Trainer

from intaglio import ranks
from intaglio.imbalance import Loss
from intaglio.kinds import kind_of
from intaglio.meters import meters
from intaglio.models.standard_scores import values_of
from intaglio.study.training_options import TrainingOptions
from intaglio.tokens.encoded import Encoded
from intaglio.training import resume
from intaglio.training.arguments import Steps
from intaglio.training.clock import Clock
from intaglio.training.loss import LossMeter, batch_loss
from intaglio.training.memory import Parts
from intaglio.training.selection import Selection, evaluation_steps

log = logging.getLogger(__name__)

_WEIGHTS = "model.safetensors"


class StageTrainer(Trainer):  # type: ignore[misc]
    """A Trainer that can be interrupted at any step and measures its training time.

    Attributes:
        work: the folder of checkpoints.
        meter: the training loss since the last log.
        parts: the parts of the optimizer batch, halved if memory does not suffice.
        clock: the time of the steps, and their energy; of several processes none knows that of all.
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
        self.meter = LossMeter(eager=device.type == "cpu")
        self.clock = Clock(device, meters(device.type)[0] if ranks.size() == 1 else ())
        self.parts = Parts(alone=ranks.size() == 1)
        if ranks.size() > 1:
            # Dropout differs between examples, and so between processes.
            ranks.seed(self.args.seed)
        evaluations = evaluation_steps(steps.total, steps.epoch, options.evaluations)
        self.selection = Selection(evaluations, task["metric"], options.patience, self.keep_best, begin)
        self.remove_callback(PrinterCallback)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return super()._get_train_sampler(train_dataset) if self._order is None else self._order

    def get_train_dataloader(self) -> Any:
        """Return the training batches: all of them in every process, which takes its share of each."""
        if ranks.size() == 1:
            return super().get_train_dataloader()
        collate = self._get_collator_with_removed_columns(self.data_collator, description="training")
        loader = DataLoader(
            self.train_dataset,
            self.args.train_batch_size,
            sampler=self._get_train_sampler(),
            collate_fn=partial(ranks.share_of, collate),
            pin_memory=self.args.dataloader_pin_memory,
        )
        # As accelerate prepares those of one process: it would give other batches to each, and fill up the last ones.
        return prepare_data_loader(
            loader,
            self.args.device,
            num_processes=1,
            process_index=0,
            put_on_device=True,
            use_seedable_sampler=True,
            data_seed=self.args.data_seed,
        )

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """Return the parts of the next optimizer batch."""
        self.parts.begin()
        return super().get_batch_samples(*args, **kwargs)

    def training_step(self, model: torch.nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Compute the gradients of a part, and add its loss to the meter."""
        step = self.state.global_step + 1
        compute = partial(super().training_step, model)
        loss = self.parts.add(lambda part: compute(part, *args, **kwargs), inputs, step, model.zero_grad)
        self.meter.add(ranks.mean(loss), step, float(self.lr_scheduler.get_last_lr()[0]))
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
            # Gradients become means over the processes, of which each computes its share; the Trainer does the same.
            return self.loss(model, inputs, num_items_in_batch) * ranks.size()

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> torch.Tensor:
        """Return the number of examples; the Trainer would count labels, and leave those that are -100 out."""
        return ranks.total(torch.tensor(sum(len(batch["labels"]) for batch in batch_samples), device=device))

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
        progress = resume.new_progress(self.work, self.state.global_step, self.selection.best_step)
        with progress if ranks.is_first() else nullcontext(self.work) as draft:
            self._draft = draft
            super()._save_checkpoint(model, trial)

    def _save_rng_state(self, output_dir: str) -> None:
        """Save the random states of all processes, in the first one."""
        if ranks.size() == 1:
            super()._save_rng_state(output_dir)
            return
        with TemporaryDirectory() as folder:
            super()._save_rng_state(folder)
            (own,) = Path(folder).iterdir()
            states = ranks.from_all((own.name, own.read_bytes()))
        for name, state in states if ranks.is_first() else ():
            Path(output_dir, name).write_bytes(state)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with resume.whole(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with resume.whole(checkpoint):
            super()._load_rng_state(checkpoint)
        if checkpoint is not None and (saved := resume.saved_ranks(checkpoint)) != ranks.size():
            log.warning(
                "%s is of %d processes, and goes on in %d: dropout is another from here on, all else is the same",
                *(checkpoint, saved, ranks.size()),
            )
            ranks.seed(self.args.seed, self.state.global_step)

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
        if not ranks.is_first():
            return
        with resume.durable(resume.best_folder(self.work, step), "weights") as draft:
            self._save(str(draft))

    def load_best(self) -> None:
        """Load the weights of the best evaluation into the model."""
        weights = resume.best_folder(self.work, self.selection.best_step) / _WEIGHTS
        if ranks.is_first():
            safetensors.torch.load_model(self.model, str(weights))
        ranks.agree([*self.model.parameters(), *self.model.buffers()])

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
    """Return the task's metric and the mean loss over the examples, as the first process computes them.

    Windows are those of question answering, in the order of the predictions.

    The Trainer's own loss is replaced: it overweights a short last batch, and has the weights of training.
    """
    logits, labels = prediction.predictions, prediction.label_ids
    logits = logits[0] if isinstance(logits, tuple) else logits
    if windows is not None:
        return ranks.from_first(partial(windows.validation, task, logits))
    return ranks.from_first(partial(kind_of(task).validation, task, labels, values_of(logits, task)))
