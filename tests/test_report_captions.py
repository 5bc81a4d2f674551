from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from intaglio.plots.files import PLOTS
from intaglio.report.overview import show_overview, to_rst
from intaglio.summary.devices import SPEEDUPS

REPORT = Path(__file__).parents[1] / "workflow" / "report"
CONFIGS = [*sorted(REPORT.parents[1].glob("config/*.yaml")), REPORT.parents[1] / "config.yaml"]


def test_every_plot_and_the_report_have_a_caption_and_no_caption_is_left_over() -> None:
    assert {path.stem for path in REPORT.glob("*.rst")} == {"workflow", "report", *PLOTS}


@pytest.mark.filterwarnings("ignore:Argument .writer_name.")
@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.name)
def test_captions_render_as_snakemake_renders_them(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jinja with a strict environment, then reStructuredText without a warning."""
    core = pytest.importorskip("docutils.core")
    jinja2 = pytest.importorskip("jinja2")
    study = yaml.safe_load(config.read_text())
    monkeypatch.chdir(tmp_path)
    pages = tmp_path / "results" / study["study"] / "pages"
    pages.mkdir(parents=True)
    variants = [
        {"task": "a_b*c|d`", "model": "m", "variant": "pruned_", "n": 0, "planned": 2, "failed": 1}
        | dict.fromkeys(("primary_metric", "primary_mean", "difference", "device", *SPEEDUPS, "size_mb_mean"))
    ]
    (pages / "overview.rst").write_text(to_rst(show_overview("a", variants, []), ["a: float is recommended."]))
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    for path in REPORT.glob("*.rst"):
        text = environment.from_string(path.read_text()).render(snakemake=SimpleNamespace(config=study))
        html = core.publish_parts(text, writer_name="html", settings_overrides={"halt_level": 2})["body"]
        assert "system-message" not in html
        if "snakemake.config" in path.read_text():
            assert study["study"] in html
