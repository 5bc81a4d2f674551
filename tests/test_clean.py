"""Old results are found and listed, and only what nobody needs is removed."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from intaglio.clean import clean, unneeded
from intaglio.cli import main
from intaglio.cluster import leading
from intaglio.errors import UserError
from intaglio.ownership import OWNER, myself
from intaglio.planning.plan import make_plan
from intaglio.rules.planned import PlannedStudy
from intaglio.store import new_artifact
from intaglio.study.load import read
from study_on_files import write_study


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def started(folder: Path, **changes: Any) -> PlannedStudy:
    """Plan and store a study as a start of Snakemake does, with empty results and logs of all its jobs."""
    plan = make_plan(read(write_study(folder, **changes)))
    planned = PlannedStudy(plan)
    planned.store()
    planned.remove_earlier()
    for rule, jobs in plan.jobs.items():
        for name, job in jobs.items():
            with new_artifact(Path(job.output), rule) as draft:
                (draft / "content").write_text(name)
            log = Path("logs", rule, f"{name}.log")
            log.parent.mkdir(parents=True, exist_ok=True)
            log.touch()
    return planned


def listed() -> set[str]:
    return {str(entry.path) for entry in unneeded()}


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_a_changed_study_does_not_need_is_listed_then_removed(here: Path, capsys: Any) -> None:
    before = started(here, variants={"float": None, "int": None, "int-linear": None})
    assert listed() == set()
    old = {path for rule in ("quantize", "evaluate", "export", "profile") for path in before.outputs(rule)}
    after = started(here)
    kept = {path for rule in ("quantize", "evaluate", "export", "profile") for path in after.outputs(rule)}
    logs = {str(Path("logs", *Path(path).parts[-2:]).with_name(f"{Path(path).name}.log")) for path in old - kept}
    assert listed() == (old - kept) | logs and len(old - kept) == 4
    assert main(["clean"]) == 0
    printed = capsys.readouterr().out
    assert all(path in printed for path in old - kept) and "8 entries, 12 files" in printed and "--yes" in printed
    assert all(Path(path).is_dir() for path in old)
    assert main(["clean", "--yes"]) == 0
    assert not any(Path(path).exists() for path in (old - kept) | logs)
    assert all(Path(path).is_dir() for path in kept)
    assert listed() == set()
    # No draft of the removal is left.
    assert not list(Path("results/store").glob("*/.*"))


def test_another_study_keeps_what_it_needs(here: Path) -> None:
    started(here, study="one", variants={"float": None, "int-linear": None})
    started(here, study="two")
    assert listed() == set()
    for file in Path("results/one/plans").iterdir():
        file.unlink()
    with pytest.raises(UserError, match=r"results/one: .*run Snakemake on its study file"):
        unneeded()
    Path("results/one/plans").rmdir()
    Path("results/one").rmdir()
    assert any("quantize" in path for path in listed())


def test_profiles_that_were_disturbed_stay_with_the_others_of_their_model(here: Path) -> None:
    planned = started(here)
    for path in planned.outputs("profile"):
        with new_artifact(Path(f"{path}-2"), "profile"):
            pass
    assert listed() == set()


def test_progress_and_drafts_go_if_nobody_works_on_them(here: Path) -> None:
    planned = started(here)
    work, store = Path("results/store/work"), Path("results/store")
    host, me = socket.gethostname(), myself()
    (finished,) = planned.outputs("finetune")
    done = work / f"finetune-{Path(finished).name.rpartition('.')[2]}"
    unknown, living = work / "prune-0123456789ab", work / "quantize-0123456789ab"
    elsewhere, silent = work / "distil-0123456789ab", work / "cut-0123456789ab"
    for folder in (done, unknown, living, elsewhere, silent):
        folder.mkdir(parents=True)
    there = replace(me, node="other boot -", host="other")
    for folder, owner in ((living, me), (elsewhere, there), (silent, there)):
        (folder / OWNER).write_text(json.dumps(asdict(owner)))
    os.utime(silent / OWNER, (0, time.time() - 3600))
    drafts = {
        store / f"finetune/.a.0123456789ab.{host}-{dead_process()}.part": True,
        store / f"finetune/.b.0123456789ab.{host}-{os.getpid()}.part": False,
        store / "finetune/.c.0123456789ab.other-host-7.part": False,
        store / "finetune/.d.0123456789ab.other-host-8.old": True,
    }
    for draft in drafts:
        draft.mkdir()
        (draft / "part").touch()
        if "-8." in draft.name:
            for path in (draft / "part", draft):
                os.utime(path, (0, time.time() - 2 * 86400))
    # What the jobs at work read is not known.
    for at_work in (living, elsewhere):
        with pytest.raises(UserError, match="at work"):
            unneeded()
        (at_work / OWNER).unlink()
        at_work.rmdir()
    assert listed() == {str(path) for path, goes in {done: True, unknown: True, silent: True, **drafts}.items() if goes}
    # A job of the study goes on where it was.
    Path(finished, "manifest.json").unlink()
    assert str(done) not in listed()


def test_nothing_is_cleaned_while_snakemake_runs_or_where_others_look(here: Path, tmp_path: Path) -> None:
    started(here)
    record = leading._record()
    with pytest.raises(UserError, match="Snakemake uses it: process"):
        list(clean(yes=True))
    (record / "owner.json").write_text(json.dumps(asdict(replace(myself(), process=dead_process()))))
    assert listed() == set()
    Path("results/store").rename(tmp_path / "theirs")
    Path("results/store").symlink_to(tmp_path / "theirs")
    with pytest.raises(UserError, match="a link to"):
        unneeded()


@pytest.mark.usefixtures("here")
def test_an_empty_folder_has_nothing_to_clean() -> None:
    assert list(clean(yes=False)) == ["0 entries, 0 files, 0.00 GB: nothing to remove"]
