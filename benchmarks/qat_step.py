"""Time a training step: float, our integer-only quantization-aware training, and transformers' port of I-BERT.

One process, all three interleaved; figures are medians and ratios to float. A step is forward, backward and AdamW.

    python benchmarks/qat_step.py [--steps 15] [--json FILE] [--check]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    IBertConfig,
    IBertForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from intaglio.arithmetic.operations import OPERATIONS
from intaglio.encoder.files import convert
from intaglio.machine import fingerprint

BATCH, LENGTH = 16, 64
GOAL = 1.25
# Float is timed at each of these settings, and the other two at the same setting.
PRECISIONS = {"cpu": ["fp32"], "cuda": ["fp32", "tf32", "bf16"]}
MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
ROBERTA = {"vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1, "pad_token_id": 1}
Step = Callable[[], None]


def _step(model: torch.nn.Module, batch: dict[str, torch.Tensor], precision: str) -> Step:
    # The fastest optimizer of torch for the device, the same for all.
    device = batch["input_ids"].device.type
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return step


def _contenders(shape: str, device: str, precision: str, port: bool) -> dict[str, Step]:
    """Return the three steps for one shape, on one batch with a quarter of its examples padded by half."""
    torch.manual_seed(0)
    if shape == "minilm":
        model: Any = BertForSequenceClassification(BertConfig(**MINILM))
        port_config = IBertConfig(**MINILM, quant_mode=True, pad_token_id=1)
    else:
        model = RobertaForSequenceClassification(RobertaConfig(**ROBERTA))
        port_config = IBertConfig(**ROBERTA, quant_mode=True)
    input_ids = torch.randint(5, 20000, (BATCH, LENGTH), device=device)
    attention_mask = torch.ones_like(input_ids)
    attention_mask[: BATCH // 4, LENGTH // 2 :] = 0
    input_ids[attention_mask == 0] = model.config.pad_token_id
    batch = {"input_ids": input_ids, "attention_mask": attention_mask}
    labelled = {**batch, "labels": torch.randint(0, 2, (BATCH,), device=device)}

    model = model.to(device).train()
    encoder = convert(model, frozenset(OPERATIONS)).to(device).train()
    with encoder.calibrating(momentum=0.95):
        encoder(**batch)
    steps = {"float": _step(model, labelled, precision), "int": _step(encoder, labelled, precision)}
    if port:
        ibert = IBertForSequenceClassification(port_config).to(device).train()
        steps["transformers' IBert"] = _step(ibert, labelled, precision)
    return steps


def measure(shape: str, device: str, precision: str, rounds: int, port: bool) -> list[dict[str, object]]:
    """Return one row per contender: median milliseconds, and the median of its ratios to float, round by round."""
    # TF32 is "high"; on a CPU neither has an effect.
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    steps = _contenders(shape, device, precision, port)
    for step in steps.values():
        step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            times[name].append((time.perf_counter() - start) * 1000)
    base = statistics.median(times["float"])
    return [
        {
            "shape": shape,
            "device": device,
            "precision": precision,
            "model": name,
            "median_ms": statistics.median(values),
            "ratio": statistics.median(values) / base,
            "calls_ms": values,
        }
        for name, values in times.items()
    ]


def main() -> int:
    """Print the table; with --check, fail where `int` costs more than the goal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=15, help="rounds of interleaved steps (15)")
    parser.add_argument("--shape", choices=["minilm", "roberta-base"], action="append", help="default: both")
    parser.add_argument("--device", choices=list(PRECISIONS), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-port", action="store_true", help="leave transformers' IBert out")
    parser.add_argument("--json", type=Path, help="write rows and the machine to this file")
    parser.add_argument("--check", action="store_true", help=f"exit with 1 if int costs more than {GOAL} x float")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows: list[dict[str, object]] = []
    print(f"batch {BATCH} x {LENGTH} tokens, {arguments.threads} threads, {arguments.steps} interleaved steps")
    print(f"{'shape':14}{'precision':10}{'model':22}{'median ms':>10}{'x float':>9}")
    for shape, precision in product(arguments.shape or ["minilm", "roberta-base"], PRECISIONS[arguments.device]):
        for row in measure(shape, arguments.device, precision, arguments.steps, not arguments.no_port):
            rows.append(row)
            where = f"{row['shape']:14}{row['precision']:10}{row['model']:22}"
            print(f"{where}{row['median_ms']:10.1f}{row['ratio']:9.2f}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": fingerprint(), "rows": rows}, indent=1))
    missed = [row for row in rows if row["model"] == "int" and float(str(row["ratio"])) > GOAL]
    for row in missed:
        print(f"goal missed: {row['shape']} in {row['precision']} at {row['ratio']:.2f} x float, the goal is {GOAL}")
    return 1 if arguments.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
