"""The verbs `bundle` and `predict` of the command line; what they need is imported when they run."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from intaglio.predict.arguments import of_prediction


def _bundle(arguments: argparse.Namespace) -> None:
    """Write a finished run as a folder to deploy: model, tokenizer, model card, checksums and an example."""
    from intaglio.bundle.make import write_bundle

    print(write_bundle(arguments.results, arguments.name, arguments.output))


def _predict(arguments: argparse.Namespace) -> None:
    """Predict for a file of any size, or for a text, by a bundle."""
    from intaglio.predict.command import run_prediction

    run_prediction(arguments.bundle, arguments)


def of_bundles(verb: Callable[..., Any]) -> None:
    """Add the verbs, by a function that adds one and returns its parser."""
    parser = verb(_bundle)
    parser.add_argument("results", type=Path, help="folder of a study's results, results/STUDY")
    parser.add_argument("name", metavar="run", help="TASK/MODEL/VARIANT/SEED, or what of it names a single run")
    parser.add_argument("--output", type=Path, help="folder to write (results/STUDY/bundle/TASK.MODEL.VARIANT.SEED)")
    parser = verb(_predict)
    parser.add_argument("bundle", type=Path, help="folder of the bundle")
    of_prediction(parser)
