"""The report of a study as one HTML file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from intaglio.recommendation.sentences import recommendation_sentences
from intaglio.report.backends import show_backends
from intaglio.report.compression import show_conversions
from intaglio.report.data import show_data
from intaglio.report.display import Display
from intaglio.report.formatting import NOTHING
from intaglio.report.html import details, trust
from intaglio.report.html.bundles import bundles
from intaglio.report.html.charts import specifications, vega_script
from intaglio.report.html.measurements import PLACE, Measurements, VariantKey, by_place, key_of, read_measurements
from intaglio.report.html.noise import noise_table
from intaglio.report.html.variants import AXES, by_task, page_of, points, recommended_first, show_all
from intaglio.report.models import class_rows, show_models
from intaglio.report.overview import show_overview
from intaglio.report.published import show_published
from intaglio.report.results import show_runs
from intaglio.store import new_file
from intaglio.summary.devices import on_devices, runs_on_devices
from intaglio.summary.read import Summary
from intaglio.summary.variants import BASELINE

# Columns that a table shows at first; the reader asks for the others.
_SHOWN = 7
# Of more tasks than this, the first page has one sentence each, and a table of differences by task.
_FEW_TASKS = 3


def write_report(summary: Summary, folder: Path, output: Path) -> None:
    """Write the report of a study.

    Args:
        summary: of the study.
        folder: where it was read from.
        output: the HTML file.
    """
    environment = Environment(
        loader=PackageLoader("intaglio.report.html"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.globals |= {"pairs": _pairs, "columns": _columns}
    content = _content(summary, folder, output.parent)
    with new_file(output) as draft, draft.open("w", encoding="utf-8") as file:
        file.writelines(environment.get_template("report.html").generate(**content))


def _pairs(rows: Sequence[Mapping[str, Any]], column: str) -> list[tuple[str, str]]:
    """Return the values of a column, without empty ones, as options with their texts."""
    return [(value, value) for value in dict.fromkeys(row[column] for row in rows) if value]


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return rows by column, which takes less room."""
    return {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}


def _content(summary: Summary, folder: Path, results: Path) -> dict[str, Any]:
    """Return what the templates show; `results` is the folder of the report."""
    rows = summary.rows
    joined = recommended_first(on_devices(rows["variants"], rows["backends"]), rows["recommendations"])
    everything = show_all(summary, joined)
    measured = read_measurements(folder)
    drawn = points(summary)
    incomplete = [row for row in rows["runs"] if row["status"] != "ok"]
    tasks = list(dict.fromkeys(row["task"] for row in rows["variants"]))
    return {
        "study": summary.study,
        "description": summary.facts["description"],
        "facts": _facts(summary, tasks),
        "recommendations": [_recommendation(_of(rows["recommendations"], task), len(tasks)) for task in tasks],
        "notes": show_overview(summary.study, joined, rows["runs"]).notes,
        "specifications": specifications(summary.variants),
        "library": vega_script(),
        "shown": _SHOWN,
        "axes": {name: title for name, title in AXES.items() if any(row[name] is not None for row in drawn)},
        "points": drawn,
        "by_task": by_task(rows["variants"], rows["recommendations"]) if len(tasks) > _FEW_TASKS else None,
        "margin": summary.facts["margin"],
        "all": everything,
        "links": [page_of(key_of(row)) for row in joined],
        "tasks": [_task(summary, task, joined, everything, drawn) for task in tasks],
        "variants": _variants(summary, joined, everything, measured, bundles(rows["runs"], results)),
        "incomplete": show_runs(summary.study, runs_on_devices(incomplete, [])) if incomplete else None,
        "machines": trust.machines(measured.machines, rows["runs"]),
        "metered": bool(measured.energy),
        "versions": trust.versions(measured.machines),
        "seeds": sorted({row["seed"] for row in rows["runs"]}),
        "conversions": show_conversions(summary.study, trust.closest_first(rows["conversions"])),
        "methods": trust.methods(summary),
    }


def _recommendation(rows: Sequence[Mapping[str, Any]], tasks: int) -> dict[str, Any]:
    """Return what is recommended for a task in sentences, of many tasks in one, and the page of the variant."""
    if not rows:
        return {"sentences": [], "page": None}
    sentences = recommendation_sentences(rows)
    page = next((page_of(key_of(row)) for row in rows if row["recommended"]), f"task/{rows[0]['task']}")
    return {"sentences": sentences if tasks <= _FEW_TASKS else sentences[:1], "page": page}


def _facts(summary: Summary, tasks: Sequence[str]) -> list[str]:
    """Return the extent of the study: `2 tasks`, `1 model`, ..."""
    runs = summary.rows["runs"]
    models, seeds = {row["model"] for row in runs}, {row["seed"] for row in runs}
    counts = {"task": len(tasks), "model": len(models), "variant": len(summary.variants), "seed": len(seeds)}
    said = [f"{count} {name}{'s' * (count != 1)}" for name, count in counts.items()]
    done = sum(row["status"] == "ok" for row in runs)
    return [*said, f"{len(runs)} runs" if done == len(runs) else f"{done} of {len(runs)} runs complete"]


def _of(rows: Iterable[Mapping[str, Any]], task: str) -> list[Any]:
    return [row for row in rows if row["task"] == task]


def _task(
    summary: Summary,
    task: str,
    joined: Sequence[Mapping[str, Any]],
    everything: Display,
    drawn: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Return what the page of a task shows."""
    rows, study, of = summary.rows, summary.study, ("task",)
    models, mine = _of(rows["model_comparison"], task), _of(rows["variants"], task)
    panels = {panel.title for panel in summary.panels if panel.task == task}
    places = [place for place, row in enumerate(joined) if row["task"] == task]
    return {
        "name": task,
        "page": f"task/{task}",
        "recommendation": _recommendation(_of(rows["recommendations"], task), 1),
        "sets": sorted({(row["test_set"], row["test_examples"]) for row in mine if row["test_set"]}),
        "points": [point for point in drawn if point["panel"] in panels],
        "all": _part(everything, of, places),
        "links": [page_of(key_of(joined[place])) for place in places],
        "models": _part(show_models(study, models, mine, summary.facts["resamples"]), of) if len(models) > 1 else None,
        "backends": _part(show_backends(study, _of(rows["backends"], task)), of),
        "published": _part(show_published(study, _of(rows["published"], task)), of),
        "data": _part(show_data(task, _of(rows["descriptions"], task)), of),
    }


def _variants(
    summary: Summary,
    joined: Sequence[Mapping[str, Any]],
    everything: Display,
    measured: Measurements,
    bundled: Mapping[VariantKey, Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """Return what the page of every variant shows."""
    study, rows = summary.study, summary.rows
    of_classes = by_place(class_rows(summary.metrics, rows["runs"]))
    confusions, confused = details.confusions(summary.metrics, rows["runs"])
    curves = details.curves(summary.losses)
    conversions, executed = by_place(rows["conversions"]), by_place(rows["backends"])
    runs = by_place(runs_on_devices(rows["runs"], summary.times))
    flipped = by_place(rows["flips"])
    several = len({row["model"] for row in rows["variants"]}) > 1
    places: dict[VariantKey, list[int]] = {}
    for at, row in enumerate(joined):
        places.setdefault(key_of(row), []).append(at)
    found = []
    for row in rows["variants"]:
        place = key_of(row)
        task, model, variant = place
        times, drawn = details.time_grid(measured.grid.get(place, []))
        found.append(
            {
                "page": page_of(place),
                "name": variant,
                "task": task,
                "model": model if several else None,
                "recipe": row["recipe"],
                "bundle": bundled.get(place),
                "stages": [(stage.pop("stage"), stage) for stage in json.loads(row["stages"])],
                "numbers": _part(everything, (*PLACE, "recipe"), places[place]),
                "runs": _part(show_runs(study, runs[place]), PLACE),
                "curves": curves.get(place, []),
                "classes": details.classes(of_classes.get(place, []), of_classes.get((task, model, BASELINE), [])),
                "confusion": confusions.get(place, []),
                "confused": details.most_confused(confused.get(place, []), confused.get((task, model, BASELINE), [])),
                "flips": [details.flips(flipped.get(place, []), flip) for flip in ("broken", "mended")],
                "operators": details.operators(measured.operators.get(place, [])),
                "times": times,
                "grid": drawn,
                "backends": _part(show_backends(study, executed.get(place, [])), PLACE),
                "energy": details.energy_table(measured.energy.get(place, [])),
                "sizes": details.size_table(measured.sizes.get(place, [])),
                "noise": noise_table(measured.noise.get(place, [])),
                "conversions": _part(show_conversions(study, conversions.get(place, [])), PLACE),
            }
        )
    return found


def _part(table: Display, without: Sequence[str], places: Sequence[int] | None = None) -> Display:
    """Return a table without some columns and empty ones, and with only the rows at `places` if these are given."""
    rows = table.rows if places is None else [table.rows[place] for place in places]
    known = [place for place in range(len(table.columns)) if any(row[place] != NOTHING for row in rows)]
    kept = [place for place in known if table.columns[place] not in without]
    cells = [[row[place] for place in kept] for row in rows]
    return Display(table.title, [table.columns[place] for place in kept], cells, table.numbers, table.notes)
