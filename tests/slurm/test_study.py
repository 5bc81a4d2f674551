"""A whole study through the real SLURM: GPUs allocated to every training job, one of them preempted on the way."""

from __future__ import annotations

import time
from pathlib import Path

import pandas as pd
import pytest

from study_on_files import ROOT, planned, snakemake, write_study

from . import helpers

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.usefixtures("slurm")]

GPU = "gres/gpu=1"

# Long enough that a job is caught while it trains; a checkpoint at every step.
LONG = {
    "finetune": {"epochs": 40, "learning_rate": 1e-3, "evaluations": 4, "checkpoint_minutes": 0},
    "quantize": {"epochs": 1, "evaluations": 1},
}


def weights(folder: Path, stage: str) -> bytes:
    (file,) = folder.glob(f"results/store/{stage}/*/model.safetensors")
    return file.read_bytes()


def training_job(folder: Path, seconds: float = 120) -> str:
    """Wait until the fine-tuning job has left its first checkpoint; return the job's id."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if list(folder.glob("results/store/work/finetune-*/progress-*")):
            # What describes the data may run beside it; only training has a GPU so early.
            rows = helpers.jobs_in(folder, "JobID", "State", "AllocTRES")
            (job,) = [row["JobID"] for row in rows if row["State"] == "RUNNING" and GPU in row["AllocTRES"]]
            return job
        time.sleep(0.2)
    raise AssertionError((folder / "snakemake.txt").read_text())


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study, run without disturbance on this machine."""
    folder = tmp_path_factory.mktemp("quiet")
    write_study(folder, stages=LONG)
    snakemake(folder, "--cores", "2")
    return folder


def assert_as_undisturbed(cluster: Path, quiet: Path) -> None:
    runs = pd.read_parquet(cluster / "results/tiny/summary/runs.parquet")
    assert set(runs["status"]) == {"ok"}
    for stage in ("finetune", "quantize"):
        assert weights(cluster, stage) == weights(quiet, stage)


def test_a_study_through_slurm_with_a_preempted_training(tmp_path: Path, quiet: Path) -> None:
    cluster = tmp_path / "cluster"
    cluster.mkdir()
    write_study(cluster, stages=LONG)
    arguments = ["--snakefile", ROOT / "Snakefile", "--configfile", cluster / "study.yaml"]
    with helpers.snakemake("slurm", *arguments, folder=cluster) as run:
        job = training_job(cluster)
        # Jobs that are submitted later run the study that was started.
        (cluster / "study.yaml").write_text("variants: {}")
        helpers.preempt(job)
        assert run.wait(timeout=900) == 0, (cluster / "snakemake.txt").read_text()

    attempts = helpers.sacct(job, "State", "AllocTRES", every_attempt=True)
    assert [attempt["State"] for attempt in attempts] == ["PREEMPTED", "COMPLETED"]
    ours = helpers.jobs_in(cluster, "JobName", "AllocTRES")
    with_gpu = [row for row in ours if GPU in row["AllocTRES"]]
    # finetune, quantize, two evaluations, two profiles
    assert len(with_gpu) == 6
    assert_as_undisturbed(cluster, quiet)


def test_the_jobs_of_two_runs_share_an_allocation_that_is_preempted(tmp_path: Path, quiet: Path) -> None:
    resources = {"cpus": 1, "memory_mb": 2000, "train_minutes": 5, "measure_minutes": 5, "runs_per_allocation": 2}
    write_study(tmp_path, stages=LONG, resources=resources)
    arguments = ["--snakefile", ROOT / "Snakefile", "--configfile", tmp_path / "study.yaml"]
    with helpers.snakemake("slurm", *arguments, folder=tmp_path) as run:
        job = training_job(tmp_path)
        helpers.preempt(job)
        assert run.wait(timeout=900) == 0, (tmp_path / "snakemake.txt").read_text()

    attempts = helpers.sacct(job, "State", "AllocTRES", "Timelimit", every_attempt=True)
    assert [attempt["State"] for attempt in attempts] == ["PREEMPTED", "COMPLETED"]
    # Two trainings, two evaluations, two exports, two profiles.
    assert {attempt["Timelimit"] for attempt in attempts} == {"00:40:00"}
    ours = helpers.jobs_in(tmp_path, "JobID", "State", "AllocTRES")
    assert [row["JobID"] for row in ours if GPU in row["AllocTRES"]] == [job]
    # data, tokens, describe, the allocation, summarize, pages, plot
    assert len(ours) == 7
    assert_as_undisturbed(tmp_path, quiet)
    # The same results, whether they are made in one allocation or in many.
    write_study(tmp_path, stages=LONG)
    # What other tests have disturbed is measured again.
    assert set(planned(tmp_path)) - {"profile"} == {"plan", "summarize", "pages", "plot"}
