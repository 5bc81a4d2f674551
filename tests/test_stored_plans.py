"""Jobs on a cluster find themselves in the stored plan, whatever the size of the study and what has changed since."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from intaglio.errors import UserError
from intaglio.planning import identity, versions
from intaglio.planning.plan import make_plan
from intaglio.rules.planned import PlannedStudy
from intaglio.rules.stored import PLAN, StoredPlan
from intaglio.study.load import read
from study_on_files import ROOT, write_study

# Runs the command line of Snakemake, then says whether anything was planned.
_PROGRAM = """if True:
    import sys
    from snakemake.cli import main
    try:
        main(sys.argv[1:])
    finally:
        print("PLANNED" if "intaglio.planning.plan" in sys.modules else "LOOKED UP", flush=True)
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def stored(folder: Path, **changes: Any) -> tuple[Any, StoredPlan]:
    """Plan and store a study; return the plan, and the stored one."""
    identity.file_digest.cache_clear()
    plan = make_plan(read(write_study(folder, **changes)))
    planned = PlannedStudy(plan)
    planned.store()
    return plan, StoredPlan(planned.path)


def test_what_is_read_is_what_was_planned(here: Path) -> None:
    plan, read_back = stored(here, seeds=[1, 2], resources={"runs_per_allocation": 2, "gpus": "gres"})
    for rule, jobs in plan.jobs.items():
        for name, job in jobs.items():
            assert asdict(read_back.job(rule, name)) == asdict(job)  # type: ignore[call-overload]
    assert read_back.facts == plan.facts
    assert read_back.results == plan.results
    assert read_back.summarized() == plan.summarized()
    planned = PlannedStudy(plan)
    assert read_back.needed_by_tables() == planned.needed_by_tables()
    assert read_back.run("words.tiny.int.2") == planned.run("int/2") == vars(plan.runs[-1])
    for name in planned.needed_by_tables()[1]:
        assert read_back.job("allocation", name) == planned.job("allocation", name)


def change_data(folder: Path, _: pytest.MonkeyPatch) -> None:
    with (folder / "train.csv").open("a") as file:
        file.write("another sentence,positive\n")


def change_model(folder: Path, _: pytest.MonkeyPatch) -> None:
    config = folder / "model/config.json"
    config.write_text(config.read_text() + "\n")


def change_code(_: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "VERSIONS", {**versions.VERSIONS, "quantize": 99})


def change_library(_: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = versions._minor
    monkeypatch.setattr(versions, "_minor", lambda name: "99.1" if name == "onnxruntime" else before(name))


@pytest.mark.parametrize(
    ("change", "rules", "words"),
    [
        (change_data, {"data"}, "train.csv"),
        (change_model, {"model"}, "model"),
        (change_code, {"quantize"}, "quantize 1 is now quantize 99"),
        (change_library, {"export"}, "is now onnxruntime 99.1"),
    ],
)
def test_what_has_changed_since_stops_the_jobs_that_it_concerns(
    here: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[..., None], rules: set[str], words: str
) -> None:
    plan, read_back = stored(here)
    change(here, monkeypatch)
    # As in another process.
    identity.file_digest.cache_clear()
    stopped = set()
    for rule, jobs in plan.jobs.items():
        for name in jobs:
            try:
                read_back.job(rule, name)
            except UserError as error:
                stopped.add(rule)
                assert words in str(error) and name in str(error) and "\n" not in str(error)
    assert stopped == rules


def test_a_plan_that_is_gone_or_torn_is_one_line(here: Path) -> None:
    plan, read_back = stored(here)
    name = next(iter(plan.jobs["finetune"]))
    with pytest.raises(UserError, match="not in the plan"):
        read_back.job("finetune", "unknown.s1.0")
    read_back.path.write_bytes(b"torn")
    with pytest.raises(UserError, match="no readable plan"):
        StoredPlan(read_back.path).job("finetune", name)
    read_back.path.unlink()
    with pytest.raises(UserError, match="start Snakemake again"):
        StoredPlan(read_back.path)


@pytest.mark.slow
def test_a_job_of_300_runs_starts_without_planning_them_or_reading_the_study(here: Path) -> None:
    plan, read_back = stored(here, seeds=list(range(150)))
    assert len(plan.runs) == 300
    name = Path(plan.runs[-1].evaluation).name
    for needed in plan.jobs["evaluate"][name].inputs.values():
        Path(needed).mkdir(parents=True)
    (here / "study.yaml").write_text("variants: [no: yaml")
    command = [sys.executable, "-c", _PROGRAM, "--snakefile", str(ROOT / "Snakefile"), "--cores", "1", "--dry-run"]
    command += ["--target-jobs", f"evaluate:job={name}", "--allowed-rules", "evaluate", "--mode", "remote", "--force"]
    done = subprocess.run(
        [*command, "--nolock"], capture_output=True, text=True, env={**os.environ, PLAN: str(read_back.path)}
    )
    printed = done.stdout + done.stderr
    assert "rule evaluate:" in printed and name in printed, printed
    assert "LOOKED UP" in printed
