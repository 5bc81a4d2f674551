"""The benchmarks run as programs, their figures fit together, and they name the goals that were missed."""

from __future__ import annotations

import json
import math
import os
import shutil
import statistics
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
TINY = ("--shape", "minilm", "--layers", "1", "--batch", "4", "--length", "16", "--rounds", "1", "--threads", "1")
needs_onnxruntime = pytest.mark.skipif(
    not (find_spec("onnxruntime") and find_spec("onnxscript")), reason="needs onnxruntime and onnxscript"
)


def benchmark(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, [str(ROOT / "workflow"), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / program), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        timeout=600,
        check=False,
    )


def integer_inference(folder: Path, contenders: list[str], *more: str) -> tuple[dict[str, Any], str, int]:
    file = folder / "result.json"
    only = [word for name in contenders for word in ("--only", name)]
    done = benchmark("integer_inference.py", *TINY, *only, "--json", str(file), *more)
    assert file.is_file(), done.stdout + done.stderr
    return json.loads(file.read_text()), done.stdout, done.returncode


def assert_consistent(result: dict[str, Any], contenders: list[str]) -> None:
    assert result["skipped"] == {}
    rows = {row["contender"]: row for row in result["rows"]}
    assert sorted(rows) == sorted(contenders)
    fastest = min(row["median_ms"] for name, row in rows.items() if name in ("torch float", "torch.compile float"))
    for name, row in rows.items():
        assert (row["batch"], row["length"], len(row["calls_ms"])) == (4, 16, 1)
        assert row["median_ms"] == statistics.median(row["calls_ms"]) > 0
        assert math.isclose(row["speed_up"], fastest / row["median_ms"])
        if name.startswith("intaglio"):
            # Equal integers; what remains is the rounding of the floating point head.
            assert row["difference"] <= 1e-6
        else:
            assert row["difference"] is None
    assert result["machine"]["id"] and result["conditions"]["layers"] == 1


def test_integers_and_float_in_torch(tmp_path: Path) -> None:
    contenders = ["torch float", "torch.ao dynamic int8", "intaglio torch"]
    result, printed, code = integer_inference(tmp_path, contenders, "--check", "--no-memory")
    assert_consistent(result, contenders)
    # There is no integer file without ONNX: the check says so.
    assert "there is no integer file" in result["missed"]
    assert "goal missed: there is no integer file" in printed and code == 1


@needs_onnxruntime
@pytest.mark.slow
def test_every_engine_without_a_compiler(tmp_path: Path) -> None:
    contenders = [
        *("torch float", "onnxruntime float", "onnxruntime dynamic int8", "torch.ao dynamic int8"),
        *("intaglio torch", "intaglio onnxruntime"),
    ]
    result, _, code = integer_inference(tmp_path, contenders)
    assert_consistent(result, contenders)
    assert code == 0
    files = {row["contender"]: row for row in result["files"]}
    for row in files.values():
        tensors = sum(row["tensors"].values())
        # What is not a tensor is the graph or the header: little.
        assert tensors <= row["bytes"] < 1.02 * tensors + 1_000_000
        assert math.isclose(row["share_of"]["torch float"], row["bytes"] / files["torch float"]["bytes"])
    assert set(files["torch float"]["tensors"]) == {"float32"}
    assert files["intaglio onnxruntime"]["share_of"]["torch float"] < 0.3
    memory = {row["contender"]: row["peak_mb"] for row in result["memory"]}
    assert set(memory) == {"torch float", "onnxruntime float", "intaglio torch", "intaglio onnxruntime"}
    if None not in memory.values():
        assert memory["torch float"] > files["torch float"]["bytes"] / 1e6


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="torch.compile needs a C++ compiler")
def test_compiled_integers_and_float(tmp_path: Path) -> None:
    contenders = ["torch.compile float", "intaglio torch.compile"]
    result, _, _ = integer_inference(tmp_path, contenders, "--no-memory")
    assert_consistent(result, contenders)


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_integers_and_float_on_a_gpu(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    done = benchmark("integer_inference.py", *TINY, "--device", "cuda", "--json", str(file))
    result = json.loads(file.read_text())
    assert result["skipped"] == {}, done.stdout
    differences = [row["difference"] for row in result["rows"] if row["contender"].startswith("intaglio")]
    assert len(differences) == 2 and max(differences) <= 1e-5


def test_unknown_contender_is_refused() -> None:
    done = benchmark("integer_inference.py", "--only", "tensorrt")
    assert done.returncode == 2 and "no contender 'tensorrt'" in done.stderr


class TestGoals:
    """What is missed, from figures made up."""

    @pytest.fixture(autouse=True)
    def _benchmarks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))

    def rows(self, ours: float, difference: float = 0.0) -> list[Any]:
        from results import Row

        times = {"torch float": 200.0, "torch.compile float": 100.0, "torch.ao dynamic int8": 60.0}
        rows = [Row(name, 8, 128, ms, 100.0 / ms, None, [ms]) for name, ms in times.items()]
        return [*rows, Row("intaglio torch", 8, 128, ours, 100.0 / ours, difference, [ours])]

    def test_met(self) -> None:
        from results import missed_speeds

        assert missed_speeds(self.rows(50.0), [(8, 128)], "cpu") == []

    def test_slower_than_the_dynamic_one(self) -> None:
        from results import missed_speeds

        (sentence,) = missed_speeds(self.rows(65.0), [(8, 128)], "cpu")
        assert "torch.ao dynamic int8 takes 60.0 ms" in sentence

    def test_slower_than_the_goal(self) -> None:
        from results import missed_speeds

        assert "1.25 x as fast" in missed_speeds(self.rows(80.0), [(8, 128)], "cpu")[0]
        assert missed_speeds(self.rows(59.0), [(8, 128)], "cuda") == []

    def test_wrong_results_do_not_count(self) -> None:
        from results import missed_speeds

        missed = missed_speeds(self.rows(50.0, difference=0.1), [(8, 128)], "cpu")
        assert "differs from its simulation" in missed[0] and "nothing of Intaglio ran" in missed[1]

    def test_footprints(self) -> None:
        from results import missed_footprints

        files = [{"contender": "intaglio onnxruntime", "share_of": {"torch float": 0.26, "onnxruntime float": 0.28}}]
        memory = [
            {"contender": name, "batch": 1, "length": 32, "peak_mb": peak}
            for name, peak in {"torch float": 500.0, "intaglio torch": 501.0, "onnxruntime float": None}.items()
        ]
        share, peak = missed_footprints(files, memory)
        assert "28.0%" in share and "onnxruntime float" in share
        assert "intaglio torch needs 501 MB" in peak
