"""Fixtures used by several test files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from xdist.scheduler import LoadScopeScheduling

from commands import Commands

SLURM = "tests/slurm/"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests marked `gpu` on a machine without one."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a GPU")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes long, so that workers end together."""
    items.sort(key=lambda item: (_group(item.nodeid) != SLURM, item.get_closest_marker("slow") is None))


class Groups(LoadScopeScheduling):  # type: ignore[misc]
    """Give a worker whole files, whose tests share fixtures, and one worker all of SLURM: there is one cluster."""

    def _split_scope(self, nodeid: str) -> str:
        return _group(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Groups:
    """Let pytest-xdist use these groups."""
    return Groups(config, log)


def _group(nodeid: str) -> str:
    return SLURM if nodeid.startswith(SLURM) else nodeid.partition("::")[0]


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
