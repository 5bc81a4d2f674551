"""The command line: one verb per pipeline step. Imports are inside the verbs: those without torch start fast."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from intaglio.arguments import add_argument
from intaglio.bundle.arguments import of_bundles
from intaglio.cli.studies import of_studies
from intaglio.cluster.arguments import of_allocation
from intaglio.cluster.launch import add_tasks, launch
from intaglio.errors import of_the_user
from intaglio.logged import logged
from intaglio.measure.arguments import of_sensitivity
from intaglio.store import sole_maker

Arguments = argparse.Namespace
_STAGES = {
    "finetune": "Fine-tune a pretrained model, in floating point.",
    "distil": "Train a smaller model to reproduce a fine-tuned one.",
    "prune": "Set weights of a fine-tuned model to zero and train the others.",
    "cut": "Cut heads and neurons out of a fine-tuned model and train the rest.",
    "continue": "Train a fine-tuned model on, in floating point: a control for longer training.",
    "quantize": "Quantize a fine-tuned model by training it on simulated integers.",
    "int8": "Quantize a fine-tuned model to 8 bits without training.",
}


def _fetch(arguments: Arguments) -> None:
    """Fetch a source from the hub or the package registry."""
    from pydantic import TypeAdapter

    from intaglio.reading.fetch import fetch
    from intaglio.study.sources import Source

    options = dict(arguments.options)
    what = options.pop("what")
    fetch(TypeAdapter(Source).validate_python(options), what, arguments.output)


def _reach(arguments: Arguments) -> None:
    """Check that the hub has these sources, before anything is submitted."""
    from intaglio.reading.fetch import reach
    from intaglio.study.sources import HubSource

    for options in arguments.options:
        source = {name: value for name, value in options.items() if name != "what"}
        reach(HubSource.model_validate(source), options["what"])


def _data(arguments: Arguments) -> None:
    """Turn a source into the splits of a task."""
    from intaglio.study.task import Task
    from intaglio.tasks.prepare import prepare_data

    prepare_data(Task.model_validate(arguments.options), arguments.source, arguments.output)


def _tokens(arguments: Arguments) -> None:
    """Tokenize the splits of a task with a model's tokenizer, for all jobs that read them."""
    from intaglio.tokens.artifact import write_tokens

    write_tokens(arguments.data, arguments.model, arguments.max_length, arguments.output)


def _describe(arguments: Arguments) -> None:
    """Describe data: classes, lengths, duplicates, and what a model's tokenizer makes of the texts."""
    if arguments.output:
        from intaglio.tokens.description import write_description

        write_description(arguments.source, arguments.model, arguments.max_length, arguments.output)
        return
    from intaglio.report.data import described

    print(described(arguments.source, arguments.task, arguments.model, arguments.max_length))


def _model(arguments: Arguments) -> None:
    """Turn a source into a pretrained model's folder."""
    from intaglio.models.prepare import prepare_model
    from intaglio.study.schema import Pretrained

    _quiet()
    options = dict(arguments.options)
    demands = options.pop("demands", None)
    prepare_model(Pretrained.model_validate(options), arguments.source, arguments.output, demands)


def _check(arguments: Arguments) -> None:
    """Check existing models against the demands of a study."""
    from intaglio.models.demands import check_models

    check_models(arguments.options)


def _stage(arguments: Arguments) -> None:
    from intaglio.stages.run import run_stage
    from intaglio.study.options import STAGES
    from intaglio.training.job import StageJob

    _quiet()
    names = ("data", "seed", "max_length", "work", "output", "teacher", "student")
    shared: dict[str, Any] = {name: getattr(arguments, name, None) for name in names}
    options = STAGES[arguments.verb].model_validate(arguments.options)
    run_stage(StageJob(start=getattr(arguments, "model", None) or arguments.parent, options=options, **shared))


def _quiet() -> None:
    """Turn off the progress bars for loading models, which would fill the log."""
    from transformers.utils import logging

    logging.disable_progress_bar()


def _evaluate(arguments: Arguments) -> None:
    """Predict every test set and compute the metrics."""
    from intaglio.measure.evaluate import evaluate

    _quiet()
    with sole_maker(arguments.output, "evaluation", arguments.work) as wanted:
        if wanted:
            evaluate(arguments.checkpoint, arguments.data, arguments.max_length, arguments.output)


def _export(arguments: Arguments) -> None:
    """Write a checkpoint as an ONNX model, checked against it."""
    from intaglio.export.export import export

    _quiet()
    with sole_maker(arguments.output, "export", arguments.work) as wanted:
        if wanted:
            export(arguments.checkpoint, arguments.output)


def _profile(arguments: Arguments) -> None:
    """Measure latency, memory, size and operators."""
    from intaglio.measure.server import start

    # It imports torch while this process does.
    start()
    from intaglio.measure.profile import profile
    from intaglio.study.profile import Profile

    _quiet()
    options = Profile.model_validate(arguments.options)
    baseline = (arguments.baseline, arguments.baseline_export) if arguments.baseline else None
    texts = (arguments.data, arguments.max_length) if arguments.data else None
    with sole_maker(arguments.output, "profile", arguments.work) as wanted:
        if wanted:
            profile(arguments.checkpoint, arguments.export, options, arguments.output, baseline, texts)


def _allocation(arguments: Arguments) -> int:
    """Make the results that share an allocation, one after another."""
    from intaglio.cluster.shared import make_allocation

    return make_allocation(arguments.plan, arguments.name, arguments.output, arguments.attempts_left, main)


def _runs(arguments: Arguments) -> None:
    """Write every run of a stored plan and the folders of its results."""
    from intaglio.rules.planned import write_runs

    write_runs(arguments.stored, arguments.output)


def _summarize(arguments: Arguments) -> None:
    """Gather the results of a study into tables."""
    from intaglio.summary.summarize import write_summary

    write_summary(arguments.plan, arguments.output, partial=arguments.partial)


def _pages(arguments: Arguments) -> None:
    """Write a study's report as one HTML file, and its tables as Markdown."""
    from intaglio.report.pages import write_pages

    write_pages(arguments.summary, arguments.output, arguments.report)


def _plot(arguments: Arguments) -> None:
    """Draw the plots of a study from its tables."""
    from intaglio.plots.draw import write_plots

    write_plots(arguments.summary, arguments.output)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="intaglio", description=__doc__.splitlines()[0])
    parser.add_argument("--log", type=Path, help="also write the output to this file")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(run: Callable[[Arguments], int | None], *names: str, name: str = "", help: str = "") -> Any:
        name, help = name or run.__name__.removeprefix("_"), help or str(run.__doc__)
        added = verbs.add_parser(name, help=help, description=help)
        added.set_defaults(run=run)
        for given in names:
            add_argument(added, given)
        return added

    verb(_reach, "options")
    verb(_check, "options")
    verb(_fetch, "options", "output")
    for run in (_data, _model):
        verb(run, "options", "output").add_argument("--source", type=Path, help="fetched source; not for own files")
    verb(_tokens, "data", "model", "max-length", "output")
    described = verb(_describe)
    described.add_argument("source", type=Path, help="study file, or a folder with prepared data, tokenized or not")
    described.add_argument("task", nargs="?", help="name of the task, of a study file")
    described.add_argument("--model", type=Path, help="folder of the model whose tokenizer reads the texts")
    described.add_argument("--max-length", type=int, default=128, help="number of tokens at which texts are truncated")
    described.add_argument("--output", type=Path, help="write the description there, in place of printing it")
    for name, help in _STAGES.items():
        more = ["model" if name == "finetune" else "parent", "data"]
        more += ["teacher?"] if name in ("distil", "prune", "cut", "quantize") else []
        more += ["student?"] if name == "distil" else []
        add_tasks(verb(_stage, *more, "options", "seed", "max-length", "work", "output", name=name, help=help))
    verb(_evaluate, "checkpoint", "data", "max-length", "output", "work?")
    verb(_export, "checkpoint", "output", "work?")
    beside = ("baseline?", "baseline-export?", "data?", "max-length?")
    verb(_profile, "checkpoint", "export", "options", "output", "work?", *beside)
    of_allocation(verb(_allocation, "plan", "output"))
    verb(_summarize, "plan", "output").add_argument("--partial", action="store_true", help="accept missing results")
    for run, *needed in ((_runs, "stored"), (_pages, "summary", "report?"), (_plot, "summary")):
        verb(run, *needed, "output")
    of_sensitivity(verb)
    of_bundles(verb)
    of_studies(verb)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run a verb; a mistake in the input gives one line on stderr and exit status 2."""
    arguments = _parser().parse_args(argv)
    # Of several processes of one training, the first writes the log.
    with logged(arguments.log if launch(getattr(arguments, "tasks", 1)) else None):
        try:
            return arguments.run(arguments) or 0
        except Exception as error:
            reason = of_the_user(error)
            if getattr(arguments, "work", None):
                from intaglio.training.resume import record_failure

                with suppress(OSError):  # a help for the summary, which must not hide the error
                    record_failure(arguments.work, reason or repr(error))
            if reason is None:
                traceback.print_exc()
                return 1
            print(f"intaglio {arguments.verb}: {reason}", file=sys.stderr)
            return 2
