"""What a study costs by its number of runs: planning, each job's own start, a finished study's rerun, tables, plots.

    python benchmarks/scale.py [--runs 100 --runs 1000 --runs 10000] [--share 10] [--folder DIR] [--json FILE] [--check]

The studies are of up to ten tasks, five models, ten variants and twenty seeds. No model is trained: finished results
are made up (tests/fakes.py), one of each task and variant, and linked for the others. Every figure is of a process of
its own, with its children. The start of a job is Snakemake as SLURM starts it within a job: reading the rules and
finding the job, without its command. With --share, so many runs share an allocation, as a large study should have it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import processes
import yaml
from record import write_record

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import fakes  # noqa: E402
from intaglio.planning.plan import make_plan  # noqa: E402
from intaglio.rules.planned import PlannedStudy  # noqa: E402
from intaglio.rules.stored import PLAN  # noqa: E402
from intaglio.study.load import load  # noqa: E402

RUNS = (100, 1_000, 10_000)
SEEDS, MOST_MODELS, MOST_TASKS = 20, 5, 10
VARIANTS = (*fakes.NINE, "shorter")
# The goals, at every size: seconds on a machine that does nothing else, and bytes of memory.
GOALS = {
    "plan": (60, 2e9),
    "job": (6, 5e8),
    "rerun": (60, 2e9),
    "summarize": (60, 1e9),
    "pages": (60, 1e9),
    "plot": (60, 1e9),
}
LABELS = ("negative", "positive")


@dataclass(frozen=True)
class Row:
    """One step at one size.

    Attributes:
        runs: of the study.
        jobs: of the study, those that share an allocation as one.
        step: a name in `GOALS`.
        seconds: of the whole process.
        processor: seconds of processor time, of all its processes.
        peak: largest resident memory of a process, in bytes.
    """

    runs: int
    jobs: int
    step: str
    seconds: float
    processor: float
    peak: int


def study(runs: int, share: int) -> dict[str, Any]:
    """Return a study file of about so many runs, of which so many share an allocation (0: none)."""
    seeds = min(SEEDS, max(1, runs // len(VARIANTS)))
    groups = max(1, runs // (len(VARIANTS) * seeds))
    models = min(MOST_MODELS, groups)
    tasks = -(-groups // models)
    task = {"source": {"kind": "files", "train": "train.csv", "test": "test.csv"}, "text": ["text"], "label": "label"}
    recipes: dict[str, Any] = dict.fromkeys(VARIANTS)
    recipes["shorter"] = [{"stage": "distil", "layers": 3}, {"stage": "prune", "sparsity": 0.5}]
    return {
        "study": "large",
        "seeds": list(range(seeds)),
        "models": {f"m{n}": {"source": {"kind": "files", "path": f"model{n}"}} for n in range(models)},
        "tasks": {f"t{n}": {**task, "labels": list(LABELS), "max_train": 10 + n} for n in range(tasks)},
        "variants": recipes,
        "profile": {"seeds": "all", "backends": ["torch", "onnxruntime", "native"], "machine": "any"},
        "resources": {"runs_per_allocation": share or None},
    }


def write_study(folder: Path, runs: int, share: int = 0) -> Path:
    """Write a study file and the files that it names; return it."""
    content = study(runs, share)
    for name in ("train", "test"):
        (folder / f"{name}.csv").write_text("text,label\n" + "".join(f"text {n},{n % 2}\n" for n in range(40)))
    for number in range(len(content["models"])):
        (folder / f"model{number}").mkdir(exist_ok=True)
        (folder / f"model{number}/config.json").write_text(json.dumps({"number": number}))
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def finish(folder: Path) -> None:
    """Make up the results of a study: one for each task and variant, linked for models and seeds."""
    plan = make_plan(load(yaml.safe_load((folder / "study.yaml").read_text())))
    made = folder / "made"
    first: dict[tuple[str, str], dict[str, Any]] = {}
    content = plan.summarized()
    kinds = ("data", "description", "checkpoint", "evaluation", "export", "profile")
    for run in content["runs"]:
        key = run["task"], run["variant"]
        if key not in first:
            own = {kind: f"{kind}-{run['task']}-{run['variant']}" for kind in kinds}
            first[key] = {**run, **own, "teacher": own["evaluation"], "stages": [own["checkpoint"]]}
    made.mkdir()
    (made / "plan.json").write_text(json.dumps({"study": content["study"], "runs": list(first.values())}))
    fakes.fill(made / "plan.json", made)
    for run in content["runs"]:
        source = first[run["task"], run["variant"]]
        for kind in kinds:
            _link(made / source[kind], folder / run[kind])
        for stage in run["stages"]:
            _link(made / source["checkpoint"], folder / stage)
    for job in (job for of_rule in plan.jobs.values() for job in of_rule.values()):
        (folder / job.output).mkdir(parents=True, exist_ok=True)
    shutil.rmtree(made)


def _link(source: Path, target: Path) -> None:
    if not target.exists():
        target.mkdir(parents=True)
        for file in source.iterdir():
            os.link(file, target / file.name)


def measured(command: Sequence[str | Path], folder: Path, **environment: str) -> processes.Used:
    """Run a command in a folder; return what it took."""
    path = os.pathsep.join([str(ROOT / "workflow"), os.environ.get("PYTHONPATH", "")])
    with (folder / "printed.txt").open("w") as printed:
        try:
            variables = {**os.environ, "PYTHONPATH": path, **environment}
            return processes.run(command, folder=folder, environment=variables, printed=printed)
        except subprocess.CalledProcessError as error:
            raise SystemExit(f"{error}:\n{(folder / 'printed.txt').read_text()[-3000:]}") from error


def steps(folder: Path, runs: int, share: int) -> Iterator[Row]:
    """Measure every step of a study of so many runs in an empty folder."""
    file = write_study(folder, runs, share)
    os.chdir(folder)
    plan = make_plan(load(yaml.safe_load(file.read_text())))
    planned = PlannedStudy(plan)
    jobs = len(planned.needed_by_tables()[1]) or sum(map(len, plan.jobs.values()))

    def row(step: str, command: Sequence[str | Path], **environment: str) -> Row:
        return Row(len(plan.runs), jobs, step, *measured(command, folder, **environment))

    snakemake: list[str | Path] = [sys.executable, "-m", "snakemake", "--snakefile", ROOT / "Snakefile"]
    leading = [*snakemake, "--configfile", file, "--cores", "2"]
    yield row("plan", [*leading, "--dry-run"])

    planned.store()
    rule, name, needed = _last(planned, plan)
    for folder_needed in needed:
        Path(folder_needed).mkdir(parents=True)
    of_job = ["--target-jobs", f"{rule}:job={name}", "--allowed-rules", rule, "--mode", "remote", "--nolock"]
    yield row("job", [*snakemake, *of_job, "--cores", "1", "--force", "--dry-run"], **{PLAN: str(planned.path)})
    shutil.rmtree(folder / "results")

    finish(folder)
    # Snakemake's records of what is there, then the tables.
    measured([*leading, "--touch", "--quiet", "all"], folder)
    measured(leading, folder)
    yield row("rerun", leading)
    intaglio = [sys.executable, "-m", "intaglio"]
    planned.store()
    measured([*intaglio, "runs", "--stored", planned.path, "--output", "plan.json"], folder)
    yield row("summarize", [*intaglio, "summarize", "--plan", "plan.json", "--output", "summary"])
    yield row("pages", [*intaglio, "pages", "--summary", "summary", "--output", "pages", "--report", "report.html"])
    yield row("plot", [*intaglio, "plot", "--summary", "summary", "--output", "plots"])


def _last(planned: PlannedStudy, plan: Any) -> tuple[str, str, Sequence[str]]:
    """Return the rule and the name of a job that starts, and the folders that it needs."""
    _, shared = planned.needed_by_tables()
    if shared:
        return "allocation", shared[0], planned.job("allocation", shared[0]).folders
    name = Path(plan.runs[-1].evaluation).name
    return "evaluate", name, list(plan.jobs["evaluate"][name].inputs.values())


def missed(rows: Sequence[Row]) -> list[str]:
    """Return a sentence for every goal that was missed."""
    found = []
    for row in rows:
        seconds, peak = GOALS[row.step]
        if row.seconds > seconds or row.peak > peak:
            found.append(
                f"{row.step} of {row.runs} runs: {row.seconds:.0f} s and {row.peak / 1e6:.0f} MB, "
                f"where {seconds} s and {peak / 1e6:.0f} MB are the goal"
            )
    return found


def main(argv: list[str] | None = None) -> int:
    """Print the table; with --check, fail where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, action="append", help=f"number of runs, default {RUNS}")
    parser.add_argument("--share", type=int, default=0, help="number of runs that share an allocation, default none")
    parser.add_argument("--folder", type=Path, help="where to work, default a temporary folder")
    parser.add_argument("--json", type=Path, help="write all figures and the machine to this file, or into this folder")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a goal is missed")
    arguments = parser.parse_args(argv)
    where = arguments.json and arguments.json.resolve()
    rows: list[Row] = []
    print("  runs    jobs  step       seconds  processor, s  peak, MB", flush=True)
    for runs in arguments.runs or RUNS:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
            for row in steps(Path(name).resolve(), runs, arguments.share):
                rows.append(row)
                print(
                    f"{row.runs:6d}  {row.jobs:6d}  {row.step:9s}  {row.seconds:7.1f}  {row.processor:12.1f}  "
                    f"{row.peak / 1e6:8.0f}",
                    flush=True,
                )
            os.chdir(ROOT)
    if where:
        write_record(where, "scale", "cpu", {"share": arguments.share, "rows": [asdict(row) for row in rows]})
    sentences = missed(rows) if arguments.check else []
    for sentence in sentences:
        print(sentence, file=sys.stderr)
    return 1 if sentences else 0


if __name__ == "__main__":
    sys.exit(main())
