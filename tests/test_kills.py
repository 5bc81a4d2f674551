"""Every kind of job, ended at a random moment and started again, ends as if nothing had happened."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from interrupted import Jobs, after, jobs, when
from tiny import tiny_data, tiny_model

pytestmark = pytest.mark.slow

# Kills of each kind of job; pairs of processes on one job (25 by hand).
KILLS = int(os.environ.get("INTAGLIO_KILLS", "3"))
PAIRS = int(os.environ.get("INTAGLIO_PAIRS", "8"))
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGUSR2)
MAX_LENGTH = 16
# A checkpoint at every step.
TRAINING = {"epochs": 1, "batch_size": 8, "learning_rate": 1e-3, "evaluations": 3, "checkpoint_minutes": 0}
STAGES: dict[str, dict[str, Any]] = {
    "finetune": TRAINING,
    "distil": {**TRAINING, "layers": 1},
    "prune": {**TRAINING, "sparsity": 0.5},
    "cut": {**TRAINING, "sparsity": 0.5, "importance_examples": 32},
    "quantize": {**TRAINING, "calibration_examples": 32, "tolerance": 1.0},
    "int8": {"calibration_examples": 32, "tolerance": 1.0},
}
SHAPE = {"batch_sizes": [1], "lengths": [8], "headline": [1, 8], "calls": 2, "warmup": 1, "threads": 1}
PROFILE = {**SHAPE, "devices": ["cpu"], "backends": ["torch", "onnxruntime"]}
# What differs from run to run.
NOT_MEASURED = {"backend", "device", "batch_size", "length", "threads", "max_difference", "operator"}
TIMES = {"train_seconds", "total_train_seconds", "step_seconds_mean", "step_seconds_median", "energy"}

Command = Callable[[Path], list[str]]


class Kinds:
    """The command of each kind of job, and what it made undisturbed."""

    def __init__(self, server: Jobs, root: Path) -> None:
        self.server, self.root = server, root
        self.model, self.data = tiny_model(root / "model"), tiny_data(root / "data", n=64)
        self.seconds: dict[str, float] = {}
        self._made: dict[str, Path] = {}

    def command(self, kind: str, folder: Path) -> dict[str, Any]:
        """Return the job of this kind whose result is FOLDER/output."""
        if kind in STAGES:
            start = ["--model", self.model] if kind == "finetune" else ["--parent", self.made("finetune")]
            given = [*start, "--data", self.data, "--options", json.dumps({"stage": kind, **STAGES[kind]}), "--seed", 1]
            given += ["--max-length", MAX_LENGTH]
        else:
            given = ["--checkpoint", self.made("quantize" if kind != "profile" else "finetune")]
            if kind == "evaluate":
                given += ["--data", self.data, "--max-length", MAX_LENGTH]
            if kind == "profile":
                if "export of float" not in self._made:
                    job = [*given, "--output", self.root / "export of float"]
                    assert self.server.run({"command": ["export", *map(str, job)]}) == 0
                    self._made["export of float"] = self.root / "export of float"
                given += ["--export", self._made["export of float"], "--options", json.dumps(PROFILE)]
        given += ["--work", folder / "work", "--output", folder / "output"]
        return {"command": [kind, *map(str, given)]}

    def made(self, kind: str) -> Path:
        """Return the undisturbed result of this kind."""
        if kind not in self._made:
            job, start = self.command(kind, self.root / kind), time.monotonic()
            assert self.server.run(job) == 0, (self.root / "log").read_text()
            self.seconds[kind] = time.monotonic() - start
            self._made[kind] = self.root / kind / "output"
        return self._made[kind]


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kinds]:
    root = tmp_path_factory.mktemp("kinds")
    with jobs(root / "log") as server:
        yield Kinds(server, root)


def hashes(folder: Path) -> dict[str, str]:
    """Return a hash of each file of a result, without what differs from run to run: measured times and memory."""
    found = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json"):
        if file.suffix == ".parquet":
            table = pq.read_table(file).replace_schema_metadata()
            if "profile" in folder.parts:
                table = table.select([name for name in table.column_names if name in NOT_MEASURED])
            content = json.dumps(sorted(json.dumps(row, default=repr) for row in table.to_pylist())).encode()
        elif file.name == "training.json":
            record = json.loads(file.read_text())
            content = json.dumps({name: value for name, value in record.items() if name not in TIMES}).encode()
        else:
            content = file.read_bytes()
        found[str(file.relative_to(folder))] = hashlib.sha256(content).hexdigest()
    return found


def test_a_job_that_is_killed_at_any_moment_ends_the_same_to_the_bit(
    kinds: Kinds, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    chance, kills, identical = random.Random(0), 0, 0
    for kind in (*STAGES, "evaluate", "export", "profile"):
        expected = hashes(kinds.made(kind))
        assert len(expected) > 1
        for number in range(KILLS):
            status, attempt = 0, 0
            # A job that was faster is no kill; the next one is killed earlier.
            while status == 0:
                folder = tmp_path / kind / f"{number}-{attempt}"
                job, attempt, start = kinds.command(kind, folder), attempt + 1, time.monotonic()
                moment = chance.uniform(0, 0.95 * kinds.seconds[kind])
                status = kinds.server.run(job, after(moment, SIGNALS[kills % len(SIGNALS)]))
                if status == 0:
                    kinds.seconds[kind] = min(kinds.seconds[kind], time.monotonic() - start)
            kills += 1
            assert status in (143, *(-signal for signal in SIGNALS)), (kinds.root / "log").read_text()
            assert kinds.server.run(job) == 0, (kinds.root / "log").read_text()
            identical += hashes(folder / "output") == expected
            assert [path.name for path in folder.iterdir()] == ["output"]
    record_property("counted", f"{kills} kills, {identical} bit-identical endings")
    assert kills == identical == 9 * KILLS


def test_two_processes_of_one_job_end_as_one(
    kinds: Kinds, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Each pair overlaps from a random moment on; in every second one, the first process is killed at another."""
    expected, seconds = hashes(kinds.made("finetune")), kinds.seconds["finetune"]
    chance, killed, identical = random.Random(1), 0, 0
    with jobs(tmp_path / "log") as other:
        for number in range(PAIRS):
            folder, started = tmp_path / str(number), threading.Event()
            job = kinds.command("finetune", folder)
            kill = when(started.is_set, signal.SIGKILL, chance.uniform(0, seconds)) if number % 2 else lambda _: None
            with ThreadPoolExecutor(1) as pool:
                first = pool.submit(kinds.server.run, job, kill)
                time.sleep(chance.uniform(0, seconds))
                started.set()
                second = other.run(job)
            killed += first.result() != 0
            assert (first.result() in (0, -signal.SIGKILL), second) == (True, 0)
            assert not (folder / "work").exists()
            identical += hashes(folder / "output") == expected
    record_property("counted", f"{PAIRS} pairs, {killed} first processes killed, {identical} results identical")
    assert identical == PAIRS


# A small disk, full but for some checkpoints.
DISK = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=4m none "$0" && exec "$@"']


def test_a_training_goes_on_once_there_is_room_on_the_disk_again(kinds: Kinds, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if not shutil.which("unshare") or subprocess.run([*DISK, disk, "true"]).returncode:
        pytest.skip("a small disk cannot be mounted here")
    job = kinds.command("finetune", disk)
    job["command"][job["command"].index("--output") + 1] = str(tmp_path / "output")
    log = tmp_path / "log"
    with jobs(log, [*DISK, disk]) as server:
        assert server.run({"shell": f"head -c 3300000 /dev/zero > {disk}/ballast"}) == 0
        assert server.run(job) == 2
        assert "cannot be written: No space left on device; make room and run again" in log.read_text()
        assert server.run({"shell": f"ls -d {disk}/work/progress-*/checkpoint-* && rm {disk}/ballast"}) == 0
        assert server.run(job) == 0
        assert "resuming from" in log.read_text()
    assert hashes(tmp_path / "output") == hashes(kinds.made("finetune"))
