"""The package has the structure that docs/architecture.md describes."""

import ast
import graphlib
import importlib
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "workflow" / "intaglio"
# Ground floor first.
ROOMS = [
    {"errors", "heap", "meters", "quota", "spans", "suffixes"},
    {"parallel"},
    {"allocation"},
    {"ownership", "ranks"},
    {"store", "machine", "logged", "journal"},
    {"schemas"},
    {"native"},
    {"products"},
    {"arithmetic"},
    {"encoder"},
    {"execution"},
    {"onnx"},
    {"openvino"},
    {"metrics"},
    {"kinds"},
    {"checkpoint"},
    {"catalogue"},
    {"study"},
    {"reference"},
    {"planning"},
    {"rules"},
    {"reading", "preprocess"},
    {"predict"},
    {"tasks"},
    {"tokens"},
    {"imbalance"},
    {"models"},
    {"training"},
    {"distillation"},
    {"stages"},
    {"export"},
    {"measure"},
    {"publications"},
    {"failures", "hardware"},
    {"statistics"},
    {"recommendation"},
    {"predictions"},
    {"flips"},
    {"summary"},
    {"report"},
    {"plots"},
    {"bundle"},
    {"cluster"},
    {"forecast"},
    {"status"},
    {"clean"},
    {"arguments"},
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


def imported_modules(file: Path) -> set[Path]:
    """Return the package's files that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            if name == "intaglio" or not name.startswith("intaglio."):
                continue
            path = PACKAGE.joinpath(*name.split(".")[1:])
            found |= {each for each in (path.with_suffix(".py"), path / "__init__.py") if each.is_file()}
    return found - {file}


def test_no_circle_of_imports() -> None:
    graph = {file: imported_modules(file) for file in FILES}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        circle = " -> ".join(str(file.relative_to(PACKAGE)) for file in error.args[1])
        raise AssertionError(circle) from None


def test_rooms_can_be_known() -> None:
    lines: Counter[str] = Counter()
    for file in FILES:
        lines[str(file.parent.relative_to(PACKAGE))] += len(file.read_text().splitlines())
    lines.pop(".")
    assert not {room for room, count in lines.items() if count > 1500}


def public_names(file: Path) -> set[str]:
    """Return the classes, functions and constants that a module defines for others."""
    found = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found |= {name.id for target in node.targets for name in ast.walk(target) if isinstance(name, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
    return {name for name in found if not name.startswith("_")}


def test_a_name_belongs_to_one_room() -> None:
    rooms: dict[str, set[str]] = {}
    for file in FILES:
        for name in public_names(file):
            rooms.setdefault(name, set()).add(room_of(file))
    assert not {name: owners for name, owners in rooms.items() if len(owners) > 1}


def test_arithmetic_knows_tensors_and_nothing_else() -> None:
    for file in (PACKAGE / "arithmetic").glob("*.py"):
        text = file.read_text()
        assert not re.search(r"import (transformers|json|pathlib|pyarrow)|from (transformers|pathlib|pyarrow)", text)


def test_the_package_is_imported_without_what_only_some_jobs_need() -> None:
    program = """
import sys, pkgutil, importlib
sys.modules |= dict.fromkeys(["snakemake", "submitit", "openvino", "nncf"])
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


def test_every_imported_distribution_is_declared() -> None:
    distributions = importlib.metadata.packages_distributions()
    declared = {canonical(line.split("==")[0]) for line in requirements()}
    # Part of pydantic, which pins it.
    declared.add("pydantic-core")
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            for name in {name.split(".")[0] for name in names} - sys.stdlib_module_names - {"intaglio"}:
                assert declared & {canonical(each) for each in distributions[name]}, f"{file}: {name}"


def test_an_installed_package_brings_the_same_dependencies_and_its_command() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["setuptools"]["dynamic"]["dependencies"] == {"file": ["envs/requirements.in"]}
    module, function = project["project"]["scripts"]["intaglio"].split(":")
    assert callable(getattr(importlib.import_module(module), function))


def canonical(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def requirements() -> list[str]:
    lines = (ROOT / "envs" / "requirements.in").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


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
