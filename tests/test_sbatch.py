"""What every rule asks SLURM for, in every profile: the words of sbatch, by a dry run and the plugin, without SLURM."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from snakemake_executor_plugin_slurm.submit_string import get_submit_command
from snakemake_executor_plugin_slurm.utils import set_gres_string

from intaglio.planning.plan import make_plan
from intaglio.study.load import read
from intaglio.study.options import STAGES
from study_on_files import ROOT, snakemake, write_study

pytestmark = pytest.mark.slow

TRAINING = {*STAGES} - {"int8"}
# What computes nothing on a GPU, by what it asks for.
CPU = {
    "data": "-t 60 --mem 8000 --cpus-per-task=1",
    "describe": "-t 30 --mem 4000 --cpus-per-task=1",
    "tokens": "-t 60 --mem 4000 --cpus-per-task=2",
    "summarize": "-t 60 --mem 8000 --cpus-per-task=1",
    "pages": "-t 30 --mem 2000 --cpus-per-task=1",
    "plot": "-t 30 --mem 4000 --cpus-per-task=1",
    "export": "-t 7 --mem 3000 --cpus-per-task=2",
    "int8": "-t 9 --mem 3000 --cpus-per-task=2",
    "evaluate of int8": "-t 7 --mem 3000 --cpus-per-task=2",
}
GPU = {
    **dict.fromkeys(TRAINING, "-t 9 --mem 3000 --cpus-per-task=2"),
    **dict.fromkeys(("evaluate", "profile"), "-t 7 --mem 3000 --cpus-per-task=2"),
}


class Asked(dict[str, Any]):
    """Resources of a job, as the plugin reads them."""

    __getattr__ = dict.__getitem__


def words(block: str) -> str:
    """Return what the plugin tells sbatch for a job of a dry run, without names and what is the same for all."""
    printed = dict(re.findall(r"(\w+)=([^,\n]+)", re.search(r"resources: (.*)", block)[1]))  # type: ignore[index]
    asked = Asked({name: int(value) if value.isdigit() else value for name, value in printed.items()})
    threads = re.search(r"threads: (\d+)", block)
    job: Any = SimpleNamespace(resources=asked, threads=int(threads[1]) if threads else 1)
    given = {"run_uuid": "id", "slurm_logfile": "log", "comment_str": "", "account": "", "workdir": ""}
    partition = f"-p {asked['slurm_partition']}" if "slurm_partition" in asked else ""
    settings = SimpleNamespace(requeue=True, no_requeue=False, qos=None, reservation=None)
    call = get_submit_command(job, {**given, "partition": partition}, settings) + set_gres_string(job)
    return " ".join(call.partition("--comment ''")[2].replace(" --requeue", "").replace(" --ntasks=1", "").split())


def asked_for(folder: Path, *arguments: str) -> dict[str, str]:
    """Return what is asked for by each rule's jobs that are submitted; evaluations of int8 models are told apart."""
    found: dict[str, set[str]] = {}
    # Without --cores, a dry run bounds the threads to one.
    printed = snakemake(folder, "-n", *arguments, "--cores", "64")
    for rule, block in re.findall(r"^rule (\w+):\n((?:    .*\n)+)", printed, re.MULTILINE):
        graph = rule == "evaluate" and "-int8." in block
        if "resources:" in block:
            found.setdefault(f"{rule} of int8" if graph else rule, set()).add(words(block))
    for local in ("all", "fetch", "model", "plan", "study"):
        found.pop(local, None)
    assert all(len(asked) == 1 for asked in found.values()), found
    return {rule: asked.pop() for rule, asked in found.items()}


def expected(gpu: str = "", on_gpu: str = "", on_cpu: str = "") -> dict[str, str]:
    """Return the words of all rules; `gpu` asks for one, the others are partitions."""
    return {
        **{rule: " ".join(filter(None, [on_cpu, asked])) for rule, asked in CPU.items()},
        **{rule: " ".join(filter(None, [on_gpu, asked, gpu])) for rule, asked in GPU.items()},
    }


# Every rule of the workflow: a stage more in STAGES is a variant more here.
EVERY = {stage: [] if stage == "finetune" else [{"stage": stage}] for stage in STAGES}
RESOURCES = {"cpus": 2, "memory_mb": 3000, "train_minutes": 9, "measure_minutes": 7}
GIVEN = ["--default-resources", "slurm_partition=gpu"]


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [
        (["slurm"], expected("--gpus=1")),
        (["slurm-gres", *GIVEN], expected("--gres=gpu:1", "-p gpu", "-p gpu")),
        # The settings that profiles/slurm explains.
        (
            ["slurm", *GIVEN, "--config", "resources={gpu_type: a100, cpu_partition: cpu}"],
            expected("--gpus=a100:1", "-p gpu", "-p cpu"),
        ),
        (["slurm", *GIVEN, "--config", "resources={gpus: none, max_minutes: 8}"], expected("", "-p gpu", "-p gpu")),
    ],
    ids=["slurm", "slurm-gres", "cpu partition", "no GPUs"],
)
def test_every_rule_asks_for_what_it_uses(tmp_path: Path, arguments: list[str], asked: dict[str, str]) -> None:
    write_study(tmp_path, variants=EVERY, resources=RESOURCES)
    profile, *rest = arguments
    if "max_minutes" in arguments[-1]:
        asked = {rule: re.sub(r"-t (9|[36]0)\b", "-t 8", line) for rule, line in asked.items()}
    assert asked_for(tmp_path, "--profile", str(ROOT / "profiles" / profile), *rest) == asked


def test_what_is_made_on_demand_asks_for_no_gpu(tmp_path: Path) -> None:
    write_study(tmp_path, resources=RESOURCES)
    of_run = ("bundle/words.tiny.int.1", "sensitivity/words.tiny.int.1.csv")
    targets = [f"results/tiny/{name}" for name in of_run]
    found = asked_for(tmp_path, "--profile", str(ROOT / "profiles" / "slurm"), *targets)
    assert found["bundle"] == "-t 30 --mem 4000 --cpus-per-task=2"
    assert found["sensitivity"] == "-t 7 --mem 3000 --cpus-per-task=2"


def test_runs_that_share_an_allocation_ask_for_the_time_of_all_and_for_a_gpu_if_one_does(tmp_path: Path) -> None:
    write_study(tmp_path, variants=EVERY, resources={**RESOURCES, "runs_per_allocation": len(EVERY)})
    profile = ["--profile", str(ROOT / "profiles" / "slurm-gres"), *GIVEN]
    # Each run: a training, an evaluation, an export, a profile.
    minutes = len(EVERY) * (9 + 3 * 7)
    on_cpu = {rule: CPU[rule] for rule in ("data", "describe", "tokens", "summarize", "pages", "plot")}
    asked = {rule: f"-p cpu {words}" for rule, words in on_cpu.items()}
    asked["allocation"] = f"-p gpu -t {minutes} --mem 3000 --cpus-per-task=2 --gres=gpu:1"
    assert asked_for(tmp_path, *profile, "--config", "resources={gpus: gres, cpu_partition: cpu}") == asked
    write_study(tmp_path, variants=EVERY, resources={**RESOURCES, "runs_per_allocation": len(EVERY), "max_minutes": 60})
    asked["allocation"] = "-p gpu -t 60 --mem 3000 --cpus-per-task=2"
    short = "resources={gpus: none, cpu_partition: gpu}"
    assert asked_for(tmp_path, *profile, "--config", short)["allocation"] == asked["allocation"]


@pytest.mark.parametrize(
    ("profile", "several", "words"),
    [
        ("slurm", {"train_tasks": 2}, "-t 9 --mem 6000 --nodes=1 --ntasks=2 --cpus-per-task=2 --gpus=2"),
        (
            "slurm-gres",
            {"train_tasks": 4, "train_nodes": 2, "gpu_type": "a100"},
            "-t 9 --mem 6000 --nodes=2 --ntasks-per-node=2 --cpus-per-task=2 --gres=gpu:a100:2",
        ),
    ],
)
def test_trainings_of_several_processes_ask_for_as_many_gpus(
    tmp_path: Path, profile: str, several: dict[str, Any], words: str
) -> None:
    resources = {"cpus": 2, "memory_mb": 3000, "train_minutes": 9, "measure_minutes": 7, **several}
    write_study(tmp_path, variants={"int": None, "int8": [{"stage": "int8"}]}, resources=resources)
    found = asked_for(tmp_path, "--profile", str(ROOT / "profiles" / profile))
    assert {found.pop(stage) for stage in ("finetune", "quantize")} == {words}
    one = expected("--gpus=1" if profile == "slurm" else "--gres=gpu:a100:1")
    assert found == {rule: one[rule] for rule in found} and {"int8", "evaluate", "export"} <= set(found)


@pytest.mark.parametrize(
    ("changes", "gpu"),
    [({}, True), ({"devices": ["cpu"]}, False), ({"backends": ["onnxruntime", "openvino", "native"]}, False)],
)
def test_a_profile_on_cpus_asks_for_no_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], gpu: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = make_plan(read(write_study(tmp_path, profile=changes)))
    assert {job.gpu for job in plan.jobs["profile"].values()} == {gpu}
