"""Jobs that share an allocation: which they are, and what becomes of them if one fails or the time is over."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from intaglio.allocation import Preempted
from intaglio.cluster import shared
from intaglio.cluster.shared import Shared, make_shared
from intaglio.planning.allocations import Allocations
from intaglio.planning.plan import make_plan
from intaglio.study.load import read
from intaglio.study.options import STAGES
from study_on_files import write_study

RULES = (*STAGES, "evaluate", "export", "profile")
VARIANTS: dict[str, Any] = {"float": None, "int": None, "pruned": [{"stage": "prune"}], "int8": [{"stage": "int8"}]}


def allocations(folder: Path, number: int | None) -> Allocations:
    resources = {} if number is None else {"runs_per_allocation": number}
    study = read(write_study(folder, variants=VARIANTS, seeds=[1, 2, 3], resources=resources))
    return Allocations(make_plan(study))


def test_without_the_option_each_job_has_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert not allocations(tmp_path, None).by_name


@pytest.mark.parametrize(("number", "expected"), [(1, 12), (4, 3), (5, 3), (100, 1)])
def test_every_job_of_a_run_is_in_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, expected: int
) -> None:
    monkeypatch.chdir(tmp_path)
    found = allocations(tmp_path, number)
    assert len(found.by_name) == expected
    plan = make_plan(read(tmp_path / "study.yaml"))
    outputs = {job.output for rule in RULES for job in plan.jobs.get(rule, {}).values()}
    made: list[str] = []
    for name, allocation in found.by_name.items():
        before = list(made)
        for _, job in allocation.jobs:
            # Of this allocation or an earlier one: none waits for one that waits for it.
            assert all(path in made for path in job.inputs.values() if path in outputs)
            made.append(job.output)
        folders, others = found.needed(name)
        assert all(path.split("/")[2] in ("tokens", "model") for path in folders)
        assert {job.output for other in others for _, job in found.by_name[other].jobs} <= set(before)
        # Those of one seed share a fine-tuned model, and are neighbours.
        assert number != 4 or not others
        assert found.minutes(name) == sum(240 if rule in STAGES else 30 for rule, _ in allocation.jobs)
    assert sorted(made) == sorted(outputs)


def test_what_is_there_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (name,) = allocations(tmp_path, 100).by_name
    everything = allocations(tmp_path, 100).jobs(name)
    for _, job in everything:
        Path(job.output).mkdir(parents=True)
    assert allocations(tmp_path, 100).jobs(name) == []
    # Checkpoints that nobody needs any more may be deleted.
    finetuned = next(job for rule, job in everything if rule == "finetune")
    Path(finetuned.output).rmdir()
    assert allocations(tmp_path, 100).jobs(name) == []
    evaluation = next(job for rule, job in everything if job.inputs.get("checkpoint") == finetuned.output)
    Path(evaluation.output).rmdir()
    assert [job for _, job in allocations(tmp_path, 100).jobs(name)] == [finetuned, evaluation]


def run(words: list[str]) -> int:
    """A command: makes its folder, or ends with a status, or by a signal."""
    what, output = words
    if what.startswith("-"):
        os.kill(os.getpid(), int(what[1:]))
        time.sleep(60)
    if what == "0":
        Path(output).mkdir()
    return int(what)


def job(what: str, output: str, *inputs: str, resumes: bool = False) -> Shared:
    return Shared(words=[what, output], inputs=inputs, output=output, minutes=30, resumes=resumes)


def test_a_failure_stays_in_its_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    jobs = [
        job("0", "trained"),
        job("2", "diverged", "trained"),
        job("0", "of_diverged", "diverged"),
        job("-9", "killed"),
        job("0", "of_killed", "killed"),
        job("1", "unknown"),
        job("0", "last", "trained"),
    ]
    mistakes, again = make_shared(jobs, run)
    assert mistakes == ["diverged", "of_diverged"]
    assert again == ["killed", "of_killed", "unknown"]
    assert {path.name for path in tmp_path.iterdir()} == {"trained", "last"}
    said = capsys.readouterr().out
    assert "diverged: " in said and "exit status 2\n" in said and "exit status 137" in said
    assert "of_diverged: left out, as diverged is missing" in said


def test_a_job_that_has_to_end_ends_the_allocation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # As a training that has saved; as another, ended by SLURM's signal; and one that ended well before it was seen.
    for what in ("143", "-15"):
        with pytest.raises(Preempted):
            make_shared([job(what, "a"), job("0", "b")], run)

    def signalled(words: list[str]) -> int:
        os.kill(os.getppid(), signal.SIGTERM)
        time.sleep(0.2)
        return run(words)

    with pytest.raises(Preempted):
        make_shared([job("0", "a"), job("0", "b")], signalled)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(
    ("left", "resumes", "may_return", "begins"),
    [
        (31 * 60, False, True, True),
        (29 * 60, False, True, False),
        (29 * 60, True, True, True),
        (9 * 60, True, True, False),
        (29 * 60, False, False, True),
    ],
)
def test_a_job_begins_if_there_is_time_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: float, resumes: bool, may_return: bool, begins: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shared, "seconds_left", lambda: left)
    monkeypatch.setattr(shared, "return_to_queue", lambda **_: may_return)
    # The first begins in any case: there will not be more time.
    jobs = [job("0", "first", resumes=resumes), job("0", "second", resumes=resumes)]
    if begins:
        make_shared(jobs, run)
    else:
        with pytest.raises(Preempted):
            make_shared(jobs, run)
    assert {path.name for path in tmp_path.iterdir()} == ({"first", "second"} if begins else {"first"})
