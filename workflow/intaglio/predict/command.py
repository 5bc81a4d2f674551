"""The command that predicts: `python BUNDLE/predict.py`, and `intaglio predict BUNDLE`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from intaglio.errors import UserError, of_the_user
from intaglio.predict.arguments import of_prediction
from intaglio.predict.opened import Bundle
from intaglio.predict.stream import predict_file


def run_prediction(folder: Path, arguments: argparse.Namespace) -> None:
    """Predict for a file or a text, as the arguments of `of_prediction` say, and print what was done.

    Raises:
        UserError: there is neither a file nor a text, or both; the bundle is damaged; or the file cannot be read.
    """
    if (arguments.file is None) == (arguments.text is None):
        raise UserError("give a file, or a text with --text")
    if arguments.threads is not None and arguments.threads < 1:
        raise UserError(f"--threads: {arguments.threads} is none; give 1 or more")
    bundle = Bundle(folder, arguments.form, arguments.threads)
    for reason in bundle.passed_over:
        print(f"note: {reason}; {bundle.form!r} runs in its place", file=sys.stderr)
    if arguments.text is not None:
        _answer(bundle, arguments.text, arguments.text2)
        return
    names = ("file", "output", "columns", "delimiter", "quotes", "logits")
    try:
        outcome = predict_file(bundle, *(getattr(arguments, name) for name in names))
    except KeyboardInterrupt:
        raise UserError("interrupted; nothing was written") from None
    speed = outcome.rows / max(outcome.seconds, 1e-9)
    print(
        f"{outcome.output}: {outcome.rows:,} rows in {outcome.seconds:.1f} s, {speed:,.0f} rows/s"
        f" ({bundle.form}, {bundle.threads} threads)"
    )
    if outcome.cut:
        limit = bundle.facts["max_length"]
        print(f"note: {outcome.cut:,} texts have more than {limit} tokens and were cut", file=sys.stderr)
    if outcome.bad:
        rows = "1 row has" if outcome.bad == 1 else f"{outcome.bad:,} rows have"
        print(f"warning: {rows} no prediction, the first is {outcome.first}", file=sys.stderr)


def _answer(bundle: Bundle, text: str, second: str | None) -> None:
    if not text.strip():
        raise UserError("--text: is empty; give a text")
    if second is not None and not bundle.is_pair:
        raise UserError("--text2: the model takes one text; leave it out")
    if bundle.required == 2 and not (second or "").strip():
        raise UserError("--text2: give the context in which the answer to --text is")
    (answer,) = bundle.answers([(text, second or "")] if bundle.is_pair else [text])
    print(json.dumps(answer, ensure_ascii=False))


def main_of_bundle(folder: Path, words: Sequence[str] | None = None) -> int:
    """Run the command of a bundle; a mistake in the input gives one line on stderr and exit status 2."""
    parser = argparse.ArgumentParser(prog="predict.py", description="Predict for a file, or for a text.")
    of_prediction(parser)
    try:
        run_prediction(folder, parser.parse_args(words))
    except Exception as error:
        reason = of_the_user(error)
        if reason is None:
            raise
        print(f"predict: {reason}", file=sys.stderr)
        return 2
    return 0
