"""Time inference: integers against every float and 8-bit form of the same model that other libraries offer.

All contenders are interleaved in one process; figures are medians. Before timing, Intaglio's results are compared with
their simulation: the integers are equal, so logits differ at most by the rounding of the floating-point head.

    python benchmarks/integer_inference.py [--shape minilm] [--layers N] [--rounds N] [--json FILE] [--check]
    python benchmarks/integer_inference.py --device cuda [--padding both] [--json FILE] [--check]
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from contenders import INTAGLIO, Models, builders
from footprint import file_rows, memory_rows, missed_footprints, print_footprints, write_files
from goals import missed_goals
from peak import Peak, product_peak
from record import write_record
from results import Row, operations, print_point, print_summary
from shapes import SHAPES, Batch, Call, Point, random_batch, random_model
from transformers.utils import logging

from intaglio.measure.disturbance import DISTURBED, Watch
from intaglio.measure.timing.rounds import in_rounds

POINTS: dict[str, dict[str, list[Point]]] = {
    "cpu": {
        "roberta-base": [(batch, length) for length in (32, 128) for batch in (1, 8, 32)],
        "minilm": [(1, 32), (1, 128), (8, 128)],
    },
    "cuda": {shape: [(32, 128), (128, 128)] for shape in SHAPES},
}


@dataclass
class Found:
    """What was measured: rows of all points, and why contenders are missing."""

    rows: list[Row] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    # Percent of the cores that other processes used, by point.
    busy: list[dict[str, Any]] = field(default_factory=list)

    def skip(self, name: str, error: BaseException) -> None:
        """Record and print an error as one short line."""
        lines = str(error).strip().splitlines() or [""]
        self.skipped[name] = f"{type(error).__name__}: {lines[0]}"[:160]
        print(f"skipped: {name}: {self.skipped[name]}", flush=True)


def build(models: Models, names: Sequence[str], padded: bool, found: Found) -> dict[str, Call]:
    """Build the contenders that this machine can."""
    calls: dict[str, Call] = {}
    for name, builder in builders(models.device, padded).items():
        if name not in names:
            continue
        start = time.perf_counter()
        try:
            calls[name] = builder(models)
        except Exception as error:  # errors of libraries have no common base; the others are measured
            found.skip(name, error)
        else:
            print(f"built: {name} ({time.perf_counter() - start:.0f} s)", flush=True)
    return calls


def first_calls(
    calls: dict[str, Call], batch: Batch, models: Models, found: Found, deadline: float
) -> dict[str, float]:
    """Call each once, which compiles; take out those that fail, and those whose turn is after the deadline.

    Returns:
        The largest difference of the logits: Intaglio's to the simulation's, the others' to those in float32.
    """
    simulated, real = models.encoder(**batch).logits, models.model(**batch).logits
    differences: dict[str, float] = {}
    for name, call in list(calls.items()):
        try:
            if time.monotonic() > deadline:
                raise TimeoutError("no time was left to compile it")
            logits = call(batch)
        except Exception as error:  # for example, a missing compiler
            found.skip(name, error)
            del calls[name]
        else:
            differences[name] = float((logits - (simulated if name in INTAGLIO else real)).abs().max())
    return differences


def default_rounds(point: Point, device: str) -> int:
    """Return how often each contender is timed: less often if a call takes seconds."""
    tokens = point[0] * point[1]
    if device == "cuda":
        return 30
    return 15 if tokens <= 256 else 5 if tokens <= 1024 else 3


@torch.inference_mode()
def measure(
    models: Models, calls: dict[str, Call], batch: Batch, rounds: int, found: Found, deadline: float = float("inf")
) -> None:
    """Add the rows of one point; contenders that fail there are taken out of `calls`."""
    point = (batch["input_ids"].shape[0], batch["input_ids"].shape[1])
    differences = first_calls(calls, batch, models, found, deadline)
    watch = Watch()
    times = in_rounds([partial(call, batch) for call in calls.values()], models.device, 1, rounds, watch)
    (busy,) = watch.shares()
    found.busy.append({"batch": point[0], "length": point[1], "percent": busy})
    if busy > DISTURBED:
        print(f"disturbed: other processes took {busy:.0f} % of the cores", flush=True)
    work = operations(models.model.config, point)
    for name, values in zip(calls, times, strict=True):
        median = statistics.median(values)
        found.rows.append(Row(name, *point, median, work / median / 1e9, differences[name], values))


def arguments_of(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, action="append", help="default: all")
    parser.add_argument("--layers", type=int, help="fewer layers than the shape has, for a quick run")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, action="append", help="only these batch sizes")
    parser.add_argument("--length", type=int, action="append", help="only these lengths")
    parser.add_argument("--rounds", type=int, help="default: 15, 5 or 3 by the tokens of a batch; on a GPU 30")
    parser.add_argument("--only", action="append", metavar="CONTENDER", help="only these contenders")
    parser.add_argument(
        "--padding", choices=["no", "yes", "both"], default="no", help="pad a quarter of the examples by half"
    )
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="start no compilation later than this in a run"
    )
    parser.add_argument(
        "--no-memory", action="store_true", help="leave out the peak memory at the smallest and the largest point"
    )
    parser.add_argument("--json", type=Path, help="write all times and the machine to this file, or into this folder")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a goal is missed")
    arguments = parser.parse_args(argv)
    arguments.shape = arguments.shape or list(SHAPES)
    arguments.padding = {"no": [False], "yes": [True], "both": [False, True]}[arguments.padding]
    known = builders(arguments.device, any(arguments.padding))
    for name in arguments.only or []:
        if name not in known:
            parser.error(f"no contender {name!r} on {arguments.device}; there are {', '.join(known)}")
    arguments.only = arguments.only or list(known)
    return arguments


def points_of(arguments: argparse.Namespace, shape: str) -> list[Point]:
    """Return the points to measure: those of the goals, or all pairs of the sizes asked for."""
    points = POINTS[arguments.device][shape]
    if not (arguments.batch or arguments.length):
        return points
    batches, lengths = (list(dict.fromkeys(sizes)) for sizes in zip(*points, strict=True))
    return [(batch, length) for length in arguments.length or lengths for batch in arguments.batch or batches]


def run(arguments: argparse.Namespace, shape: str, padded: bool, folder: Path) -> dict[str, Any]:
    """Measure all points of a shape, and files and memory; print tables; return all results."""
    deadline = time.monotonic() + arguments.seconds
    device, points, found = arguments.device, points_of(arguments, shape), Found()
    models = Models(random_model(shape, arguments.layers), device, arguments.threads, folder)
    conditions = {
        "shape": shape,
        "layers": models.model.config.num_hidden_layers,
        "device": device,
        "threads": arguments.threads,
        "padded": padded,
        # A larger value than the number of threads means that other processes used the machine.
        "load_before": os.getloadavg()[0],
    }
    print(
        f"\n{shape}, {conditions['layers']} layers, random weights, {device}, {arguments.threads} threads", flush=True
    )
    calls = build(models, arguments.only, padded, found)
    peaks = [product_peak(device)]
    for point in points:
        batch = random_batch(models.model, point, device, padded)
        if device == "cuda" and not padded:
            # SDPA is fastest without a mask.
            del batch["attention_mask"]
        measure(models, calls, batch, arguments.rounds or default_rounds(point, device), found, deadline)
        print_point([row for row in found.rows if (row.batch, row.length) == point], peaks[0])
    peaks.append(product_peak(device))
    peak: Peak = max(peaks, key=lambda one: one.tops)
    print_summary(found.rows, peak)
    files: list[dict[str, Any]] = []
    memory: list[dict[str, Any]] = []
    if device == "cpu":
        places = write_files(models)
        files = file_rows(places)
        if not arguments.no_memory:
            ran = list(calls)
            del models, calls
            by_tokens = sorted(points, key=lambda point: point[0] * point[1])
            ends = list(dict.fromkeys([by_tokens[0], by_tokens[-1]]))
            memory = memory_rows(places, ran, ends, arguments.threads)
        print_footprints(files, memory)
    missed = missed_goals(found.rows, points, device, peak.tops)
    if device == "cpu":
        missed += missed_footprints(files, memory)
    return {
        "conditions": conditions,
        "peak": asdict(peak),
        "busy": found.busy,
        "rows": [asdict(row) for row in found.rows],
        "files": files,
        "memory": memory,
        "skipped": found.skipped,
        "missed": missed,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables; with --check, fail where a goal is missed."""
    arguments = arguments_of(argv)
    torch.set_num_threads(arguments.threads)
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    runs = []
    for shape, padded in product(arguments.shape, arguments.padding):
        with tempfile.TemporaryDirectory() as folder:
            runs.append(run(arguments, shape, padded, Path(folder)))
        torch.compiler.reset()
        # After each, for a run that is ended from outside.
        if arguments.json:
            write_record(arguments.json, "integer_inference", arguments.device, {"runs": runs})
    for result in runs:
        for sentence in result["missed"]:
            print(f"goal missed: {result['conditions']['shape']}: {sentence}")
    return 1 if arguments.check and any(result["missed"] for result in runs) else 0


if __name__ == "__main__":
    sys.exit(main())
