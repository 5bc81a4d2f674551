import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch

from intaglio import machine
from intaglio.schemas import MACHINE, machine_columns


def test_every_column_of_the_tables_has_its_fact():
    facts = machine.fingerprint()
    assert {f"machine_{key}" for key in facts} == {field.name for field in MACHINE}
    assert machine_columns(facts)["machine_id"] == machine.machine_id()


def test_facts():
    facts = machine.fingerprint()
    assert facts["python"] == platform.python_version()
    assert facts["cores"] == len(os.sched_getaffinity(0))
    assert facts["memory_mb"] == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 10**6
    libraries = json.loads(facts["libraries"])
    assert (libraries["torch"], libraries["numpy"]) == (torch.__version__, numpy.__version__)
    assert (facts["gpu"] is not None) == torch.cuda.is_available()
    if "avx2" in torch.backends.cpu.get_cpu_capability().lower():
        assert "avx2" in facts["instructions"].split()


def test_names():
    assert machine.device_name("cpu") == machine.fingerprint()["cpu"]
    assert len(machine.machine_id()) == 8


def test_a_caller_cannot_spoil_the_cached_facts():
    machine.fingerprint()["cpu"] = "spoilt"
    assert machine.fingerprint()["cpu"] != "spoilt"


def test_cpuinfo_of_the_first_processor():
    text = "model name\t: Epyc 7: two\nflags\t\t: avx2 sha_ni\n\nmodel name\t: other\n"
    assert machine._cpuinfo(text) == {"model name": "Epyc 7: two", "flags": "avx2 sha_ni"}
    assert machine._cpuinfo("") == {}


def git(folder: Path, *command: str) -> str:
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    done = subprocess.run(
        ["git", "-C", folder, *identity, *command], check=True, capture_output=True, text=True, env=environment
    )
    return done.stdout.strip()


def test_commit_of_the_tree_that_holds_the_package(tmp_path):
    package = tmp_path / "workflow" / "package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    assert machine._git_commit(package) is None
    git(tmp_path, "init", "-q")
    (tmp_path / "config.yaml").write_text("")
    git(tmp_path, "add", "config.yaml")
    git(tmp_path, "commit", "-qm", "a study alone")
    assert machine._git_commit(package) is None, "the package is not part of that repository"
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "the package")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert machine._git_commit(package) == commit
    (tmp_path / "config.yaml").write_text("seeds: [0]")
    assert machine._git_commit(package) == commit, "a study is not the code"
    (package / "new.py").write_text("")
    assert machine._git_commit(package) == f"{commit}-dirty"


def test_planning_needs_no_torch() -> None:
    program = """
import sys
from intaglio.machine import machine_id
from intaglio.planning.plan import make_plan
machine_id()
assert "torch" not in sys.modules, "torch"
assert "pandas" not in sys.modules, "pandas"
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(machine.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)


@pytest.mark.parametrize(
    ("visible", "name", "count", "memory"),
    [(None, "NVIDIA H100 80GB HBM3", 2, 85520), ("1", "NVIDIA A30", 1, 25769), ("", None, None, None)],
)
def test_a_gpu_is_known_without_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, visible: str | None, name: str | None, count: int, memory: int
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(
        '#!/bin/sh\n[ "$1" = -i ] || echo "NVIDIA H100 80GB HBM3, 81559, 570.1"\necho "NVIDIA A30, 24576, 570.1"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    facts = machine._gpu.__wrapped__()
    assert (facts["gpu"], facts["gpu_count"], facts["gpu_memory_mb"]) == (name, count, memory)


@pytest.mark.parametrize("library", ["torch", "onnxruntime", "transformers"])
def test_what_executes_models_is_part_of_the_id(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    machine_id, installed = machine.machine_id.__wrapped__, machine._version
    before = machine_id()
    assert before == machine.fingerprint()["id"]
    monkeypatch.setattr(machine, "_version", lambda name: "0.1" if name == library else installed(name))
    assert machine_id() != before
