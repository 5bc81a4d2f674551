from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from . import helpers

_SCRIPT = Path(__file__).with_name("cluster.sh")


@pytest.fixture(scope="session")
def _cluster() -> Iterator[None]:
    """The real SLURM of cluster.sh: the one that runs, or one for these tests (one worker has all of them)."""
    missing = [program for program in ("slurmd", "slurmctld", "slurmdbd", "munged", "mariadbd") if not _found(program)]
    if missing:
        pytest.skip(f"no {', '.join(missing)}; run tests/slurm/cluster.sh install")
    if os.geteuid() != 0:
        pytest.skip("tests/slurm/cluster.sh needs root")
    was_up = subprocess.run([_SCRIPT, "status"], capture_output=True).returncode == 0
    if not was_up:
        subprocess.run([_SCRIPT, "start"], timeout=180, check=True)
    yield
    if not was_up:
        subprocess.run([_SCRIPT, "stop"], timeout=180)


def _found(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


@pytest.fixture
def slurm(_cluster: None) -> Iterator[None]:
    """A running cluster, and an empty queue afterwards."""
    yield
    helpers.cancel_all()
