"""The Snakemake that runs a study in this folder, and what it finds of one that was killed.

When Snakemake is killed outright, it leaves its lock behind, and its jobs in SLURM's queue. The next one removes the
lock, if the process that took it has ended, and cancels these jobs, which save their progress. Its own go on there.
"""

from __future__ import annotations

import getpass
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

from intaglio.allocation import RETURNS, printed_by
from intaglio.cluster.plugin import complete_plugin
from intaglio.ownership import myself, owner_in
from intaglio.store import new_file

LEADER = Path(".snakemake/intaglio/leader.json")
_LOCKS = Path(".snakemake/locks")
# Longest wait for the end of cancelled jobs, in seconds: SLURM kills them half a minute after its signal.
_PATIENCE = 120.0


def release_lock() -> str:
    """Remove Snakemake's lock on this folder if the process that took it has ended.

    Returns:
        What the user should know; empty without a lock.
    """
    leader, me = owner_in(LEADER), myself()
    locks = list(_LOCKS.glob("*.lock"))
    if not locks or leader is None:
        return ""
    if leader.ended(me):
        # From now on, a third process sees that this one lives.
        _record()
        for lock in locks:
            lock.unlink(missing_ok=True)
        return f"Snakemake was killed here (process {leader.process}): its lock is removed."
    doubt = "" if leader.host == me.host else "; if it does not any more, add --unlock to this command once"
    return f"Snakemake runs in this folder, as process {leader.process} on {leader.host}{doubt}."


def lead(locked: bool, submits: bool) -> str:
    """Become the Snakemake that runs a study in this folder; on SLURM, with its plugin completed.

    Args:
        locked: whether this process holds Snakemake's lock on the folder.
        submits: whether it submits jobs.

    Returns:
        What the user should know; usually empty.
    """
    if locked:
        _record()
    if not submits:
        return ""
    # Jobs may return to the queue, and their logs go on when SLURM starts them again.
    os.environ.update({RETURNS: "1", "SBATCH_OPEN_MODE": "append"})
    plugin = sys.modules.get("snakemake_executor_plugin_slurm")
    if plugin is not None:
        complete_plugin(plugin)
    left = _jobs_here() if locked else []
    if not left:
        return ""
    printed_by("scancel", *left)
    end = time.monotonic() + _PATIENCE
    while set(left) & set(_jobs_here()) and time.monotonic() < end:
        time.sleep(1)
    return f"Jobs of a Snakemake that was killed here are cancelled: {', '.join(left)}; new ones go on where they were."


def _record() -> None:
    with new_file(LEADER) as draft:
        draft.write_text(json.dumps(asdict(myself())) + "\n")


def _jobs_here() -> list[str]:
    """Return the user's jobs in SLURM's queue that Snakemake has submitted from this folder."""
    printed = printed_by("squeue", "--noheader", "--user", getpass.getuser(), "--format=%i|%k|%Z") or ""
    rows = [line.split("|", 2) for line in printed.splitlines() if line.count("|") >= 2]
    here = Path.cwd()
    return [job for job, comment, folder in rows if comment.startswith("rule_") and Path(folder).resolve() == here]
