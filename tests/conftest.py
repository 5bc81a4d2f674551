"""Fixtures used by several test files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from commands import Commands


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests marked `gpu` on a machine without one."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a GPU")


# Before pytest-xdist reads the groups.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let a worker take whole files, which share fixtures, and one worker all tests of SLURM: there is one cluster.

    What takes long begins first, so that the workers end together.
    """
    for item in items:
        item.add_marker(pytest.mark.xdist_group("slurm" if _of_slurm(item) else item.path.stem))
    items.sort(key=lambda item: (not _of_slurm(item), item.get_closest_marker("slow") is None))


def _of_slurm(item: pytest.Item) -> bool:
    return item.path.parent.name == "slurm"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests have counted: `record_property("counted", ...)`."""
    for report in terminalreporter.stats.get("passed", []):
        for name, value in getattr(report, "user_properties", ()):
            if name == "counted":
                terminalreporter.write_line(f"{report.nodeid.rpartition('::')[2]}: {value}")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Compute on one thread, so that sums have one order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def seeded() -> None:
    """Seed torch's random numbers."""
    torch.manual_seed(0)


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    """Fake commands of a scheduler."""
    return Commands(tmp_path / "bin", monkeypatch)
