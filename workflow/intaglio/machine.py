"""The machine's fingerprint, stored with every measurement, as only times from the same machine may be compared.

It is also part of the keys of profiles. Computing the id imports no torch, for which planning would wait for seconds.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import socket
import subprocess
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import psutil  # type: ignore[import-untyped]

import intaglio
from intaglio.quota import cpu_quota

if TYPE_CHECKING:
    import torch

Fingerprint = dict[str, str | int | float | None]

# Instruction sets that decide which kernels run, above all for int8: Linux's names for x86, then for Arm.
_EXTENSIONS = (
    *("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "avx_vnni_int8", "amx_bf16", "amx_int8"),
    *("asimddp", "i8mm", "bf16", "sve", "sve2"),
)
# Libraries that execute models; triton runs the programs that torch.compile makes for a GPU.
EXECUTING = ("torch", "onnxruntime", "openvino", "transformers", "triton")
_LIBRARIES = (*EXECUTING, "datasets", "numpy")
_NO_GPU: Fingerprint = dict.fromkeys(("gpu", "gpu_count", "gpu_memory_mb", "driver"))
# Present if Linux has loaded NVIDIA's or AMD's driver.
_GPU_DRIVERS = ("/proc/driver/nvidia", "/dev/kfd")
# Times may be compared if these and the versions of the executing libraries agree. The node's name, its exact memory
# and its kernel are left out, since nodes of one partition differ in them.
_IDENTITY = ("cpu", "cpu_id", "cores", "cpu_quota", "instructions", "gpu", "gpu_memory_mb", "driver")


def fingerprint() -> Fingerprint:
    """Return the facts that identify this machine and its software; None for those absent or unknown.

    Keys: id (short hash: times with the same id may be compared), host, cpu (model), cpu_id (vendor,
    family-model-stepping), cores (logical, available to this process), cpu_quota (limit of cgroups, in cores),
    instructions (space-separated, relevant sets), memory_mb (10^6 bytes), gpu, gpu_count, gpu_memory_mb, driver, cuda
    (the version that torch was built for), system, python, libraries (JSON object of versions), commit (with suffix
    "-dirty" if the package differs from it). They are the columns machine_* of the tables (`schemas.MACHINE`).
    """
    return dict(_fingerprint())


@cache
def machine_id() -> str:
    """Return eight hexadecimal digits, the same on machines whose times may be compared."""
    facts = {**_cpu(), **_gpu()}
    text = "\n".join([*(str(facts[key]) for key in _IDENTITY), *(str(_version(name)) for name in EXECUTING)])
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def instructions() -> frozenset[str]:
    """Return those instruction sets of the CPU that decide which kernels run, by Linux's names."""
    return frozenset(str(_cpu()["instructions"]).split())


def device_name(device: str | torch.device) -> str:
    """Return the readable name of a device: the model of the GPU or CPU."""
    import torch

    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return str(_fingerprint()["cpu"])


@cache
def _fingerprint() -> Fingerprint:
    return {"id": machine_id(), "host": socket.gethostname(), **_cpu(), **_gpu(), **_software()}


@cache
def _cpu() -> Fingerprint:
    path = Path("/proc/cpuinfo")
    info = _cpuinfo(path.read_text() if path.is_file() else "")
    flags = set(info.get("flags", info.get("Features", "")).split())
    numbers = [info[key] for key in ("cpu family", "model", "stepping") if key in info]
    identity = " ".join(filter(None, [info.get("vendor_id"), "-".join(numbers)]))
    return {
        "cpu": info.get("model name") or platform.processor() or platform.machine(),
        "cpu_id": identity or None,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "cpu_quota": cpu_quota(),
        "instructions": " ".join(name for name in _EXTENSIONS if name in flags),
        "memory_mb": psutil.virtual_memory().total // 10**6,
    }


def _cpuinfo(text: str) -> dict[str, str]:
    """Return the fields of the first processor in a /proc/cpuinfo."""
    first = text.split("\n\n", 1)[0]
    fields = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in fields}


def _gpu_of_torch() -> Fingerprint:
    """Return the GPU that torch uses, if it is not NVIDIA's or nvidia-smi is missing."""
    import torch

    if not torch.cuda.is_available():
        return dict(_NO_GPU)
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    module = Path("/proc/driver/nvidia/version")
    found = re.search(r"\b\d{3,}\.\d+(?:\.\d+)?\b", module.read_text()) if module.is_file() else None
    return {
        "gpu": properties.name,
        "gpu_count": torch.cuda.device_count(),
        "gpu_memory_mb": properties.total_memory // 10**6,
        "driver": found.group() if found else None,
    }


@cache
def _gpu() -> Fingerprint:
    """Return the first GPU in CUDA_VISIBLE_DEVICES, by NVIDIA's driver; memory in 10^6 bytes."""
    visible = [part for part in os.environ.get("CUDA_VISIBLE_DEVICES", "all").split(",") if part not in ("", "-1")]
    rows = _driver_rows(visible) if visible else []
    if not rows:
        return _gpu_of_torch() if visible and any(Path(path).exists() for path in _GPU_DRIVERS) else dict(_NO_GPU)
    name, memory, driver = (part.strip() for part in rows[0].rsplit(",", 2))
    return {
        "gpu": name,
        "gpu_count": len(rows),
        "gpu_memory_mb": int(memory) * 2**20 // 10**6 if memory.isdigit() else None,
        "driver": driver,
    }


def _driver_rows(visible: list[str]) -> list[str]:
    """Return "name, MiB, driver" of these GPUs, given by index or UUID; of all GPUs for ["all"]."""
    chosen = [] if visible == ["all"] else ["-i", ",".join(visible)]
    query = ["nvidia-smi", *chosen, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits"]
    printed = _output(query) if shutil.which("nvidia-smi") else None
    return [line for line in (printed or "").splitlines() if line.count(",") >= 2]


def _software() -> Fingerprint:
    return {
        "system": platform.platform(),
        "python": platform.python_version(),
        "cuda": _cuda(),
        "libraries": json.dumps({**{name: _version(name) for name in _LIBRARIES}, "intaglio": intaglio.__version__}),
        "commit": _git_commit(Path(__file__).resolve().parent),
    }


def _cuda() -> str | None:
    """Return the CUDA version that torch was built for."""
    import torch

    return torch.version.cuda


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_commit(package: Path) -> str | None:
    """Return the commit of a package's source tree, with suffix "-dirty" if the package differs from it."""
    git = ["git", "-C", str(package)]
    # A virtual environment may be inside another project's working tree, whose commit is not the package's.
    if _output([*git, "ls-files", "--error-unmatch", "__init__.py"]) is None:
        return None
    commit = _output([*git, "rev-parse", "--verify", "HEAD"])
    if commit is None:
        return None
    return commit.strip() + ("-dirty" if _output([*git, "status", "--porcelain", "--", "."]) else "")


def _output(command: Iterable[str]) -> str | None:
    """Return the output of a command; None if it fails, hangs or does not exist."""
    # In a git hook, these variables would direct git to another repository.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        done = subprocess.run(list(command), capture_output=True, text=True, timeout=10, check=True, env=environment)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
