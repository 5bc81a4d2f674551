"""The bundles of a study's runs, folders to deploy, as the pages of variants link to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from intaglio.report.html.measurements import VariantKey, key_of
from intaglio.store import is_artifact

_Row = Mapping[str, Any]
# In the folder of a study's results.
FOLDER = "bundle"


def bundles(runs: Sequence[_Row], results: Path) -> dict[VariantKey, dict[str, Any]]:
    """Return for each variant with a complete run its bundles (`made`, seed and relative link) and the command for one.

    Args:
        runs: rows of runs.parquet.
        results: folder of the study's results, `results/STUDY`, in which the report is.
    """
    found: dict[VariantKey, dict[str, Any]] = {}
    for row in runs:
        if row["status"] != "ok":
            continue
        key, seed = key_of(row), str(row["seed"])
        command = f"intaglio bundle {results} {'/'.join((*key, seed))}"
        mine = found.setdefault(key, {"made": [], "command": command})
        folder = f"{FOLDER}/{'.'.join((*key, seed))}"
        if is_artifact(results / folder, "bundle"):
            mine["made"].append((seed, f"{quote(folder)}/"))
    return found
