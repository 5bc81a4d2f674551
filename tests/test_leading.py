"""Several Snakemakes on one folder, or on one store: who runs is named, and one that was killed is in nobody's way."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands import Commands
from intaglio.cluster import leading
from intaglio.cluster.leading import lead, release_lock

WORKFLOW = Path(__file__).parents[1] / "workflow"
LEAD = "import sys; from intaglio.cluster.leading import *; print(release_lock()); lead(True, False)\n"
LEAD += "print('leads', flush=True); sys.stdin.read()"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which Snakemake has locked something."""
    (tmp_path / "first/.snakemake/locks").mkdir(parents=True)
    (tmp_path / "first/.snakemake/locks/0.output.lock").touch()
    monkeypatch.chdir(tmp_path / "first")
    return tmp_path / "first"


def leader(folder: Path) -> subprocess.Popen[str]:
    """Start a process that leads in a folder until its input ends."""
    return subprocess.Popen(
        [sys.executable, "-c", LEAD],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(WORKFLOW)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def other(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process, which leads there."""
    process = leader(folder)
    assert process.stdout is not None and [process.stdout.readline() for _ in range(2)][1] == "leads\n"
    yield process
    process.kill()
    process.wait()


def locks(folder: Path) -> int:
    return len(list(folder.glob(".snakemake/locks/*")))


def test_a_living_one_is_named_and_a_killed_one_leaves_no_lock(folder: Path, other: subprocess.Popen[str]) -> None:
    named = f"process {other.pid} on {socket.gethostname()}"
    assert release_lock() == f"Snakemake runs in this folder: {named}."
    assert locks(folder) == 1
    other.kill()
    other.wait()
    assert release_lock() == f"Snakemake was killed here ({named}): its lock is removed."
    assert locks(folder) == 0
    assert release_lock() == ""


def test_jobs_of_a_living_one_are_not_cancelled(
    folder: Path, other: subprocess.Popen[str], commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands.add("squeue", prints=f"7|rule_finetune_x|{folder}\n")
    commands.add("scancel")
    monkeypatch.setattr(leading, "_PATIENCE", 0.0)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    assert lead(True, True) == ""
    other.kill()
    other.wait()
    assert lead(True, True).startswith("Jobs of a Snakemake that was killed here are cancelled: 7;")
    assert commands.calls("scancel") == ["7"]


def test_one_of_another_folder_with_the_same_store_is_named(
    folder: Path, other: subprocess.Popen[str], tmp_path: Path
) -> None:
    (tmp_path / "second/results").mkdir(parents=True)
    (tmp_path / "second/results/store").symlink_to(folder / "results/store")
    second = leader(tmp_path / "second")
    _, said = second.communicate("", 60)
    assert second.returncode == 1
    assert f"Snakemake uses it from {folder}, as process {other.pid} on" in said.splitlines()[-1]
    # It ends, and takes its record with it.
    other.communicate("", 60)
    assert not list(folder.glob("results/store/.leaders/*"))
    second = leader(tmp_path / "second")
    assert second.communicate("", 60)[0].splitlines()[-1] == "leads"
