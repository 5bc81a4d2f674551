"""A tree like /sys/class/powercap, whose counters a test moves, and a library like NVML, with a counter that moves."""

import subprocess
from pathlib import Path

import pytest

from intaglio import meters

# A counter of 1000 mJ, and 250 more at every reading; of one GPU.
_NVML = r"""
#include <string.h>
static unsigned long long millijoules = 1000;
static int gpu;
int nvmlInit_v2(void) { return 0; }
const char *nvmlErrorString(int status) { return status == 6 ? "Not Found" : "Not Supported"; }
int nvmlDeviceGetHandleByUUID(const char *uuid, void **device) {
  if (strncmp(uuid, "GPU-", 4) || !strstr(uuid, "-1111-")) return 6;
  *device = &gpu;
  return 0;
}
int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *energy) {
  if (device != &gpu || NO_COUNTER) return 3;
  *energy = millijoules;
  millijoules += 250;
  return 0;
}
"""


class Powercap:
    """Zones by folder; `add` moves counters, which begin again at their range."""

    def __init__(self, folder: Path, most: int = 10**12) -> None:
        self.folder, self.most = folder, most

    def zone(self, zone: str, name: str, microjoules: int = 0) -> Path:
        folder = self.folder / f"intel-rapl:{zone}"
        folder.mkdir(parents=True)
        for file, content in (("name", name), ("energy_uj", microjoules), ("max_energy_range_uj", self.most)):
            (folder / file).write_text(f"{content}\n")
        return folder

    def add(self, zone: str, microjoules: int) -> None:
        counter = self.folder / f"intel-rapl:{zone}" / "energy_uj"
        counter.write_text(f"{(int(counter.read_text()) + microjoules) % self.most}\n")


def powercap(folder: Path, patch: pytest.MonkeyPatch, most: int = 10**12) -> Powercap:
    """Return an empty tree, which takes the place of the machine's; rest is short."""
    patch.setattr(meters, "POWERCAP", folder)
    patch.setattr(meters, "REST", 0.01)
    return Powercap(folder, most)


def nvml(folder: Path, patch: pytest.MonkeyPatch, counts: bool = True) -> None:
    """Put a library in the place of NVML, for the GPU whose UUID has 1111 in its second part."""
    source, library = folder / "nvml.c", folder / f"nvml-{counts}.so"
    source.write_text(_NVML)
    flag = f"-DNO_COUNTER={int(not counts)}"
    subprocess.run(["gcc", "-shared", "-fPIC", flag, "-o", library, source], check=True)
    patch.setattr(meters, "NVML", str(library))
