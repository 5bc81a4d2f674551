"""The study to copy, and the pieces of study files in README, are studies that load."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from intaglio.study.load import load

ROOT = Path(__file__).parents[1]
SNIPPETS = [
    yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
]


@pytest.fixture
def template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The template, beside data as it names it."""
    content: dict[str, Any] = yaml.safe_load((ROOT / "config" / "template.yaml").read_text())
    (tmp_path / "data").mkdir()
    for split in ("train", "test"):
        (tmp_path / "data" / f"{split}.csv").write_text("text,label\ngood,positive\nbad,negative\n")
    monkeypatch.chdir(tmp_path)
    return content


def test_the_template_is_a_study_of_serious_budgets(template: dict[str, Any]) -> None:
    study = load(template)
    assert len(study.seeds) >= 3 and set(study.variants) >= {"float", "int8", "int", "small"}
    assert all(options.get("epochs", 3) >= 3 and "max_steps" not in options for options in template["stages"].values())


def test_readme_shows_studies() -> None:
    assert len(SNIPPETS) >= 2


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_a_snippet_of_the_readme_loads(snippet: dict[str, Any], template: dict[str, Any]) -> None:
    load({**template, **snippet})
