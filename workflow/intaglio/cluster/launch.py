"""The start of the processes of one training: by srun in an allocation of as many tasks, by torchrun anywhere else."""

from __future__ import annotations

import argparse
import os
import re
import sys

from intaglio.allocation import printed_by, ranks_started


def add_tasks(parser: argparse.ArgumentParser) -> None:
    """Add the option --tasks to the parser of a stage."""
    help = "number of processes of the training, which divide every batch; each takes a GPU where there are any"
    parser.add_argument("--tasks", type=int, default=1, help=help)


def launch(tasks: int) -> bool:
    """Replace this process by so many that run the same command, unless it is one of them, or alone with `tasks` 1.

    Returns:
        Whether this process is alone, or the first of several.
    """
    rank, started = ranks_started()
    if started > 1:
        # torch reads this when it is imported; it would warn of what is meant, and of others that have ended.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    elif tasks > 1:
        command = _command(tasks)
        os.execvp(command[0], [*command, "-m", "intaglio", *sys.argv[1:]])
    return rank == 0


def _command(tasks: int) -> list[str]:
    """Return what starts python that often; its arguments follow."""
    job = os.environ.get("SLURM_JOB_ID")
    printed = printed_by("scontrol", "--oneliner", "show", "job", job) if job else None
    facts = dict(re.findall(r"(\S+?)=(\S+)", printed or ""))
    if int(facts.get("NumTasks", 1)) < tasks:
        return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={tasks}"]
    srun = ["srun", f"--ntasks={tasks}", f"--nodes={facts['NumNodes']}", f"--cpus-per-task={facts['CPUs/Task']}"]
    # SLURM ends the others when one has ended early; and shares what a step around this one has.
    srun += ["--kill-on-bad-exit=1", *(["--overlap"] if "SLURM_STEP_ID" in os.environ else [])]
    return [*srun, sys.executable]
