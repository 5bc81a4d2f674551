"""Asking and disturbing the real SLURM of cluster.sh. Every function needs the `slurm` fixture."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil  # type: ignore[import-untyped]

REPOSITORY = Path(__file__).resolve().parents[2]

# Shorter waits than a cluster wants.
HERE = [
    "--slurm-init-seconds-before-status-checks",
    "2",
    "--seconds-between-status-checks",
    "2",
    "--latency-wait",
    "5",
]

_ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "BOOT_FAIL", "DEADLINE"}


def call(*command: str | Path, **options: object) -> str:
    """Run a command and return its output; on failure, the output is in the message."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}"
    return str(done.stdout).strip()


def environment() -> dict[str, str]:
    """As after activating this python's environment: jobs inherit it, and find its snakemake and python."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


@contextmanager
def snakemake(
    profile: str, *arguments: str | Path, folder: Path, partition: str = "low"
) -> Iterator[subprocess.Popen[str]]:
    """Run Snakemake with a profile (slurm, slurm-gres) adapted to this cluster, in a separate folder.

    Its output goes to snakemake.txt there. It is killed on leaving.
    """
    profile_folder = REPOSITORY / "profiles" / profile
    command = [sys.executable, "-m", "snakemake", *map(str, arguments), "--profile", str(profile_folder), *HERE]
    command += ["--default-resources", f"slurm_partition={partition}", "slurm_account=intaglio"]
    with (folder / "snakemake.txt").open("w") as log:
        run = subprocess.Popen(command, cwd=folder, env=environment(), stdout=log, stderr=log, text=True)
    try:
        yield run
    finally:
        run.kill()
        run.wait()


def job_of(folder: Path, seconds: float = 60) -> str:
    """Wait until a Snakemake or submitit started in this folder has a job in the queue; return its id."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for jobid in queued(folder):
            return jobid
        time.sleep(0.3)
    raise AssertionError(f"no job from {folder} within {seconds} s")


def queued(folder: Path) -> list[str]:
    """Ids of the jobs from this folder that are in the queue; one that has ended is, until it is cleaned up."""
    lines = (line.split("|", 1) for line in call("squeue", "--noheader", "--format=%i|%Z").splitlines())
    return [jobid for jobid, where in lines if where == str(folder)]


def job_of_rule(folder: Path, rule: str, seconds: float = 60) -> str:
    """Wait until a job that Snakemake submitted from this folder for a rule is in the queue; return its id."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for line in call("squeue", "--noheader", "--format=%i|%k|%Z").splitlines():
            jobid, comment, where = line.split("|", 2)
            if where == str(folder) and comment.startswith(f"rule_{rule}"):
                return jobid
        time.sleep(0.3)
    raise AssertionError(f"no job of {rule} from {folder} within {seconds} s")


def wait_until_none_is_queued(folder: Path, seconds: float = 60) -> None:
    """Wait until no job from this folder is in the queue."""
    end = time.monotonic() + seconds
    while queued(folder):
        assert time.monotonic() < end, f"jobs from {folder} after {seconds} s"
        time.sleep(0.3)


def sacct(jobid: str, *fields: str, every_attempt: bool = False) -> list[dict[str, str]]:
    """Return accounting data of a job, without its steps: of its last attempt, or of each."""
    command = ["sacct", "--noheader", "--parsable2", "--allocations", "--jobs", jobid, "--format", ",".join(fields)]
    rows = call(*command, *(["--duplicates"] if every_attempt else [])).splitlines()
    return [dict(zip(fields, row.split("|"), strict=True)) for row in rows]


def jobs_in(folder: Path, *fields: str) -> list[dict[str, str]]:
    """Return the accounting data of every job that was submitted from this folder."""
    rows = call("sacct", "--noheader", "--parsable2", "--allocations", "--format", ",".join([*fields, "WorkDir"]))
    table = [row.split("|") for row in rows.splitlines()]
    return [dict(zip(fields, row[:-1], strict=True)) for row in table if row[-1] == str(folder)]


def state(jobid: str) -> str:
    """PENDING, RUNNING, COMPLETED, ... now; what follows the word (as in CANCELLED by 0) is cut off."""
    answer = subprocess.run(["squeue", "-h", "-o", "%T", "-j", jobid], capture_output=True, text=True).stdout.strip()
    if not answer:
        rows = sacct(jobid, "State")
        answer = rows[0]["State"] if rows else "UNKNOWN"
    return answer.split()[0]


def restarts(jobid: str) -> int:
    """How often SLURM has requeued a job that it still knows (five minutes after its end)."""
    words = call("scontrol", "--oneliner", "show", "job", jobid).split()
    return next(int(word.removeprefix("Restarts=")) for word in words if word.startswith("Restarts="))


def wait_for(jobid: str, wanted: str, seconds: float = 90) -> None:
    """Wait until a job is in this state; fail when it ended in another, or takes too long."""
    end = time.monotonic() + seconds
    while (now := state(jobid)) != wanted:
        assert now not in _ENDED, f"job {jobid} is {now}, not {wanted}"
        assert time.monotonic() < end, f"job {jobid} is still {now} after {seconds} s, not {wanted}"
        time.sleep(0.3)


def wait_for_file(path: Path, seconds: float = 60) -> None:
    """Wait until a job has written this file."""
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"no {path} after {seconds} s"
        time.sleep(0.2)


def preempt(jobid: str) -> str:
    """Take the node of a job in `low`, with all that runs there, for one in `high`; return its id once it is decided.

    The processes get SIGTERM, and SIGKILL 20 s later. It starts again about ten seconds after the last of them ended,
    in `spot`, where SLURM cancels what it preempts, after Snakemake has put it back into the queue.
    """
    wait_for(jobid, "RUNNING")
    before = restarts(jobid)
    node = call("squeue", "--noheader", "--format=%N", "--jobs", jobid)
    what = ["--partition=high", f"--nodelist={node}", "--exclusive", "--mem=1", "--output=/dev/null", "--chdir=/"]
    other = call("sbatch", "--parsable", *what, "--wrap", "sleep 1")
    end = time.monotonic() + 90
    while restarts(jobid) == before:
        assert time.monotonic() < end, f"job {jobid} was not requeued; it is {state(jobid)}"
        time.sleep(0.3)
    return other


@contextmanager
def lost_node(jobid: str) -> Iterator[str]:
    """End all processes of a running job and of its node at once, as a power cut does; yield the node's name.

    SLURM takes the node for lost after about half a minute (SlurmdTimeout). It is brought back on leaving.
    """
    wait_for(jobid, "RUNNING")
    node = call("squeue", "--noheader", "--format=%N", "--jobs", jobid)
    folder = Path(os.environ.get("INTAGLIO_SLURM", "/tmp/intaglio-slurm"))
    daemon = int((folder / "run" / f"slurmd.{node}.pid").read_text())
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid == daemon or _is_of_job(process, jobid):
                process.kill()
    try:
        yield node
    finally:
        call(REPOSITORY / "tests/slurm/cluster.sh", "node", node)


def _is_of_job(process: psutil.Process, jobid: str) -> bool:
    stepped = process.name() == "slurmstepd" and f"[{jobid}." in " ".join(process.cmdline())
    return stepped or process.environ().get("SLURM_JOB_ID") == jobid


def cancel_all() -> None:
    """Leave an empty queue behind, whatever a failed test left in it."""
    call("scancel", "--user=root", "--quiet")
