"""The verb `intaglio sensitivity`; importing this module needs no torch."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any


def of_sensitivity(verb: Callable[..., Any]) -> None:
    """Add the verb to the command line; `verb` makes a parser for a function."""
    parser = verb(_sensitivity)
    parser.add_argument("results", type=Path, help="folder of a study's results, results/STUDY")
    parser.add_argument("name", metavar="run", help="TASK/MODEL/VARIANT/SEED, or what of it names a single run")
    parser.add_argument("--examples", type=int, default=128, help="number of validation examples (128)")
    parser.add_argument("--output", type=Path, help="also write the ranking to this CSV file")


def _sensitivity(arguments: argparse.Namespace) -> None:
    """Rank what a run's model gains or loses if one layer or operation is in floating point, or on integers."""
    from intaglio.measure.noise.sensitivity import sensitivities, write_sensitivities
    from intaglio.planning.found import find_run

    study, run = find_run(arguments.results, arguments.name)
    checkpoint, data = Path(run["checkpoint"]), Path(run["data"])
    first, *ranked = sensitivities(checkpoint, data, study["max_length"], arguments.examples)
    if arguments.output:
        write_sensitivities([first, *ranked], arguments.output)
    print(f"signal to noise with {first.switched} {_IN[first.to]}: {first.snr_db:.1f} dB; with this alone:")
    print(f"{'':20} {'':9} {'dB':>7} {'gain':>7}  option of quantize")
    for found in ranked:
        row = f"{found.switched:20} {found.to:9} {found.snr_db:7.1f} {found.gain_db:+7.1f}  {found.option}"
        print(row.rstrip())


_IN = {"float": "in floating point", "integers": "on integers"}
