"""`intaglio status`: what a running study looks like from outside."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from intaglio.cli import main
from intaglio.journal import JOURNAL, Entry, note, noted, time_left
from intaglio.ownership import OWNER, myself
from intaglio.planning.jobs import Plan
from intaglio.planning.plan import make_plan
from intaglio.store import new_artifact
from intaglio.study.load import read
from study_on_files import write_study


def owned(work: Path, alive: bool = True) -> None:
    work.mkdir(parents=True)
    # A number that another process has now.
    owner = myself() if alive else replace(myself(), started=0.0)
    (work / OWNER).write_text(json.dumps(asdict(owner)))


def logged(output: str, text: str) -> None:
    log = Path("logs", *Path(output).parts[-2:]).with_name(f"{Path(output).name}.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(text)


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Plan]:
    monkeypatch.chdir(tmp_path)
    file = write_study(tmp_path, seeds=[1, 2, 3])
    return file, make_plan(read(file))


def test_jobs_by_state_with_progress_and_reasons(study: tuple[Path, Plan], capsys: pytest.CaptureFixture[str]) -> None:
    file, plan = study
    for rule in ("data", "model", "tokens"):
        for job in plan.jobs[rule].values():
            with new_artifact(Path(job.output), rule):
                pass
    running, killed, diverged = plan.jobs["finetune"].values()
    owned(Path(running.work))
    for step, values in ((0, {}), (10, {"loss": 0.7}), (20, {"loss": 0.5123}), (20, {"validation_accuracy": 0.8125})):
        entry = Entry(1000.0 + 3 * step, step, 100, values)
        with (Path(running.work) / JOURNAL).open("a") as journal:
            journal.write(json.dumps(asdict(entry)) + "\n")
    owned(Path(killed.work), alive=False)
    logged(killed.output, "finetune:  12%\n")
    logged(diverged.output, "intaglio finetune: the loss became nan at step 12\n")

    assert main(["status", str(file)]) == 0
    said = capsys.readouterr().out
    jobs = sum(map(len, plan.jobs.values()))
    assert said.startswith(f"{plan.study.study}: {jobs} jobs: 3 finished, 1 running, 2 failed, {jobs - 6} waiting\n")
    assert re.search(r"^finetune +3 +– +1 +2 +–$", said, re.MULTILINE)
    # 60 s for 20 steps.
    assert f"  finetune {running.name}: step 20 of 100, loss 0.512, validation_accuracy 0.812, 4.0 min left" in said
    assert f"  finetune {killed.name}: its job has ended without a result" in said
    assert f"  finetune {diverged.name}: intaglio finetune: the loss became nan at step 12 (logs/finetune/" in said


def test_a_training_that_saved_its_progress_waits(study: tuple[Path, Plan], capsys: pytest.CaptureFixture[str]) -> None:
    file, plan = study
    job = next(iter(plan.jobs["finetune"].values()))
    owned(Path(job.work), alive=False)
    logged(job.output, "SIGTERM, at step 3 of 25: the progress is in w, run again to resume\n")
    assert main(["status", str(file)]) == 0
    assert " 0 running, 0 failed," in capsys.readouterr().out


def test_a_journal_with_a_torn_line_and_a_second_attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert noted(tmp_path) == [] and time_left([]) is None
    clock = iter((0.0, 100.0, 500.0, 520.0))
    monkeypatch.setattr("intaglio.journal.time.time", lambda: next(clock))
    note(tmp_path, 0, 50, {})
    note(tmp_path, 30, 50, {"loss": 1.0})
    with (tmp_path / JOURNAL).open("a") as journal:
        journal.write('{"at": 200.0, "ste\n')
    note(tmp_path, 20, 50, {})
    note(tmp_path, 30, 50, {"loss": 0.5})
    entries = noted(tmp_path)
    assert [entry.step for entry in entries] == [0, 30, 20, 30]
    assert time_left(entries) == pytest.approx(40.0)
    note_nowhere = tmp_path / "gone"
    note(note_nowhere, 1, 2, {"loss": 1.0})
    assert noted(note_nowhere) == []
