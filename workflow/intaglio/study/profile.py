"""The part of the study file that says what to measure for every model."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from intaglio.study.sources import StudyPart

# What executes models; the first that runs a model on the CPU is what the others are compared with.
BackendName = Literal[
    "torch",
    "torch.compile",
    "torch.sparse",
    "onnxruntime",
    "openvino",
    "native",
    "torch-bf16",
    "torch.compile-bf16",
    "openvino-bf16",
]


class Profile(StudyPart):
    """What to measure for every model, and how."""

    batch_sizes: list[int] = Field(default_factory=lambda: [1, 8, 32], min_length=1, description="Batch sizes.")
    lengths: list[int] = Field(default_factory=lambda: [32, 128], min_length=1, description="Sequence lengths, tokens.")
    headline: tuple[int, int] = Field((1, 128), description="Batch size and length of the summary's latency.")
    warmup: int = Field(5, ge=1, description="Calls before timing.")
    calls: int = Field(30, ge=2, description="Calls that are timed, at each point of the grid.")
    threads: int = Field(2, ge=1, description="CPU threads.")
    seeds: Literal["first", "all"] = Field(
        "first",
        description="Which runs of a variant are measured. Times depend on shapes, not on seeds, so one run tells as "
        "much as all; variants with a `cut`, whose shapes depend on the seed, are measured for every seed.",
    )
    devices: tuple[Literal["cpu", "cuda"], ...] = Field(
        ("cpu", "cuda"), min_length=1, description="Devices; one that is absent is left out."
    )
    backends: tuple[BackendName, ...] = Field(
        ("torch", "onnxruntime", "openvino", "native", "torch-bf16", "openvino-bf16"),
        min_length=1,
        description="What executes the models: PyTorch as it is, PyTorch compiled (left out without a C++ compiler), "
        "PyTorch with 2:4 sparse kernels in 16 bits (of models with this pattern, on GPUs that have them), ONNX "
        "Runtime and OpenVINO (on the CPU), Intaglio's native library (integer models, on the CPU), and models in "
        "floating point in bf16 (left out where the processor has none). The tables' latency is that of the fastest.",
    )

    energy: bool = Field(
        True,
        description="Also measure the energy of a call at the headline, in a pass of its own of some seconds for each "
        "backend, where the machine counts it (RAPL of processors, NVML of NVIDIA's GPUs).",
    )
    machine: str | None = Field(
        None,
        min_length=1,
        description="Name of the hardware that measures, where that is not the machine on which Snakemake runs, as on "
        "clusters: profiles are made again when it changes. Null is this machine, known by its processor, its GPU and "
        "the versions of what executes models.",
    )

    @field_validator("batch_sizes", "lengths")
    @classmethod
    def _positive(cls, sizes: list[int]) -> list[int]:
        if min(sizes) < 1:
            raise ValueError(f"{min(sizes)} is too small: give numbers from 1")
        return sizes

    @field_validator("devices", "backends")
    @classmethod
    def _named_once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) != len(names):
            raise ValueError("a name occurs twice")
        return names

    @model_validator(mode="after")
    def _headline_on_grid(self) -> Self:
        if self.headline[0] not in self.batch_sizes or self.headline[1] not in self.lengths:
            raise ValueError(f"headline {list(self.headline)} is not a point of batch_sizes x lengths")
        return self
