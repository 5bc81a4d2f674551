"""A training of several processes: what it asks the cluster for, and its command."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from intaglio.study.schema import Resources


def for_tasks(asked: Resources, stage: str, resources: Mapping[str, Any]) -> dict[str, Any]:
    """Return the resources of the jobs of a stage: those of one process for each of several, if it trains.

    Args:
        asked: the study's requests.
        stage: name of the stage.
        resources: of one process, as Snakemake takes them: `gpu`, `gres` and `mem_mb` are functions of the wildcards,
            the last one of the attempt, too.
    """
    tasks, nodes = tasks_of(asked, stage), asked.train_nodes
    if tasks == 1:
        return dict(resources)
    on_node = tasks // nodes
    return {
        **resources,
        "gpu": lambda wildcards: resources["gpu"](wildcards) * tasks,
        # GPU:1, or None.
        "gres": lambda wildcards: (one := resources["gres"](wildcards)) and f"{one.removesuffix('1')}{on_node}",
        # Of each node.
        "mem_mb": lambda wildcards, attempt: resources["mem_mb"](wildcards, attempt) * on_node,
        # The command itself starts the processes; the plugin would start one, or as many for each GPU.
        "mpi": "srun",
        "tasks_per_gpu": 0,
        "nodes": nodes,
        **({"tasks_per_node": on_node} if nodes > 1 and on_node > 1 else {"tasks": tasks}),
    }


def option_of_tasks(asked: Resources, stage: str) -> Callable[[Any, Any], str]:
    """Return the part of a stage's command that starts several processes, as a function that Snakemake takes.

    It has `output` as an argument because Snakemake then ignores changes of its value: results are not made again.
    """
    tasks = tasks_of(asked, stage)
    return lambda wildcards, output: f"--tasks {tasks}" if tasks > 1 else ""  # noqa: ARG005


def tasks_of(asked: Resources, stage: str) -> int:
    """Return the number of processes of a stage's jobs."""
    return 1 if stage == "int8" else asked.train_tasks
