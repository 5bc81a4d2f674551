"""A training of two processes through the real SLURM, one on each node, preempted on the way."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
import yaml

from in_process import run_jobs
from intaglio.checkpoint import Checkpoint
from stage_runs import outcome
from study_on_files import ROOT, write_study

from . import helpers

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.usefixtures("slurm", "one_thread")]

# Long enough to be caught at it; a checkpoint at every step. Without dropout, which is another in each process.
LONG = {"epochs": 20, "learning_rate": 1e-3, "evaluations": 4, "checkpoint_minutes": 0}
LONG |= {"dropout": 0.0, "attention_dropout": 0.0}
TWO = {"cpus": 1, "memory_mb": 1000, "train_minutes": 5, "measure_minutes": 5, "train_tasks": 2, "train_nodes": 2}


def test_a_training_on_two_nodes_is_preempted_and_ends_as_one_process_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    study = write_study(tmp_path, variants={"float": None}, stages={"finetune": LONG}, resources=TWO)
    plan = run_jobs(yaml.safe_load(study.read_text()), ["data", "model", "tokens", "finetune"])
    (training,) = plan.jobs["finetune"].values()
    alone = tmp_path / "alone"
    shutil.move(training.output, alone)

    arguments = [training.output, "--snakefile", ROOT / "Snakefile", "--configfile", study]
    with helpers.snakemake("slurm", *arguments, folder=tmp_path) as run:
        job = helpers.job_of_rule(tmp_path, "finetune")
        end = time.monotonic() + 90
        while not list(Path(training.work).glob("progress-*")):
            assert time.monotonic() < end, (tmp_path / "snakemake.txt").read_text()
            time.sleep(0.2)
        helpers.preempt(job)
        assert run.wait(300) == 0, (tmp_path / "snakemake.txt").read_text()

    attempts = helpers.sacct(job, "State", "NNodes", "AllocTRES", every_attempt=True)
    assert [attempt["State"] for attempt in attempts] == ["PREEMPTED", "COMPLETED"]
    for attempt in attempts:
        assert attempt["NNodes"] == "2" and "gres/gpu=2" in attempt["AllocTRES"].split(",")
    steps = helpers.call("sacct", "--noheader", "--parsable2", "--jobs", job, "--format", "JobID,NTasks,State")
    assert f"{job}.0|2|COMPLETED" in steps.splitlines()
    (_, history, facts), (_, other, others) = (outcome(Path(path)) for path in (alone, training.output))
    assert other["value"].to_pylist() == pytest.approx(history["value"].to_pylist(), abs=1e-4)
    assert (facts["steps"], facts["best_step"]) == (others["steps"], others["best_step"])
    assert Checkpoint(Path(training.output)).record["device"].startswith("2 x ")
