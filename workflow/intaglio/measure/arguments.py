"""The verb `intaglio sensitivity`; importing this module needs no torch."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any


def of_sensitivity(verb: Callable[..., Any]) -> None:
    """Add the verb to the command line; `verb` makes a parser for a function."""
    parser = verb(_sensitivity, "data", "max-length?")
    parser.add_argument("checkpoint", type=Path, help="folder of a checkpoint of the stage quantize")
    parser.add_argument("--examples", type=int, default=128, help="number of validation examples (128)")


def _sensitivity(arguments: argparse.Namespace) -> None:
    """Rank what an integer model gains by one operation, or one of a single layer, in floating point."""
    from intaglio.measure.noise.sensitivity import sensitivities

    # Signal to noise of the logits, and what is gained by what is exact: in floating point, or in 8 bits.
    print(f"{'exact':16}  {'signal to noise, dB':>20}  {'gain, dB':>9}")
    for found in sensitivities(arguments.checkpoint, arguments.data, arguments.max_length, arguments.examples):
        print(f"{found.exact or 'nothing':16}  {found.noise:20.1f}  {found.gain:+9.1f}")
