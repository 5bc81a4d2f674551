"""The command line: one verb a pipeline step, each a reader of arguments for one function.

Imports stand within the verbs, so that those which need no torch start fast.
"""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from intaglio.errors import UserError
from intaglio.logged import logged

Arguments = argparse.Namespace


def fetch(arguments: Arguments) -> None:
    """Fetch a source from the hub or the package registry."""
    from pydantic import TypeAdapter

    from intaglio.study.sources import Source
    from intaglio.tasks.fetch import fetch as run

    told = dict(arguments.options)
    what = told.pop("what")
    run(TypeAdapter(Source).validate_python(told), what, arguments.output)


def reach(arguments: Arguments) -> None:
    """Check that the hub has these sources, before anything is submitted."""
    from intaglio.study.sources import HubSource
    from intaglio.tasks.fetch import reach as run

    for told in arguments.options:
        run(HubSource.model_validate({name: told[name] for name in told if name != "what"}), told["what"])


def data(arguments: Arguments) -> None:
    """Turn a source into the splits of a task."""
    from intaglio.study.schema import Task
    from intaglio.tasks.prepare import prepare_data

    prepare_data(Task.model_validate(arguments.options), arguments.source, arguments.output)


def model(arguments: Arguments) -> None:
    """Turn a source into a pretrained model's folder."""
    from intaglio.models.prepare import prepare_model
    from intaglio.study.schema import Pretrained

    prepare_model(Pretrained.model_validate(arguments.options), arguments.source, arguments.output)


def finetune(arguments: Arguments) -> None:
    """Fine-tune a pretrained model, in floating point."""
    from intaglio.stages.finetune import finetune as run

    _stage(run, arguments, arguments.model)


def distil(arguments: Arguments) -> None:
    """Train a student to do what a fine-tuned model does."""
    from intaglio.stages.distil import distil as run

    _stage(run, arguments, arguments.parent, teacher=arguments.teacher, student=arguments.student)


def prune(arguments: Arguments) -> None:
    """Remove weights, or heads and neurons, of a fine-tuned model and train what is left."""
    from intaglio.stages.prune import prune as run

    _stage(run, arguments, arguments.parent, teacher=arguments.teacher)


def quantize(arguments: Arguments) -> None:
    """Quantize a fine-tuned model by training it on simulated integers."""
    from intaglio.stages.quantize import quantize as run

    _stage(run, arguments, arguments.parent, teacher=arguments.teacher)


def int8(arguments: Arguments) -> None:
    """Quantize a fine-tuned model to 8 bits without training."""
    from intaglio.stages.int8 import int8 as run

    _stage(run, arguments, arguments.parent)


def _stage(run: Callable[..., None], arguments: Arguments, start: Path, **others: Path | None) -> None:
    from intaglio.study.options import STAGES

    _quiet()
    run(
        start,
        arguments.data,
        STAGES[arguments.verb].model_validate(arguments.options),
        arguments.seed,
        arguments.max_length,
        arguments.work,
        arguments.output,
        **others,
    )


def _quiet() -> None:
    """Spare the log a bar for every time that a model is loaded."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def evaluate(arguments: Arguments) -> None:
    """Predict every test set and compute the metrics."""
    from intaglio.measure.evaluate import evaluate as run

    _quiet()
    run(arguments.checkpoint, arguments.data, arguments.max_length, arguments.output)


def export(arguments: Arguments) -> None:
    """Write a checkpoint as an ONNX model, checked against it."""
    from intaglio.export.export import export as run

    _quiet()
    run(arguments.checkpoint, arguments.output)


def profile(arguments: Arguments) -> None:
    """Measure latency, memory, size and operators."""
    from intaglio.measure.profile import profile as run
    from intaglio.study.schema import Profile

    _quiet()
    run(arguments.checkpoint, arguments.export, Profile.model_validate(arguments.options), arguments.output)


def plan(arguments: Arguments) -> None:
    """Write what a study consists of: every run and where its results lie."""
    from intaglio.study.load import load
    from intaglio.study.plan import make_plan, write_plan

    write_plan(make_plan(load(arguments.options)), arguments.output)


def summarize(arguments: Arguments) -> None:
    """Gather the results of a study into tables."""
    from intaglio.summary.summarize import write_summary

    write_summary(arguments.plan, arguments.output)


def pages(arguments: Arguments) -> None:
    """Write a study's tables for people, as Markdown and HTML."""
    from intaglio.report.pages import write_pages

    write_pages(arguments.summary, arguments.output)


def plot(arguments: Arguments) -> None:
    """Draw the plots of a study from its tables."""
    from intaglio.plots.draw import write_plots

    write_plots(arguments.summary, arguments.output)


def schema(arguments: Arguments) -> None:
    """Write the JSON schema of study files and their reference page."""
    from intaglio.study.reference import write_reference, write_schema

    write_schema(arguments.schema)
    write_reference(arguments.reference)


def submit(arguments: Arguments) -> int:
    """Run a target of the workflow in one allocation of the cluster, and wait for it."""
    from intaglio.cluster.submit import submit as run

    told = vars(arguments)
    return run(arguments.target, **{name: told[name] for name in told if name not in ("verb", "run", "target", "log")})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m intaglio", description=__doc__.splitlines()[0])
    parser.add_argument("--log", type=Path, help="write what is printed to this file too")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(run: Callable[[Arguments], int | None], *names: str) -> argparse.ArgumentParser:
        added = verbs.add_parser(run.__name__, help=run.__doc__, description=run.__doc__)
        added.set_defaults(run=run)
        for name in names:
            kind: Any = json.loads if name == "options" else int if name in ("seed", "max-length") else Path
            added.add_argument(f"--{name}", type=kind, required=True)
        return added

    verb(reach, "options")
    verb(fetch, "options", "output")
    for run in (data, model):
        verb(run, "options", "output").add_argument("--source", type=Path, help="fetched source; none for own files")
    stage = ("data", "options", "seed", "max-length", "work", "output")
    verb(finetune, "model", *stage)
    verb(int8, "parent", *stage)
    for run in (distil, prune, quantize):
        verb(run, "parent", *stage).add_argument("--teacher", type=Path, help="checkpoint that teaches")
    verbs.choices["distil"].add_argument("--student", type=Path, help="pretrained model; none for the teacher's layers")
    verb(evaluate, "checkpoint", "data", "max-length", "output")
    verb(export, "checkpoint", "output")
    verb(profile, "checkpoint", "export", "options", "output")
    verb(plan, "options", "output")
    verb(summarize, "plan", "output")
    for run in (pages, plot):
        verb(run, "summary", "output")
    verb(schema, "schema", "reference")
    _add_submit(verb(submit))
    return parser


def _add_submit(added: argparse.ArgumentParser) -> None:
    added.add_argument("target", help="file, folder or rule name that Snakemake shall make")
    added.add_argument("--configfile", type=Path, help="study file (config.yaml)")
    added.add_argument("--partition", help="the cluster's default when absent")
    added.add_argument("--account", help="the user's default when absent")
    added.add_argument("--gpus", type=int, default=1)
    added.add_argument("--cpus", type=int, default=4)
    added.add_argument("--memory-gb", type=int, default=16)
    added.add_argument("--minutes", type=int, default=240)
    added.add_argument("--log-folder", type=Path, default=Path("logs/submit"))
    added.add_argument("--local", action="store_true", help="here, even where there is SLURM")


def main(argv: list[str] | None = None) -> int:
    """Run a verb; a mistake in the input is one line on stderr and the status 2."""
    arguments = _parser().parse_args(argv)
    with logged(arguments.log):
        try:
            return arguments.run(arguments) or 0
        except UserError as error:
            _record(arguments, str(error))
            print(f"intaglio {arguments.verb}: {error}", file=sys.stderr)
            return 2
        except Exception as error:
            _record(arguments, repr(error))
            traceback.print_exc()
            return 1


def _record(arguments: Arguments, error: str) -> None:
    """Leave the reason of a failed training where the tables look for it."""
    if getattr(arguments, "work", None):
        from intaglio.training.resume import record_failure

        record_failure(arguments.work, error)
