"""Allocations and overhead of a study of tiny runs on SLURM, by how many runs share an allocation.

    tests/slurm/cluster.sh start
    python benchmarks/allocations.py [--runs 60] [--share 10 --share 1 --share 0] [--json FILE] [--check]

The study has three variants (float, pruned, quantized) of a tiny model, which trains for a few steps, by 20 seeds. All
is real: SLURM, Snakemake, training, evaluation, export and profile. A run's overhead is the time of the allocations
that made it, as sacct says, without what its jobs computed: SLURM's start, Snakemake's, Python's and its imports. What
jobs compute is taken from the settings that share, whose logs say it; 0 shares nothing, and is measured beside another.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from record import write_record

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
SHARES = (10, 1, 0)
# The goal: for each run at most one allocation, and so many seconds of overhead.
SECONDS = 15.0
VARIANTS = {"float": None, "pruned": [{"stage": "prune"}], "int": None}
RULES = ("finetune", "prune", "quantize", "evaluate", "export", "profile", "allocation")
# More often than a real cluster should be asked; two jobs at a time, as the SLURM of the tests has two cores.
OPTIONS = ("--jobs", "2", "--slurm-init-seconds-before-status-checks", "2", "--seconds-between-status-checks", "2")
CLUSTER = ("--default-resources", "slurm_partition=low", "slurm_account=intaglio")


@dataclass(frozen=True)
class Measured:
    """A study with one setting.

    Attributes:
        share: runs that share an allocation; 0 for a job each.
        runs: of the study.
        allocations: all that were submitted, those of data and tables, too.
        jobs: by rule, those that ran in these allocations.
        allocated: seconds of the allocations that made results of runs.
        wall: seconds of the study from start to end.
        computing: mean seconds of a job by rule, without its start; empty if nothing is shared.
    """

    share: int
    runs: int
    allocations: int
    jobs: Mapping[str, int]
    allocated: float
    wall: float
    computing: Mapping[str, float]

    def overhead(self, computing: Mapping[str, float]) -> float:
        """Return the seconds of overhead of a run, given the mean seconds of a job by rule."""
        computed = sum(count * computing[rule] for rule, count in self.jobs.items() if rule in computing)
        return (self.allocated - computed) / self.runs


def measure(folder: Path, runs: int, share: int, options: Sequence[str]) -> Measured:
    """Run the study in a folder that all nodes see."""
    from study_on_files import write_study

    resources = {"cpus": 1, "memory_mb": 2000, "train_minutes": 5, "measure_minutes": 5}
    path = write_study(
        folder,
        variants=VARIANTS,
        seeds=list(range(1, runs // len(VARIANTS) + 1)),
        stages={stage: {"epochs": 1, "evaluations": 1} for stage in ("finetune", "prune", "quantize")},
        resources={**resources, **({"runs_per_allocation": share} if share else {})},
    )
    command = [str(Path(sys.executable).parent / "snakemake"), "--snakefile", str(ROOT / "Snakefile"), *options]
    command += ["--profile", str(ROOT / "profiles" / "slurm"), "--configfile", str(path), *OPTIONS]
    start = time.monotonic()
    done = subprocess.run(command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    wall = time.monotonic() - start
    if done.returncode:
        raise SystemExit(done.stdout)
    rules = dict(re.findall(r"SLURM jobid (\d+) \(log: \S*?/rule_(\w+)/", done.stdout))
    allocated = sum(seconds for job, seconds in _elapsed(list(rules)).items() if rules[job] in RULES)
    jobs = dict(Counter(path.parent.name for path in folder.glob("logs/*/*.log")))
    return Measured(share, runs, len(rules), jobs, allocated, wall, _computing(folder))


def _elapsed(jobs: Sequence[str]) -> dict[str, float]:
    """Return the seconds of allocations by job number, as accounting has them."""
    command = ["sacct", "--noheader", "--parsable2", "--allocations", "--format=JobID,ElapsedRaw", "--jobs"]
    printed = subprocess.run([*command, ",".join(jobs)], capture_output=True, text=True, check=True).stdout
    return {job: float(seconds) for job, _, seconds in (line.partition("|") for line in printed.splitlines())}


def _computing(folder: Path) -> dict[str, float]:
    """Return the mean seconds of a job by rule, from the logs of shared allocations."""
    seconds: dict[str, list[float]] = defaultdict(list)
    for log in folder.glob("logs/allocation/*.log"):
        for rule, took in re.findall(r"^results/store/(\w+)/\S+: ([\d.]+) s$", log.read_text(), re.MULTILINE):
            seconds[rule].append(float(took))
    return {rule: sum(each) / len(each) for rule, each in seconds.items()}


def missed(rows: Sequence[Measured], computing: Mapping[str, float]) -> list[str]:
    """Return where settings that share exceed the goal."""
    found = []
    for row in rows:
        if row.share > 1 and row.allocations > row.runs:
            found.append(f"{row.share} runs an allocation: {row.allocations} allocations for {row.runs} runs")
        if row.share > 1 and row.overhead(computing) > SECONDS:
            found.append(f"{row.share} runs an allocation: {row.overhead(computing):.1f} s of overhead a run")
    return found


def main() -> int:
    """Print the table; with --check, fail where the goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=60, help="a multiple of three")
    parser.add_argument("--share", type=int, action="append", help="runs that share an allocation: 10, 1, 0 for none")
    parser.add_argument("--folder", type=Path, help="where the studies run: a folder that all nodes see")
    parser.add_argument("--json", type=Path, help="write all figures and the machine to this file, or into this folder")
    parser.add_argument("--check", action="store_true", help=f"exit with 1 above {SECONDS:.0f} s of overhead a run")
    parser.add_argument("options", nargs="*", help=f"of Snakemake, after --, in place of {' '.join(CLUSTER)}")
    arguments = parser.parse_args()
    shares = arguments.share or SHARES
    if not any(shares):
        parser.error("--share 0 is measured beside another, which says what jobs compute")
    rows = []
    for share in sorted(shares, reverse=True):
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            rows.append(measure(Path(folder), arguments.runs, share, arguments.options or CLUSTER))
        print(f"{share} runs an allocation: {rows[-1]}", file=sys.stderr, flush=True)
    computing = rows[0].computing
    print(f"{'runs shared':>12}{'allocations':>13}{'a run':>8}{'overhead a run':>16}{'wall':>9}")
    for row in rows:
        per_run = row.allocations / row.runs
        print(
            f"{row.share or 'none':>12}{row.allocations:>13}{per_run:>8.2f}{row.overhead(computing):>14.1f} s"
            f"{row.wall:>7.0f} s"
        )
    if arguments.json:
        facts = [{**asdict(row), "overhead": row.overhead(computing)} for row in rows]
        write_record(arguments.json, "allocations", "cpu", {"rows": facts})
    sentences = missed(rows, computing) if arguments.check else []
    for sentence in sentences:
        print(sentence, file=sys.stderr)
    return bool(sentences)


if __name__ == "__main__":
    sys.exit(main())
