"""The arguments of the command that predicts. It imports nothing that takes time."""

from __future__ import annotations

import argparse
from pathlib import Path

# The forms of a model, the fastest first.
NATIVE, PORTABLE, OPENVINO = "native", "onnx", "openvino"
FORM_NAMES = (NATIVE, PORTABLE, OPENVINO)


def of_prediction(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of a prediction to a parser, but for the bundle."""
    parser.add_argument("file", nargs="?", type=Path, help="CSV, TSV, JSON Lines or Parquet; text may be compressed")
    parser.add_argument("--output", type=Path, help="file to write (by default FILE.predictions.SUFFIX)")
    parser.add_argument("--text", help="a text, in place of a file")
    parser.add_argument("--text2", help="the second text of a pair, or the context of a question")
    parser.add_argument("--columns", nargs="+", metavar="NAME", help="the columns with the texts, one or two")
    parser.add_argument("--logits", action="store_true", help="also write the logits")
    parser.add_argument("--form", choices=FORM_NAMES, help="form of the model (by default the fastest that runs here)")
    parser.add_argument("--threads", type=int, help="number of threads (by default that of the cores)")
    parser.add_argument("--delimiter", help="of a delimited file whose suffix does not tell it")
    parser.add_argument(
        "--quotes", action=argparse.BooleanOptionalAction, help="whether double quotes enclose fields of a text file"
    )
