"""The arguments that verbs of the command line share."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_HELP: Mapping[str, str] = {
    "baseline": "float checkpoint that is timed beside it; not for float itself",
    "baseline-export": "export of that checkpoint",
    "checkpoint": "folder of the checkpoint",
    "data": "folder with prepared data, tokenized or not",
    "export": "export of the checkpoint",
    "max-length": "number of tokens at which texts are truncated",
    "model": "folder of the pretrained model",
    "options": "options of the job, as JSON",
    "output": "folder or file to write",
    "parent": "checkpoint of the stage before",
    "plan": "plan of a study",
    "report": "HTML file to write beside the tables",
    "seed": "of everything random",
    "student": "pretrained model to train, in place of layers of the parent",
    "summary": "folder of a study's tables",
    "teacher": "checkpoint of the teacher",
    "work": "folder of this job alone: it keeps what a killed job goes on from, and of several processes one works",
}
_KINDS: Mapping[str, Any] = {"options": json.loads, "seed": int, "max-length": int}


def add_argument(parser: argparse.ArgumentParser, given: str) -> None:
    """Add a shared argument to a parser.

    Args:
        parser: of a verb.
        given: its name, followed by `?` if it can be left out.
    """
    name = given.removesuffix("?")
    default = 128 if given == "max-length?" else None
    kind = _KINDS.get(name, Path)
    parser.add_argument(f"--{name}", type=kind, required=name == given, default=default, help=_HELP.get(name))
