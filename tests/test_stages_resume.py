import json
import random
import signal
from dataclasses import replace
from functools import partial

import pytest
import torch

from intaglio import allocation, store
from intaglio.allocation import RETURNS, SIGNALS, stop_requests
from intaglio.errors import UserError
from intaglio.stages import run as stage_run
from intaglio.study.options import FinetuneOptions
from intaglio.training import arguments, resume
from intaglio.training.job import StageJob
from intaglio.training.train import train
from interrupted import jobs, when
from stage_runs import SigtermAt, assert_same_outcome, outcome
from tiny import tiny_data, tiny_model

# Two epochs and a half with a short last batch, dropout, accumulation, early stopping that never comes, and logs
# every step; a checkpoint at every step.
OPTIONS = {
    "learning_rate": 5e-3,
    "epochs": 2.5,
    "batch_size": 8,
    "gradient_accumulation": 2,
    "evaluations": 4,
    "patience": 50,
    "checkpoint_minutes": 0,
}
STEPS = 33


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with jobs(tmp_path_factory.mktemp("jobs") / "log") as started:
        yield started


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    return {
        "start": tiny_model(folder / "model"),
        "data": tiny_data(folder / "data", n=100),
        "seed": 3,
        "max_length": 32,
    }


def job(inputs, folder, **options):
    return {**inputs, "options": OPTIONS | options, "work": folder / "work", "output": folder / "output"}


@pytest.fixture(scope="module")
def undisturbed(server, inputs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    assert server.run(job(inputs, folder)) == 0
    assert not (folder / "work").exists()
    assert outcome(folder / "output")[2]["steps"] == STEPS
    return folder / "output"


def last_step(work):
    return max((int(path.name.split("-")[1]) for path in work.glob("progress-*")), default=0)


def test_killed_at_random_moments_ends_the_same_to_the_bit(server, inputs, undisturbed, tmp_path):
    chance, work, kills = random.Random(0), tmp_path / "work", 0
    while (goal := last_step(work) + chance.randint(1, 5)) < STEPS:
        # Some steps further than it ever was, and then at any moment: a step and its saving take about 30 ms.
        further = partial(lambda goal: last_step(work) >= goal, goal)
        status = server.run(job(inputs, tmp_path), when(further, signal.SIGKILL, chance.uniform(0, 0.03)))
        assert status in (0, -signal.SIGKILL)
        kills += status != 0
    assert kills >= 4
    assert server.run(job(inputs, tmp_path)) == 0
    assert not work.exists()
    assert_same_outcome(tmp_path / "output", undisturbed)


@pytest.mark.parametrize("number", SIGNALS)
def test_asked_to_leave_saves_and_exits_with_143(server, inputs, undisturbed, tmp_path, number):
    # No checkpoint by time: what is resumed from is what the signal made it save, after the first evaluation.
    work, request = tmp_path / "work", job(inputs, tmp_path, checkpoint_minutes=60)
    assert server.run(request, when(lambda: any(work.glob("best-*")), number)) == 143
    assert STEPS // 4 <= last_step(work) < STEPS
    assert server.run(request) == 0
    assert_same_outcome(tmp_path / "output", undisturbed)


def _interrupted(moment, job, learner):
    callback = moment if isinstance(moment, SigtermAt) else SigtermAt(moment)
    return train(job, replace(learner, callbacks=[callback]))


def finetune_here(inputs, folder, monkeypatch, moment=None, **options):
    """Fine-tune in this process, so that the signal comes at a known moment; return the exit status."""
    threads, request = torch.get_num_threads(), job(inputs, folder, checkpoint_minutes=60, **options)
    request["options"] = FinetuneOptions(**request["options"])
    torch.set_num_threads(1)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(stage_run, "train", partial(_interrupted, moment))
            stage_run.run_stage(StageJob(**request))
    except SystemExit as exit_:
        return exit_.code
    finally:
        torch.set_num_threads(threads)
    return 0


@pytest.mark.parametrize(("moment", "step"), [(STEPS, STEPS), ("evaluation", round(STEPS / 4))])
def test_an_evaluation_that_was_cut_off_is_made_up_for(inputs, undisturbed, tmp_path, monkeypatch, moment, step):
    # The evaluation that is made up for is broken off, too: the checkpoint must stay as it was.
    for _ in range(2 if moment == "evaluation" else 1):
        assert finetune_here(inputs, tmp_path, monkeypatch, moment) == 143
        assert last_step(tmp_path / "work") == step
    assert finetune_here(inputs, tmp_path, monkeypatch) == 0
    assert_same_outcome(tmp_path / "output", undisturbed)


class TimeUpAt(SigtermAt):
    """As at a signal, but because the time is nearly up."""

    reached = False

    def __bool__(self):
        return self.reached

    def on_step_end(self, _args, state, _control, **_):
        self.reached |= state.global_step == self.moment

    def on_prediction_step(self, *_, **__):
        self.reached |= self.moment == "evaluation"


def finetune_until(inputs, folder, monkeypatch, moment=None):
    """Fine-tune in this process, as a job of SLURM whose time is up at a moment."""
    limit = TimeUpAt(moment)
    with monkeypatch.context() as patch:
        patch.setattr(allocation, "TimeLimit", lambda: limit)
        return finetune_here(inputs, folder, monkeypatch, limit)


def test_a_job_whose_time_is_up_returns_to_the_queue_as_long_as_it_makes_progress(
    inputs, undisturbed, tmp_path, monkeypatch, commands
):
    commands.add("scontrol", show="JobState=RUNNING PreemptTime=None")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv(RETURNS, "1")
    for number, step in enumerate((5, 21), 1):
        assert finetune_until(inputs, tmp_path, monkeypatch, step) == 143
        assert last_step(tmp_path / "work") == step
        assert commands.calls("scontrol").count("requeue 7") == number
    assert finetune_until(inputs, tmp_path, monkeypatch) == 0
    assert_same_outcome(tmp_path / "output", undisturbed)
    assert commands.calls("scontrol").count("requeue 7") == 2


def test_a_job_that_makes_no_progress_in_its_time_says_so(inputs, tmp_path, monkeypatch):
    # The time does not suffice for an evaluation: the first attempt did some steps, the second none.
    assert finetune_until(inputs, tmp_path, monkeypatch, "evaluation") == 143
    with pytest.raises(UserError, match="train_minutes"):
        finetune_until(inputs, tmp_path, monkeypatch, "evaluation")
    # With more time it goes on from there.
    assert finetune_until(inputs, tmp_path, monkeypatch) == 0


def test_the_loss_between_two_logs_survives(inputs, tmp_path, monkeypatch):
    # Logs at 8, 16, 24, 32; left after 13.
    monkeypatch.setattr(arguments, "LOGS", 4)
    first, second = tmp_path / "first", tmp_path / "second"
    assert finetune_here(inputs, first, monkeypatch) == 0
    assert finetune_here(inputs, second, monkeypatch, 13) == 143
    assert finetune_here(inputs, second, monkeypatch) == 0
    assert_same_outcome(first / "output", second / "output")
    assert [row["step"] for row in outcome(first / "output")[1].to_pylist() if row["name"] == "loss"] == [8, 16, 24, 32]


def test_an_order_by_length_is_the_same_in_an_epoch_that_is_resumed(inputs, tmp_path, monkeypatch):
    # Left in the second epoch, whose order is another one than the first.
    first, second = tmp_path / "first", tmp_path / "second"
    assert finetune_here(inputs, first, monkeypatch, group_by_length=True) == 0
    assert finetune_here(inputs, second, monkeypatch, 17, group_by_length=True) == 143
    assert finetune_here(inputs, second, monkeypatch, group_by_length=True) == 0
    assert_same_outcome(first / "output", second / "output")


def test_early_stopping_and_the_best_weights_survive(inputs, tmp_path, monkeypatch):
    # A learning rate of next to nothing: no evaluation after the first is better, so the third one stops.
    options = {"learning_rate": 1e-12, "evaluations": 8, "patience": 2}
    first, second = tmp_path / "first", tmp_path / "second"
    assert finetune_here(inputs, first, monkeypatch, **options) == 0
    assert finetune_here(inputs, second, monkeypatch, 7, **options) == 143
    assert finetune_here(inputs, second, monkeypatch, 12, **options) == 143
    assert finetune_here(inputs, second, monkeypatch, **options) == 0
    assert_same_outcome(first / "output", second / "output")
    assert outcome(first / "output")[2]["steps"] == 12
    assert outcome(first / "output")[2]["best_step"] == 4


def test_low_rank_training_resumes_to_the_bit(inputs, tmp_path, monkeypatch):
    options = {"low_rank": {"rank": 4, "dropout": 0.1}}
    first, second = tmp_path / "first", tmp_path / "second"
    assert finetune_here(inputs, first, monkeypatch, **options) == 0
    for step in (5, 21):
        assert finetune_here(inputs, second, monkeypatch, step, **options) == 143
    assert finetune_here(inputs, second, monkeypatch, **options) == 0
    assert_same_outcome(first / "output", second / "output")


def save(work, step, best_step=0):
    with resume.new_progress(work, step, best_step) as draft:
        (draft / f"checkpoint-{step}").mkdir()
        (draft / f"checkpoint-{step}/optimizer.pt").write_bytes(b"x" * 100)


def save_best(work, step):
    with resume.durable(resume.best_folder(work, step), "weights") as draft:
        (draft / "model.safetensors").write_bytes(b"y" * 100)


def test_two_checkpoints_and_the_weights_that_they_need_are_kept(tmp_path):
    save_best(tmp_path, 5)
    for step, best_step in ((5, 5), (10, 5)):
        save(tmp_path, step, best_step)
    save_best(tmp_path, 12)
    save(tmp_path, 15, 12)
    assert {path.name for path in tmp_path.iterdir()} == {"progress-10", "progress-15", "best-5", "best-12"}
    save(tmp_path, 20, 12)
    assert {path.name for path in tmp_path.iterdir()} == {"progress-15", "progress-20", "best-12"}
    assert resume.latest_checkpoint(tmp_path) == tmp_path / "progress-20/checkpoint-20"


def test_a_killed_save_leaves_the_checkpoint_before(tmp_path):
    save(tmp_path, 5)
    half = tmp_path / ".progress-10.77.part"
    half.mkdir()
    (half / "manifest.json").write_text("{}")
    assert resume.latest_checkpoint(tmp_path) == tmp_path / "progress-5/checkpoint-5"
    assert not half.exists()


@pytest.mark.parametrize("damage", ["short", "gone", "no manifest", "torn manifest", "no weights"])
def test_a_damaged_checkpoint_is_skipped_with_a_warning(tmp_path, damage, caplog):
    save(tmp_path, 5)
    save_best(tmp_path, 8)
    save(tmp_path, 10, 8)
    folder = tmp_path / "progress-10"
    if damage == "short":
        (folder / "checkpoint-10/optimizer.pt").write_bytes(b"x")
    elif damage == "gone":
        (folder / "checkpoint-10/optimizer.pt").unlink()
    elif damage == "no manifest":
        (folder / store.MANIFEST).unlink()
    elif damage == "torn manifest":
        (folder / store.MANIFEST).write_text('{"kind": "prog')
    else:
        (tmp_path / "best-8/model.safetensors").unlink()
    assert resume.latest_checkpoint(tmp_path) == tmp_path / "progress-5/checkpoint-5"
    assert "progress-10 is skipped" in caplog.text
    assert not folder.exists()


@pytest.mark.parametrize("lost", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_what_vanishes_before_it_is_loaded_is_no_fresh_start(inputs, tmp_path, monkeypatch, lost):
    assert finetune_here(inputs, tmp_path, monkeypatch, 5) == 143
    real = resume.latest_checkpoint

    def then_lost(work):
        found = real(work)
        (found / lost).unlink()
        return found

    monkeypatch.setattr(resume, "latest_checkpoint", then_lost)
    with pytest.raises(UserError, match=lost.split(".")[0]):
        finetune_here(inputs, tmp_path, monkeypatch)


def test_no_checkpoint_is_a_fresh_start(tmp_path):
    assert resume.latest_checkpoint(tmp_path / "nowhere") is None


def test_a_failure_is_left_in_one_line_and_forgotten(tmp_path):
    work = tmp_path / "work"
    resume.record_failure(work, ValueError("first\n  second"))
    assert json.loads((work / "failure.json").read_text()) == {"error": "first second"}
    resume.clear_failure(work)
    resume.clear_failure(work)
    assert not list(work.iterdir())


def test_signal_handlers_are_given_back():
    before = [signal.getsignal(number) for number in SIGNALS]
    with stop_requests() as stop:
        assert not stop
        signal.raise_signal(signal.SIGTERM)
        assert stop.signal == "SIGTERM"
    assert [signal.getsignal(number) for number in SIGNALS] == before
