import json
import math
import platform
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import log_loss, matthews_corrcoef
from transformers import AutoModelForSequenceClassification, TrainerCallback

from intaglio.errors import UserError
from intaglio.metrics import KNOWN_METRICS
from intaglio.study.options import FinetuneOptions
from intaglio.tasks.stored import read_split
from intaglio.tokens.artifact import read_tokens
from intaglio.tokens.padding import padding_saved, padding_share, random_order
from intaglio.training.arguments import count_steps, use_bf16
from intaglio.training.clock import Clock
from intaglio.training.job import Learner, StageJob
from intaglio.training.loss import LossMeter
from intaglio.training.order import GroupedByLength
from intaglio.training.selection import evaluation_steps
from intaglio.training.train import TrainingResult, train
from intaglio.training.trainer import StageTrainer
from tiny import tiny_config, tiny_data, tiny_model, tiny_tokenizer

Options = partial(FinetuneOptions, batch_size=8, epochs=1, learning_rate=1e-3)


@dataclass(frozen=True)
class Trained(TrainingResult):
    """A result with the model that was trained."""

    model: torch.nn.Module = field(kw_only=True)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_data(tmp_path_factory.mktemp("data") / "data", n=60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture
def run(folder, data, tmp_path):
    """Train the tiny model; keyword arguments beside those of `train` are options."""

    def start(work="work", seed=0, callbacks=(), model=None, data=data, dropout=0.1, **options):
        if model is None:
            model = AutoModelForSequenceClassification.from_pretrained(
                folder, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout
            )
        learner = Learner(model, tiny_tokenizer(), callbacks=callbacks)
        chosen = Options(**options)
        result = train(StageJob(folder, data, chosen, seed, 32, tmp_path / work, tmp_path), learner)
        return Trained(**vars(result), model=model)

    return start


def weights(result):
    return torch.cat([parameter.detach().flatten() for parameter in result.model.parameters()])


def curve(result, name):
    return {row["step"]: row["value"] for row in result.history if row["name"] == name}


def test_the_seed_decides_all(run):
    first, same, other = (weights(run(work, seed)) for work, seed in (("a", 1), ("b", 1), ("c", 2)))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_seeds_next_to_each_other_share_no_order(run):
    # accelerate shuffles epoch e with its seed + e: without a stride, seed 0's second epoch was seed 1's first.
    orders = []

    class Watch(TrainerCallback):
        def on_train_begin(self, *_, train_dataloader, **__):
            collate = train_dataloader.base_dataloader.collate_fn

            def watch(rows):
                batch = collate(rows)
                orders[-1].append(batch["input_ids"].sum().item())
                return batch

            train_dataloader.base_dataloader.collate_fn = watch

    for seed in (0, 1):
        orders.append([])
        run(str(seed), seed, [Watch()], epochs=2)
    assert orders[0][8:] != orders[1][:8]
    assert orders[0][:8] != orders[0][8:]


def test_evaluating_does_not_change_the_training(run):
    few, many = run("few", evaluations=1, epochs=2), run("many", evaluations=8, epochs=2)
    assert curve(few, "loss") == curve(many, "loss")


def test_accumulated_parts_equal_one_batch(run):
    # 60 examples: the last batch of 16 is of 12, three parts of 4.
    whole = run("whole", batch_size=16, dropout=0.0, epochs=2)
    parts = run("parts", batch_size=16, gradient_accumulation=4, dropout=0.0, epochs=2)
    assert whole.steps == parts.steps == 8
    assert curve(parts, "loss") == pytest.approx(curve(whole, "loss"), abs=1e-6)
    assert (weights(parts) - weights(whole)).abs().max() < 1e-5


def test_gradients_of_accumulated_parts_equal_those_of_one_batch(run):
    gradients = []

    class Watch(TrainerCallback):
        def on_pre_optimizer_step(self, *_, model, **__):
            gradients[-1].append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))

    for parts in (1, 4):
        gradients.append([])
        options = {"batch_size": 16, "max_steps": 4, "dropout": 0.0, "max_grad_norm": 1e9, "learning_rate": 1e-12}
        run(str(parts), callbacks=[Watch()], gradient_accumulation=parts, **options)
    # The fourth batch is a short one.
    for whole, accumulated in zip(*gradients, strict=True):
        assert whole.abs().max() > 1e-3
        assert (whole - accumulated).abs().max() < 1e-6


def test_the_optimizer_is_adamw_with_linear_warmup_and_decay(run):
    seen = []

    class Watch(TrainerCallback):
        def on_pre_optimizer_step(self, *_, optimizer, **__):
            seen.append(
                [(group["lr"], group["betas"], group["eps"], group["weight_decay"]) for group in optimizer.param_groups]
            )

    result = run(callbacks=[Watch()], epochs=2.5, warmup=0.25, learning_rate=1e-3, weight_decay=0.2, adam_beta2=0.9)
    rates = [1e-3 * (step / 5 if step < 5 else (20 - step) / 15) for step in range(20)]
    assert [step[0][0] for step in seen] == pytest.approx(rates)
    assert list(curve(result, "learning_rate").values()) == pytest.approx(rates)
    assert [group[1:] for group in seen[0]] == [((0.9, 0.9), 1e-6, 0.2), ((0.9, 0.9), 1e-6, 0.0)]


def test_a_step_equals_torch_by_hand(run, folder, data):
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, hidden_dropout_prob=0, attention_probs_dropout_prob=0
    )
    rows = list(read_tokens(data, "train", tiny_tokenizer(), 32))
    batch = tiny_tokenizer().pad(rows, return_tensors="pt")
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.1},
            {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
        ],
        lr=1e-3,
        betas=(0.9, 0.98),
        eps=1e-6,
    )
    labels = torch.tensor(read_split(data, "train")["label"].to_pylist())
    loss = torch.nn.functional.cross_entropy(model(**batch).logits, labels)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    result = run(batch_size=60, max_steps=1, warmup=0.0, dropout=0.0)
    assert curve(result, "loss")[1] == pytest.approx(loss.item(), abs=1e-6)
    assert (weights(result) - torch.cat([p.detach().flatten() for p in model.parameters()])).abs().max() < 2e-6


class Snapshots(TrainerCallback):
    """Keeps the weights after every step."""

    def __init__(self):
        self.after = {}

    def on_step_end(self, _args, state, _control, model, **_):
        self.after[state.global_step] = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


@pytest.fixture
def scripted(run, monkeypatch):
    """Train with wanted values of the metric, one an evaluation."""

    def start(values, **options):
        wanted, snapshots = iter(values), Snapshots()
        monkeypatch.setitem(
            KNOWN_METRICS, "accuracy", replace(KNOWN_METRICS["accuracy"], compute=lambda *_: next(wanted))
        )
        return run(callbacks=[snapshots], **options), snapshots.after

    return start


def test_the_best_evaluation_is_taken_and_the_first_of_equals(scripted):
    values = [0.2, 0.6, 0.8, 0.4, 0.8]
    result, after = scripted(values, max_steps=10, evaluations=5)
    assert curve(result, "validation_accuracy") == dict(zip([2, 4, 6, 8, 10], values, strict=True))
    assert (result.best_step, result.steps) == (6, 10)
    assert torch.equal(weights(result), after[6])
    assert result.validation == {"accuracy": 0.8, "loss": curve(result, "validation_loss")[6]}


def test_early_stopping_after_so_many_evaluations_without_improvement(scripted):
    result, after = scripted([0.2, 0.6, 0.4, 0.8, 0.4, 0.8, 1.0], max_steps=14, evaluations=7, patience=2)
    assert max(after) == result.steps == 12
    assert result.best_step == 8
    assert torch.equal(weights(result), after[8])


def test_a_metric_that_is_no_number_is_the_worst(scripted):
    assert scripted([math.nan, -0.5, math.nan], max_steps=6, evaluations=3)[0].best_step == 4


def test_validation_metrics_are_those_of_all_its_examples(run, tmp_path):
    # 100 validation examples: several batches, the last one short.
    data = tiny_data(tmp_path / "data", n=400, metric="matthews")
    result = run(data=data, max_steps=3, evaluations=1, dropout=0.1)
    model = result.model.eval()
    rows = list(read_tokens(data, "validation", tiny_tokenizer(), 32))
    labels = read_split(data, "validation")["label"].to_pylist()
    with torch.no_grad():
        batch = tiny_tokenizer().pad(rows, return_tensors="pt")
        probabilities = model(**batch).logits.double().softmax(-1).numpy()
    expected = {
        "matthews": matthews_corrcoef(labels, probabilities.argmax(-1)),
        "loss": log_loss(labels, probabilities),
    }
    assert result.validation == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("total", "epoch", "evaluations", "steps"),
    [
        (12, 4, 0, [4, 8, 12]),
        (10, 4, 0, [4, 8, 10]),
        (3, 4, 0, [3]),
        (10, 4, 1, [10]),
        (10, 4, 4, [2, 5, 8, 10]),
        (2, 4, 5, [1, 2]),
    ],
)
def test_evaluations_are_evenly_spaced_and_end_with_the_last_step(total, epoch, evaluations, steps):
    assert evaluation_steps(total, epoch, evaluations) == steps


def test_steps_are_counted_as_the_trainer_counts_them(run):
    for epochs, batch_size, parts in ((1.5, 16, 4), (0.3, 7, 1)):
        options = Options(epochs=epochs, batch_size=batch_size, gradient_accumulation=parts)
        result = run(f"{epochs}-{batch_size}", epochs=epochs, batch_size=batch_size, gradient_accumulation=parts)
        steps = count_steps(options, 60)
        assert result.steps == steps.total
        assert result.epochs == pytest.approx(result.steps / steps.epoch, abs=0.1)


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(UserError, match="batch_size: 10 does not divide into gradient_accumulation: 4"):
        count_steps(Options(batch_size=10, gradient_accumulation=4), 60)


@pytest.mark.skipif(torch.cuda.is_available(), reason="of a machine without a GPU")
def test_precision_without_a_gpu():
    assert not use_bf16("auto")
    assert not use_bf16("fp32")
    with pytest.raises(UserError, match="bf16 needs a GPU"):
        use_bf16("bf16")


def test_training_time_is_without_evaluation_saving_and_setup(run, monkeypatch):
    def slow(method):
        def wait(*args, **kwargs):
            time.sleep(0.3)
            return method(*args, **kwargs)

        return wait

    class SlowStart(TrainerCallback):
        def on_train_begin(self, *_, **__):
            time.sleep(0.3)

    class SlowStep(TrainerCallback):
        def on_step_end(self, *_, **__):
            time.sleep(0.02)

    monkeypatch.setattr(StageTrainer, "evaluation_loop", slow(StageTrainer.evaluation_loop))
    monkeypatch.setattr(StageTrainer, "_save", slow(StageTrainer._save))
    began = time.perf_counter()
    result = run(max_steps=6, evaluations=2, callbacks=[SlowStart(), SlowStep()])
    assert time.perf_counter() - began > 1.2
    # What a callback does after a step belongs to the step, as recalibration does.
    assert 6 * 0.02 <= result.seconds < 0.6
    assert 0.02 <= result.step_seconds_median < 0.1
    assert result.step_seconds_mean == pytest.approx(result.seconds / 6)


def test_the_clock_stands_still_between_a_pause_and_the_next_step(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    clock = Clock(torch.device("cpu"))

    def step(begin, end):
        now[0] = begin
        clock.on_step_begin(None, None, None)
        now[0] = end
        clock.on_step_end(None, None, None)

    for begin, end in ((10, 11), (12, 13)):
        step(begin, end)
    now[0] = 20
    clock.pause()
    clock.pause()
    assert clock.seconds == [1, 2]
    step(30, 31)
    clock.pause()
    assert (clock.total, clock.median) == (4, 1)
    assert clock.mean == pytest.approx(4 / 3)
    restored = json.loads(json.dumps(clock.state()))["attributes"]
    assert restored == {"seconds": [1, 2, 1], "energy": {}}


def test_on_a_gpu_the_clock_waits_only_when_it_is_paused(monkeypatch):
    waits, times = [], iter([0.0, 2000.0, 3000.0])

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.time = next(times)

        def synchronize(self):
            waits.append(self.time)

        def elapsed_time(self, later):
            return later.time - self.time

    monkeypatch.setattr(torch.cuda, "Event", Event)
    clock = Clock(torch.device("cuda"))
    for _ in range(2):
        clock.on_step_begin(None, None, None)
        clock.on_step_end(None, None, None)
    assert not waits
    clock.pause()
    assert (waits, clock.seconds) == ([3000.0], [2.0, 1.0])


class Poison(TrainerCallback):
    """Makes a weight NaN before a step."""

    def __init__(self, step):
        self.step = step

    def on_step_begin(self, _args, state, _control, model, **_):
        if state.global_step + 1 == self.step:
            next(model.parameters()).data.fill_(math.nan)


def test_a_loss_that_is_no_number_stops_at_its_step(run):
    # 20 steps, warm-up over 2: the seventh has 14/18 of the peak.
    with pytest.raises(UserError, match=r"^training: the loss became nan at step 7, learning rate 0\.000778; [^\n]+$"):
        run(max_steps=20, warmup=0.1, callbacks=[Poison(7)], checkpoint_minutes=0)


def test_a_learning_rate_out_of_all_bounds_is_named(run):
    with pytest.raises(UserError, match=r"the loss became (nan|inf) at step 2, learning rate 9\.5e\+29"):
        run(max_steps=20, warmup=0.0, learning_rate=1e30, max_grad_norm=1e30)


def test_weights_that_break_in_the_last_step_are_no_result(run):
    class Break(TrainerCallback):
        def on_step_end(self, _args, state, _control, model, **_):
            if state.global_step == state.max_steps:
                next(model.parameters()).data.fill_(math.nan)

    with pytest.raises(UserError, match="the validation loss became nan at step 3"):
        run(max_steps=3, callbacks=[Break()])


def test_a_bad_loss_on_a_device_is_found_later_at_its_step():
    meter = LossMeter(eager=False)
    for step, value in enumerate((1.0, 2.0, math.inf, math.nan), start=1):
        meter.add(torch.tensor(value), step, step / 10)
    with pytest.raises(UserError, match=r"became inf at step 3, learning rate 0\.3;"):
        meter.check()


def test_the_loss_is_the_mean_of_the_steps_since_the_last_log():
    meter = LossMeter(eager=False)
    for step, part in ((1, 0.25), (1, 0.75), (2, 2.0)):
        meter.add(torch.tensor(part), step, 0.1)
    meter.check()
    restored = LossMeter(eager=True)
    for name, value in json.loads(json.dumps(meter.state()))["attributes"].items():
        setattr(restored, name, value)
    restored.add(torch.tensor(3.0), 3, 0.1)
    assert restored.drain() == 2.0
    restored.add(torch.tensor(5.0), 4, 0.1)
    assert restored.drain() == 5.0


def test_three_labels_are_learned(tmp_path):
    labels = ("no", "yes", "maybe")
    data = tiny_data(tmp_path / "data", n=300, labels=labels, metric="f1_macro")
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(tiny_config(labels=labels))
    options = Options(epochs=8, learning_rate=5e-3, batch_size=16)
    job = StageJob(data, data, options, 0, 32, tmp_path / "work", tmp_path)
    result = train(job, Learner(model, tiny_tokenizer()))
    assert result.validation["f1_macro"] > 0.9
    losses = pd.Series(curve(result, "loss"))
    assert losses.iloc[-5:].mean() < 0.5 * losses.iloc[:5].mean()


def test_padding_counted_by_hand():
    lengths = np.array([2, 2, 3, 4, 5])
    assert padding_share(lengths, np.arange(5), 2) == 1 - 16 / (2 * 2 + 2 * 4 + 5)
    assert padding_share(lengths, np.array([4, 0, 3, 1, 2]), 2) == 1 - 16 / (2 * 5 + 2 * 4 + 3)
    assert padding_share(lengths, np.arange(5), 8) == 1 - 16 / 25
    at_random = random_order(5)
    tokens = lengths.sum() / (1 - padding_share(lengths, at_random, 2))
    assert padding_saved(lengths, np.arange(5), 2) == pytest.approx(1 - (2 * 2 + 2 * 4 + 5) / tokens)
    assert padding_saved(lengths, at_random, 2) == 0


def test_batches_of_similar_lengths_take_every_example_and_pad_less(run):
    lengths = np.random.default_rng(0).integers(3, 60, 203)
    order = GroupedByLength(lengths, 8, 7)
    first = list(order)
    assert sorted(first) == list(range(203))
    assert first == list(GroupedByLength(lengths, 8, 7)) != list(GroupedByLength(lengths, 8, 8))
    order.set_epoch(1)
    assert sorted(order) == sorted(first)
    assert list(order) != first
    assert padding_share(lengths, np.array(first), 8) < 0.5 * padding_share(lengths, np.arange(203), 8)
    plain, grouped = run("plain"), run("grouped", group_by_length=True)
    assert 0 < grouped.padding < plain.padding < 1
    assert grouped.padding_saved > plain.padding_saved == 0
    assert grouped.steps == plain.steps


def test_freed_memory_is_used_again() -> None:
    """Where the C library is glibc's; in a process of its own, since all of a process's memory is concerned."""
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("needs glibc")
    program = (
        "import resource, numpy as np; from intaglio.heap import keep_freed_memory\n"
        "def faults():\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    for megabytes in (8, 40) * 3: np.ones(megabytes * 2**20, np.uint8)\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
        "print(faults()); keep_freed_memory(); faults(); print(faults())"
    )
    workflow = Path(__file__).parents[1] / "workflow"
    done = subprocess.run([sys.executable, "-c", program], cwd=workflow, capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert after < before / 10
