"""The report that people show: what its pages say, and what they do in a browser."""

import json
import re
import shutil
import subprocess
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import fakes
from intaglio.recommendation.sentences import recommendation_sentences
from intaglio.report import display, latex
from intaglio.report.html import details, measurements, variants
from intaglio.report.html.bundles import bundles
from intaglio.report.html.page import write_report
from intaglio.report.models import class_rows
from intaglio.report.pages import write_pages
from intaglio.store import new_artifact
from intaglio.summary.devices import on_devices
from intaglio.summary.read import Summary, read_summary
from intaglio.summary.summarize import write_summary
from study_on_files import OFFLINE

TASKS, VARIANTS = ("movie", "tweets"), ("float", "int", "int-linear")
PROFILE = {"batch_sizes": [1, 8], "lengths": [32, 128], "headline": [1, 128]}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("report")
    write_summary(fakes.results(root, fakes.study(TASKS, VARIANTS, profile=PROFILE)), root / "summary")
    write_pages(root / "summary", root / "pages", root / "report.html")
    return root


@pytest.fixture(scope="module")
def summary(root: Path) -> Summary:
    return read_summary(root / "summary")


class Tags(HTMLParser):
    """Checks that every tag is closed, and collects what is linked."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [str(value) for name, value in attrs if name in ("href", "src", "action")]
        if tag not in ("meta", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_file_is_well_formed_and_loads_nothing(root: Path) -> None:
    page = (root / "report.html").read_text()
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert tags.links and all(link.startswith("#") for link in tags.links)
    # A browser refuses whatever else would be loaded.
    assert "default-src 'none'" in page


def test_a_page_that_would_be_empty_is_left_out(root: Path) -> None:
    page = (root / "report.html").read_text()
    assert "Published figures" not in page and "Runs that are not complete" not in page
    names = [part.split('"')[0] for part in page.split('<template data-page="')[1:]]
    pages = [f"variant/{task}/minilm/{variant}" for task in TASKS for variant in VARIANTS]
    assert names == [*(f"task/{task}" for task in TASKS), *pages, "trust"]


def test_the_table_has_every_column_once_and_the_recommended_variant_of_a_task_first(summary: Summary) -> None:
    judged = summary.rows["recommendations"]
    joined = variants.recommended_first(on_devices(summary.rows["variants"], summary.rows["backends"]), judged)
    table = variants.show_all(summary, joined)
    assert len(table.rows) == len(TASKS) * len(VARIANTS)
    first = ["variant", "task", "constraints", "accuracy, %", "difference to float [95 %]", "latency, ms"]
    assert list(table.columns[:6]) == first and {"why", "recipe", "zstd, MB", "peak memory, MB"} < set(table.columns)
    for task in TASKS:
        shown = [row[2] for row in table.rows if row[1] == task]
        order = ["recommended", "meets", "undecided", "fails"]
        assert shown == sorted(shown, key=order.index)
        chosen = [row["variant"] for row in judged if row["task"] == task and row["recommended"]]
        assert [row[0] for row in table.rows if row[1] == task and row[2] == "recommended"] == chosen


def test_the_first_page_opens_with_the_recommendations(root: Path, summary: Summary) -> None:
    page = (root / "report.html").read_text()
    main = unescape(page[page.index("<main") : page.index("<h2>")])
    for task in TASKS:
        rows = [row for row in summary.rows["recommendations"] if row["task"] == task]
        assert all(sentence in main for sentence in recommendation_sentences(rows))


def test_a_point_has_the_interval_of_its_difference_around_its_value(summary: Summary) -> None:
    rows = {(row["task"], row["variant"]): row for row in summary.rows["variants"]}
    points = variants.points(summary)
    assert len(points) == len(summary.rows["backends"])
    for point in points:
        row = rows[point["panel"], point["variant"]]
        assert point["value"] == pytest.approx(100 * row["primary_mean"], rel=1e-4)
        if point["variant"] != "float":
            below = row["difference"] - row["difference_low"]
            assert point["value"] - point["low"] == pytest.approx(100 * below, abs=0.02)
            assert point["low"] < point["value"] < point["high"]
    fastest = [point for point in points if point["fastest"]]
    assert len(fastest) == len(rows)


def test_differences_by_task_have_the_verdicts_on_the_margin(summary: Summary) -> None:
    found = variants.by_task(summary.rows["variants"], summary.rows["recommendations"])
    assert (found["tasks"], found["unit"]) == (list(TASKS), "in points")
    assert [name for name, _ in found["variants"]] == list(VARIANTS)
    rows = {(row["task"], row["variant"]): row for row in summary.rows["variants"]}
    chosen = {(row["task"], row["variant"]) for row in summary.rows["recommendations"] if row["recommended"]}
    for name, cells in found["variants"]:
        for task, cell in zip(TASKS, cells, strict=True):
            text, row = cell["text"].removesuffix(" ★"), rows[task, name]
            assert ((task, name) in chosen) == (cell["text"] != text)
            assert cell["page"] == f"variant/{task}/minilm/{name}"
            if name == "float":
                assert (text, cell["verdict"]) == ("–", "")
            else:
                assert float(text.replace("−", "-")) == pytest.approx(100 * row["difference"], abs=0.051)
                assert cell["verdict"] == row["noninferior"]


@pytest.mark.parametrize(("failed", "shown"), [(3, "failed"), (0, "pending")])
def test_a_variant_without_results_says_why_in_its_cells(summary: Summary, failed: int, shown: str) -> None:
    of_int = [row for row in summary.rows["variants"] if (row["task"], row["variant"]) == (TASKS[0], "int")]
    missing = [{**row, "n": 0, "failed": failed, "difference": None, "noninferior": None} for row in of_int]
    ((_, (cell,)),) = variants.by_task(missing, [])["variants"]
    assert (cell["text"], cell["verdict"]) == (shown, shown)
    table = variants.show_all(summary, on_devices(missing, []))
    assert table.rows[0][list(table.columns).index("constraints")] == shown


def test_classes_are_compared_with_float(summary: Summary) -> None:
    rows = class_rows(summary.metrics, summary.rows["runs"])
    mine, baseline = ([row for row in rows if (row["task"], row["variant"]) == ("movie", v)] for v in ("int", "float"))
    table = details.classes(mine, baseline)
    place = table.columns.index("recall: to float, points")
    frame = summary.metrics.to_pandas()
    frame = frame[(frame["task"] == "movie") & (frame["metric"] == "class_recall") & (frame["test_set"] == "test")]
    means = frame.groupby(["variant", "label"])["value"].mean()
    for row in table.rows:
        expected = 100 * (means["int", row[0]] - means["float", row[0]])
        assert float(row[place].replace("−", "-")) == pytest.approx(expected, abs=0.051)
    assert not [name for name in details.classes(baseline, baseline).columns if "to float" in name]


def test_a_confusion_matrix_has_the_shares_of_each_true_class(summary: Summary) -> None:
    matrices, pairs = details.confusions(summary.metrics, summary.rows["runs"])
    assert not pairs
    cells = pd.DataFrame(matrices["movie", "minilm", "int"])
    assert cells.groupby("true")["share"].sum().tolist() == pytest.approx([1, 1], rel=1e-4)
    frame = summary.metrics.to_pandas()
    of = frame[(frame["task"] == "movie") & (frame["variant"] == "int") & (frame["metric"] == "confusion")]
    counts = of[of["test_set"] == "test"].groupby(["label", "predicted"])["value"].mean()
    for true, predicted, count in cells[["true", "predicted", "count"]].itertuples(index=False):
        assert count == pytest.approx(counts[true, predicted], rel=1e-4)


def test_the_noise_of_an_integer_model_is_a_mean_over_seeds_on_its_page(root: Path) -> None:
    pages = (root / "report.html").read_text().split('<template data-page="')
    page = {part.split('"')[0]: unescape(part) for part in pages[1:]}
    assert "Signal to noise" not in page["variant/movie/minilm/float"]
    mine = page["variant/movie/minilm/int"]
    seeds = [{(row["layer"], row["operation"]): row["snr_db"] for row in fakes.noise(seed)} for seed in (0, 1)]
    mean = {place: (seeds[0][place] + seeds[1][place]) / 2 for place in seeds[0]}
    assert f"logits: {mean[None, 'logits']:.1f} dB" in mine
    lowest = sorted((value, place) for place, value in mean.items() if place[0] is not None)[:3]
    marked = re.findall(r'<td class="number shade-\d worst">([\d.]+)</td>', mine)
    assert sorted(marked) == sorted(f"{value:.1f}" for value, _ in lowest)


def test_of_many_classes_the_most_frequent_confusions_are_shown() -> None:
    names = [f"c{number:02d}" for number in range(30)]
    counts = {"float": {("c00", "c01"): 4.0}, "int": {("c00", "c01"): 9.0, ("c07", "c03"): 20.0, ("c02", "c00"): 1.0}}
    rows, runs = [], []
    for variant, confused in counts.items():
        key = {"study": "s", "task": "t", "model": "m", "variant": variant, "seed": 1, "test_set": "test"}
        runs.append({**key, "status": "ok"})
        for true in names:
            for predicted in names:
                value = confused.get((true, predicted), 80.0 if true == predicted else 0.0)
                rows.append({**key, "metric": "confusion", "label": true, "predicted": predicted, "value": value})

    class Table:
        def to_pandas(self) -> pd.DataFrame:
            return pd.DataFrame(rows)

    matrices, pairs = details.confusions(Table(), runs)
    assert not matrices
    place = ("t", "m", "int")
    table = details.most_confused(pairs[place], pairs["t", "m", "float"])
    assert table.columns == ["true", "predicted", "examples", "of the true class, %", "examples: to float"]
    assert [list(row) for row in table.rows] == [
        ["c07", "c03", "20", "20.0", "+20"],
        ["c00", "c01", "9", "10.1", "+5"],
        ["c02", "c00", "1", "1.2", "+1"],
    ]


def test_a_page_links_to_the_bundle_of_its_variant_or_says_how_to_make_one(root: Path, summary: Summary) -> None:
    with new_artifact(root / "bundle/movie.minilm.int.1", "bundle"):
        pass
    found = bundles(summary.rows["runs"], root)
    assert found["movie", "minilm", "int"]["made"] == [("1", "bundle/movie.minilm.int.1/")]
    assert found["tweets", "minilm", "int"]["made"] == []
    assert found["tweets", "minilm", "int"]["command"] == f"intaglio bundle {root} tweets/minilm/int/0"
    write_report(summary, root / "summary", root / "again.html")
    page = (root / "again.html").read_text()
    assert page.count('<a href="bundle/movie.minilm.int.1/">the bundle of seed 1</a>') == 1
    assert f"<code>intaglio bundle {root} tweets/minilm/int/0</code>" in page


def test_times_operators_and_sizes_are_means_over_seeds(root: Path) -> None:
    found = measurements.read_measurements(root / "summary")
    place = ("movie", "minilm", "int")
    key = ["task", "model", "variant"]

    def of(name: str) -> pd.DataFrame:
        frame = pd.read_parquet(root / f"summary/{name}.parquet")
        return frame[frame[key].apply(tuple, axis=1) == place]

    times = of("latency").groupby(["device", "backend", "batch_size", "length"])["p50_ms"].mean()
    assert len(found.grid[place]) == len(times) == 8
    for row in found.grid[place]:
        at = (row["device"], row["backend"], row["batch_size"], row["length"])
        assert row["p50_ms_mean"] == pytest.approx(times[at])
    shares = of("operators").groupby(["device", "backend", "operator"])["share"].mean()
    for row in found.operators[place]:
        assert row["share_mean"] == pytest.approx(shares[row["device"], row["backend"], row["operator"]])
    (file,) = (row for row in found.sizes[place] if row["component"] == "file")
    assert file["bytes_mean"] == of("sizes").query("component == 'file'")["bytes"].mean()
    assert [row["machine_cpu"] for row in found.machines] == ["Intel(R) Xeon(R) Platinum 8480+"]


def test_the_table_of_times_has_a_column_for_each_backend() -> None:
    def at(backend: str, batch: int, ms: float, length: int = 32) -> dict[str, Any]:
        place = {"device": "cpu", "backend": backend, "batch_size": batch, "length": length}
        return {**place, "p50_ms_mean": ms, "p99_ms_mean": 2 * ms, "throughput_mean": 1.0}

    table, drawn = details.time_grid([at("torch", 8, 30), at("torch", 1, 4), at("native", 1, 2)])
    # The slower one has a time at both batch sizes.
    assert table.columns == ["batch", "tokens", "native, ms", "torch, ms"]
    assert [list(row) for row in table.rows] == [
        ["1", "32", "2.00 (4.00)", "4.00 (8.00)"],
        ["8", "32", "–", "30.0 (60.0)"],
    ]
    assert drawn == []
    assert len(details.time_grid([at("torch", 1, 4), at("torch", 1, 9, length=128)])[1]) == 2


def test_a_long_curve_is_thinned_out_and_keeps_its_end() -> None:
    steps = range(1000)
    frame = pd.DataFrame({"step": steps, "epoch_mean": [step / 100 for step in steps], "value_mean": 1.0})
    frame = frame.assign(value_min=0.5, value_max=1.5, task="t", model="m", variant="v", name="loss")

    class Table:
        def to_pandas(self) -> pd.DataFrame:
            return frame

    rows = details.curves(Table())["t", "m", "v"]
    assert len(rows) <= 61 and rows[-1]["epoch"] == 9.99
    assert rows[0] == {"name": "training", "epoch": 0.0, "value": 1.0, "low": 0.5, "high": 1.5}


def test_a_table_for_a_paper_is_escaped() -> None:
    table = display.Display(
        "t",
        ["variant", "accuracy, %", "p"],
        [["a_b&c", "75.8 ± 0.4", "< 0.001"]],
        frozenset({"accuracy, %", "p"}),
        ["n"],
    )
    lines = [line.strip() for line in latex.to_latex(table).splitlines()]
    assert lines[:2] == ["% n", r"\begin{tabular}{lrr}"] and r"\toprule" in lines
    assert r"variant & accuracy, \% & p \\" in lines and r"a\_b\&c & 75.8 $\pm$ 0.4 & $<$ 0.001 \\" in lines


# What a reader does, one step after the other; each result is kept by its name.
STEPS = r"""
const wait = (time) => new Promise((done) => setTimeout(done, time));
const until = async (test) => { for (let tries = 0; tries < 200 && !test(); tries++) await wait(50); };
const drawing = () => document.querySelector("#overview .tradeoff svg.marks");
const cells = (table, column) =>
  [...table.querySelectorAll("tbody tr")].filter((row) => !row.hidden).map((row) => row.cells[column].textContent);
const found = {};
addEventListener("error", (event) => (found.error = event.message));
addEventListener("securitypolicyviolation", (event) => (found.refused = event.blockedURI));
addEventListener("load", async () => {
  try {
    const box = document.querySelector("#overview .table"), heads = [...box.querySelectorAll("th")];
    const latency = heads.findIndex((head) => head.textContent === "latency, ms");
    await until(drawing);
    found.marks = document.querySelectorAll("#overview .tradeoff svg path[aria-roledescription=point]").length;
    const texts = () => [...document.querySelectorAll("#overview .tradeoff g.mark-text.role-mark text")];
    await until(() => texts().some((text) => text.textContent));
    const named = texts().filter((text) => text.textContent);
    found.names = named.map((text) => text.textContent);
    found.legend = [...document.querySelectorAll("#overview .legend a")].map((entry) => entry.textContent);
    const boxes = named.map((text) => text.getBoundingClientRect());
    const beside = (one, two) => one.right <= two.left + 1 || one.bottom <= two.top + 1;
    const apart = (one, two) => beside(one, two) || beside(two, one);
    found.apart = boxes.every((one, place) => boxes.slice(place + 1).every((two) => apart(one, two)));
    found.shown = heads.filter((head) => !head.hidden).length;
    found.known = heads.length;
    heads[latency].click();
    found.ascending = cells(box, latency);
    heads[latency].click();
    found.descending = cells(box, latency);
    const search = box.querySelector("input[type=search]");
    search.value = "tweets linear";
    search.dispatchEvent(new Event("input"));
    found.searched = cells(box, 0);
    const column = [...box.querySelectorAll(".list input")].at(-1);
    column.click();
    found.more = heads.filter((head) => !head.hidden).length;
    let saved;
    URL.createObjectURL = (blob) => { saved = blob; return "#"; };
    HTMLAnchorElement.prototype.click = function () { found.file = this.download; };
    box.querySelector(".tools button").click();
    found.csv = await saved.text();
    const axis = document.querySelector("#overview select[name=axis]");
    axis.value = "size";
    axis.dispatchEvent(new Event("change", { bubbles: true }));
    await until(() => drawing()?.textContent.includes("file, MB"));
    found.axis = drawing().textContent.includes("file, MB");
    const link = box.querySelector("tbody tr:not([hidden]) a");
    link.dispatchEvent(new MouseEvent("click", { bubbles: true, cancelable: true }));
    const figures = () => document.querySelectorAll("#page .figure svg.marks").length;
    await until(() => figures() === document.querySelectorAll("#page .figure").length);
    found.page = document.querySelector("#page h1").textContent;
    found.address = decodeURIComponent(location.hash);
    found.figures = figures();
    found.declared = document.querySelectorAll("#page .figure").length;
    found.overflow = document.documentElement.scrollWidth - innerWidth;
    const others = document.querySelectorAll("#page .path select");
    found.others = [...others].map((select) => [...select.options].map((option) => option.text));
    others[1].value = "variant/movie/minilm/int-linear";
    others[1].dispatchEvent(new Event("change"));
    found.beside = decodeURIComponent(location.hash);
    history.back();
    await until(() => decodeURIComponent(location.hash) === found.address);
    history.back();
    await until(() => !document.getElementById("overview").hidden);
    found.back = !document.getElementById("overview").hidden;
  } catch (error) {
    found.error = String(error);
  }
  const result = document.createElement("pre");
  result.id = "result";
  result.textContent = JSON.stringify(found);
  document.body.append(result);
});
"""


@pytest.mark.parametrize("width", [1300, 400])
def test_a_reader_sorts_searches_and_turns_pages(root: Path, tmp_path: Path, width: int) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium to open the report in")
    page = tmp_path / "report.html"
    before, after = (root / "report.html").read_text().rsplit("</body>", 1)
    page.write_text(f"{before}<script>{STEPS}</script></body>{after}")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    options += [f"--user-data-dir={tmp_path / 'browser'}", f"--window-size={width},900", "--virtual-time-budget=15000"]
    shown = subprocess.run(
        [*OFFLINE, browser, *options, "--dump-dom", f"file://{page}"], capture_output=True, text=True, timeout=120
    ).stdout
    text = Texts()
    text.feed(shown)
    found: dict[str, Any] = json.loads(text.result)
    assert "error" not in found and "refused" not in found, str(found)[-1500:]
    # A dot and a ring for each variant of one task.
    assert found["marks"] == 2 * len(VARIANTS)
    # Every variant is named beside its point, or all are in the legend.
    names = {name.removesuffix(" ★") for name in found["legend"] or found["names"]}
    assert names == set(VARIANTS) and sum("★" in name for name in found["names"]) == 1 and found["apart"]
    assert found["shown"] == 7 < found["known"] and found["more"] == 8
    numbers = [float(cell.split()[0]) for cell in found["ascending"]]
    assert numbers == sorted(numbers) and found["descending"] == found["ascending"][::-1] and len(numbers) == 6
    assert found["searched"] == ["int-linear"]
    lines = found["csv"].lstrip("\ufeff").splitlines()
    assert len(lines) == 2 and lines[1].startswith('"int-linear","tweets"') and found["file"] == "fake-variants.csv"
    assert found["axis"]
    assert found["page"] == "int-linear" and found["address"] == "#variant/tweets/minilm/int-linear"
    assert found["others"] == [list(VARIANTS), list(TASKS)] and found["beside"] == "#variant/movie/minilm/int-linear"
    assert found["figures"] == found["declared"] >= 4
    assert found["overflow"] <= 0
    assert found["back"]


class Texts(HTMLParser):
    """Collects the text of the element `result`."""

    def __init__(self) -> None:
        super().__init__()
        self.result, self._inside = "", False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag == "pre" and ("id", "result") in attrs

    def handle_data(self, data: str) -> None:
        self.result += data if self._inside else ""


def test_examples_that_a_variant_broke_are_shown(summary: Summary) -> None:
    rows = [row for row in summary.rows["flips"] if (row["task"], row["variant"]) == ("movie", "int")]
    found = details.flips(rows, "broken")
    assert (found["count"], found["seed"]) == (rows[-1]["flips"], 0) and len(found["examples"]) == 10
    # Right in float and wrong here; the fakes have no texts.
    for example in found["examples"]:
        said = example["said"]
        assert said["true"] == said["float"] != said["here"] and example["texts"][0].startswith("text not shown, id ")
        assert said["p of the true one"] == "0.88 → 0.12"
    assert details.flips([], "broken")["count"] == 0
