"""CPU quotas of cgroups, in trees made by hand and, where they can be written, in a real one."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from intaglio import machine
from intaglio.measure import inputs
from intaglio.quota import cpu_quota

V2 = "31 23 0:28 {root} {at} rw - cgroup2 cgroup2 rw\n"
V1 = "32 31 0:29 {root} {at} rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"


def process(folder: Path, groups: str, mounts: str) -> Path:
    (folder / "cgroup").write_text(groups)
    (folder / "mountinfo").write_text("22 1 8:1 / / rw - ext4 /dev/sda rw\n" + mounts)
    return folder


@pytest.mark.parametrize(
    ("root", "path", "limits", "expected"),
    [
        ("/", "/a/b", {"": "max 100000", "a": "150000 100000", "a/b": "max 100000"}, 1.5),
        ("/", "/a/b", {"a": "400000 100000", "a/b": "25000 50000"}, 0.5),
        ("/", "/a", {"a": "max 100000"}, None),
        # In a container: its own group is mounted, under its name or, in a namespace, as the root.
        ("/docker/1", "/docker/1/b", {"": "200000 100000"}, 2.0),
        ("/", "/", {"": "200000 100000"}, 2.0),
        ("/..", "/../../other", {"": "300000 100000"}, 3.0),
        ("/", "/a", {"a": "nonsense"}, None),
    ],
)
@pytest.mark.parametrize("version", [1, 2])
def test_the_least_quota_of_all_groups_counts(
    tmp_path: Path, version: int, root: str, path: str, limits: dict[str, str], expected: float | None
) -> None:
    at = tmp_path / "my groups"
    for group, limit in limits.items():
        folder = at / group
        folder.mkdir(parents=True, exist_ok=True)
        if version == 2:
            (folder / "cpu.max").write_text(limit + "\n")
        else:
            quota, _, period = limit.replace("max", "-1").partition(" ")
            (folder / "cpu.cfs_quota_us").write_text(quota + "\n")
            (folder / "cpu.cfs_period_us").write_text(period + "\n")
    mount = (V2 if version == 2 else V1).format(root=root, at=str(at).replace(" ", "\\040"))
    groups = f"0::{path}\n" if version == 2 else f"1:name=systemd:/x\n2:cpu,cpuacct:{path}\n0::/\n"
    assert cpu_quota(process(tmp_path, groups, mount)) == expected


def test_without_cgroups_there_is_no_quota(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is None
    assert cpu_quota(process(tmp_path, "0::/\n", "")) is None


def test_a_quota_bounds_the_threads_and_tells_machines_apart(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    facts = machine.fingerprint()
    monkeypatch.setattr(inputs, "fingerprint", lambda: {**facts, "cores": 8, "cpu_quota": 1.5})
    with caplog.at_level(logging.WARNING), inputs.cpu_threads(2) as threads:
        assert threads == 1
    (record,) = caplog.records
    said = "profile.threads: 2 requested, but a CPU quota (cpu.max) allows 1.5 cores; measuring with 1"
    assert record.getMessage() == said
    before = machine.machine_id.__wrapped__()
    monkeypatch.setattr(machine, "_cpu", lambda: {**_cpu, "cpu_quota": 1.5})
    assert machine.machine_id.__wrapped__() != before


_cpu = machine._cpu()


def test_a_real_quota() -> None:
    version2 = Path("/sys/fs/cgroup/cgroup.controllers").is_file()
    group = Path("/sys/fs/cgroup", *([] if version2 else ["cpu"]), f"intaglio-{os.getpid()}")
    try:
        group.mkdir()
        if version2:
            (group / "cpu.max").write_text("75000 50000")
        else:
            (group / "cpu.cfs_period_us").write_text("50000")
            (group / "cpu.cfs_quota_us").write_text("75000")
    except OSError as error:
        if group.is_dir():
            group.rmdir()
        pytest.skip(f"cgroups cannot be written here: {error}")
    program = (
        "import os, sys; from pathlib import Path; Path(sys.argv[1], 'cgroup.procs').write_text(str(os.getpid()));"
        "from intaglio.quota import cpu_quota; print(cpu_quota())"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", program, group],
            capture_output=True,
            text=True,
            cwd=Path(machine.__file__).parents[1],
        )
    finally:
        group.rmdir()
    if "OSError" in done.stderr or "PermissionError" in done.stderr:
        pytest.skip("a process cannot be moved into a cgroup here")
    assert float(done.stdout) == 1.5
