"""What a job asks the cluster for: a GPU where one computes, as this cluster wants it, and a partition."""

from __future__ import annotations

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
