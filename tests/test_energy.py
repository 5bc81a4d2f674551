"""Energy, against joules that are computed by hand: no machine of the tests has a counter."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import fakes
from intaglio import meters, schemas
from intaglio.cluster import doctor
from intaglio.cluster.doctor import findings
from intaglio.export.export import export
from intaglio.measure import energy, profile
from intaglio.meters import MissingMeterError, Nvml, Rapl, Reading, idle_watts
from intaglio.report.html import details, measurements
from intaglio.report.html.page import write_report
from intaglio.schemas import ENERGY, read_table
from intaglio.stages.run import run_stage
from intaglio.store import new_artifact
from intaglio.study.options import FinetuneOptions
from intaglio.study.profile import Profile
from intaglio.summary.read import read_summary
from intaglio.summary.summarize import write_summary
from intaglio.training.clock import Clock
from intaglio.training.job import StageJob
from powercap import Powercap, nvml, powercap
from tiny import tiny_checkpoint, tiny_data, tiny_model

UUID = "01234567-1111-2222-3333-444455556666"
SMALL = Profile(
    **{"batch_sizes": [1], "lengths": [8], "headline": (1, 8), "warmup": 1, "calls": 2, "threads": 1},
    devices=["cpu"],
    backends=["torch", "onnxruntime"],
)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Powercap:
    """A server with two processors, as Linux shows it, and a zone that contains both."""
    made = powercap(tmp_path / "powercap", monkeypatch)
    made.zone("0", "package-0", 5)
    made.zone("0:0", "core")
    made.zone("1", "package-1", 7)
    made.zone("1:0", "dram")
    made.zone("2", "psys")
    return made


def test_packages_are_added_and_what_they_contain_is_not(tree: Powercap) -> None:
    rapl = Rapl()
    assert rapl.joules() == 0
    for zone, microjoules in {"0": 1_500_000, "0:0": 1_000_000, "1": 250_000, "1:0": 90_000, "2": 2_000_000}.items():
        tree.add(zone, microjoules)
    assert rapl.joules() == pytest.approx(1.75)
    assert rapl.joules() == pytest.approx(1.75)
    assert rapl.name.startswith("RAPL package-0 and package-1 (whole processors")


def test_a_counter_begins_again_at_its_range(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = powercap(tmp_path / "powercap", monkeypatch, most=10_000_000)
    zone = tree.zone("0", "package-0", 9_000_000)
    rapl = Rapl()
    for joules in (3, 9, 6):
        tree.add("0", joules * 10**6)
    # 18 J in one step is more than a range: 8 are seen. Read between, all are.
    assert (int((zone / "energy_uj").read_text()), rapl.joules()) == (7_000_000, 8)
    total = 8
    for joules in (2, 9, 9, 5):
        tree.add("0", joules * 10**6)
        total += joules
        assert rapl.joules() == total


def test_energy_and_power_at_rest(tree: Powercap, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(meters.time, "perf_counter", lambda: now)

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        tree.add("1", int(12e6 * seconds))

    monkeypatch.setattr(meters.time, "sleep", sleep)
    monkeypatch.setattr(meters, "REST", 2.0)
    assert idle_watts([Rapl()]) == [pytest.approx(12)]
    reading = Reading([Rapl()])
    now += 4
    tree.add("0", 100_000_000)
    assert reading.spent() == ([pytest.approx(100)], 4)


def test_a_counter_for_root_alone_is_named(tree: Powercap, monkeypatch: pytest.MonkeyPatch) -> None:
    counter, read = tree.folder / "intel-rapl:1" / "energy_uj", Path.read_text

    def refused(path: Path, *given: Any, **more: Any) -> str:
        if path == counter:
            raise PermissionError(13, "Permission denied", str(path))
        return read(path, *given, **more)

    # The tests may run as root, to whom nothing is forbidden.
    monkeypatch.setattr(Path, "read_text", refused)
    with pytest.raises(MissingMeterError, match=r"intel-rapl:1/energy_uj is for root alone; .* \(chmod a\+r\)"):
        Rapl()


def test_no_packages_is_no_meter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    powercap(tmp_path / "none", monkeypatch).zone("0", "psys")
    found, reasons = meters.meters("cpu")
    assert not found
    assert reasons == [f"no RAPL in {tmp_path / 'none'}; virtual machines and containers seldom have it"]


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc, with which a library in place of NVML is compiled")
def test_a_gpu_by_its_uuid_in_joules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml(tmp_path, monkeypatch)
    for uuid in (UUID, f"GPU-{UUID}"):
        meter = Nvml(uuid)
        before = meter.joules()
        assert meter.joules() - before == pytest.approx(0.25)
    with pytest.raises(MissingMeterError, match="nvmlDeviceGetHandleByUUID of NVML: Not Found"):
        Nvml(UUID.replace("1111", "9999"))
    nvml(tmp_path, monkeypatch, counts=False)
    with pytest.raises(MissingMeterError, match="nvmlDeviceGetTotalEnergyConsumption of NVML: Not Supported"):
        Nvml(UUID)
    monkeypatch.setattr(meters, "NVML", "libno-such-library.so")
    with pytest.raises(MissingMeterError, match="no NVML"):
        Nvml(UUID)


@pytest.mark.usefixtures("tree")
def test_a_gpu_has_the_meters_of_the_processor_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meters, "NVML", "libno-such-library.so")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: type("Properties", (), {"uuid": UUID}))
    found, (reason,) = meters.meters("cuda")
    assert [meter.name for meter in found] == [Rapl().name]
    assert reason.startswith("no NVML (libno-such-library.so")


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("artifacts")
    checkpoint = tiny_checkpoint(folder / "checkpoint", "roberta")
    export(checkpoint, folder / "export")
    return checkpoint, folder / "export"


def test_a_profile_has_the_energy_of_a_call_in_each_backend(
    artifacts: tuple[Path, Path], tree: Powercap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every call takes 30 mJ of one processor and 20 of the other, and sleeping takes nothing."""
    real = energy.call_of

    def call_of(opened: Any, point: Any) -> Any:
        def call() -> None:
            real(opened, point)()
            tree.add("0", 30_000)
            tree.add("1", 20_000)

        return call

    monkeypatch.setattr(energy, "call_of", call_of)
    monkeypatch.setattr(energy, "SECONDS", 0.1)
    profile.profile(*artifacts, SMALL, tmp_path / "profile")
    rows = read_table(tmp_path / "profile/energy.parquet", ENERGY).to_pylist()
    assert [row["backend"] for row in rows] == ["torch", "onnxruntime"]
    for row in rows:
        assert row["joules"] == pytest.approx(0.05)
        assert (row["idle_watts"], row["device"], row["batch_size"], row["length"]) == (0, "cpu", 1, 8)
        assert row["calls"] * row["seconds"] >= 0.1 and row["calls"] > 1
        assert row["meter"] == Rapl().name and row["stage"] is None
    profile.profile(*artifacts, SMALL.model_copy(update={"energy": False}), tmp_path / "without")
    assert not (tmp_path / "without/energy.parquet").exists()


def test_a_profile_without_a_meter_has_all_else(
    artifacts: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    powercap(tmp_path / "none", monkeypatch)
    monkeypatch.setattr(energy, "call_of", lambda *_: pytest.fail("a pass without a meter"))
    profile.profile(*artifacts, SMALL, tmp_path / "profile")
    names = {path.name for path in (tmp_path / "profile").iterdir()}
    assert names == {"latency.parquet", "baselines.parquet", "operators.parquet", "manifest.json"}


def job(folder: Path) -> StageJob[FinetuneOptions]:
    options = FinetuneOptions(stage="finetune", epochs=2, batch_size=8, evaluations=2, learning_rate=1e-3)
    return StageJob(
        start=tiny_model(folder / "model"),
        data=tiny_data(folder / "data", n=64),
        options=options,
        seed=0,
        max_length=32,
        work=folder / "work",
        output=folder / "output",
    )


def trained(folder: Path) -> Any:
    run_stage(job(folder))
    return json.loads((folder / "output/training.json").read_text())


def test_a_training_has_the_energy_of_its_steps(
    tree: Powercap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every step takes 2 J; what an evaluation takes is not counted."""
    step, pause = Clock.on_step_end, Clock.pause

    def stepped(*given: Any, **more: Any) -> None:
        step(*given, **more)
        tree.add("0", 2_000_000)

    def paused(clock: Clock) -> None:
        pause(clock)
        tree.add("1", 100_000_000)

    monkeypatch.setattr(Clock, "on_step_end", stepped)
    monkeypatch.setattr(Clock, "pause", paused)
    record = trained(tmp_path)
    (row,) = record["energy"]
    assert row["joules"] == pytest.approx(2 * record["steps"])
    assert row["seconds"] > 0.9 * record["train_seconds"] > 0
    assert (row["stage"], row["device"], row["meter"]) == ("finetune", "cpu", Rapl().name)
    assert row["idle_watts"] == 0


def test_a_counter_is_read_before_it_can_begin_again_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = powercap(tmp_path / "powercap", monkeypatch, most=10_000_000)
    tree.zone("0", "package-0")
    monkeypatch.setattr(meters, "EVERY", 0.0)
    clock = Clock(torch.device("cpu"), [Rapl()])
    state: Any = type("State", (), {"stateful_callbacks": {}})
    of_trainer: Any = (None, state, None)
    clock.on_train_begin(*of_trainer)
    for _ in range(5):
        clock.on_step_begin(*of_trainer)
        tree.add("0", 9_000_000)
        clock.on_step_end(*of_trainer)
    clock.pause()
    assert clock.energy[Rapl().name]["joules"] == 45
    # Another attempt goes on from there.
    state.stateful_callbacks = {"Clock": json.loads(json.dumps(clock.state()))}
    again = Clock(torch.device("cpu"), [Rapl()])
    again.on_train_begin(*of_trainer)
    again.on_step_begin(*of_trainer)
    tree.add("0", 4_000_000)
    again.on_step_end(*of_trainer)
    again.on_train_end(*of_trainer)
    assert again.energy[Rapl().name]["joules"] == 49


def test_a_training_outlives_its_counter(tree: Powercap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = Clock.on_train_begin

    def begin(*given: Any, **more: Any) -> None:
        begun(*given, **more)
        shutil.rmtree(tree.folder)

    monkeypatch.setattr(Clock, "on_train_begin", begin)
    record = trained(tmp_path)
    assert record["energy"] == [] and record["steps"] > 0


def test_a_training_without_a_meter_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    powercap(tmp_path / "none", monkeypatch)
    record = trained(tmp_path)
    assert record["energy"] == [] and record["train_seconds"] > 0


def test_the_report_shows_energy_or_says_that_there_is_none(tmp_path: Path) -> None:
    plan = fakes.results(tmp_path, fakes.study(variants=("float", "int"), seeds=(0, 1)))

    def report() -> str:
        shutil.rmtree(tmp_path / "summary", ignore_errors=True)
        write_summary(plan, tmp_path / "summary")
        write_report(read_summary(tmp_path / "summary"), tmp_path / "summary", tmp_path / "report.html")
        return (tmp_path / "report.html").read_text()

    said = "Energy was not measured"
    page = report()
    assert said in page and "<h2>Energy</h2>" not in page
    for seed, joules in ((0, 0.5), (1, 0.7)):
        folder = tmp_path / f"profile/movie-minilm-int-{seed}"
        row = {"backend": "native", "device": "cpu", "device_name": "a CPU", "batch_size": 1, "length": 128}
        row |= {"calls": 100, "meter": "RAPL", "joules": joules, "seconds": 0.02, "idle_watts": 10.0}
        with new_artifact(tmp_path / "more", "profile") as draft:
            shutil.copytree(folder, draft, dirs_exist_ok=True)
            schemas.write_table(draft / "energy.parquet", [row], ENERGY)
        shutil.rmtree(folder)
        (tmp_path / "more").rename(folder)
        folder = tmp_path / f"checkpoint/movie-minilm-int-{seed}"
        record = json.loads((folder / "training.json").read_text())
        spent = {
            "stage": "quantize",
            "device": "cpu",
            "device_name": "a CPU",
            "meter": "RAPL",
            "joules": 4000.0,
            "seconds": 100.0,
            "idle_watts": 10.0,
        }
        with new_artifact(tmp_path / "more", "checkpoint") as draft:
            shutil.copytree(folder, draft, dirs_exist_ok=True)
            (draft / "training.json").write_text(json.dumps({**record, "energy": [spent]}))
        shutil.rmtree(folder)
        (tmp_path / "more").rename(folder)
    page = report()
    assert said not in page and page.count("<h2>Energy</h2>") == 1
    found = measurements.read_measurements(tmp_path / "summary").energy
    table = details.energy_table(found["movie", "minilm", "int"])
    cells = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    by_work = {row["of"]: (row["J"], row["J above rest"], row["time"]) for row in cells}
    # 0.6 J in 20 ms at 10 W; 4000 J in 100 s at 10 W.
    assert by_work["a call in native, 1 by 128"] == ("0.600", "0.400", "20.0 ms")
    assert by_work["training (quantize)"] == ("4000", "3000", "100 s")


def test_the_doctor_says_what_there_is(tree: Powercap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_hub", lambda: "not asked")
    monkeypatch.setattr(doctor, "fingerprint", lambda: fakes.machine() | {"cpu_quota": None, "memory_mb": 1000})

    def line() -> str:
        return next(each for each in findings(tmp_path) if each.startswith("energy"))

    assert "RAPL package-0 and package-1" in line()
    shutil.rmtree(tree.folder)
    assert "not measured: no RAPL" in line()


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_real_counters_tell_a_plausible_power(device: str) -> None:
    found, reasons = meters.meters(device)
    if not found:
        pytest.skip("; ".join(reasons))
    matrix = torch.rand(1024, 1024, device=device)
    at_rest = idle_watts(found)
    reading = Reading(found)
    while time.perf_counter() - reading.since < 2:
        float((matrix @ matrix).sum())
    joules, seconds = reading.spent()
    at_work = [each / seconds for each in joules]
    assert all(0 < watts < 5000 for watts in (*at_rest, *at_work))
    # A processor may have other work meanwhile.
    assert device == "cpu" or at_rest[0] < at_work[0]
