"""One owner for a folder of work: another process that wants it waits until the owner has ended.

A lock of the file system does not do: some shared file systems refuse locks, and on others they hold on one node only.
The owner writes a file with its name into the folder, and touches it every few seconds. A process on the same node can
tell at once whether the owner lives; on another node, an owner is taken for dead once it has not touched its file for a
while. What is observed is a change of the file, so the nodes' clocks need not agree.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from intaglio.allocation import restarts

_log = logging.getLogger(__name__)

OWNER = "owner.json"
# Seconds between two touches; without one for so long, an owner on another node is dead. Shared file systems may show a
# change half a minute late.
BEAT, SILENCE = 5.0, 90.0
# Seconds between two looks at another's file.
_LOOK = 0.5
# Tokens of this process, by folder.
_held: dict[Path, str] = {}


@dataclass(frozen=True)
class Owner:
    """A process that owns a folder.

    Attributes:
        node: host, boot and namespace of process numbers: where the number means this process.
        host: name of the host.
        process: its number.
        started: time of its start in seconds since the epoch; a number is used again by later processes.
        job: SLURM's number of its job, empty without SLURM.
        restart: how often SLURM requeued that job.
        token: unique.
    """

    node: str
    host: str
    process: int
    started: float
    job: str
    restart: int
    token: str = field(default_factory=lambda: uuid.uuid4().hex)

    def ended(self, asking: Owner) -> bool:
        """Return whether it has certainly ended, as another process can tell."""
        if self.node == asking.node:
            try:
                process = psutil.Process(self.process)
                return bool(process.status() == psutil.STATUS_ZOMBIE or abs(process.create_time() - self.started) > 1)
            except psutil.NoSuchProcess:
                return True
        if self.host == asking.host and self._boot != asking._boot:
            return True
        return bool(self.job) and self.job == asking.job and self.restart < asking.restart

    @property
    def _boot(self) -> str:
        return self.node.split()[1]


class TakenOver(SystemExit):
    """Another process took this one for dead and goes on with its job; this one leaves, and records nothing there."""

    def __init__(self) -> None:
        super().__init__(1)


def myself() -> Owner:
    """Return this process as an owner."""
    host, process = socket.gethostname(), os.getpid()
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return Owner(
            node=f"{host} {boot} {Path('/proc/self/ns/pid').readlink()}",
            host=host,
            process=process,
            started=psutil.Process(process).create_time(),
            job=os.environ.get("SLURM_JOB_ID", ""),
            restart=restarts(),
        )
    return Owner(f"{host} {psutil.boot_time():.0f} -", host, process, psutil.Process(process).create_time(), "", 0)


@contextmanager
def sole_owner(folder: Path) -> Iterator[bool]:
    """Own a folder within this context; wait as long as another process owns it.

    Yields:
        Whether another process was waited for: it may have done what this one wants to do.
    """
    folder.mkdir(parents=True, exist_ok=True)
    mine = myself()
    waited = _claim(folder, mine)
    ended = threading.Event()
    beat = threading.Thread(target=_touch, args=(folder / OWNER, ended), daemon=True)
    beat.start()
    _held[folder.resolve()] = mine.token
    try:
        yield waited
    finally:
        ended.set()
        beat.join()
        del _held[folder.resolve()]
        if _token(folder / OWNER) == mine.token:
            (folder / OWNER).unlink(missing_ok=True)


def is_owned(folder: Path) -> bool:
    """Return whether a living process owns a folder, as far as can be told at once."""
    file, me = folder / OWNER, myself()
    owner = owner_in(file)
    if owner is None or owner.ended(me):
        return False
    # Its clock and this one's may differ a little.
    return owner.node == me.node or time.time() - _sign(file)[1] < 2 * SILENCE


def assert_owned(folder: Path) -> None:
    """Check that a folder that this process owns has not been taken over; any other folder passes.

    Raises:
        TakenOver: another process took this one for dead.
    """
    token = _held.get(folder.resolve())
    if token is not None and _token(folder / OWNER) != token:
        _log.warning(
            "%s: another process goes on with this job, as this one gave no sign of life for %.0f s; it leaves",
            folder,
            SILENCE,
        )
        raise TakenOver


def _touch(file: Path, ended: threading.Event) -> None:
    while not ended.wait(BEAT):
        with suppress(OSError):
            os.utime(file)


def _claim(folder: Path, mine: Owner) -> bool:
    """Become the owner; return whether another process was waited for."""
    file, waited = folder / OWNER, False
    seen: tuple[str | None, float] | None = None
    since = time.monotonic()
    while not _create(file, mine):
        other, now = owner_in(file), _sign(file)
        if now != seen:
            seen, since = now, time.monotonic()
        silent = time.monotonic() - since > SILENCE
        if silent or (other is not None and other.ended(mine)):
            _remove(file, other)
            continue
        if not waited and other is not None:
            _log.warning("%s: process %d on %s does this job; waiting for its end", folder, other.process, other.host)
            waited = True
        time.sleep(_LOOK)
    return waited


def _create(file: Path, mine: Owner) -> bool:
    """Write the owner's file if there is none."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{OWNER}.{mine.token}")
    draft.write_text(json.dumps(asdict(mine)) + "\n")
    try:
        # A link appears with all its content, or not at all.
        os.link(draft, file)
    except FileExistsError:
        return False
    except OSError:
        # A file system without links.
        try:
            with file.open("x") as created:
                created.write(draft.read_text())
        except FileExistsError:
            return False
    finally:
        draft.unlink(missing_ok=True)
    return True


def _remove(file: Path, dead: Owner | None) -> None:
    """Remove the file of a dead owner; if a third process was faster, its file is put back."""
    aside = file.with_name(f".{OWNER}.{uuid.uuid4().hex}")
    with suppress(FileNotFoundError):
        file.rename(aside)
        if dead is not None and _token(aside) != dead.token:
            with suppress(OSError):
                os.link(aside, file)
        aside.unlink(missing_ok=True)


def owner_in(file: Path) -> Owner | None:
    """Return the owner that a file names; None if there is no file, or only a part of one."""
    try:
        return Owner(**json.loads(file.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _token(file: Path) -> str | None:
    owner = owner_in(file)
    return None if owner is None else owner.token


def _sign(file: Path) -> tuple[str | None, float]:
    """Return what an owner changes as long as it lives."""
    try:
        # Opening makes network file systems ask for the present state.
        with file.open("rb") as opened:
            return _token(file), os.fstat(opened.fileno()).st_mtime
    except OSError:
        return None, 0.0
