"""Time inference: integers against every float and 8-bit form of the same model that other libraries offer.

All contenders are interleaved in one process; figures are medians. Before timing, Intaglio's results are compared with
their simulation: the integers are equal, so logits differ at most by the rounding of the floating-point head.

    python benchmarks/integer_inference.py [--shape minilm] [--layers N] [--rounds N] [--json FILE] [--check]
    python benchmarks/integer_inference.py --device cuda [--json FILE] [--check]
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from contenders import FLOAT, INTAGLIO, SHAPES, Batch, Call, Models, Point, builders, random_batch, random_model
from footprint import file_rows, memory_rows, write_files
from results import Row, missed_footprints, missed_speeds, print_footprints, print_point, print_summary
from transformers.utils import logging

from intaglio.machine import fingerprint

CPU_POINTS = [(batch, length) for length in (32, 128) for batch in (1, 8, 32)]
CUDA_POINTS = [(32, 128), (128, 128)]
# Seconds before each call for the threads of the contender before to become idle.
PAUSE = 0.03


def why(error: BaseException) -> str:
    """Return an error as one short line."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:160]


def build(models: Models, names: Sequence[str]) -> tuple[dict[str, Call], dict[str, str]]:
    """Build the contenders; return them, and the reasons for those that this machine cannot build."""
    calls: dict[str, Call] = {}
    skipped: dict[str, str] = {}
    for name, builder in builders(models.device).items():
        if name not in names:
            continue
        start = time.perf_counter()
        try:
            calls[name] = builder(models)
        except Exception as error:  # errors of libraries have no common base; the others are measured
            skipped[name] = why(error)
            print(f"skipped: {name}: {skipped[name]}", flush=True)
        else:
            print(f"built: {name} ({time.perf_counter() - start:.0f} s)", flush=True)
    return calls, skipped


def first_calls(
    calls: dict[str, Call], batch: Batch, reference: torch.Tensor
) -> tuple[dict[str, float | None], dict[str, str]]:
    """Call each once, which compiles; return the differences of Intaglio's logits to the simulation, and failures."""
    differences: dict[str, float | None] = {}
    failed: dict[str, str] = {}
    for name, call in calls.items():
        try:
            logits = call(batch)
        except Exception as error:  # for example, a missing compiler
            failed[name] = why(error)
        else:
            differences[name] = float((logits - reference).abs().max()) if name in INTAGLIO else None
    return differences, failed


def timed(calls: dict[str, Call], batch: Batch, rounds: int) -> dict[str, list[float]]:
    """Return the times of each contender in ms, one per round."""
    wait: Callable[[], None] = torch.cuda.synchronize if batch["input_ids"].is_cuda else lambda: None
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            wait()
            time.sleep(PAUSE)
            start = time.perf_counter()
            call(batch)
            wait()
            times[name].append((time.perf_counter() - start) * 1000)
    return times


def default_rounds(point: Point, device: str) -> int:
    """Return how often each contender is timed: less often if a call takes seconds."""
    tokens = point[0] * point[1]
    if device == "cuda":
        return 30
    return 15 if tokens <= 256 else 5 if tokens <= 1024 else 3


@torch.inference_mode()
def measure(models: Models, calls: dict[str, Call], point: Point, rounds: int) -> tuple[list[Row], dict[str, str]]:
    """Return the rows of one point, and the reasons for contenders that failed there."""
    # Batches normally have padding. On a GPU the goal is for batches without it, where SDPA is fastest without a mask.
    batch = random_batch(models.model, point, models.device, padded=models.device == "cpu")
    if models.device == "cuda":
        del batch["attention_mask"]
    differences, failed = first_calls(calls, batch, models.encoder(**batch).logits)
    times = timed({name: call for name, call in calls.items() if name in differences}, batch, rounds)
    medians = {name: statistics.median(values) for name, values in times.items()}
    floats = [value for name, value in medians.items() if name in FLOAT]
    base = min(floats, default=None)
    rows = [
        Row(name, *point, medians[name], base and base / medians[name], differences[name], values)
        for name, values in times.items()
    ]
    return rows, failed


def arguments_of(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default=SHAPES[0])
    parser.add_argument("--layers", type=int, help="fewer layers than the shape has, for a quick run")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, action="append", help="only these batch sizes")
    parser.add_argument("--length", type=int, action="append", help="only these lengths")
    parser.add_argument("--rounds", type=int, help="default: 15, 5 or 3 by the tokens of a batch; on a GPU 30")
    parser.add_argument("--only", action="append", metavar="CONTENDER", help="only these contenders")
    parser.add_argument(
        "--no-memory", action="store_true", help="leave out the peak memory at the smallest and the largest point"
    )
    parser.add_argument("--json", type=Path, help="write rows and the machine to this file")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a goal is missed")
    arguments = parser.parse_args(argv)
    strange = set(arguments.only or ()) - set(builders(arguments.device))
    if strange:
        parser.error(f"--only: no contender {min(strange)!r}; there are: {', '.join(builders(arguments.device))}")
    points = CUDA_POINTS if arguments.device == "cuda" else CPU_POINTS
    if arguments.batch or arguments.length:
        batches = arguments.batch or list(dict.fromkeys(batch for batch, _ in points))
        lengths = arguments.length or list(dict.fromkeys(length for _, length in points))
        points = [(batch, length) for length in lengths for batch in batches]
    arguments.points = points
    return arguments


def run(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure all that was requested, printing progress; return what --json writes, without the machine."""
    device = arguments.device
    models = Models(random_model(arguments.shape, arguments.layers), device, arguments.threads, folder)
    depth = models.model.config.num_hidden_layers
    conditions = {
        "shape": arguments.shape,
        "layers": depth,
        "device": device,
        "threads": arguments.threads,
        # A larger value than the number of threads means that other processes used the machine.
        "load_before": os.getloadavg()[0],
        "onnxruntime": importlib.metadata.version("onnxruntime") if find_spec("onnxruntime") else None,
    }
    print(f"{arguments.shape}, {depth} layers, random weights, {device}, {arguments.threads} threads", flush=True)
    calls, skipped = build(models, arguments.only or list(builders(device)))
    rows: list[Row] = []
    for point in arguments.points:
        found, failed = measure(models, calls, point, arguments.rounds or default_rounds(point, device))
        for name, reason in failed.items():
            print(f"skipped: {name}: {reason}", flush=True)
            skipped[name] = reason
            del calls[name]
        print_point(found)
        rows += found
    print_summary(rows)
    files: list[dict[str, Any]] = []
    memory: list[dict[str, Any]] = []
    if device == "cpu":
        places = write_files(models)
        files = file_rows(places)
        if not arguments.no_memory:
            ran = list(calls)
            del models, calls
            by_tokens = sorted(arguments.points, key=lambda point: point[0] * point[1])
            ends = list(dict.fromkeys([by_tokens[0], by_tokens[-1]]))
            memory = memory_rows(places, ran, ends, arguments.threads)
        print_footprints(files, memory)
    missed = missed_speeds(rows, arguments.points, device)
    if device == "cpu":
        missed += missed_footprints(files, memory)
    return {
        "conditions": conditions,
        "rows": [asdict(row) for row in rows],
        "files": files,
        "memory": memory,
        "skipped": skipped,
        "missed": missed,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables; with --check, fail where a goal is missed."""
    arguments = arguments_of(argv)
    torch.set_num_threads(arguments.threads)
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        result = run(arguments, Path(folder))
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": fingerprint(), **result}, indent=1) + "\n")
    for sentence in result["missed"]:
        print(f"goal missed: {sentence}")
    return 1 if arguments.check and result["missed"] else 0


if __name__ == "__main__":
    sys.exit(main())
