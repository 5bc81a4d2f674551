"""A run of a study, found by its name."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from intaglio.errors import UserError, nearest

# What a run is named by.
KEY = ("task", "model", "variant", "seed")


def find_run(results: Path, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a study and one of its runs, as they stand in its plan.

    Args:
        results: folder of the study's results, `results/STUDY`, or the plan in it.
        name: TASK/MODEL/VARIANT/SEED, or with dots; parts may be left out where the rest names a single run.

    Raises:
        UserError: there is no plan, or as `named_run`.
    """
    plan = results if results.suffix == ".json" else results / "plan.json"
    try:
        content = json.loads(plan.read_text())
        study, runs = content["study"], content["runs"]
    except (OSError, ValueError, LookupError) as error:
        raise UserError(f"{plan}: no readable plan; give the folder of a study's results, results/STUDY") from error
    return study, named_run(study["study"], runs, name)


def named_run(study: str, runs: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    """Return the run of this name, as in `find_run`, from the runs of the study of this name.

    Raises:
        UserError: the name is that of no run or of several.
    """
    by_name = {run_name(run): run for run in runs}
    wanted = [part for part in name.replace(".", "/").split("/") if part]
    found = [each for each in by_name if _picks(wanted, each.split("/"))]
    if not wanted or not found:
        raise UserError(f"{name}: no run of the study {study!r}, {nearest('/'.join(wanted), by_name)}")
    if len(found) > 1:
        more = f" and {len(found) - 4} more" if len(found) > 4 else ""
        raise UserError(f"{name}: several runs have this name: {', '.join(found[:4])}{more}; name one")
    return by_name[found[0]]


def run_name(run: Mapping[str, Any], separator: str = "/") -> str:
    """Return the name of a run: TASK/MODEL/VARIANT/SEED."""
    return separator.join(str(run[part]) for part in KEY)


def _picks(wanted: list[str], parts: list[str]) -> bool:
    """Return whether these are some of the parts of a name, in their order."""
    rest = iter(parts)
    return all(part in rest for part in wanted)
