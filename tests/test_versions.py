"""Results change with their declared version alone: every kind of job on a tiny model, against kept numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import golden
from intaglio.arithmetic import gelu
from intaglio.planning.versions import VERSIONS
from intaglio.study.options import STAGES

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="the numbers are those of a CPU")
ENTRIES: dict[str, Any] = json.loads(golden.FILE.read_text())


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> golden.Results:
    torch.set_num_threads(1)
    return golden.Results(tmp_path_factory.mktemp("golden"))


@pytest.mark.parametrize("kind", golden.KINDS)
def test_results_change_with_their_version_alone(results: golden.Results, kind: str) -> None:
    assert kind in ENTRIES, f"{kind} is new: make golden"
    entry = ENTRIES[kind]
    assert entry["basis"] == golden.basis(kind), "raised: make golden, and name it in CHANGELOG.md"
    changed = golden.problems(kind, entry, results.summary(kind))
    assert not changed, f"{kind} changed under the same version: raise it in planning/versions.py, then make golden"


def test_every_kind_has_a_version() -> None:
    assert set(golden.KINDS) <= set(VERSIONS)
    assert set(STAGES) <= set(golden.KINDS)


def test_another_arithmetic_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gelu, "SHIFT", gelu.SHIFT - 1)
    changed = golden.problems("quantize", ENTRIES["quantize"], golden.Results(tmp_path).summary("quantize"))
    assert any("losses" in line for line in changed)


def test_another_default_is_noticed_and_a_further_option_is_not() -> None:
    old = {"learning_rate": 2e-5, "batch_size": 32}
    assert golden.other_defaults(old, {**old, "batch_size": 16}) == ["default of batch_size: 32 is now 16"]
    assert golden.other_defaults(old, {**old, "label_smoothing": 0.0}) == []


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ({"a": 1.0}, {"a": 1.0005}, True),
        ({"a": 1.0}, {"a": 1.01}, False),
        ({"a": 100}, {"a": 101}, False),
        ({"a": [1.0, 2.0]}, {"a": [1.0]}, False),
        ({"a": 1}, {"a": 1, "b": 2}, False),
    ],
)
def test_floats_are_compared_with_a_tolerance_and_integers_exactly(old: Any, new: Any, same: bool) -> None:
    assert (golden.differences(old, new) == []) is same
