"""A look at the machine or cluster at hand: what Intaglio will find there, and what to set in its Snakemake profile."""

from __future__ import annotations

import errno
import fcntl
import importlib.metadata
import math
import os
import shutil
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from intaglio.cluster.slurm import Cluster, Partition, cluster_here
from intaglio.machine import fingerprint
from intaglio.meters import meters

_PACKAGES = ("snakemake", "snakemake-executor-plugin-slurm", "submitit", "torch", "transformers", "onnxruntime")
# File systems of one machine.
_OF_ONE_MACHINE = ("btrfs", "ext2", "ext3", "ext4", "overlay", "ramfs", "tmpfs", "xfs", "zfs")
_PATIENCE = 5.0


def findings(folder: Path) -> Iterator[str]:
    """Yield the lines of a report on this machine or cluster; `folder` is where studies are run."""
    cluster = cluster_here()
    yield from _machine()
    yield _line("environment", ", ".join(_versions()))
    yield _line("hub", _hub())
    yield from _folder(folder, cluster)
    if cluster is None:
        yield _line("SLURM", "none here: `snakemake --profile profiles/local`")
        return
    accounting = "accounting (sacct) answers" if cluster.accounting else "no accounting (sacct)"
    yield _line("SLURM", f"{cluster.version}, {accounting}")
    yield _line("accounts", ", ".join(cluster.accounts) or "none found")
    for number, partition in enumerate(cluster.partitions):
        yield _line("partitions" if not number else "", _described(partition))
    yield ""
    yield "Set in profiles/slurm/config.yaml, or keep as it is there:"
    yield from (f"  {line}" for line in profile_settings(cluster))


def _line(name: str, said: str) -> str:
    return f"{name:<12} {said}"


def _machine() -> Iterator[str]:
    facts = fingerprint()
    quota = f", of which a quota allows {facts['cpu_quota']:g}" if facts["cpu_quota"] is not None else ""
    memory = f"{int(facts['memory_mb'] or 0) / 1000:.0f} GB"
    yield _line("machine", f"{facts['host']}: {facts['cpu']}, {facts['cores']} cores{quota}, {memory}")
    if facts["gpu"] is None:
        yield _line("GPU", "none here")
        yield _line("energy", _energy("cpu"))
        return
    import torch

    here = torch.cuda.is_available()
    works = "" if here else "; torch cannot use it: it was built for CPUs, or for another driver"
    yield _line("GPU", f"{facts['gpu_count']} x {facts['gpu']}, driver {facts['driver']}{works}")
    yield _line("energy", _energy("cuda" if here else "cpu"))


def _energy(device: str) -> str:
    """Return what counts energy here, and what does not."""
    found, reasons = meters(device)
    return "; ".join([*(meter.name for meter in found), *(f"not measured: {reason}" for reason in reasons)])


def _versions() -> Iterator[str]:
    for name in _PACKAGES:
        try:
            yield f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            yield f"no {name}"
    yield "g++" if shutil.which("g++") else "no g++, with which the native library is compiled"


def _hub() -> str:
    """Return whether the hub can be reached."""
    for name in ("INTAGLIO_OFFLINE", "HF_HUB_OFFLINE"):
        if os.environ.get(name, "0").lower() not in ("0", "", "false", "no", "off"):
            return f"not asked, as {name} is set: models and data are taken from files"
    address = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    start = time.monotonic()
    try:
        with suppress(urllib.error.HTTPError):
            urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=_PATIENCE).close()
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return f"{address} does not answer ({reason}): fetch elsewhere with `snakemake prefetch`, or take files"
    return f"{address} answers in {time.monotonic() - start:.1f} s"


def _folder(folder: Path, cluster: Cluster | None) -> Iterator[str]:
    """Yield what matters of the file system of a folder."""
    mounts = [disk for disk in psutil.disk_partitions(all=True) if folder.resolve().is_relative_to(disk.mountpoint)]
    kind = max(mounts, key=lambda disk: len(disk.mountpoint)).fstype if mounts else "unknown"
    free = shutil.disk_usage(folder).free / 1e9
    yield _line("folder", f"{folder.resolve()} on {kind}, {free:.0f} GB free, {_locks(folder)}")
    if cluster is not None and kind in _OF_ONE_MACHINE:
        yield _line("", f"{kind} is usually seen by one machine only: jobs need a folder that all nodes share")


def _locks(folder: Path) -> str:
    """Return what comes of two locks (flock) on one file of a folder."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as first, Path(first.name).open("r+b") as second:
            fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return "locks work (flock, on this machine)"
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
            return f"locks are refused ({error.strerror}): `intaglio submit` and rule.sbatch need them, studies do not"
        return f"no file can be written: {error.strerror}"
    return "locks have no effect: `intaglio submit` and rule.sbatch need them, studies do not"


def _described(partition: Partition) -> str:
    limit = "no limit" if math.isinf(partition.minutes) else f"up to {partition.minutes:.0f} min"
    types = f" ({', '.join(partition.types)})" if partition.types else ""
    gpus = f", up to {partition.gpus} GPUs{types} on {partition.gpu_nodes} of them" if partition.gpus else ""
    notes = [
        *(["the default"] if partition.default else []),
        *([] if partition.up else ["takes no jobs now"]),
        *([] if partition.preemption == "OFF" else [f"preempted jobs: {partition.preemption}"]),
    ]
    return f"{partition.name}: {partition.nodes} nodes{gpus}, {limit}{''.join(f', {note}' for note in notes)}"


def profile_settings(cluster: Cluster) -> list[str]:
    """Return the lines of a Snakemake profile that fit a cluster."""
    partitions = [partition for partition in cluster.partitions if partition.up] or list(cluster.partitions)
    with_gpus = [partition for partition in partitions if partition.gpus]
    main = _first(with_gpus or partitions)
    lines = []
    if main is not None:
        lines += ["default-resources:"]
        lines += [f"  slurm_account: {cluster.accounts[0]}"] if cluster.accounts else []
        lines += [f"  slurm_partition: {main.name}"]
    asked = {"gpus": "none" if not with_gpus else "gpus" if cluster.by_gpus else "gres"}
    on_cpu = _first([partition for partition in partitions if not partition.gpus])
    if main is not None and main.gpu_nodes == main.nodes and on_cpu is not None:
        asked["cpu_partition"] = on_cpu.name
    lines += ["config:", f'  - "resources={{{", ".join(f"{name}: {value}" for name, value in asked.items())}}}"']
    if main is not None:
        lines += [f'  - "profile={{machine: {main.types[0] if main.types else main.name}}}"']
    lines += [] if cluster.accounts else ["slurm-no-account: true"]
    return lines + ([] if cluster.accounting else ["slurm-status-command: squeue"])


def _first(partitions: list[Partition]) -> Partition | None:
    """Return the default one of these, or else the largest."""
    return max(partitions, key=lambda partition: (partition.default, partition.nodes), default=None)
