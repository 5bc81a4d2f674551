import html
import itertools
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pyarrow.compute as pc
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

import fakes
from intaglio.plots.draw import draw, write_plots
from intaglio.plots.files import PLOT_FILES, PLOTS
from intaglio.plots.style import RC, Look, fonts
from intaglio.plots.tradeoffs import pareto
from intaglio.report import formatting
from intaglio.store import open_artifact
from intaglio.summary.read import Summary, read_summary
from intaglio.summary.summarize import write_summary

OWN = {"stage": "quantize", "integer": ["linear"]}
STUDIES: dict[str, dict[str, Any]] = {
    "demo": {},
    "one seed": {"seeds": (0,), "variants": ("float", "int-linear")},
    "only float": {"variants": ("float",)},
    "no float": {"variants": ("int", "int-linear")},
    "all backends": {"profile": {"backends": ["torch", "torch.compile", "onnxruntime"]}, "variants": fakes.NINE},
    "compression": {
        "variants": {
            "float": None,
            "distilled": None,
            **{f"pruned-{share}": None for share in (30, 60, 90)},
            "distilled-pruned": [{"stage": "distil"}, {"stage": "prune", "sparsity": 0.35}],
            "distilled-pruned-int8": [{"stage": "distil"}, {"stage": "prune", "sparsity": 0.35}, {"stage": "int8"}],
            "cut-50": None,
            "int8-static": None,
        }
    },
    "own variants, two models": {
        "tasks": ("movie", "cola"),
        "models": {"minilm": {}, "roberta-base": {}},
        "variants": {"float": None, "int": None, "a-rather-long-name-of-a-variant": [OWN]},
    },
    "two variants, one with a long name": {
        "models": {"minilm": {}, "roberta-base": {}},
        "variants": {"float": None, "a-rather-long-name-of-a-variant": [OWN]},
    },
}


def _summary(root: Path, gpu: bool = False, **study: Any) -> Summary:
    root.mkdir(exist_ok=True)
    write_summary(fakes.results(root, fakes.study(**study), gpu=gpu), root / "summary")
    return read_summary(root / "summary")


@pytest.fixture(scope="module", params=STUDIES)
def study(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Summary:
    return _summary(tmp_path_factory.mktemp("study"), **STUDIES[request.param])


def _texts(figure: Figure) -> list[Text]:
    """Return the texts that are seen; of the ticks' it is not known, for those beyond the limits are texts too."""
    ticks = [
        tick for ax in figure.axes for axis in (ax.xaxis, ax.yaxis) for tick in (*axis.majorTicks, *axis.minorTicks)
    ]
    labels = {id(label) for tick in ticks for label in (tick.label1, tick.label2)}
    return [text for text in figure.findobj(Text) if text.get_visible() and text.get_text() and id(text) not in labels]


@pytest.mark.parametrize("name", PLOTS)
@pytest.mark.filterwarnings("error")
def test_every_plot_of_every_study_is_whole_and_readable(study: Summary, name: str) -> None:
    with mpl.rc_context(RC):
        figure = draw(name, study)
        figure.draw_without_rendering()
        frame = figure.bbox.padded(1)
        for text in _texts(figure):
            box = text.get_window_extent()
            assert frame.x0 <= box.x0 <= box.x1 <= frame.x1, text.get_text()
            assert frame.y0 <= box.y0 <= box.y1 <= frame.y1, text.get_text()
        for ax in figure.axes:
            room = ax.get_position(original=True).width * figure.bbox.width
            for side in ("left", "center"):
                assert _width_of_title(ax, side) < 1.1 * room, ax.get_title(loc=side)
            assert all(left.x1 <= right.x0 + 1 for left, right in itertools.pairwise(_names_below(ax)))


def _width_of_title(ax: Axes, side: Any) -> float:
    return ax.set_title(ax.get_title(loc=side), loc=side).get_window_extent().width


def _names_below(ax: Axes) -> list[Bbox]:
    """Return where the names and numbers along the horizontal axis are, from left to right."""
    low, high = sorted(ax.get_xlim())
    seen = [tick.label1 for tick in ax.xaxis.majorTicks if low <= tick.get_loc() <= high and tick.label1.get_text()]
    return sorted((label.get_window_extent() for label in seen), key=lambda box: box.x0)


def _said(figure: Figure) -> str:
    return " ".join(text.get_text() for text in _texts(figure)).replace("\n", " ").replace("\u00a0", " ")


def test_the_files_are_those_that_the_dag_knows_and_always_the_same(tmp_path: Path) -> None:
    _summary(tmp_path, variants=("float", "int"))
    write_plots(tmp_path / "summary", tmp_path / "plots")
    open_artifact(tmp_path / "plots", "plots")
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {*PLOT_FILES, "manifest.json"}
    svg = (tmp_path / "plots/accuracy.svg").read_bytes()
    assert svg.lstrip().startswith(b"<?xml")
    assert (tmp_path / "plots/accuracy.png").read_bytes().startswith(b"\x89PNG")
    write_plots(tmp_path / "summary", tmp_path / "plots")
    assert (tmp_path / "plots/accuracy.svg").read_bytes() == svg


def test_numbers_in_plots_are_those_of_the_tables(tmp_path: Path) -> None:
    summary = _summary(tmp_path)
    row = next(row for row in summary.panels[0].variants if row["variant"] == "int")
    with mpl.rc_context(RC):
        said = _said(draw("accuracy", summary))
        assert f"{100 * row['primary_mean']:.1f}" in said
        interval = [f"{100 * row[name]:+.1f}".replace("-", "−") for name in ("difference_low", "difference_high")]
        assert f"[{', '.join(interval)}]" in said
        assert f"({row['relative_train_seconds']:.2f}×)" in _said(draw("training-time-variants", summary))
        backends = [row for row in summary.panels[0].backends if row["variant"] == "int"]
        fastest = next(row for row in backends if row["fastest"])
        assert f"({formatting.speedup_in_short(fastest)})" in _said(draw("inference-time-variants", summary))
        assert [row["backend"] for row in backends] == ["torch", "onnxruntime"]
        said = _said(draw("inference-time-backends", summary))
        assert all(f"({formatting.speedup_in_short(row)})" in said for row in backends)


def test_accuracy_is_that_of_all_seeds_where_one_is_timed(tmp_path: Path) -> None:
    summary = _summary(tmp_path, variants=("float", "int"), profile={"seeds": "first"})
    assert len(summary.panels[0].times) == 2
    with mpl.rc_context(RC):
        axes = draw("accuracy-vs-inference-time", summary).axes[0]
    marks = [axes.containers[place].lines[0].get_ydata()[0] for place in (0, 1)]
    assert marks == [pytest.approx(100 * row["primary_mean"]) for row in summary.panels[0].variants]


def test_legends_name_what_is_drawn(tmp_path: Path) -> None:
    """A variant that takes no steps has neither a loss nor a training time."""
    summary = _summary(tmp_path, variants=("float", "int8-static", "int"))
    for run in summary.panels[0].of("int8-static"):
        run["train_seconds"] = None
    losses = summary.losses.filter(pc.field("variant") != "int8-static")
    with mpl.rc_context(RC):
        for name in ("loss-curves", "accuracy-vs-training-time"):
            (legend,) = draw(name, replace(summary, losses=losses)).legends
            assert [text.get_text() for text in legend.get_texts()] == ["float", "int"]


def test_stages_that_take_no_steps_have_no_training_time(tmp_path: Path) -> None:
    summary = _summary(tmp_path, variants=("float",))
    for run in summary.panels[0].runs:
        run["train_seconds"] = None
    with mpl.rc_context(RC):
        assert draw("training-time", summary).axes
        for name in ("training-time-variants", "accuracy-vs-training-time"):
            assert "Nothing was trained" in _said(draw(name, summary))
        summary = _summary(tmp_path / "mixed", variants=("float", "int8-static"))
        for run in summary.panels[0].of("int8-static"):
            run["train_seconds"] = None
        assert "left out" not in _said(draw("training-time-variants", summary))


def test_a_gpu_has_panels_of_its_own(tmp_path: Path) -> None:
    summary = _summary(tmp_path, gpu=True, tasks=("movie", "nyt"), variants=("float", "int"))
    for name in ("inference-time-variants", "inference-time-backends", "accuracy-vs-inference-time"):
        figure = draw(name, summary)
        titles = [ax.get_title(loc="left") or ax.get_title() for ax in figure.axes if ax.get_visible()]
        assert titles == ["movie · CPU", "nyt · CPU", "movie · GPU", "nyt · GPU"]
        cpu, gpu = figure.axes[0].get_xlim()[1], figure.axes[2].get_xlim()[1]
        assert gpu < cpu / 2


def test_a_task_judged_by_another_metric_shows_both(tmp_path: Path) -> None:
    figure = draw("accuracy", _summary(tmp_path, tasks=("cola",), variants=("float", "int")))
    assert [ax.get_ylabel() for ax in figure.axes] == ["accuracy, %", "Matthews correlation × 100"]


def test_what_cannot_be_drawn_says_so(tmp_path: Path) -> None:
    only = _summary(tmp_path / "a", variants=("float",))
    assert "no finished float runs to compare with" in _said(draw("differences", only))
    assert "Accuracy by variant" in _said(draw("accuracy", only))
    root = tmp_path / "b"
    root.mkdir()
    plan = fakes.results(root)
    shutil.rmtree(root / "evaluation")
    write_summary(plan, root / "summary", partial=True)
    for name in PLOTS:
        assert "no run of this study has ended well" in _said(draw(name, read_summary(root / "summary")))


def test_every_variant_keeps_its_color_and_has_its_own() -> None:
    full, part = Look(fakes.NINE), Look(("float", "int-linear", "mine", "yours"))
    assert len({full.color(name) for name in fakes.NINE}) == 9
    assert len({full.marker(name) for name in fakes.NINE}) == 9
    assert part.color("int-linear") == full.color("int-linear")
    assert len({part.color(name) for name in part.variants}) == 4
    assert all(re.fullmatch("#[0-9a-f]{6}", full.color(name)) for name in fakes.NINE)


def test_pareto_front() -> None:
    #         fast, poor | dominated | best | as good but slower | twin in time, worse
    points = [(1.0, 0.5), (2.0, 0.4), (3.0, 0.9), (4.0, 0.9), (3.0, 0.8)]
    assert pareto(points) == [0, 2]
    assert pareto([(1.0, 1.0)]) == [0]


def test_confusion_matrices_are_shares_of_true_classes(tmp_path: Path) -> None:
    summary = _summary(tmp_path, variants=("float", "int"))
    figure = draw("confusion", summary)
    shares = figure.axes[0].images[0].get_array()
    assert shares is not None
    assert list(shares.sum(axis=1)) == pytest.approx([100, 100])
    rows = [
        row for row in summary.metrics.to_pylist()
        if row["metric"] == "class_recall" and row["variant"] == "float" and row["label"] == "negative"
    ]  # fmt: skip
    assert shares[0, 0] == pytest.approx(100 * sum(row["value"] for row in rows) / len(rows))


NAMES = ("$0 - $10", "$", "a_b^{2}", "很 积极", "سلبي", "a class with a name as long as a short sentence")


@pytest.mark.filterwarnings("ignore:Glyph")
def test_names_are_drawn_as_they_are_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    task = {"labels": list(NAMES), "source": {"kind": "files", "train": "a.csv", "test": "b.csv"}}
    task |= {"text": ["text"], "label": "label"}
    content = fakes.study(tasks={"words": task}, variants={"float": None, "mine": [OWN]}, seeds=(0,))
    write_summary(fakes.results(tmp_path, content), tmp_path / "summary")
    write_plots(tmp_path / "summary", tmp_path / "plots")
    drawn = html.unescape((tmp_path / "plots/confusion.svg").read_text())
    for name in (*NAMES[:-1], "words", NAMES[-1][:39] + "…"):
        assert f">{name}" in drawn
    assert not any("Glyph" in message for message in caplog.messages)
    with mpl.rc_context({**RC, "font.family": fonts()}):
        figure = draw("confusion", read_summary(tmp_path / "summary"))
        figure.draw_without_rendering()
        for ax in figure.axes:
            boxes = [label.get_window_extent() for label in ax.get_xticklabels()]
            assert all(a.x1 <= b.x0 for a, b in itertools.pairwise(boxes))
            boxes = [label.get_window_extent() for label in ax.get_yticklabels()]
            assert all(a.y0 >= b.y1 for a, b in itertools.pairwise(boxes))
