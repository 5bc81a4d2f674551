"""`snakemake prefetch` brings all that a study needs from elsewhere, and the study then runs without a network."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pandas as pd
import pytest

from hub import REVISION, started
from study_on_files import OFFLINE, planned, snakemake, write_study
from tiny import tiny_model, tiny_sentences

pytestmark = pytest.mark.slow


def parquet(size: int, seed: int) -> bytes:
    file = io.BytesIO()
    tiny_sentences(size, 2, seed).to_parquet(file)
    return file.getvalue()


def test_a_study_runs_from_what_was_prefetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not OFFLINE:
        pytest.skip("`unshare -rn` is not permitted here")
    hub = {"kind": "hub", "revision": REVISION}
    task = {"source": {**hub, "repo": "me/data"}, "text": ["text"], "label": "label", "labels": ["bad", "good"]}
    write_study(
        tmp_path,
        models={"tiny": {"source": {**hub, "repo": "me/model"}}},
        tasks={"words": {**task, "label_values": ["0", "1"]}},
        variants={"float": None},
    )
    with started() as server:
        server.files = {path.name: path.read_bytes() for path in tiny_model(tmp_path / "own").iterdir()}
        server.files |= {f"{split}.parquet": parquet(size, size) for split, size in (("train", 80), ("test", 20))}
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        snakemake(tmp_path, "prefetch", "--cores", "1")
        assert {"train.parquet", "model.safetensors"} <= set(server.asked)
        store = tmp_path / "results/store"
        assert [path.name for path in store.glob("[!.]*")] == ["fetch"]
        assert "fetch" not in planned(tmp_path)
        server.asked.clear()
        snakemake(tmp_path, "--cores", "2", "--until", "evaluate", before=OFFLINE)
        assert server.asked == []
    (metrics,) = store.glob("evaluate/*/metrics.parquet")
    assert pd.read_parquet(metrics)["value"].notna().all()
    (record,) = store.glob("finetune/*/training.json")
    assert json.loads(record.read_text())["steps"] > 0
