"""The signal to noise of an integer model's tensors: stored by its evaluation, gathered, and shown in the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from encoders import FEWER, INT, calibrated, integer_checkpoint
from intaglio import schemas
from intaglio.checkpoint import Checkpoint
from intaglio.measure.evaluate import evaluate
from intaglio.measure.noise.tensors import drawn_batches, noise_rows
from intaglio.report.html.noise import noise_table
from tiny import MAX_LENGTH, tiny_checkpoint, tiny_data, tiny_tokenizer

Array = np.ndarray[Any, Any]
# Tensors of transformers' BERT, by the names of the table.
OF_BERT = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attention_layernorm": "attention.output.LayerNorm",
    "intermediate": "intermediate.dense",
    "gelu": "intermediate",
    "output_layernorm": "output.LayerNorm",
}
# Where the encoder computes the same; some give integers with a scale, or a pair of them.
OF_OURS = {
    "query": "attention.query_range",
    "key": "attention.key_range",
    "value": "attention.value_range",
    "attention_layernorm": "attention_norm",
    "intermediate": "intermediate",
    "gelu": "gelu",
    "output_layernorm": "output_norm",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_data(tmp_path_factory.mktemp("noise") / "data", n=64)


def captured(model: nn.Module, layers: nn.ModuleList, names: dict[str, str], inputs: Any) -> dict[Any, Array]:
    """Return what these modules of each layer compute, and the logits, as float64."""
    found: dict[Any, Array] = {}

    def keep(place: Any) -> Any:
        def hook(_: Any, __: Any, output: Any) -> None:
            value = getattr(output, "wide", output)
            value = value.real if hasattr(value, "scale") else value
            found[place] = value.detach().numpy().astype(np.float64)

        return hook

    handles = [
        layer.get_submodule(path).register_forward_hook(keep((number, name)))
        for number, layer in enumerate(layers)
        for name, path in names.items()
    ]
    with torch.no_grad():
        found[None, "logits"] = model(**inputs).logits.numpy().astype(np.float64)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("bits", [None, FEWER], ids=["8 bits", "4 bits"])
def test_the_noise_is_the_distance_from_transformers_in_float64(data: Path, tmp_path: Path, bits: Any) -> None:
    """Nothing has been trained, so the transformers model has the same weights."""
    checkpoint = integer_checkpoint(tmp_path / "checkpoint", bits=bits)
    evaluate(checkpoint, data, MAX_LENGTH, tmp_path / "evaluation")
    rows = schemas.read_table(tmp_path / "evaluation/noise.parquet", schemas.NOISE).to_pylist()
    stored = {(row["layer"], row["operation"]): row["snr_db"] for row in rows}
    encoder, model = calibrated(bits=bits)
    sums: dict[Any, Array] = {}
    for inputs in drawn_batches(data, "validation", Checkpoint(checkpoint).tokenizer, MAX_LENGTH):
        present = inputs["attention_mask"].numpy() == 1
        exact = captured(model, model.bert.encoder.layer, OF_BERT, inputs)
        ours = captured(encoder, encoder.layers, OF_OURS, inputs)
        for place, y in ours.items():
            x = exact[place]
            x, y = (x, y) if place[0] is None else (x[present], y[present])
            sums[place] = sums.get(place, 0) + np.array([(x**2).sum(), ((x - y) ** 2).sum()])
    assert len(sums) == 1 + 2 * len(OF_OURS)
    for place, (signal, noise) in sums.items():
        assert stored[place] == pytest.approx(10 * np.log10(signal / noise), abs=0.02), place


def test_every_operation_of_every_layer_has_its_noise(data: Path) -> None:
    encoder, _ = calibrated()
    rows = noise_rows(encoder, drawn_batches(data, "validation", tiny_tokenizer(), MAX_LENGTH))
    assert rows[0]["operation"] == "embeddings" and rows[-1]["operation"] == "logits"
    assert [row["layer"] for row in rows[1:-1]] == [0] * 11 + [1] * 11
    assert all(row["snr_db"] > 0 for row in rows)


@pytest.mark.parametrize("arch", ["roberta", "electra", "distilbert"])
def test_exact_softmax_has_less_noise(data: Path, arch: str) -> None:
    batches = drawn_batches(data, "validation", tiny_tokenizer(arch), MAX_LENGTH)
    noise = [noise_rows(calibrated(point, arch)[0], batches) for point in (INT, frozenset({"linear"}))]
    everything, linear = ({(row["layer"], row["operation"]): row["snr_db"] for row in rows} for rows in noise)
    assert set(linear) == set(everything) and all(value > 0 for value in everything.values())
    assert linear[0, "softmax"] > everything[0, "softmax"]


def test_padding_has_no_part_in_it() -> None:
    encoder, _ = calibrated()
    ids = torch.randint(5, 30, (2, 9), generator=torch.Generator().manual_seed(1))
    alone = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    wider = {name: nn.functional.pad(tensor, (0, 5)) for name, tensor in alone.items()}
    for one, other in zip(noise_rows(encoder, [alone]), noise_rows(encoder, [wider]), strict=True):
        assert one["snr_db"] == pytest.approx(other["snr_db"], abs=0.01), one


def test_a_float_model_has_none(data: Path, tmp_path: Path) -> None:
    evaluate(tiny_checkpoint(tmp_path / "float"), data, MAX_LENGTH, tmp_path / "evaluation")
    assert not (tmp_path / "evaluation/noise.parquet").exists()


def test_the_worst_are_marked_and_shaded() -> None:
    rows = [
        {"layer": layer, "operation": name, "snr_db_mean": 45.0 - 10 * layer - (name == "gelu")}
        for layer in range(4)
        for name in ("query", "gelu", "output")
    ]
    rows += [{"layer": None, "operation": name, "snr_db_mean": 12.0} for name in ("embeddings", "logits")]
    table = noise_table(rows)
    assert table is not None and table.logits == "12.0"
    at = {name: place - 1 for place, name in enumerate(table.columns)}
    assert [name for name, cells in table.rows if cells[at["GELU"]][2]] == ["3"]
    assert [cells[at["query"]][1] for _, cells in table.rows] == [0, 1, 2, 3]
    assert table.rows[0][1][at["key"]][0] == "–" and sum(cell[2] for _, cells in table.rows for cell in cells) == 3
    assert noise_table([]) is None
