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
from typing import Any, ClassVar

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
    (run,) = result["runs"]
    assert run["skipped"] == {}
    rows = {row["contender"]: row for row in run["rows"]}
    assert sorted(rows) == sorted(contenders)
    # Twice the multiply-adds of one layer of MiniLM: four projections, two feed-forward layers, scores and context.
    work = 2 * (64 * (4 * 384 * 384 + 2 * 384 * 1536) + 2 * 4 * 12 * 16 * 16 * 32)
    for name, row in rows.items():
        assert (row["batch"], row["length"], len(row["calls_ms"])) == (4, 16, 1)
        assert row["median_ms"] == statistics.median(row["calls_ms"]) > 0
        assert math.isclose(row["tops"], work / row["median_ms"] / 1e9)
        # Of Intaglio: equal integers, and the rounding of the floating point head. Of 8 bits by others: more.
        assert row["difference"] <= (0.05 if name.endswith("int8") else 1e-6)
    assert run["conditions"]["layers"] == 1 and run["peak"]["tops"] > 0
    assert 0 <= run["busy"][0]["percent"] <= 100
    assert result["machine"]["id"] and result["versions"]["torch"] == torch.__version__ and result["date"]


def test_integers_and_float_in_torch(tmp_path: Path) -> None:
    contenders = ["torch float32", "torch.ao dynamic int8", "intaglio torch"]
    result, printed, code = integer_inference(tmp_path, contenders, "--check", "--no-memory")
    assert_consistent(result, contenders)
    # There is no integer file without ONNX: the check says so.
    assert "there is no integer file" in result["runs"][0]["missed"]
    assert "goal missed: minilm: there is no integer file" in printed and code == 1


@needs_onnxruntime
@pytest.mark.slow
def test_every_engine_without_a_compiler(tmp_path: Path) -> None:
    contenders = [
        *("torch float32", "onnxruntime float32", "onnxruntime dynamic int8", "torch.ao dynamic int8"),
        *("intaglio torch", "intaglio onnxruntime"),
        *(("openvino float32", "openvino int8") if find_spec("openvino") and find_spec("nncf") else ()),
        *(("intaglio native",) if shutil.which("g++") else ()),
    ]
    result, _, code = integer_inference(tmp_path, contenders)
    assert_consistent(result, contenders)
    assert code == 0
    (run,) = result["runs"]
    files = {row["contender"]: row for row in run["files"]}
    for row in files.values():
        tensors = sum(row["tensors"].values())
        # What is not a tensor is the graph or the header: little.
        assert tensors <= row["bytes"] < 1.02 * tensors + 1_000_000
        assert math.isclose(row["share_of"]["torch float32"], row["bytes"] / files["torch float32"]["bytes"])
    assert set(files["torch float32"]["tensors"]) == {"float32"}
    assert files["intaglio onnxruntime"]["share_of"]["torch float32"] < 0.3
    memory = {row["contender"]: row["peak_mb"] for row in run["memory"]}
    native = {"intaglio native"} & {row["contender"] for row in run["rows"]}
    assert set(memory) == {"torch float32", "onnxruntime float32", "intaglio torch", "intaglio onnxruntime", *native}
    if None not in memory.values():
        assert memory["torch float32"] > files["torch float32"]["bytes"] / 1e6


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="torch.compile needs a C++ compiler")
def test_compiled_integers_and_float(tmp_path: Path) -> None:
    contenders = ["torch.compile float32", "intaglio torch.compile"]
    result, _, _ = integer_inference(tmp_path, contenders, "--no-memory")
    assert_consistent(result, contenders)


@pytest.mark.slow
@pytest.mark.gpu
def test_integers_and_float_on_a_gpu(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    done = benchmark("integer_inference.py", *TINY, "--device", "cuda", "--padding", "yes", "--json", str(file))
    (run,) = json.loads(file.read_text())["runs"]
    assert run["skipped"] == {}, done.stdout
    differences = [row["difference"] for row in run["rows"] if row["contender"].startswith("intaglio")]
    assert len(differences) == 4 and max(differences) <= 1e-5


def test_unknown_contender_is_refused() -> None:
    done = benchmark("integer_inference.py", "--only", "tensorrt")
    assert done.returncode == 2 and "no contender 'tensorrt'" in done.stderr


class TestGoals:
    """What is missed, from figures made up."""

    TIMES: ClassVar = {
        "torch float32": 200.0,
        "openvino float32": 100.0,
        "openvino bf16": 80.0,
        "openvino int8": 50.0,
        "onnxruntime dynamic int8": 60.0,
    }

    @pytest.fixture(autouse=True)
    def _benchmarks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))

    def missed(self, difference: float = 0.0, device: str = "cpu", **ours: float) -> list[str]:
        """Return the goals missed at 8 x 128 tokens, of 0.1 TOP at a peak of 2.5 TOP/s: 40 ms."""
        from goals import missed_goals
        from results import Row

        times = {name: (ms, None) for name, ms in self.TIMES.items()}
        times |= {f"intaglio {name}": (ms, difference) for name, ms in ours.items()}
        rows = [Row(name, 8, 128, ms, 100 / ms, off, [ms]) for name, (ms, off) in times.items()]
        return missed_goals(rows, [(8, 128)], device, 2.5)

    def test_met(self) -> None:
        assert self.missed(native=49.0) == []

    @pytest.mark.parametrize(
        ("native", "torch", "sentence"),
        [
            (51.0, 51.0, "OpenVINO's int8: 0.98 x, the goal is 1.00 x (2% short)"),
            (53.4, 53.4, "any precision: 1.49 x, the goal is 1.50 x"),
            (53.4, 53.4, "share of the int8 product's peak: 74.9 %, the goal is 75.0 %"),
            # The fastest form does not run from the exported folder.
            (62.0, 45.0, "ONNX Runtime's dynamic int8: 0.96 x"),
        ],
    )
    def test_missed(self, native: float, torch: float, sentence: str) -> None:
        assert any(sentence in line for line in self.missed(native=native, torch=torch))

    def test_shares_count_from_many_tokens_on(self) -> None:
        from goals import GOALS

        assert [[goal.holds_at(point) for goal in GOALS["cpu"]] for point in [(8, 32), (8, 128)]] == [
            [True, True, False, True],
            [True, True, True, True],
        ]

    def test_on_a_gpu(self) -> None:
        assert self.missed(device="cuda", torch=79.0) == []
        assert "0.98 x" in self.missed(device="cuda", torch=81.0)[0]

    def test_wrong_results_do_not_count(self) -> None:
        different, *rest = self.missed(difference=0.1, native=10.0)
        assert "differs from its simulation" in different and all("not measured" in line for line in rest)

    def test_footprints(self) -> None:
        from footprint import missed_footprints

        files = [
            {"contender": "intaglio onnxruntime", "share_of": {"torch float32": 0.26, "onnxruntime float32": 0.28}}
        ]
        memory = [
            {"contender": name, "batch": 1, "length": 32, "peak_mb": peak}
            for name, peak in {"torch float32": 500.0, "intaglio torch": 501.0, "onnxruntime float32": None}.items()
        ]
        share, peak = missed_footprints(files, memory)
        assert "28.0%" in share and "onnxruntime float32" in share
        assert "intaglio torch needs 501 MB" in peak

    def test_a_training_step(self) -> None:
        from qat_step import missed

        rows = [
            {"shape": "minilm", "model": model, "precision": precision, "ratio": ratio}
            for model, precision, ratio in [("int", "float32", 1.06), ("int", "bf16", 1.5), ("float", "float32", 1.0)]
        ]
        (sentence,) = missed(rows)
        assert "minilm takes 1.060 x float32's" in sentence


def test_padding_is_left_out_by_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from shapes import random_batch, random_model
    from wrapped import ByLength

    model = random_model("minilm", 1)
    lengths = []

    def call(part: dict[str, torch.Tensor]) -> torch.Tensor:
        lengths.append(part["input_ids"].shape[1])
        logits: torch.Tensor = model(**part).logits
        return logits

    batch = random_batch(model, (8, 12), "cpu", padded=True)
    order = [7, 0, 3, 1, 6, 2, 5, 4]
    batch = {name: tensor[order] for name, tensor in batch.items()}
    with torch.inference_mode():
        torch.testing.assert_close(ByLength(call)(batch), model(**batch).logits)
    assert lengths == [6, 12]


def test_preparing_is_measured_beside_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = benchmark("prepare.py", "--lines", "500", "--json", str(tmp_path / "a.json"), "--check")
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert [(row["lines"], row["program"]) for row in rows] == [(500, "intaglio"), (500, "datasets")]
    assert all(row["seconds"] > 0 and row["peak"] > 50e6 and row["bytes"] > 500 * 10 for row in rows)
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from prepare import Row, missed

    assert missed([Row(10**7, 1, "intaglio", 1.0, 1.0, 3 * 10**9), Row(10**7, 1, "datasets", 1.0, 1.0, 3 * 10**9)]) == [
        "10,000,000 lines need 3.00 GB, the goal is 2 GB"
    ]


def test_the_overhead_of_a_run_is_what_its_jobs_did_not_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    done = benchmark("allocations.py", "--share", "0")
    assert done.returncode == 2 and "beside another" in done.stderr
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from allocations import Measured, missed

    jobs = {"finetune": 4, "evaluate": 4, "data": 1}
    computing = {"finetune": 2.0, "evaluate": 0.5}
    shared = Measured(4, 4, allocations=5, jobs=jobs, allocated=50.0, wall=60.0, computing=computing)
    assert shared.overhead(computing) == (50 - 4 * 2 - 4 * 0.5) / 4
    slow = Measured(2, 4, allocations=3, jobs=jobs, allocated=90.0, wall=60.0, computing=computing)
    alone = Measured(0, 4, allocations=16, jobs=jobs, allocated=90.0, wall=60.0, computing={})
    assert missed([shared, slow, alone], computing) == [
        "4 runs an allocation: 5 allocations for 4 runs",
        "2 runs an allocation: 20.0 s of overhead a run",
    ]


def test_the_committed_page_is_what_the_measurements_make(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from performance import PAGE, page

    assert PAGE.read_text() == page(), "run `make performance`"
