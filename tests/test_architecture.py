"""The house stays as docs/architecture.md draws it."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "workflow" / "intaglio"
# Ground floor first.
ROOMS = [
    {"errors"},
    {"store", "machine", "logged"},
    {"schemas"},
    {"arithmetic"},
    {"encoder"},
    {"execution"},
    {"onnx"},
    {"metrics"},
    {"checkpoint"},
    {"study"},
    {"tasks"},
    {"models"},
    {"training"},
    {"stages"},
    {"export"},
    {"measure"},
    {"summary"},
    {"report"},
    {"plots"},
    {"cluster"},
    {"cli"},
    {"__main__"},
]
FLOOR = {room: floor for floor, rooms in enumerate(ROOMS) for room in rooms}
FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        modules = []
        if isinstance(node, ast.ImportFrom) and node.module:
            modules = [node.module] if node.module != "intaglio" else [f"intaglio.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        found |= {name.split(".")[1] for name in modules if name.startswith("intaglio.")}
    return found - {"__version__"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_room_imports_only_from_rooms_below_it(file: Path) -> None:
    room = room_of(file)
    if room == "__init__":
        assert not imported_rooms(file)
        return
    for other in imported_rooms(file) - {room}:
        assert FLOOR[other] < FLOOR[room], f"{room} imports {other}"


def test_arithmetic_knows_tensors_and_nothing_else() -> None:
    for file in (PACKAGE / "arithmetic").glob("*.py"):
        text = file.read_text()
        assert not re.search(r"import (transformers|json|pathlib|pyarrow)|from (transformers|pathlib|pyarrow)", text)


@pytest.mark.parametrize("absent", ["snakemake", "submitit"])
def test_the_package_needs_neither_snakemake_nor_submitit(absent: str) -> None:
    program = f"""
import sys, pkgutil, importlib
sys.modules[{absent!r}] = None
import intaglio
for module in pkgutil.walk_packages(intaglio.__path__, "intaglio."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT / "workflow", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_modules_can_be_read_in_one_sitting() -> None:
    long = {str(file): lines for file in FILES if (lines := len(file.read_text().splitlines())) > 300}
    assert not long


def test_rules_hold_no_logic() -> None:
    for file in (ROOT / "workflow" / "rules").glob("*.smk"):
        assert not re.search(r"^\s*(run|script):", file.read_text(), re.MULTILINE), file


def test_every_rule_has_a_log() -> None:
    for file in (ROOT / "workflow" / "rules").glob("*.smk"):
        rules = re.split(r"^rule ", file.read_text(), flags=re.MULTILINE)[1:]
        assert all("log:" in rule for rule in rules), file


def test_links_in_documents_lead_somewhere() -> None:
    for document in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text()):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_every_dependency_is_justified() -> None:
    page = (ROOT / "docs" / "dependencies.md").read_text()
    for name in ("requirements.in", "requirements-dev.in"):
        for line in (ROOT / "envs" / name).read_text().splitlines():
            if line and not line.startswith(("#", "-r")):
                assert re.search(rf"\b{re.escape(line.split('==')[0])}\b", page), line


def test_locks_hold_what_is_asked_for() -> None:
    for name in ("requirements", "requirements-dev"):
        lock = (ROOT / "envs" / f"{name}.lock").read_text().splitlines()
        for line in (ROOT / "envs" / "requirements.in").read_text().splitlines():
            if line and not line.startswith("#"):
                assert line in lock, f"{line} is not in {name}.lock: run make lock"


def test_the_conda_environment_pins_what_the_jobs_need() -> None:
    asked = (ROOT / "envs" / "requirements.in").read_text().splitlines()
    of_jobs = [line for line in asked if "==" in line and not line.startswith(("snakemake", "submitit"))]
    pinned = (ROOT / "envs" / "environment.yaml").read_text()
    assert [line.strip(" -") for line in pinned.splitlines() if "==" in line] == of_jobs
