"""Parts of the schemas: described fields, the columns that identify a run, the machine's fingerprint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

STRING, INT, FLOAT, BOOL = pa.string(), pa.int64(), pa.float64(), pa.bool_()


def field(name: str, kind: Any, description: str, null: bool = False) -> Any:
    """Return a field with its description as metadata."""
    return pa.field(name, kind, nullable=null, metadata={"description": description})


def nullable(*fields: tuple[str, Any, str]) -> list[Any]:
    """Return fields that may be null, from (name, type, description)."""
    return [field(name, kind, description, null=True) for name, kind, description in fields]


def interval_ends(name: str, of: str = "") -> list[tuple[str, Any, str]]:
    """Return the columns of the ends of the 95 % interval of the column `name`, for `nullable`.

    Args:
        name: of the column.
        of: what else there is to say of the interval: ` over test examples and seeds`.
    """
    return [
        (f"{name}_low", FLOAT, f"Lower end of its 95 % interval{of}."),
        (f"{name}_high", FLOAT, "Upper end of that interval."),
    ]


def speedup_columns(ratio: str, form: str) -> list[Any]:
    """Return the columns of speed-ups over the fastest float32 form and over the fastest form of any precision."""
    any_precision = "The same for the fastest float form of any precision."
    columns = []
    for end, of_ratio, of_form in (("", ratio, form), ("_any", any_precision, form)):
        columns += [
            (f"speedup{end}", FLOAT, of_ratio),
            *interval_ends(f"speedup{end}", "; where that holds 1, no difference is measurable"),
            (f"against{end}", STRING, of_form),
        ]
    return nullable(*columns)


def schema(name: str, fields: Sequence[Any]) -> Any:
    """Return a schema with the table's name as metadata."""
    return pa.schema(fields, metadata={"table": name})


def describe(of: Any) -> dict[str, str]:
    """Return the description of every column of a schema, by name."""
    return {column.name: column.metadata[b"description"].decode() for column in of}


KEYS = (
    field("study", STRING, "Name of the study."),
    field("task", STRING, "Name of the task."),
    field("model", STRING, "Name of the pretrained encoder."),
    field("variant", STRING, "Name of the recipe that made the model."),
    field("seed", INT, "Seed of the run."),
)

# The fingerprint of intaglio.machine, one column per fact.
MACHINE = (
    field("machine_id", STRING, "Fingerprint: times with the same one may be compared."),
    *nullable(
        ("machine_host", STRING, "Name of the machine."),
        ("machine_cpu", STRING, "CPU model name."),
        ("machine_cpu_id", STRING, "CPU vendor, family-model-stepping."),
        ("machine_cores", INT, "Logical CPU cores that the process may use."),
        ("machine_cpu_quota", FLOAT, "Limit of a container or cgroup to the processor time, in cores; null without."),
        ("machine_instructions", STRING, "Instruction sets that decide integer speed, such as `avx2 avx512_vnni`."),
        ("machine_memory_mb", INT, "Main memory, MB."),
        ("machine_gpu", STRING, "GPU model name; null without one."),
        ("machine_gpu_count", INT, "GPUs; null without one."),
        ("machine_gpu_memory_mb", INT, "Memory of a GPU, MB; null without one."),
        ("machine_driver", STRING, "GPU driver version; null without one."),
        ("machine_cuda", STRING, "CUDA version that torch was built for; null for a CPU build."),
        ("machine_system", STRING, "Operating system and kernel."),
        ("machine_python", STRING, "Python version."),
        ("machine_libraries", STRING, "JSON object of library versions: torch, transformers, ..."),
        ("machine_commit", STRING, "Git commit of the code, `-dirty` behind it where files differ; null outside git."),
    ),
)


def machine_columns(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """Return the machine_* columns of a row, from `intaglio.machine.fingerprint()`."""
    return {column.name: fingerprint.get(column.name.removeprefix("machine_")) for column in MACHINE}


def keyed(of: Any) -> Any:
    """Return the schema of a table concatenated over runs: the columns that identify the run come first."""
    return pa.schema([*KEYS, *of], metadata={"table": "summary of " + of.metadata[b"table"].decode()})
