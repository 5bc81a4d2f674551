"""Results of others: what is complete in their stores is linked into this one, and not made again."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from intaglio.errors import UserError
from intaglio.planning.jobs import Plan
from intaglio.store import is_artifact


def link_results(plan: Plan) -> int:
    """Link what a study needs, is not here and is complete in one of its `stores`; return the number of links.

    A folder's name has the key of its result, so one of the same name is the same result, whoever made it. Links to
    what is not there any more are removed.

    Raises:
        UserError: there is no such store.
    """
    stores = [Path(store).expanduser() for store in plan.study.stores]
    for store in stores:
        if not store.is_dir():
            raise UserError(f"stores: no such folder: {store}; name the `results/store` of another folder")
    made = 0
    for rule, jobs in plan.jobs.items():
        for job in jobs.values():
            here = Path(job.output)
            if here.is_symlink() and not here.exists():
                here.unlink()
            if not stores or here.exists():
                continue
            there = next(filter(is_artifact, (store / rule / here.name for store in stores)), None)
            if there is not None:
                here.parent.mkdir(parents=True, exist_ok=True)
                # Another process may link it at the same time.
                with suppress(FileExistsError):
                    here.symlink_to(there.resolve())
                    made += 1
    return made
