"""The start of a Snakemake run: the time and the machine that planning depends on in addition to the study."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

from intaglio.machine import machine_id
from intaglio.store import MANIFEST

# Maximum number of profiles of one model while other processes disturb them.
PROFILES = 3


@dataclass(frozen=True)
class Start:
    """The start of a Snakemake run.

    Attributes:
        machine: id of the machine on which it was started (`intaglio.machine`).
        seconds: time of the start, seconds since the epoch.
    """

    machine: str
    seconds: float

    @classmethod
    def here(cls) -> Start:
        """Return the present time and machine; INTAGLIO_MACHINE in the environment stands for another machine."""
        return cls(machine=os.environ.get("INTAGLIO_MACHINE") or machine_id(), seconds=time.time())

    def profile(self, folder: Path) -> Path:
        """Return the folder of a profile: a disturbed profile is measured again, under another name.

        Args:
            folder: of the first measurement; further ones have the suffixes `-2` and `-3`.

        Returns:
            The first folder that was absent at the start or not disturbed; if all were disturbed, the one disturbed
            least.
        """
        folders = [folder, *(folder.with_name(f"{folder.name}-{number}") for number in range(2, PROFILES + 1))]
        disturbed = {}
        for path in folders:
            percent = self._disturbed(path / MANIFEST)
            if not percent:
                return path
            disturbed[path] = percent
        return min(disturbed, key=lambda path: disturbed[path])

    def _disturbed(self, manifest: Path) -> float | None:
        """Return the disturbance, in percent, of a measurement complete at the start; None if there is none."""
        try:
            if manifest.stat().st_mtime >= self.seconds:
                return None
            about = json.loads(manifest.read_text())["about"]
        except (OSError, ValueError, KeyError):
            return None
        percent = about.get("disturbed")
        return None if percent is None else float(percent)
