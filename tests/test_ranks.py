"""Trainings of two processes: as of one, killed and resumed, and what starts them."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from transformers import TrainingArguments

from commands import Commands
from intaglio.allocation import ranks_started
from intaglio.checkpoint import Checkpoint
from intaglio.cluster.launch import launch
from intaglio.store import new_artifact
from intaglio.study.options import FinetuneOptions
from intaglio.training.arguments import count_steps, training_arguments
from questions import question_data
from several import Trainings, trainings
from stage_runs import assert_same_outcome, outcome
from tiny import tiny_data, tiny_model

# 37 examples in batches of 12, in parts of 4: the last batch is one example, of which one process has no share.
EXAMPLES = 37
TRAINING: dict[str, Any] = {
    **{"batch_size": 12, "gradient_accumulation": 3, "epochs": 2, "learning_rate": 2e-3, "evaluations": 3},
    **{"dropout": 0.0, "attention_dropout": 0.0},
}
LEARNED = {"logits": 0.6, "labels": 0.4, "hidden": 0.5, "relations": 0.5}
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "finetune": ("finetune", "weighted", {"group_by_length": True}),
    "low rank": ("finetune", "data", {"low_rank": {"rank": 4}}),
    "questions": ("finetune", "questions", {}),
    "distil": ("distil", "weighted", {"layers": 1, "distillation": LEARNED}),
    "prune": ("prune", "data", {"sparsity": 0.5, "prunings": 2}),
    "cut": ("cut", "data", {"sparsity": 0.5, "importance_examples": 16}),
    "quantize": ("quantize", "data", {"calibration_examples": 16, "recalibrations": 2, "tolerance": 1.0}),
}
# For the interruptions: dropout, and a checkpoint at every step.
KEPT = {"epochs": 6, "dropout": 0.1, "attention_dropout": 0.1, "checkpoint_minutes": 0, "evaluations": 6}
STEPS = 6 * 4


class Runs:
    """Commands on tiny inputs."""

    def __init__(self, folder: Path, server: Trainings) -> None:
        self.folder, self.server = folder, server
        self.model = tiny_model(folder / "model")
        tiny_data(folder / "data", n=EXAMPLES)
        question_data(folder / "questions", EXAMPLES)
        self._write_weighted(tiny_data(folder / "balanced", n=2 * EXAMPLES), folder / "weighted")
        parent = self.command("finetune", folder / "parent")
        assert server.run(parent) == [0], self.screen

    def _write_weighted(self, data: Path, weighted: Path) -> None:
        """Write data of two classes, one of which is rare and counts more."""
        with new_artifact(weighted, "data") as draft:
            for file in data.glob("*.parquet"):
                frame = pd.read_parquet(file)
                frame = pd.concat([frame[frame.label == 0], frame[frame.label == 1][:8]])[-EXAMPLES:]
                frame.to_parquet(draft / file.name, index=False)
            facts = json.loads((data / "task.json").read_text()) | {"class_weights": "inverse"}
            (draft / "task.json").write_text(json.dumps(facts))

    @property
    def screen(self) -> str:
        return (self.folder / "screen").read_text()

    def command(self, stage: str, output: Path, data: str = "data", **options: Any) -> list[Any]:
        """Return the words of a stage's command, whose work and log are beside its output."""
        start = ["--model", self.model] if stage == "finetune" else ["--parent", self.folder / "parent"]
        words = ["--log", output.with_suffix(".log"), stage, *start, "--data", self.folder / data, "--seed", 1]
        words += ["--max-length", 48 if data == "questions" else 24, "--work", output.with_suffix(".work")]
        return [*words, "--output", output, "--options", json.dumps({"stage": stage, **TRAINING, **options})]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    folder = tmp_path_factory.mktemp("ranks")
    with trainings(folder / "screen") as server:
        yield Runs(folder, server)


@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_as_one(runs: Runs, tmp_path: Path, case: str) -> None:
    stage, data, options = CASES[case]
    one, two = (runs.command(stage, tmp_path / name, data, **options) for name in ("one", "two"))
    assert runs.server.run(one) == [0], runs.screen
    assert runs.server.run(two, two) == [0, 0], runs.screen
    (weights, history, facts), (others, other_history, other_facts) = (outcome(tmp_path / n) for n in ("one", "two"))
    assert [(row["step"], row["name"]) for row in history.to_pylist()] == [
        (row["step"], row["name"]) for row in other_history.to_pylist()
    ]
    # Rounding to integers makes more of the last bit of a sum.
    near = 5e-3 if case == "quantize" else 2e-5
    assert other_history["value"].to_pylist() == pytest.approx(history["value"].to_pylist(), abs=near)
    assert weights.keys() == others.keys()
    for name, tensor in weights.items():
        assert (tensor.double() - others[name].double()).abs().max() < 10 * near, name
    assert other_facts["validation"] == pytest.approx(facts["validation"], abs=near)
    assert {**other_facts, "validation": 0} == {**facts, "validation": 0}
    assert Checkpoint(tmp_path / "two").record["device"].startswith("2 x ")
    assert not (tmp_path / "two.work").exists()


@pytest.fixture(scope="module")
def undisturbed(runs: Runs) -> Path:
    output = runs.folder / "undisturbed"
    assert runs.server.run(*[runs.command("finetune", output, **KEPT)] * 2) == [0, 0], runs.screen
    assert outcome(output)[2]["steps"] == STEPS
    return output


def last_step(work: Path) -> int:
    return max((int(path.name.split("-")[1]) for path in work.glob("progress-*")), default=0)


def when_step(work: Path, step: int, number: int, rank: int) -> Callable[[list[int]], None]:
    """Return what sends a signal to one of the processes once a step's checkpoint is there."""

    def interrupt(processes: list[int]) -> None:
        end = time.monotonic() + 120
        while last_step(work) < step and time.monotonic() < end:
            time.sleep(0.002)
        os.kill(processes[rank], number)

    return interrupt


def test_killed_and_resumed_to_the_bit(runs: Runs, undisturbed: Path, tmp_path: Path) -> None:
    command, work = runs.command("finetune", tmp_path / "output", **KEPT), tmp_path / "output.work"
    for step, number, rank, statuses in (
        (3, signal.SIGKILL, 1, [1, -signal.SIGKILL]),
        (8, signal.SIGKILL, 0, [-signal.SIGKILL, 1]),
        # Asked to end, one takes the other along.
        (14, signal.SIGTERM, 1, [143, 143]),
    ):
        start = time.monotonic()
        assert runs.server.run(command, command, interrupt=when_step(work, step, number, rank)) == statuses
        print(f"{time.monotonic() - start:.1f} s")
        assert step <= last_step(work) < STEPS
    assert runs.server.run(command, command) == [0, 0], runs.screen
    assert_same_outcome(tmp_path / "output", undisturbed)
    assert not work.exists()


def test_one_line_says_which_process_has_ended(runs: Runs, tmp_path: Path) -> None:
    command, work = runs.command("finetune", tmp_path / "output", **KEPT), tmp_path / "output.work"
    before, start = len(runs.screen), 0.0

    def kill(processes: list[int]) -> None:
        nonlocal start
        when_step(work, 2, signal.SIGKILL, 1)(processes)
        start = time.monotonic()

    runs.server.run(command, command, interrupt=kill)
    assert time.monotonic() - start < 10
    *others, said = runs.screen[before:].splitlines()
    assert said == "another of the 2 processes of this training has ended (out of memory?), and so does this one"
    assert not [line for line in others if "rror" in line or "process" in line], others
    assert (tmp_path / "output.log").read_text().splitlines()[-1] == said


def test_a_mistake_that_one_process_finds_is_in_the_log(runs: Runs, tmp_path: Path) -> None:
    command, work = runs.command("finetune", tmp_path / "output"), tmp_path / "output.work"
    other = [tmp_path / "nowhere" if word == runs.folder / "data" else word for word in command]
    assert runs.server.run(command, other) == [2, 2]
    said = (tmp_path / "output.log").read_text().splitlines()[-1]
    assert said.startswith("intaglio finetune: ") and "nowhere" in said
    assert "nowhere" in json.loads((work / "failure.json").read_text())["error"]


def test_another_number_of_processes_goes_on(runs: Runs, tmp_path: Path) -> None:
    command, work = runs.command("finetune", tmp_path / "output", **KEPT), tmp_path / "output.work"
    assert runs.server.run(command, command, interrupt=when_step(work, 3, signal.SIGTERM, 0)) == [143, 143]
    assert runs.server.run(command) == [0], runs.screen
    assert "is of 2 processes, and goes on in 1" in (tmp_path / "output.log").read_text()
    assert outcome(tmp_path / "output")[2]["steps"] == STEPS


def test_a_process_that_uses_one_of_two_gpus_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    options = FinetuneOptions()
    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda _: 2))
    with caplog.at_level(logging.WARNING, "intaglio"):
        training_arguments(options, count_steps(options, 10), 0, tmp_path, "fp32")
    (said,) = caplog.messages
    assert "sees 2 GPUs and uses one of them; `resources: train_tasks: 2`" in said


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, (0, 1)),
        ({"RANK": "1", "WORLD_SIZE": "3"}, (1, 3)),
        ({"RANK": "0", "WORLD_SIZE": "1"}, (0, 1)),
        ({"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "4"}, (2, 4)),
        # A batch script of a job of several tasks, and a single task in it.
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, (0, 1)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "1"}, (0, 1)),
    ],
)
def test_who_is_one_of_several(
    environment: dict[str, str], found: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert ranks_started() == found


def test_several_processes_are_started_by_what_is_there(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(os, "execvp", lambda _, words: started.append(words))
    program = [sys.executable, "-m", "intaglio", "finetune"]
    for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "argv", ["intaglio", "finetune"])
    assert launch(1) and not started
    launch(2)
    commands.add("scontrol", "JobId=7 NumNodes=2 NumCPUs=8 NumTasks=2 CPUs/Task=4 Features=(null)")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    launch(2)
    # More than the allocation has.
    launch(3)
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    launch(2)
    srun = ["srun", "--ntasks=2", "--nodes=2", "--cpus-per-task=4", "--kill-on-bad-exit=1"]
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    assert started == [
        [*run, "--nproc-per-node=2", *program[1:]],
        [*srun, *program],
        [*run, "--nproc-per-node=3", *program[1:]],
        [*srun, "--overlap", *program],
    ]
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert not launch(2)
    assert len(started) == 4, "one of them starts no others"
