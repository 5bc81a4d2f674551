"""Profiles, submission and rule.sbatch on a real SLURM, with toy workflows whose jobs can be preempted."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from intaglio.cluster import submit as submission
from intaglio.cluster.doctor import findings
from intaglio.cluster.submit import submit
from intaglio.errors import UserError

from . import helpers

# Counts to the end. On SIGTERM it takes its time to save and fails, as a training does; the next attempt goes on there.
# When its time is up, it saves and returns to the queue.
_TRAIN = f"""
import pathlib, signal, sys, time
sys.path.insert(0, {str(helpers.REPOSITORY / "workflow")!r})
from intaglio.allocation import TimeLimit, return_to_queue
out, steps = pathlib.Path(sys.argv[1]), int(sys.argv[2])
saved = pathlib.Path("saved") / out.name
saved.parent.mkdir(exist_ok=True)
step = int(saved.read_text()) if saved.exists() else 0
started_at = step
limit = TimeLimit()

def leave(*_):
    time.sleep(2)
    saved.write_text(str(step))
    sys.exit(1)

signal.signal(signal.SIGTERM, leave)
pathlib.Path("started-" + out.name).touch()
while step < steps:
    if limit:
        saved.write_text(str(step))
        return_to_queue(True)
        sys.exit(143)
    time.sleep(0.1)
    step += 1
out.write_text(f"from {{started_at}} to {{step}}")
"""

# Without exec, SIGTERM ends the shell at once and Snakemake after it, and SLURM kills a training that is still saving
# with the cgroup of its step.
_SNAKEFILE = (
    f"""
import sys
sys.path.insert(0, {str(helpers.REPOSITORY / "workflow")!r})
import snakemake_executor_plugin_slurm as plugin
from intaglio.cluster.leading import lead, release_lock
from intaglio.planning.requests import requests
from intaglio.study.schema import Resources as Wanted

# The plugin asks less and less often, up to every three minutes.
plugin.Executor.next_seconds_between_status_checks = property(lambda self: 2, lambda self, seconds: None)
asked = requests(Wanted(**config.get("resources", {{}})), True, None)
GPU = {{name: value for name, value in asked.items() if value is not None}}

if workflow.is_main_process:
    print(release_lock())

onstart:
    print(lead(workflow.execution_settings.lock, not workflow.local_exec))

"""
    + """
localrules: data

rule data:
    output: "data"
    shell: "echo once >> made; sleep 1; touch {output}"

rule finetune:
    input: "data"
    output: "{name}.long"
    log: "{name}.long.log"
    resources: **GPU, mem_mb=200, runtime=5, cpus_per_task=2
    shell: "exec python train.py {output} 80 2> {log}"

rule distil:
    output: "{name}.wide"
    resources: mem_mb=200, runtime=5, cpus_per_task=4
    shell: "exec python train.py {output} 80"

rule cut:
    output: "{name}.longer"
    resources: mem_mb=200, runtime=5, cpus_per_task=1
    shell: "exec python train.py {output} 140"

# Longer than three quarters of a minute.
rule prune:
    output: "{name}.longest"
    resources: mem_mb=200, runtime=5, cpus_per_task=1
    shell: "exec python train.py {output} 460"

rule evaluate:
    output: "{name}.short"
    resources: **GPU, mem_mb=200, runtime=5, cpus_per_task=1
    shell: "exec python train.py {output} 1"

rule diverges:
    output: "{name}.diverged"
    log: "{name}.diverged.log"
    resources: mem_mb=200, runtime=5
    shell: "echo 'intaglio finetune: the loss became nan at step 3' > {log}; exit 2"

rule fails:
    output: "failed"
    shell: "exit 3"
"""
)


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    (tmp_path / "train.py").write_text(_TRAIN)
    (tmp_path / "Snakefile").write_text(_SNAKEFILE)
    return tmp_path


def _profile(name: str) -> dict[str, object]:
    settings = yaml.safe_load((helpers.REPOSITORY / "profiles" / name / "config.yaml").read_text())
    assert isinstance(settings, dict)
    return settings


def test_the_gres_profile_differs_only_in_how_gpus_are_asked_for() -> None:
    plain, gres = _profile("slurm"), _profile("slurm-gres")
    assert gres.pop("config") == ["resources={gpus: gres}"]
    assert gres == plain


@pytest.mark.slurm
@pytest.mark.usefixtures("slurm")
@pytest.mark.parametrize("profile", ["slurm", "slurm-gres"])
def test_a_rule_gets_its_gpu(toy: Path, profile: str) -> None:
    with helpers.snakemake(profile, "a.short", "b.short", folder=toy) as run:
        assert run.wait(90) == 0, (toy / "snakemake.txt").read_text()
    jobs = helpers.jobs_in(toy, "State", "AllocTRES", "Partition", "Account")
    assert len(jobs) == 2
    for job in jobs:
        assert job["State"] == "COMPLETED"
        assert "gres/gpu=1" in job["AllocTRES"].split(",")
        assert (job["Partition"], job["Account"]) == ("low", "intaglio")


@pytest.mark.slurm
@pytest.mark.usefixtures("slurm")
def test_a_preempted_rule_goes_on_where_it_was(toy: Path) -> None:
    with helpers.snakemake("slurm", "a.long", folder=toy) as run:
        jobid = helpers.job_of(toy)
        helpers.wait_for_file(toy / "started-a.long")
        time.sleep(1)
        other = helpers.preempt(jobid)
        assert run.wait(120) == 0, (toy / "snakemake.txt").read_text()
    first, *_, last = helpers.sacct(jobid, "State", "AllocTRES", every_attempt=True)
    assert (first["State"], last["State"]) == ("PREEMPTED", "COMPLETED")
    assert len(helpers.jobs_in(toy, "JobID")) == 1, "requeued, not submitted again"
    assert helpers.sacct(other, "Partition", "State") == [{"Partition": "high", "State": "COMPLETED"}]
    started_at = int((toy / "a.long").read_text().split()[1])
    assert started_at > 0


def _states(jobid: str) -> list[str]:
    """The states of a job's attempts, in accounting."""
    return [attempt["State"] for attempt in helpers.sacct(jobid, "State", every_attempt=True)]


def _started_at(file: Path) -> int:
    return int(file.read_text().split()[1])


@pytest.mark.slurm
@pytest.mark.usefixtures("slurm")
def test_time_limit_preemption_and_scancel_cost_nothing_and_a_mistake_is_made_once(toy: Path) -> None:
    """In a partition of one minute, less than is asked for, where SLURM cancels what it preempts."""
    files = ["a.longest", "b.wide", "c.long", "d.diverged"]
    with helpers.snakemake("slurm", *files, folder=toy, partition="spot") as run:
        longest, preempted, cancelled = (helpers.job_of_rule(toy, rule) for rule in ("prune", "distil", "finetune"))
        for name in ("b.wide", "c.long"):
            helpers.wait_for_file(toy / f"started-{name}")
        time.sleep(1)
        helpers.call("scancel", cancelled)
        helpers.preempt(preempted)
        assert run.wait(200) == 1, "one of them diverges"
    assert all((toy / name).exists() for name in files[:3]), (toy / "snakemake.txt").read_text()

    assert _states(longest) == ["REQUEUED", "COMPLETED"]
    # By Snakemake; SLURM itself would have left PREEMPTED.
    assert _states(preempted) == ["REQUEUED", "COMPLETED"]
    assert _states(cancelled) == ["CANCELLED by 0"]
    assert {row["Timelimit"] for row in helpers.jobs_in(toy, "Timelimit")} == {"00:01:00"}
    others = {row["JobID"]: row["State"] for row in helpers.jobs_in(toy, "JobID", "State")}
    for job in (longest, preempted, cancelled):
        del others[job]
    # The cancelled one again, and the diverged one, once.
    assert sorted(others.values()) == ["COMPLETED", "FAILED"]
    assert all(_started_at(toy / name) > 0 for name in files[:3]), "each went on where it was"


@pytest.mark.slurm
@pytest.mark.usefixtures("slurm")
def test_a_job_whose_node_is_lost_goes_to_another_one(toy: Path) -> None:
    with helpers.snakemake("slurm", "a.long", folder=toy) as run:
        jobid = helpers.job_of(toy)
        helpers.wait_for_file(toy / "started-a.long")
        with helpers.lost_node(jobid) as lost:
            assert run.wait(180) == 0, (toy / "snakemake.txt").read_text()
    attempts = helpers.sacct(jobid, "State", "NodeList", every_attempt=True)
    assert [attempt["State"] for attempt in attempts] == ["NODE_FAIL", "COMPLETED"]
    assert attempts[0]["NodeList"] == lost != attempts[1]["NodeList"]
    assert len(helpers.jobs_in(toy, "JobID")) == 1, "requeued, not submitted again"
    assert (toy / "a.long").exists()


@pytest.mark.slurm
@pytest.mark.usefixtures("slurm")
def test_a_killed_snakemake_is_just_started_again(toy: Path) -> None:
    with helpers.snakemake("slurm", "a.longer", folder=toy):
        old = helpers.job_of_rule(toy, "cut")
        helpers.wait_for_file(toy / "started-a.longer")
        time.sleep(1)
    assert helpers.state(old) == "RUNNING"
    with helpers.snakemake("slurm", "a.longer", folder=toy) as run:
        assert run.wait(120) == 0, (toy / "snakemake.txt").read_text()
    said = (toy / "snakemake.txt").read_text()
    assert "its lock is removed" in said and f"cancelled: {old};" in said
    assert sorted(row["State"] for row in helpers.jobs_in(toy, "State")) == ["CANCELLED by 0", "COMPLETED"]
    assert _started_at(toy / "a.longer") > 0


@pytest.mark.slurm
@pytest.mark.usefixtures("slurm")
def test_submit_through_slurm_survives_preemption(toy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    call = (
        "from intaglio.cluster.submit import submit; import pathlib, sys; sys.exit(submit('a.long', partition='low', "
    )
    call += "account='intaglio', gpus=1, cpus=2, memory_gb=1, minutes=5, log_folder=pathlib.Path('logs')))"
    path = {"PYTHONPATH": str(helpers.REPOSITORY / "workflow")}
    run = subprocess.Popen([sys.executable, "-c", call], cwd=toy, env={**os.environ, **path})
    jobid = helpers.job_of(toy)
    helpers.wait_for_file(toy / "started-a.long")
    time.sleep(1)
    helpers.preempt(jobid)
    assert run.wait(120) == 0, capfd.readouterr()
    assert helpers.restarts(jobid) == 1
    assert "gres/gpu=1" in helpers.sacct(jobid, "AllocTRES")[0]["AllocTRES"].split(",")
    assert int((toy / "a.long").read_text().split()[1]) > 0
    shown = capfd.readouterr().out
    assert f"job {jobid} on slurm" in shown
    assert "1 of 1 steps (100%) done" in shown, "the log of the job is shown"


@pytest.mark.slurm
@pytest.mark.usefixtures("slurm")
def test_submit_says_what_slurm_says(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(toy)
    with pytest.raises(UserError, match="Invalid partition"):
        submit("a.short", partition="nowhere", minutes=1)
    assert submit("failed", gpus=0, cpus=1, memory_gb=1, minutes=1) == 1
    helpers.wait_until_none_is_queued(toy)
    monkeypatch.setattr(submission, "_QUEUE_SECONDS", 1)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(submit, "a.long", gpus=1, cpus=1, memory_gb=1, minutes=1)
        jobid = helpers.job_of(toy)
        helpers.wait_for_file(toy / "started-a.long")
        helpers.call("scancel", jobid)
        with pytest.raises(UserError, match=f"job {jobid} ended without a result"):
            waiting.result(60)


@pytest.mark.slow
def test_submit_on_this_machine(toy: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(toy)
    assert submit("a.short", gpus=0, cpus=1, memory_gb=1, minutes=1, local=True) == 0
    assert (toy / "a.short").read_text() == "from 0 to 1"
    assert "on local" in capfd.readouterr().out
    assert submit("failed", gpus=0, cpus=1, memory_gb=1, minutes=1, local=True) == 1
    with pytest.raises(UserError, match=r"nowhere\.yaml: no such study file"):
        submit("a.short", configfile=Path("nowhere.yaml"), local=True)


@pytest.mark.slurm
@pytest.mark.usefixtures("slurm")
def test_rule_sbatch_side_by_side_and_preempted(toy: Path) -> None:
    script = helpers.REPOSITORY / "profiles" / "slurm" / "rule.sbatch"
    options = ["--parsable", "--mem=200M", "--cpus-per-task=2"]
    jobs = {
        name: helpers.call("sbatch", *options, "-w", node, script, name, cwd=toy, env=helpers.environment())
        for name, node in {"a.long": "n1", "b.long": "n2"}.items()
    }
    for name in jobs:
        helpers.wait_for_file(toy / f"started-{name}")
    assert (toy / "made").read_text() == "once\n", "what both need is made by one of them"
    time.sleep(1)
    helpers.preempt(jobs["a.long"])
    for name, jobid in jobs.items():
        helpers.wait_for(jobid, "COMPLETED")
        assert "gres/gpu=1" in helpers.sacct(jobid, "AllocTRES")[0]["AllocTRES"].split(",")
        assert (toy / name).exists(), (toy / f"slurm-{jobid}.log").read_text()
    assert [helpers.restarts(jobid) for jobid in jobs.values()] == [1, 0]
    assert int((toy / "a.long").read_text().split()[1]) > 0
    assert (toy / "b.long").read_text() == "from 0 to 80"


@pytest.mark.slurm
@pytest.mark.usefixtures("slurm")
def test_the_doctor_on_this_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    said = list(findings(tmp_path))
    assert any(line.startswith("accounts     ") and "intaglio" in line for line in said)
    assert (
        "partitions   low: 2 nodes, up to 2 GPUs on 2 of them, up to 1440 min, the default, preempted jobs: REQUEUE"
        in said
    )
    assert "             spot: 2 nodes, up to 2 GPUs on 2 of them, up to 1 min, preempted jobs: CANCEL" in said
    default = helpers.call("sacctmgr", "--noheader", "--parsable2", "show", "user", "root", "format=defaultaccount")
    assert said[-6:] == [
        "  default-resources:",
        f"    slurm_account: {default}",
        "    slurm_partition: low",
        "  config:",
        '    - "resources={gpus: gpus}"',
        '    - "profile={machine: low}"',
    ]
