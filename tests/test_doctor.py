"""`intaglio doctor` on machines and clusters that fake commands describe."""

import fcntl
import math
from pathlib import Path

import pytest

from commands import Commands
from intaglio.cluster import doctor
from intaglio.cluster.doctor import findings, profile_settings
from intaglio.cluster.slurm import cluster_here

# A cluster with a partition for GPUs alone, of two types, and one without any.
PARTITIONS = """\
cpu*|up|2-00:00:00|40|(null)
gpu|up|1-00:00:00|4|gpu:a100:4(S:0-1),lscratch:1
gpu|up|1-00:00:00|2|gpu:h100:8
old|down|infinite|9|(null)
"""
DETAILS = """\
PartitionName=cpu AllowGroups=ALL Default=YES PreemptMode=OFF MaxTime=2-00:00:00
PartitionName=gpu AllowGroups=ALL Default=NO PreemptMode=CANCEL
"""
CONFIGURED = "PreemptMode             = GANG,REQUEUE\nSelectType              = select/cons_tres\n"


@pytest.fixture
def cluster(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> Commands:
    commands.add("sinfo", PARTITIONS, **{"--version": "slurm 23.11.4\n"})
    commands.add("scontrol", DETAILS, config=CONFIGURED)
    commands.add("sacctmgr", "teaching\nlab\n", defaultaccount="lab\n")
    commands.add("sacct")
    monkeypatch.setattr(doctor, "_hub", lambda: "not asked")
    return commands


def test_a_cluster_by_its_own_commands(cluster: Commands) -> None:
    found = cluster_here()
    assert found is not None
    assert (found.version, found.accounting, found.by_gpus, found.accounts) == (
        "23.11.4",
        True,
        True,
        ("lab", "teaching"),
    )
    cpu, gpu, old = found.partitions
    assert (cpu.default, cpu.up, cpu.minutes, cpu.nodes, cpu.gpus, cpu.preemption) == (True, True, 2880, 40, 0, "OFF")
    assert (gpu.nodes, gpu.gpu_nodes, gpu.gpus, gpu.types) == (6, 6, 8, ("a100", "h100"))
    assert (gpu.minutes, gpu.preemption) == (1440, "CANCEL")
    assert (old.up, old.minutes, old.preemption) == (False, math.inf, "REQUEUE")
    assert profile_settings(found) == [
        "default-resources:",
        "  slurm_account: lab",
        "  slurm_partition: gpu",
        "config:",
        '  - "resources={gpus: gpus, cpu_partition: cpu}"',
        '  - "profile={machine: a100}"',
    ]
    # Without accounting, accounts and --gpus.
    cluster.add("scontrol", DETAILS, config=CONFIGURED.replace("cons_tres", "cons_res"))
    for name in ("sacct", "sacctmgr"):
        cluster.add(name, status=1)
    found = cluster_here()
    assert found is not None
    lines = profile_settings(found)
    assert "  slurm_account: lab" not in lines and '  - "resources={gpus: gres, cpu_partition: cpu}"' in lines
    assert lines[-2:] == ["slurm-no-account: true", "slurm-status-command: squeue"]
    # Without GPUs, or with nodes of both kinds in one partition.
    cluster.add("sinfo", "all*|up|infinite|3|(null)\n", **{"--version": "slurm 20.11.9\n"})
    assert '  - "resources={gpus: none}"' in profile_settings(cluster_here())  # type: ignore[arg-type]
    cluster.add("sinfo", "all*|up|infinite|3|(null)\nall*|up|infinite|1|gpu:2\n", **{"--version": "slurm 20.11.9\n"})
    assert '  - "resources={gpus: gres}"' in profile_settings(cluster_here())  # type: ignore[arg-type]


def test_the_report(cluster: Commands, tmp_path: Path) -> None:
    lines = list(findings(tmp_path))
    text = "\n".join(lines)
    assert all(len(line) < 200 for line in lines)
    assert "SLURM        23.11.4, accounting (sacct) answers" in lines
    assert "accounts     lab, teaching" in lines
    assert (
        "             gpu: 6 nodes, up to 8 GPUs (a100, h100) on 6 of them, up to 1440 min, preempted jobs: CANCEL"
        in lines
    )
    assert "             old: 9 nodes, no limit, takes no jobs now, preempted jobs: REQUEUE" in lines
    assert "locks work" in text and "GB free" in text and "snakemake 9" in text
    cluster.add("sinfo", status=1)
    assert list(findings(tmp_path))[-1].endswith("`snakemake --profile profiles/local`")


def test_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("INTAGLIO_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert "http://127.0.0.1:9 does not answer" in doctor._hub() and "prefetch" in doctor._hub()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE is set" in doctor._hub()


@pytest.mark.parametrize(
    ("raised", "said"), [(OSError(38, "Function not implemented"), "refused"), (None, "no effect")]
)
def test_locks_that_a_file_system_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: OSError | None, said: str
) -> None:
    def flock(*_: object) -> None:
        if raised is not None:
            raise raised

    assert "locks work" in doctor._locks(tmp_path)
    monkeypatch.setattr(fcntl, "flock", flock)
    assert said in doctor._locks(tmp_path)
