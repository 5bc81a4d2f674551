"""The limit that cgroups, and so containers, set to the processor time of this process."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path


def cpu_quota(process: Path = Path("/proc/self")) -> float | None:
    """Return the cores' worth of time that this process may use, the least of its cgroups; None without a limit.

    It is `cpu.max` in version 2 of cgroups, `cpu.cfs_quota_us` / `cpu.cfs_period_us` in version 1, of the process's own
    group and of all above it that can be seen here: a container sees no further than its own.

    Args:
        process: the process's folder in /proc.
    """
    limits = [limit for folder in _groups(process) if (limit := _limit(folder)) is not None]
    return min(limits, default=None)


def usable_cores() -> int:
    """Return the number of cores that this process may use, at least 1."""
    cores, quota = len(os.sched_getaffinity(0)), cpu_quota()
    return max(1, cores if quota is None else min(cores, int(quota)))


def _groups(process: Path) -> Iterator[Path]:
    """Yield the folders of the process's cgroups that may limit processor time, up to where they are mounted."""
    try:
        lines = (process / "cgroup").read_text().splitlines()
        mounts = (process / "mountinfo").read_text().splitlines()
    except OSError:
        return
    # ID:CONTROLLERS:PATH; version 2 has ID 0 and no controllers.
    paths = {
        controllers: path for _, controllers, path in (line.split(":", 2) for line in lines if line.count(":") > 1)
    }
    for mount in mounts:
        # ID PARENT DEVICE ROOT FOLDER OPTIONS ... - TYPE SOURCE OPTIONS
        before, _, after = mount.partition(" - ")
        root, folder = (_unescaped(part) for part in before.split()[3:5])
        kind, _, options = after.split(maxsplit=2)
        if kind == "cgroup2":
            path = paths.get("")
        elif kind == "cgroup" and "cpu" in options.split(","):
            path = next((path for names, path in paths.items() if "cpu" in names.split(",")), None)
        else:
            continue
        if path is None:
            continue
        below = path.removeprefix(root) if root != "/" else path
        group = Path(folder, below.lstrip("/")) if path.startswith(root) and ".." not in path else Path(folder)
        yield from [group, *group.parents][: len(group.parts) - len(Path(folder).parts) + 1]


def _unescaped(path: str) -> str:
    """Return a path of mountinfo, in which blanks are octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)


def _limit(group: Path) -> float | None:
    """Return the limit of one cgroup, in cores; None if there is none."""
    try:
        if (group / "cpu.max").is_file():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota = (group / "cpu.cfs_quota_us").read_text().strip()
            period = (group / "cpu.cfs_period_us").read_text().strip()
        return int(quota) / int(period) if quota not in ("max", "-1") else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
