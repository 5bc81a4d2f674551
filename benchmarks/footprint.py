"""Size of a model in float and in integers: on disk by tensor type, and in memory during inference."""

from __future__ import annotations

import multiprocessing
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from contenders import EXPORTED, FLOAT, INTAGLIO, Models, native_call, session, session_call
from safetensors import safe_open
from shapes import Call, Point, random_batch
from transformers import AutoModelForSequenceClassification
from transformers.utils import logging

from intaglio.encoder.files import read_encoder, save_encoder
from intaglio.measure.resident import peak, reset_peak
from intaglio.native.runner import CONSTANTS

Row = dict[str, Any]
# The goal for the size of the file relative to float.
SHARE = 0.27
# Whose memory is compared: a float contender and Intaglio's on the same engine. The native library is its own; it is
# compared with the engine that needs least.
ENGINES = {
    "intaglio torch": "torch float32",
    "intaglio torch.compile": "torch.compile float32",
    "intaglio onnxruntime": "onnxruntime float32",
    "intaglio native": "onnxruntime float32",
}


def write_files(models: Models) -> dict[str, Path]:
    """Write missing files; return the file or folder of each contender that has one.

    A form that cannot be made is left out; its contender has reported the reason.
    """
    floating, encoder = models.folder / "float", models.folder / "encoder"
    models.model.save_pretrained(floating)
    save_encoder(models.encoder, models.model.config, encoder)
    places = dict.fromkeys(("torch float32", "torch.compile float32"), floating)
    places |= dict.fromkeys(("intaglio torch", "intaglio torch.compile"), encoder)
    forms = {
        "onnxruntime float32": "float_onnx",
        "onnxruntime dynamic int8": "dynamic_onnx",
        "intaglio onnxruntime": "integer_onnx",
        "intaglio native": "native_folder",
    }
    # Only existing ones: a cached property stores its value in the instance.
    made = vars(models)
    return {**places, **{name: made[form] for name, form in forms.items() if form in made}}


def file_rows(places: dict[str, Path]) -> list[Row]:
    """Return one row per file: its bytes, the bytes of its tensors by data type, its share of both float files.

    Intaglio in torch runs from a training checkpoint in float32, so the files of the integer model are the exported
    ones.
    """
    files = {"torch float32": places["torch float32"] / "model.safetensors"}
    files |= {name: path for name, path in places.items() if path.suffix == ".onnx"}
    files |= {name: path / CONSTANTS for name, path in places.items() if name == "intaglio native"}
    sizes = {name: path.stat().st_size for name, path in files.items()}
    rows: list[Row] = []
    for name, path in files.items():
        of_tensors = _safetensors(path) if path.suffix == ".safetensors" else _onnx(path)
        shares = {base: sizes[name] / sizes[base] for base in dict.fromkeys(ENGINES.values()) if base in sizes}
        rows.append({"contender": name, "bytes": sizes[name], "tensors": of_tensors, "share_of": shares})
    return rows


def _safetensors(path: Path) -> dict[str, int]:
    totals: dict[str, int] = defaultdict(int)
    with safe_open(path, framework="pt") as content:
        for name in content.keys():  # noqa: SIM118 (not a dict: it cannot be iterated)
            tensor = content.get_tensor(name)
            totals[str(tensor.dtype).removeprefix("torch.")] += tensor.nbytes
    return dict(totals)


def _onnx(path: Path) -> dict[str, int]:
    """Return the bytes of a graph's initializers and constants by data type; nodes and names are not counted."""
    import onnx
    from onnx.numpy_helper import to_array

    graph = onnx.load(path).graph
    constants = [a.t for node in graph.node if node.op_type == "Constant" for a in node.attribute if a.HasField("t")]
    totals: dict[str, int] = defaultdict(int)
    for tensor in (*graph.initializer, *constants):
        values = to_array(tensor)
        totals[values.dtype.name] += values.nbytes
    return dict(totals)


def memory_rows(places: dict[str, Path], names: Sequence[str], points: Sequence[Point], threads: int) -> list[Row]:
    """Return the peak resident memory of inference in MB by contender and point, each in a separate process.

    It is the memory above that of the same process after loading the model, calling it and freeing it, as in the
    package's `measure.memory`. None if the kernel cannot reset its high-water mark.

    Args:
        places: the result of `write_files`.
        names: the contenders that ran.
        points: measured in ascending order, because engines keep memory that an earlier point needed.
        threads: number of threads of the engine.
    """
    context = multiprocessing.get_context("spawn")
    points = sorted(points, key=lambda point: point[0] * point[1])
    rows: list[Row] = []
    compared = dict.fromkeys(name for pair in ENGINES.items() for name in reversed(pair))
    for name in (name for name in compared if name in names and name in places):
        print(f"measuring the memory of {name}", flush=True)
        with ProcessPoolExecutor(max_workers=1, mp_context=context) as process:
            peaks = process.submit(_peaks, name, places, points, threads).result()
        rows += [
            {"contender": name, "batch": batch, "length": length, "peak_mb": peak}
            for (batch, length), peak in zip(points, peaks, strict=True)
        ]
    return rows


def _peaks(name: str, places: dict[str, Path], points: list[Point], threads: int) -> list[float | None]:
    torch.set_num_threads(threads)
    logging.disable_progress_bar()
    model = AutoModelForSequenceClassification.from_pretrained(places["torch float32"])
    batches = [random_batch(model, point, "cpu", padded=True) for point in [(1, 8), *points]]
    del model
    _call_twice(_load(name, places[name], threads), batches[0])
    if not reset_peak():
        return [None] * len(points)
    baseline = peak()
    call = _load(name, places[name], threads)
    # The first call reads every weight: a mapped file takes memory only once it is read.
    _call_twice(call, batches[0])
    peaks: list[float | None] = []
    for batch in batches[1:]:
        # The first calls determine the memory that a graph needs.
        _call_twice(call, batch)
        reset_peak()
        _call_twice(call, batch)
        peaks.append((peak() - baseline) / 1e6)
    return peaks


def _load(name: str, place: Path, threads: int) -> Call:
    if name == "intaglio native":
        return native_call(place, threads)
    if place.suffix == ".onnx":
        return session_call(session(place, threads, fitted=name in INTAGLIO))
    model: Any
    if name in FLOAT:
        model = AutoModelForSequenceClassification.from_pretrained(place).eval()
    else:
        from intaglio.execution.on_torch import integer_model

        model = integer_model(read_encoder(place)).eval()
    if "compile" in name:
        model.compile(dynamic=False)
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.sum()
    return partial(_logits, model)


def _logits(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    logits: torch.Tensor = model(**batch).logits
    return logits


@torch.inference_mode()
def _call_twice(call: Call, batch: dict[str, torch.Tensor]) -> None:
    for _ in range(2):
        call(batch)


def missed_footprints(files: Sequence[Row], memory: Sequence[Row]) -> list[str]:
    """Return the missed goals of size and memory, one sentence each."""
    integer = [row for row in files if row["contender"] in EXPORTED]
    missed = [] if integer else ["there is no integer file"]
    missed += [
        f"the file of {row['contender']} is {share:.1%} of the one of {base}, the goal is {SHARE:.0%}"
        for row in integer
        for base, share in row["share_of"].items()
        if share > SHARE
    ]
    peaks = {(row["contender"], row["batch"], row["length"]): row["peak_mb"] for row in memory}
    for (name, batch, length), ours in peaks.items():
        base = ENGINES.get(name, "")
        theirs = peaks.get((base, batch, length))
        if ours is not None and theirs is not None and ours >= theirs:
            missed.append(f"{name} needs {ours:.0f} MB at {batch} x {length}, {base} {theirs:.0f} MB")
    return missed


def print_footprints(files: Sequence[Row], memory: Sequence[Row]) -> None:
    """Print sizes of files by tensor type, and peak memory."""
    print(f"\n{'file of':26}{'MB':>8}  share of float        tensors, MB")
    for row in files:
        shares = ", ".join(f"{share:.1%}" for share in row["share_of"].values())
        tensors = ", ".join(f"{name} {size / 1e6:.1f}" for name, size in sorted(row["tensors"].items()))
        print(f"{row['contender']:26}{row['bytes'] / 1e6:8.1f}  {shares:22}{tensors}")
    if memory:
        print(f"\n{'peak memory of':26}{'batch x length':>16}{'MB':>8}")
    for row in memory:
        where, peak = f"{row['batch']} x {row['length']}", row["peak_mb"]
        print(f"{row['contender']:26}{where:>16}{'unknown' if peak is None else f'{peak:.0f}':>8}")
