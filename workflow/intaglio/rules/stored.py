"""A plan as a file, in which each job of a cluster finds itself.

Snakemake starts anew within every job of a cluster and reads the rules again. It plans nothing there: it looks up the
job at hand, so its start takes no longer in a larger study, and the job is the one that was submitted even if the study
has been edited since. The file is a database of SQLite, written once and read without locks, which some shared file
systems refuse.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

from intaglio.errors import UserError
from intaglio.planning.allocations import Outstanding
from intaglio.planning.found import named_run
from intaglio.planning.identity import content_digest
from intaglio.planning.jobs import STORE, Facts, Job, Plan, dump
from intaglio.planning.versions import decided_by
from intaglio.store import new_file
from intaglio.study.schema import Resources

# In the environment of jobs: the path of the plan that they were submitted with.
PLAN = "INTAGLIO_PLAN"


def path_of(facts: Facts) -> Path:
    """Return where a plan is stored: each start has its own file, so jobs find what they were submitted with."""
    return _folder(facts.study) / f"{facts.digest}-{facts.started:.0f}.sqlite"


def _folder(study: str) -> Path:
    return STORE.parent / study / "plans"


def write_stored(
    plan: Plan, waiting: Mapping[str, Outstanding], needed_by_tables: tuple[Sequence[str], Sequence[str]]
) -> None:
    """Write a plan.

    Args:
        plan: the plan.
        waiting: the allocations that are to be made, by name.
        needed_by_tables: the folders that the tables need, and the names of allocations.
    """
    facts = {
        "facts": {**vars(plan.facts), "resources": dump(plan.facts.resources)},
        "results": plan.results,
        "needed_by_tables": needed_by_tables,
        "summarized": plan.summarized(),
    }
    jobs = ((job.output, json.dumps(vars(job))) for of_rule in plan.jobs.values() for job in of_rule.values())
    with new_file(path_of(plan.facts)) as draft, closing(_connected(draft, "nolock=1")) as database:
        database.execute("PRAGMA journal_mode = OFF")
        for table in ("facts", "jobs", "allocations"):
            database.execute(f"CREATE TABLE {table} (name TEXT PRIMARY KEY, content TEXT) WITHOUT ROWID")
        for table, rows in (
            ("facts", ((name, json.dumps(content)) for name, content in facts.items())),
            ("jobs", jobs),
            ("allocations", ((name, json.dumps(vars(content))) for name, content in waiting.items())),
        ):
            database.executemany(f"INSERT INTO {table} VALUES (?, ?)", rows)
        database.commit()


def _connected(path: Path, options: str) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(str(path))}?{options}", uri=True)


class StoredPlan:
    """A plan in a file, for jobs: what `Plan` has for the workflow's rules.

    Args:
        path: the file.

    Raises:
        UserError: there is no such file, or it holds no plan.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise UserError(f"{path}: the plan of this job is gone; start Snakemake again")
        self._jobs: dict[str, Job] = {}

    @cached_property
    def facts(self) -> Facts:
        """What rules need to know beside the jobs."""
        found = self._read("facts")
        return Facts(**{**found, "resources": Resources.model_validate(found["resources"])})

    @cached_property
    def results(self) -> list[str]:
        """The folders that the tables are made of."""
        found: list[str] = self._read("results")
        return found

    def run(self, name: str) -> dict[str, Any]:
        """Return the run of this name, as it stands in plan.json.

        Raises:
            UserError: the name is that of no run or of several.
        """
        return named_run(self.facts.study, self.summarized()["runs"], name)

    def needed_by_tables(self) -> tuple[list[str], list[str]]:
        """Return the results that jobs of their own make, and the names of the allocations that make the others."""
        folders, names = self._read("needed_by_tables")
        return folders, names

    def summarized(self) -> dict[str, Any]:
        """Return what the summary reads: the study and its runs, as JSON values."""
        found: dict[str, Any] = self._read("summarized")
        return found

    def all_jobs(self) -> Iterator[Job]:
        """Yield every job."""
        for (text,) in self._ask("SELECT content FROM jobs"):
            yield Job(**json.loads(text))

    def job(self, rule: str, name: str) -> Job | Outstanding:
        """Return the job of a rule that makes the folder of this name, or the allocation of this name.

        Raises:
            UserError: it is not in the plan, or what decides its result has changed since the job was submitted.
        """
        return self.allocation(name) if rule == "allocation" else self.job_of(str(STORE / rule / name))

    def allocation(self, name: str) -> Outstanding:
        """Return an allocation.

        Raises:
            UserError: it is not in the plan.
        """
        return Outstanding(**self._find("allocations", name))

    def job_of(self, folder: str) -> Job:
        """Return the job that makes a folder.

        Raises:
            UserError: as `job`.
        """
        if folder not in self._jobs:
            job = Job(**self._find("jobs", folder))
            changed = changes(Path(folder).parent.name, job)
            if changed:
                raise UserError(
                    f"{folder}: changed since the job was submitted: {'; '.join(changed)}; start Snakemake again"
                )
            self._jobs[folder] = job
        return self._jobs[folder]

    def _read(self, name: str) -> Any:
        return self._find("facts", name)

    def _find(self, table: str, name: str) -> Any:
        rows = self._ask(f"SELECT content FROM {table} WHERE name = ?", name)
        if not rows:
            raise UserError(f"{name} is not in the plan {self.path}; start Snakemake again")
        return json.loads(rows[0][0])

    def _ask(self, query: str, *values: str) -> Sequence[tuple[str, ...]]:
        try:
            with closing(_connected(self.path, "mode=ro&immutable=1")) as database:
                return database.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise UserError(f"{self.path}: no readable plan ({error}); start Snakemake again") from error


def changes(rule: str, job: Job) -> list[str]:
    """Return what decides a job's result and has changed since it was planned, in words."""
    version, *libraries = job.decided_by
    now = decided_by(rule, *(name.split()[0] for name in libraries))
    pairs = zip((version, *libraries), now, strict=True)
    found = [f"{before} is now {after}" for before, after in pairs if before != after]
    return found + [path for path, before in job.files.items() if content_digest(Path(path)) != before]


def stored_plans(study: str) -> list[StoredPlan]:
    """Return the stored plans of a study by its name."""
    return [StoredPlan(file) for file in sorted(_folder(study).glob("*.sqlite"))]
