"""Make one target of the workflow in one cluster job, and follow it from this machine.

Snakemake's own SLURM executor submits one job per rule and has to run until the last one has ended. Here, one
allocation runs Snakemake as on a single machine, for a single model that is needed now. submitit writes the batch
script; without SLURM, the same job runs as a process of this machine.

A job that is preempted, or runs out of time, is resumed: SLURM sends SIGTERM to every process, or submitit SIGUSR2 to
this one (which then sends SIGTERM to the others). Training saves its checkpoint and ends. The job returns to the queue
and runs the same command again, and training finds its checkpoint. So there is no state to carry over here.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from intaglio.allocation import DEADLINE
from intaglio.errors import UserError

# Time for Snakemake and training to save after SIGTERM, and time before its limit at which a job gets its signal.
_SAVING_SECONDS = 100
_WARNING_SECONDS = 120
# A training that needs more than this many time limits has a wrong limit.
_MOST_TIMEOUTS = 20
# Time between two queries of the scheduler; a result is noticed within a second by its file.
_QUEUE_SECONDS = 15


class _Target:
    """The job: a call that submitit pickles and runs on the node, and runs again after a requeue."""

    def __init__(self, target: str, configfile: Path | None, cpus: int, gpus: int) -> None:
        self.target = target
        # Without the user's default profile, which may submit jobs.
        self.command = [sys.executable, "-m", "snakemake", target, "--executor", "local", "--cores", str(cpus)]
        self.command += ["--nolock", "--rerun-incomplete", "--nocolor", "--profile", "none"]
        if gpus:
            self.command += ["--resources", f"gpu={gpus}"]
        if configfile:
            self.command += ["--configfile", str(configfile)]
        self._child: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int:
        if any(Path(".snakemake/locks").glob("*.lock")):
            print("a Snakemake runs in this folder (or was killed: snakemake --unlock); submit again afterwards")
            return 1
        # Snakemake's own lock cannot be used: a run that ends removes all locks, including those of others, and a run
        # that is killed leaves a lock on which its next attempt would fail. So jobs take turns by a kernel lock, which
        # ends with its process, until only their targets, which differ, are left to make.
        Path(".snakemake").mkdir(exist_ok=True)
        with Path(".snakemake/intaglio.lock").open("w") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)
            status = self._run([*self.command, "--omit-from", self.target])
        return status or self._run(self.command)

    def _run(self, command: list[str]) -> int:
        stopped = False

        def stop(*_: Any) -> None:
            nonlocal stopped
            stopped = True
            _signal(child, signal.SIGTERM)

        # SLURM sends submitit's SIGUSR2 to all processes of the job, and would end those without a handler.
        handler = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        child = subprocess.Popen(command, process_group=0)
        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGUSR2, handler)
        self._child = child
        try:
            # Not wait(): checkpoint(), which runs in a signal handler, could not wait for the child at the same time.
            while (status := child.poll()) is None:
                time.sleep(0.2)
        finally:
            self._end_child()
        if stopped and status:
            # Returning would report a result, which ends the job for those who wait. SystemExit leaves none, and SLURM
            # shows whether the job is back in the queue (preempted) or not (cancelled).
            sys.exit(128 + signal.SIGTERM)
        return status

    def checkpoint(self) -> Any:
        """Let training save before submitit requeues the job, and return the call to make then."""
        from submitit.helpers import DelayedSubmission

        self._end_child()
        return DelayedSubmission(self)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_child": None}

    def _end_child(self) -> None:
        if self._child is None:
            return
        _signal(self._child, signal.SIGTERM)
        try:
            self._child.wait(timeout=_SAVING_SECONDS)
        except subprocess.TimeoutExpired:
            _signal(self._child, signal.SIGKILL)


def _signal(child: subprocess.Popen[bytes], number: int) -> None:
    """Signal Snakemake, its shell and the training, as Snakemake does not pass signals on."""
    if child.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, number)


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    """Let the job find this package and this Python, whether installed and activated or not, by its environment."""
    kept = dict(os.environ)
    package = str(Path(__file__).resolve().parents[2])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [package, kept.get("PYTHONPATH")]))
    os.environ["PATH"] = os.pathsep.join(filter(None, [str(Path(sys.executable).parent), kept.get("PATH")]))
    # submitit says when the time is nearly up, and returns the job to the queue.
    os.environ[DEADLINE] = "inf"
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(kept)


def _left_queue(job_id: str) -> bool:
    """Return whether the job has left the queue; asks the queue, as not every cluster has accounting."""
    command = ["squeue", "--noheader", "--format=%T", "--jobs", job_id]
    answer = subprocess.run(command, capture_output=True, text=True)
    return not answer.stdout.strip() if answer.returncode == 0 else "Invalid job id" in answer.stderr


def _follow(job: Any, on_slurm: bool) -> bool:
    """Show the job's log as it grows until the job has ended; return whether it left a result."""
    shown = 0
    asked = time.monotonic()
    gone = False
    while True:
        finished = job.paths.result_pickle.exists()
        if job.paths.stdout.exists():
            with job.paths.stdout.open("rb") as log:
                log.seek(shown)
                text = log.read()
            shown += len(text)
            sys.stdout.write(text.decode(errors="replace"))
            sys.stdout.flush()
        if finished or gone:
            return bool(finished)
        if not on_slurm:
            gone = job.done()
        elif time.monotonic() - asked > _QUEUE_SECONDS:
            asked = time.monotonic()
            gone = _left_queue(job.job_id)
            if gone:
                time.sleep(5)  # on a network file system, the result may show after the queue has dropped the job
        time.sleep(1)


def _executor(log_folder: Path, local: bool) -> Any:
    try:
        import submitit
    except ImportError as error:
        raise UserError("submission needs submitit, which is not installed: pip install submitit") from error
    on_slurm = not local and shutil.which("sbatch") and shutil.which("srun")
    cluster = "slurm" if on_slurm else "local"
    return submitit.AutoExecutor(log_folder, cluster=cluster, slurm_max_num_timeout=_MOST_TIMEOUTS)


def submit(
    target: str,
    *,
    configfile: Path | None = None,
    partition: str | None = None,
    account: str | None = None,
    gpus: int = 1,
    cpus: int = 4,
    memory_gb: int = 16,
    minutes: int = 240,
    log_folder: Path = Path("slurm_logs"),
    local: bool = False,
) -> int:
    """Make one target in one job while showing its log; return Snakemake's exit status.

    Args:
        target: a file of the workflow, or the name of a rule without wildcards.
        configfile: the study file; config.yaml by default.
        partition: partition of the job; the cluster's default if None.
        account: account to charge; the user's default if None.
        gpus: number of GPUs on one node.
        cpus: number of cores for Snakemake and its jobs.
        memory_gb: memory in GB.
        minutes: time limit of one attempt; a training that needs more is requeued and resumed.
        log_folder: folder for the log and submitit's files; must be visible from the nodes.
        local: run on this machine, even if there is SLURM.

    Raises:
        UserError: submitit or the study is missing, SLURM refuses the job, or the job ended without a result.
    """
    if configfile and not configfile.is_file():
        raise UserError(f"{configfile}: no such study file")
    executor = _executor(log_folder, local)
    executor.update_parameters(
        name="intaglio",
        nodes=1,
        tasks_per_node=1,
        cpus_per_task=cpus,
        mem_gb=memory_gb,
        timeout_min=minutes,
        stderr_to_stdout=True,
        local_gpus_per_node=gpus,
        slurm_partition=partition,
        slurm_account=account,
        # --gres=gpu:N is supported everywhere, --gpus is not.
        slurm_gres=f"gpu:{gpus}" if gpus else None,
        slurm_signal_delay_s=min(_WARNING_SECONDS, minutes * 15),
        # srun does not inherit the number of CPUs from sbatch.
        slurm_srun_args=[f"--cpus-per-task={cpus}"],
        slurm_additional_parameters={"requeue": True},
    )
    with _environment():
        try:
            job = executor.submit(_Target(target, configfile and configfile.resolve(), cpus, gpus))
        except Exception as error:  # submitit wraps sbatch's errors in several classes
            reason = (str(error).strip().splitlines() or [repr(error)])[-1]
            raise UserError(f"{executor.cluster} does not take the job: {reason}") from error
    log = job.paths.stdout
    print(f"job {job.job_id} on {executor.cluster}, log: {log}", flush=True)
    try:
        finished = _follow(job, on_slurm=executor.cluster == "slurm")
    except KeyboardInterrupt:
        job.cancel(check=False)
        raise UserError(f"job {job.job_id} cancelled; log: {log}") from None
    if not finished:
        raise UserError(f"job {job.job_id} ended without a result (cancelled, killed or out of memory); log: {log}")
    try:
        return int(job.result())
    except Exception as error:
        raise UserError(f"job {job.job_id} failed before Snakemake ended; log: {log}") from error
