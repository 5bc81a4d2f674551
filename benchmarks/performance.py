"""Write docs/performance.md from the measurements in benchmarks/results and the text in benchmarks/performance.md.in.

python benchmarks/performance.py [--check]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from string import Template
from typing import Any

from contenders import EXPORTED, FLOAT, FLOAT32, INTAGLIO
from goals import GOALS, Goal
from qat_step import GOAL as STEP_GOAL
from results import Row, at, cell, fastest, operations, points, ratio
from shapes import Point, random_config

HERE = Path(__file__).resolve().parent
RESULTS, TEMPLATE, PAGE = HERE / "results", HERE / "performance.md.in", HERE.parent / "docs" / "performance.md"
SHAPE_NAMES = {"roberta-base": "RoBERTa-base", "minilm": "MiniLM"}
Record = dict[str, Any]


def records(folder: Path, benchmark: str) -> list[Record]:
    """Return the newest record of every machine, by device and name."""
    newest: dict[tuple[str, str], Record] = {}
    for path in sorted(folder.glob(f"*_{benchmark}.json")):
        record = json.loads(path.read_text())
        place = (record["device"], record["name"])
        if place not in newest or record["date"] >= newest[place]["date"]:
            newest[place] = {**record, "file": path.name}
    return [newest[place] for place in sorted(newest)]


def rows_of(run: Record) -> list[Row]:
    """Return the rows of a run; what a table alone does not tell is None or empty."""
    conditions = run["conditions"]
    config = random_config(conditions["shape"], conditions["layers"])
    return [
        Row(
            row["contender"],
            row["batch"],
            row["length"],
            row["median_ms"],
            operations(config, (row["batch"], row["length"])) / row["median_ms"] / 1e9,
            row.get("difference"),
            row.get("calls_ms", []),
        )
        for row in run["rows"]
    ]


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def range_of(values: Sequence[float | None], write: Callable[[float], str]) -> str:
    """Return the smallest and the largest of the values that are known."""
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    low, high = write(min(known)), write(max(known))
    return low if low == high else f"{low} to {high}"


def times(value: float) -> str:
    """Return a ratio with two decimals."""
    return f"{value:.2f} x"


def percent(value: float) -> str:
    """Return a share in percent."""
    return f"{value:.0%}"


def peak_of(run: Record) -> float:
    """Return the peak of the int8 product in 10^12 operations per second; not a number if it was not measured."""
    return float(run["peak"]["tops"]) if run.get("peak") else float("nan")


def ratios(rows: Sequence[Row], ours: Iterable[str], others: Iterable[str]) -> list[float | None]:
    """Return how many times as fast the fastest of `ours` is at each point; None where it is not known."""
    ours, others = list(ours), list(others)
    found = [ratio(at(rows, point), ours, others) for point in points(rows)]
    return [None if one is None else one.value for one in found]


def shape_name(run: Record) -> str:
    """Return the name of a run's shape, with its layers if they are fewer than usual, and its padding."""
    shape, layers = run["conditions"]["shape"], run["conditions"]["layers"]
    usual = random_config(shape, None).num_hidden_layers
    fewer = "" if layers in (None, usual) else f", {layers} of {usual} layers"
    return SHAPE_NAMES[shape] + fewer + (", padded" if run["conditions"]["padded"] else "")


def runs_of(found: Iterable[Record]) -> list[tuple[Record, Record]]:
    """Return every run with its record."""
    return [(record, run) for record in found for run in record["runs"]]


def expectations(found: Sequence[Record]) -> str:
    """Return what a user of each machine can expect: a row for each shape."""
    lines = []
    for record, run in runs_of(found):
        rows = rows_of(run)
        compare = [(INTAGLIO, FLOAT32), (INTAGLIO, FLOAT), (INTAGLIO, ["openvino int8"])]
        compare.append((INTAGLIO, ["onnxruntime dynamic int8"]))
        values = [range_of(ratios(rows, ours, others), times) for ours, others in compare]
        best = [fastest(at(rows, point), INTAGLIO) for point in points(rows)]
        forms = dict.fromkeys(row.contender.removeprefix("intaglio ") for row in best if row is not None)
        lines.append([record["name"], shape_name(run), ", ".join(forms), *values])
    header = ["machine", "model", "fastest form of `int`", "float32", "float, any precision"]
    return table([*header, "OpenVINO int8", "ONNX Runtime dynamic int8"], lines)


def reached(goal: Goal, run: Record) -> str:
    """Return at how many points a goal is met, and the value that is farthest from it."""
    rows = rows_of(run)
    places = [point for point in points(rows) if goal.holds_at(point)]
    peak = peak_of(run)
    values = [value for point in places if (value := goal.value(at(rows, point), peak)) is not None and value == value]
    if not values:
        return "not measured" if places else "–"
    met = sum(value >= goal.least for value in values)
    if met == len(values) == len(places):
        return f"met (least {goal.write(min(values))})"
    return f"{met} of {len(values)} (least {goal.write(min(values))})"


def goals_met(found: Sequence[Record], steps: Sequence[Record]) -> str:
    """Return a table of the goals for each machine and shape, and the goal of training steps."""
    parts = []
    for device, goals in GOALS.items():
        here = [(record, run) for record, run in runs_of(found) if record["device"] == device]
        if not here:
            continue
        header = ["machine", "model", *(f"{goal.name}: {goal.write(goal.least)}" for goal in goals)]
        lines = [[record["name"], shape_name(run), *(reached(goal, run) for goal in goals)] for record, run in here]
        parts.append(table(header, lines))
    for record in steps:
        for row in record["rows"]:
            if (row["model"], row["precision"]) == ("int", "float32"):
                verdict = "met" if row["ratio"] <= STEP_GOAL else "missed"
                shape = SHAPE_NAMES[row["shape"]]
                parts.append(
                    f"- A training step of `int` on {record['name']}, {shape}: {times(row['ratio'])} float32's, "
                    f"the goal is at most {STEP_GOAL} x: {verdict}."
                )
    return "\n\n".join(parts).replace(".\n\n- ", ".\n- ")


def point_name(point: Point) -> str:
    """Return "batch x length"."""
    return f"{point[0]} x {point[1]}"


def run_tables(run: Record) -> str:
    """Return all times of a run, and Intaglio's fastest form against the others."""
    rows, peak = rows_of(run), peak_of(run)
    places = points(rows)
    lines = []
    for name in dict.fromkeys(row.contender for row in rows):
        bold = [
            best is not None and best.contender == name for best in (fastest(at(rows, p), INTAGLIO) for p in places)
        ]
        cells = [cell(at(rows, point), name) for point in places]
        lines.append([name, *(f"**{text}**" if strong else text for text, strong in zip(cells, bold, strict=True))])
    best = [fastest(at(rows, point), INTAGLIO) for point in places]
    derived = {
        "`int`, TOP/s": [None if one is None else f"{one.tops:.3f}" for one in best],
        "share of the product's peak": [None if one is None else percent(one.tops / peak) for one in best],
        "`int` against float, any precision": map(_times, ratios(rows, INTAGLIO, FLOAT)),
        "`int` against OpenVINO int8": map(_times, ratios(rows, INTAGLIO, ["openvino int8"])),
        "exported `int` against ONNX Runtime dynamic int8": map(
            _times, ratios(rows, EXPORTED, ["onnxruntime dynamic int8"])
        ),
    }
    if peak != peak:
        del derived["share of the product's peak"]
    for name, values in derived.items():
        texts = [value or "–" for value in values]
        if any(text != "–" for text in texts):
            lines.append([f"*{name}*", *texts])
    header = [f"{shape_name(run)}, batch x length", *map(point_name, places)]
    return table(header, lines)


def _times(value: float | None) -> str | None:
    return None if value is None else times(value)


def facts(record: Record) -> str:
    """Return one sentence on the machine and the conditions of a record."""
    machine, versions = record["machine"], record["versions"]
    libraries = ", ".join(f"{name} {version}" for name, version in versions.items() if version and name != "numpy")
    on = f"{machine['cores']} cores ({machine['instructions'].upper().replace(' ', ', ')})"
    if record["device"] == "cuda":
        on = f"{machine['gpu']}, driver {machine['driver']}, CUDA {machine['cuda']}"
    commit = f", commit {machine['commit'][:7]}" if machine.get("commit") else ""
    parts = [f"{record['date']}{commit}: {on}; {libraries}."]
    busy = [one["percent"] for run in record.get("runs", []) for one in run.get("busy", [])]
    busy += [row["busy"] for row in record.get("rows", []) if "busy" in row]
    if busy:
        parts.append(f"Other processes took at most {max(busy):.0f} % of the cores.")
    if record.get("source"):
        parts.append(record["source"])
    parts.append(f"([{record['file']}](../benchmarks/results/{record['file']}))")
    return " ".join(parts)


def inference(found: Sequence[Record]) -> str:
    """Return the tables of every machine."""
    sections = []
    for record in found:
        padded = any(run["conditions"]["padded"] for run in record["runs"])
        peaks = {
            f"Peak of the int8 product: {run['peak']['tops']:.2f} TOP/s ({run['peak']['kernel']})."
            for run in record["runs"]
            if run.get("peak")
        }
        about = [facts(record), *sorted(peaks)]
        if padded:
            about.append("Padded: a quarter of the examples, by half.")
        sections += [f"### {record['name']}", " ".join(about), *map(run_tables, record["runs"])]
        sections += record.get("notes", [])
    return "\n\n".join(sections)


def training(found: Sequence[Record]) -> str:
    """Return the tables of training steps of every machine."""
    sections = []
    for record in found:
        models = list(dict.fromkeys(row["model"] for row in record["rows"]))
        lines = []
        for shape, precision in dict.fromkeys((row["shape"], row["precision"]) for row in record["rows"]):
            cells = {
                row["model"]: f"{row['median_ms']:,.0f} ms"
                + ("" if row["model"] == "float" else f", {row['ratio']:.2f} x")
                for row in record["rows"]
                if (row["shape"], row["precision"]) == (shape, precision)
            }
            lines.append([SHAPE_NAMES[shape], precision, *(cells.get(model, "–") for model in models)])
        sections += [f"### {record['name']}", facts(record), table(["model", "precision", *models], lines)]
        sections += record.get("notes", [])
    return "\n\n".join(sections)


def page(folder: Path = RESULTS) -> str:
    """Return the page."""
    found, steps = records(folder, "integer_inference"), records(folder, "qat_step")
    text = Template(TEMPLATE.read_text()).substitute(
        expectations=expectations(found),
        goals=goals_met(found, steps),
        inference=inference(found),
        training=training(steps),
    )
    return text.rstrip("\n") + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page; with --check, fail if it differs from the one that is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if the page would change")
    text = page()
    if parser.parse_args(argv).check:
        if PAGE.read_text() == text:
            return 0
        print(f"{PAGE} is not what `make performance` writes", file=sys.stderr)
        return 1
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
