"""When and where Snakemake was started: what planning depends on beside the study.

A job on a cluster plans again, on another machine and later, and must come to the same folders. So the first Snakemake
hands down in the environment what it went by.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from intaglio.machine import machine_id
from intaglio.store import MANIFEST

# Profiles of one model, at most, while others disturb them.
PROFILES = 3


@dataclass(frozen=True)
class Start:
    """The start of a Snakemake run.

    Attributes:
        machine: id of the machine that it was started on (`intaglio.machine`).
        seconds: when, since the epoch.
    """

    machine: str
    seconds: float

    @classmethod
    def here(cls) -> Start:
        """Return the start that was handed down to this process, or else here and now."""
        return cls(
            machine=os.environ.get("INTAGLIO_MACHINE") or machine_id(),
            seconds=float(os.environ.get("INTAGLIO_STARTED") or time.time()),
        )

    def environment(self) -> Mapping[str, str]:
        """Return the variables that hand it down."""
        return {"INTAGLIO_MACHINE": self.machine, "INTAGLIO_STARTED": repr(self.seconds)}

    def profile(self, folder: Path) -> Path:
        """Return where a profile lies, or shall lie: a disturbed one is measured again, under another name.

        Args:
            folder: of the first measurement; further ones are called `-2`, `-3`.

        Returns:
            The first that was absent at the start or not disturbed; where all are disturbed, the one that was least.
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
        """Return by how many percent others disturbed a measurement that was finished at the start; else nothing."""
        try:
            if manifest.stat().st_mtime >= self.seconds:
                return None
            about = json.loads(manifest.read_text())["about"]
        except (OSError, ValueError, KeyError):
            return None
        percent = about.get("disturbed")
        return None if percent is None else float(percent)
