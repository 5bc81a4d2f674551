"""Time a training step: float, our integer-only quantization-aware training, and transformers' port of I-BERT.

One process, all interleaved; figures are medians, and ratios to float's at the same precision. A step is forward,
backward and AdamW.

    python benchmarks/qat_step.py [--steps 15] [--compile] [--json FILE] [--check]
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
from record import write_record
from shapes import MINILM, ROBERTA, SHAPES, random_batch, random_model
from torch.nn import functional
from transformers import IBertConfig, IBertForSequenceClassification
from transformers.utils import logging

from intaglio.arithmetic.operations import OPERATIONS
from intaglio.encoder.files import convert
from intaglio.heap import keep_freed_memory
from intaglio.measure.disturbance import DISTURBED, Watch

BATCH, LENGTH = 16, 64
# The goal, in float32: how many times as long as float's a step of `int` may take.
GOAL = 1.05
# Float is timed at each of these settings, and the others at the same setting.
PRECISIONS = {"cpu": ["float32"], "cuda": ["float32", "tf32", "bf16"]}
Step = Callable[[], None]


def _step(model: torch.nn.Module, batch: dict[str, torch.Tensor], labels: torch.Tensor, precision: str) -> Step:
    # The fastest optimizer of torch for the device, the same for all.
    device = labels.device.type
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            loss = functional.cross_entropy(model(**batch).logits, labels)
        loss.backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return step


def _contenders(shape: str, precision: str, arguments: argparse.Namespace) -> dict[str, Step]:
    """Return the steps for one shape, on one batch with a quarter of its examples padded by half."""
    device = arguments.device
    model = random_model(shape, arguments.layers)
    batch = random_batch(model, (BATCH, LENGTH), device, padded=True)
    labels = torch.randint(0, 2, (BATCH,), device=device)
    model = model.to(device).train()
    encoder = convert(model, frozenset(OPERATIONS)).to(device).train()
    with encoder.calibrating(momentum=0.95):
        encoder(**batch)
    trained = {"float": model, "int": encoder}
    if arguments.compile:
        trained |= {f"{name}, torch.compile": torch.compile(copy.deepcopy(one)) for name, one in trained.items()}
    if not arguments.no_port:
        sizes = {**(MINILM if shape == "minilm" else ROBERTA), "pad_token_id": model.config.pad_token_id}
        sizes["num_hidden_layers"] = model.config.num_hidden_layers
        trained["transformers' IBert"] = IBertForSequenceClassification(IBertConfig(**sizes, quant_mode=True))
    return {name: _step(one.to(device).train(), batch, labels, precision) for name, one in trained.items()}


def _warm(steps: dict[str, Step]) -> dict[str, Step]:
    """Take every step once, which compiles; return those that work."""
    working: dict[str, Step] = {}
    for name, step in steps.items():
        try:
            step()
        except Exception as error:  # for example, a missing compiler
            print(f"skipped: {name}: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}"[:200], flush=True)
        else:
            working[name] = step
    return working


def measure(shape: str, precision: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return one row per contender: median milliseconds, its ratio to float's, and all times."""
    # TF32 is "high"; on a CPU neither has an effect.
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    steps = _warm(_contenders(shape, precision, arguments))
    times: dict[str, list[float]] = {name: [] for name in steps}
    watch = Watch()
    with watch.timing():
        for _ in range(arguments.steps):
            for name, step in steps.items():
                start = time.perf_counter()
                step()
                times[name].append((time.perf_counter() - start) * 1000)
    (busy,) = watch.shares()
    if busy > DISTURBED:
        print(f"disturbed: other processes took {busy:.0f} % of the cores", flush=True)
    base = statistics.median(times["float"])
    return [
        {
            "shape": shape,
            "precision": precision,
            "model": name,
            "median_ms": statistics.median(values),
            "ratio": statistics.median(values) / base,
            "busy": busy,
            "calls_ms": values,
        }
        for name, values in times.items()
    ]


def missed(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return where a step of `int` in float32 takes longer than the goal, one sentence each."""
    return [
        f"a step of {row['shape']} takes {row['ratio']:.3f} x float32's, the goal is {GOAL} x"
        f" ({row['ratio'] / GOAL - 1:.0%} more)"
        for row in rows
        if (row["model"], row["precision"]) == ("int", "float32") and row["ratio"] > GOAL
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; with --check, fail where `int` costs more than the goal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=15, help="rounds of interleaved steps (15)")
    parser.add_argument("--shape", choices=SHAPES, action="append", help="default: all")
    parser.add_argument("--layers", type=int, help="fewer layers than the shape has, for a quick run")
    parser.add_argument("--device", choices=list(PRECISIONS), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", action="append", help="of float32, tf32, bf16; default: all of the device")
    parser.add_argument("--compile", action="store_true", help="float and int by torch.compile, too")
    parser.add_argument("--no-port", action="store_true", help="leave transformers' IBert out")
    parser.add_argument("--json", type=Path, help="write all times and the machine to this file, or into this folder")
    parser.add_argument("--check", action="store_true", help=f"exit with 1 if int costs more than {GOAL} x float32")
    arguments = parser.parse_args(argv)
    precisions = arguments.precision or PRECISIONS[arguments.device]
    if not set(precisions) <= set(PRECISIONS[arguments.device]):
        parser.error(f"on {arguments.device} there are the precisions {', '.join(PRECISIONS[arguments.device])}")
    torch.set_num_threads(arguments.threads)
    # as in every training
    keep_freed_memory()
    logging.set_verbosity_error()
    rows: list[dict[str, Any]] = []
    print(f"batch {BATCH} x {LENGTH} tokens, {arguments.threads} threads, {arguments.steps} interleaved steps")
    print(f"{'shape':14}{'precision':10}{'model':22}{'median ms':>10}{'x float':>9}")
    for shape, precision in product(arguments.shape or SHAPES, precisions):
        for row in measure(shape, precision, arguments):
            rows.append(row)
            where = f"{row['shape']:14}{row['precision']:10}{row['model']:22}"
            print(f"{where}{row['median_ms']:10.1f}{row['ratio']:9.3f}", flush=True)
    conditions = {"layers": arguments.layers, "threads": arguments.threads, "batch": BATCH, "length": LENGTH}
    if arguments.json:
        write_record(arguments.json, "qat_step", arguments.device, {"conditions": conditions, "rows": rows})
    sentences = missed(rows)
    for sentence in sentences:
        print(f"goal missed: {sentence}")
    return 1 if arguments.check and sentences else 0


if __name__ == "__main__":
    sys.exit(main())
