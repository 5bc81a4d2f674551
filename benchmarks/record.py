"""The file of a benchmark's measurements: raw times, the machine, versions and date."""

from __future__ import annotations

import importlib.metadata
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from intaglio.machine import fingerprint

LIBRARIES = ("torch", "transformers", "onnxruntime", "openvino", "nncf", "triton", "numpy")
# Processors by vendor, family and model, as their makers call them.
PROCESSORS = {
    "AuthenticAMD 25-1": "AMD EPYC (Zen 3)",
    "AuthenticAMD 25-17": "AMD EPYC (Zen 4)",
    "AuthenticAMD 26-2": "AMD EPYC (Zen 5)",
    "GenuineIntel 6-85": "Intel Xeon (Cascade Lake)",
    "GenuineIntel 6-106": "Intel Xeon (Ice Lake)",
    "GenuineIntel 6-143": "Intel Xeon (Sapphire Rapids)",
    "GenuineIntel 6-207": "Intel Xeon (Emerald Rapids)",
    "GenuineIntel 6-173": "Intel Xeon (Granite Rapids)",
}


def versions() -> dict[str, str | None]:
    """Return the versions of the libraries that are compared; None for those that are not installed."""
    found: dict[str, str | None] = dict.fromkeys(LIBRARIES)
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine_name(machine: dict[str, Any], device: str) -> str:
    """Return a readable name of the processor or GPU that a fingerprint describes."""
    if device == "cuda":
        return str(machine["gpu"])
    family = str(machine["cpu_id"]).rpartition("-")[0]
    return PROCESSORS.get(family, str(machine["cpu"]))


def write_record(where: Path, benchmark: str, device: str, facts: dict[str, Any]) -> None:
    """Write a benchmark's measurements as JSON.

    Args:
        where: the file; or a folder, in which the file is named after machine, benchmark and date.
        benchmark: the name of the program.
        device: "cpu" or "cuda".
        facts: what was measured.
    """
    machine, date = fingerprint(), datetime.now(UTC).date().isoformat()
    name = machine_name(machine, device)
    if where.is_dir():
        word = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        where = where / f"{word}_{date}_{benchmark}.json"
    about = {"benchmark": benchmark, "name": name, "device": device, "date": date}
    record = {**about, "machine": machine, "versions": versions(), **facts}
    where.write_text(json.dumps(record, indent=1) + "\n")
