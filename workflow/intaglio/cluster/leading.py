"""The Snakemakes that run studies in this folder, and what they find of one that was killed.

When Snakemake is killed outright, it leaves its lock behind, and its jobs in SLURM's queue. The next one removes the
lock, if the process that took it has ended, and cancels these jobs, which save their progress. Its own go on there.

Snakemake lets studies run side by side in one folder if they make nothing in common, and refuses the second one
otherwise. It does not see those of other folders that share the store by a link: Intaglio refuses them.
"""

from __future__ import annotations

import atexit
import getpass
import json
import os
import shutil
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from intaglio.allocation import RETURNS, printed_by
from intaglio.cluster.plugin import complete_plugin
from intaglio.errors import UserError
from intaglio.ownership import Owner, myself, owner_in
from intaglio.planning.jobs import STORE
from intaglio.store import new_file

# Records of these processes: owners' files, and the folder of each.
_LEADERS = STORE / ".leaders"
_OWNER, _FOLDER = "owner.json", "folder"
_LOCKS = Path(".snakemake/locks")
# Longest wait for the end of cancelled jobs, in seconds: SLURM kills them half a minute after its signal.
_PATIENCE = 120.0


def release_lock() -> str:
    """Remove Snakemake's locks on this folder if all processes that took them have ended.

    Returns:
        What the user should know; empty without a lock.
    """
    me, leaders = myself(), _leaders(here=True)
    locks = list(_LOCKS.glob("*.lock"))
    if not locks:
        # Also those on other hosts, of whom it cannot be told, have ended.
        for record, leader in leaders.items():
            if leader.ended(me) or leader.host != me.host:
                _forget(record)
        return ""
    living = [leader for leader in leaders.values() if not leader.ended(me)]
    if living:
        sure = all(leader.host == me.host for leader in living)
        doubt = "" if sure else "; if it does not any more, add --unlock to this command once"
        return f"Snakemake runs in this folder: {_named(living)}{doubt}."
    if not leaders:
        return ""
    # From now on, a third process sees that this one lives.
    _record()
    for lock in locks:
        lock.unlink(missing_ok=True)
    for record in leaders:
        _forget(record)
    return f"Snakemake was killed here ({_named(leaders.values())}): its lock is removed."


def lead(locked: bool, submits: bool) -> str:
    """Become a Snakemake that runs a study in this folder; on SLURM, with its plugin completed.

    Args:
        locked: whether this process holds Snakemake's lock on the folder.
        submits: whether it submits jobs.

    Returns:
        What the user should know; usually empty.

    Raises:
        UserError: a Snakemake of another folder uses the same store.
    """
    if locked:
        atexit.register(_forget, _record())
        _refuse_other_folders()
    if not submits:
        return ""
    # Jobs may return to the queue, and their logs go on when SLURM starts them again.
    os.environ.update({RETURNS: "1", "SBATCH_OPEN_MODE": "append"})
    plugin = sys.modules.get("snakemake_executor_plugin_slurm")
    if plugin is not None:
        complete_plugin(plugin)
    me = myself()
    alone = all(leader.ended(me) for leader in _leaders(here=True).values() if leader.process != me.process)
    left = _jobs_here() if locked and alone else []
    if not left:
        return ""
    printed_by("scancel", *left)
    end = time.monotonic() + _PATIENCE
    while set(left) & set(_jobs_here()) and time.monotonic() < end:
        time.sleep(1)
    return f"Jobs of a Snakemake that was killed here are cancelled: {', '.join(left)}; new ones go on where they were."


def _record() -> Path:
    me = myself()
    record = Path.cwd() / _LEADERS / f"{me.host}-{me.process}"
    record.mkdir(parents=True, exist_ok=True)
    for name, text in ((_OWNER, json.dumps(asdict(me))), (_FOLDER, str(Path.cwd()))):
        with new_file(record / name) as draft:
            draft.write_text(f"{text}\n")
    return record


def _forget(record: Path) -> None:
    shutil.rmtree(record, ignore_errors=True)


def _leaders(here: bool) -> dict[Path, Owner]:
    """Return the recorded processes of this folder, or those of others, by the folders of their records."""
    found = {}
    for record in sorted(_LEADERS.glob("*")):
        with suppress(OSError):
            leader, folder = owner_in(record / _OWNER), Path((record / _FOLDER).read_text().strip())
            if leader is not None and (folder == Path.cwd()) is here:
                found[record] = leader
    return found


def who_leads() -> str:
    """Return the Snakemakes that run, or may run, on this store, in words; empty if there is none."""
    living = {
        record: leader
        for here in (True, False)
        for record, leader in _leaders(here).items()
        if not leader.ended(myself())
    }
    sure = all(leader.host == myself().host for leader in living.values())
    doubt = "" if sure else f"; if it does not any more, remove {', '.join(map(str, living))}"
    return f"{_named(living.values())}{doubt}" if living else ""


def _named(leaders: Iterable[Owner]) -> str:
    return ", ".join(f"process {leader.process} on {leader.host}" for leader in leaders)


def _refuse_other_folders() -> None:
    """Refuse to run beside a Snakemake of another folder that shares the store, and does not see this one's lock."""
    me = myself()
    for record, leader in _leaders(here=False).items():
        if leader.ended(me):
            _forget(record)
        # Of two that start at once, the later one leaves.
        elif (leader.started, leader.process) < (me.started, me.process):
            folder = (record / _FOLDER).read_text().strip()
            raise UserError(
                f"{STORE}: Snakemake uses it from {folder}, as process {leader.process} on {leader.host}, and the two "
                "would remove each other's results; wait for its end, or give this folder a store of its own and name "
                f"that one under `stores` (if it has ended, remove {record})"
            )


def _jobs_here() -> list[str]:
    """Return the user's jobs in SLURM's queue that Snakemake has submitted from this folder."""
    printed = printed_by("squeue", "--noheader", "--user", getpass.getuser(), "--format=%i|%k|%Z") or ""
    rows = [line.split("|", 2) for line in printed.splitlines() if line.count("|") >= 2]
    here = Path.cwd()
    return [job for job, comment, folder in rows if comment.startswith("rule_") and Path(folder).resolve() == here]
