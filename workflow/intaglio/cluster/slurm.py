"""A SLURM cluster as its own commands describe it."""

from __future__ import annotations

import getpass
import re
from dataclasses import dataclass
from typing import Any

from intaglio.allocation import printed_by, seconds_of


@dataclass(frozen=True)
class Partition:
    """A partition of a cluster.

    Attributes:
        name: its name.
        default: whether jobs go there that name none.
        up: whether it takes jobs.
        minutes: longest time of a job, infinite without a limit.
        nodes: number of nodes.
        gpu_nodes: number of those that have GPUs.
        gpus: largest number of GPUs of a node.
        types: names of its types of GPU.
        preemption: what happens to jobs that are preempted: REQUEUE, CANCEL, OFF, ...
    """

    name: str
    default: bool
    up: bool
    minutes: float
    nodes: int
    gpu_nodes: int
    gpus: int
    types: tuple[str, ...]
    preemption: str


@dataclass(frozen=True)
class Cluster:
    """A cluster.

    Attributes:
        version: of SLURM.
        accounting: whether sacct answers.
        by_gpus: whether jobs can ask for `--gpus`, not only for `--gres`.
        accounts: those of the user, the default first.
        partitions: those that the user sees.
    """

    version: str
    accounting: bool
    by_gpus: bool
    accounts: tuple[str, ...]
    partitions: tuple[Partition, ...]


def cluster_here() -> Cluster | None:
    """Return the cluster that this machine belongs to; None without SLURM, or if it does not answer."""
    version = printed_by("sinfo", "--version")
    rows = printed_by("sinfo", "--noheader", "--format=%P|%a|%l|%D|%G")
    if version is None or rows is None:
        return None
    settings = dict(re.findall(r"^(\w+) += (\S+)", printed_by("scontrol", "show", "config") or "", re.MULTILINE))
    user = getpass.getuser()
    show = ("sacctmgr", "--noheader", "--parsable2", "show")
    usual = printed_by(*show, "user", user, "format=defaultaccount") or ""
    others = printed_by(*show, "associations", f"user={user}", "format=account") or ""
    return Cluster(
        version=version.split()[-1],
        accounting=printed_by("sacct", "--noheader", "--allocations", "--format=jobid") is not None,
        by_gpus=settings.get("SelectType", "select/cons_tres") == "select/cons_tres",
        accounts=tuple(dict.fromkeys([*usual.split(), *others.split()])),
        partitions=_partitions(rows, settings.get("PreemptMode", "OFF").split(",")[-1]),
    )


def _partitions(rows: str, preemption: str) -> tuple[Partition, ...]:
    """Return the partitions of sinfo's rows; a partition has a row for each kind of its nodes."""
    own = {
        facts["PartitionName"]: facts.get("PreemptMode", preemption)
        for line in (printed_by("scontrol", "--oneliner", "show", "partition") or "").splitlines()
        if "PartitionName" in (facts := dict(re.findall(r"(\S+?)=(\S+)", line)))
    }
    found: dict[str, dict[str, Any]] = {}
    for line in rows.splitlines():
        name, state, limit, nodes, gres = line.split("|", 4)
        plain = name.rstrip("*")
        entry = found.setdefault(
            plain,
            {
                "name": plain,
                "default": name != plain,
                "up": state == "up",
                "minutes": seconds_of(limit) / 60,
                "preemption": own.get(plain, preemption),
                **{"nodes": 0, "gpu_nodes": 0, "gpus": 0, "types": ()},
            },
        )
        gpus = _gpus(gres)
        entry["nodes"] += int(nodes)
        entry["gpu_nodes"] += int(nodes) if gpus else 0
        entry["gpus"] = max(entry["gpus"], sum(gpus.values()))
        entry["types"] = tuple(dict.fromkeys([*entry["types"], *filter(None, gpus)]))
    return tuple(Partition(**entry) for entry in found.values())


def _gpus(gres: str) -> dict[str, int]:
    """Return the numbers of GPUs by type, "" for no type, of generic resources as `gpu:a100:4(S:0-1),lscratch:1`."""
    found: dict[str, int] = {}
    for kind, count in re.findall(r"(?:^|,)gpu(?::([A-Za-z_][\w.-]*))?:(\d+)", gres):
        found[kind] = found.get(kind, 0) + int(count)
    return found
