"""What a job asks the cluster for: a GPU where one computes, as this cluster wants it, a partition, memory and time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from intaglio.study.schema import Resources


def requests(asked: Resources, gpu: bool, partition: str | None) -> dict[str, int | str | None]:
    """Return what a job asks for, by the names of Snakemake's resources; None is not asked for.

    Args:
        asked: the study's requests.
        gpu: whether the job computes on a GPU where there is one.
        partition: of the jobs with a GPU; None leaves it to the cluster.

    Returns:
        `gpu` (a number), `gpu_model`, `gres` and `slurm_partition`.
    """
    gpu = gpu and asked.gpus != "none"
    by_gres = gpu and asked.gpus == "gres"
    kind = f"{asked.gpu_type}:" if asked.gpu_type else ""
    return {
        "gpu": int(gpu and not by_gres),
        "gpu_model": asked.gpu_type if gpu and not by_gres else None,
        "gres": f"gpu:{kind}1" if by_gres else None,
        "slurm_partition": partition if gpu or asked.cpu_partition is None else asked.cpu_partition,
    }


def requests_of_rule(
    asked: Resources,
    partition: str | None,
    memory_mb: int,
    minutes: int | Callable[[str], int],
    gpu: Callable[[str], bool] | None = None,
    resumes: bool = False,
) -> dict[str, Callable[..., Any]]:
    """Return the resources of a rule's jobs, as Snakemake's functions of `wildcards` and `attempt`.

    A further attempt asks for more memory, and for more time unless it resumes.

    Args:
        asked: the study's requests.
        partition: of the jobs with a GPU; None leaves it to the cluster.
        memory_mb: memory of the first attempt.
        minutes: time of the first attempt, for all jobs or by the job's name.
        gpu: whether a job, by its name, computes on a GPU where there is one; None for a rule on CPUs.
        resumes: whether a job goes on where an earlier attempt ended.
    """

    def request(name: str) -> Callable[..., Any]:
        return lambda wildcards: requests(asked, gpu is not None and gpu(wildcards.job), partition)[name]

    def runtime(wildcards: Any, attempt: int) -> int:
        first = minutes(wildcards.job) if callable(minutes) else minutes
        wanted = first if resumes else first * attempt
        return min(wanted, asked.max_minutes or wanted)

    names = ["gpu", "gpu_model", "gres", *(["slurm_partition"] if asked.cpu_partition else [])]
    return {
        **{name: request(name) for name in names},
        "mem_mb": lambda wildcards, attempt: memory_mb * attempt,  # noqa: ARG005
        "runtime": runtime,
    }
