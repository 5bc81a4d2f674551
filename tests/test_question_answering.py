"""Question answering through models, stages and exports, and a study of it to its tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForQuestionAnswering

from in_process import run_study
from intaglio import schemas
from intaglio.arithmetic.operations import OPERATIONS
from intaglio.bundle.make import write_bundle
from intaglio.checkpoint import Checkpoint
from intaglio.encoder.files import convert, read_encoder
from intaglio.encoder.model import Encoder
from intaglio.encoder.padding import PADDING
from intaglio.encoder.transformers_head import set_head, with_logits
from intaglio.execution.native import write_constants
from intaglio.execution.on_torch import integer_model
from intaglio.export.parity import head_input_of
from intaglio.metrics.answers import best_score, exact, overlap
from intaglio.models.classifier import pretrained_classifier
from intaglio.native.build import built
from intaglio.native.runner import CONSTANTS, NativeModel
from intaglio.onnx.graph import save
from intaglio.onnx.integer_graph import integer_onnx
from intaglio.onnx.session import open_session
from intaglio.stages.quantize import calibrate_ranges
from intaglio.study.options import FinetuneOptions, QuantizeOptions
from questions import asked, question_data, question_task, write_squad
from stage_runs import finetune, quantize
from tiny import tiny_config, tiny_model
from without_torch import run

ARCHITECTURES = ("bert", "roberta", "xlm-roberta", "electra", "distilbert")
EVERY = frozenset(OPERATIONS)


def answering(arch: str, seed: int = 0) -> Any:
    """Return a transformers model for question answering with random weights, in evaluation mode."""
    config = tiny_config(arch, ("start", "end"))
    set_head(config, True)
    torch.manual_seed(seed)
    model = AutoModelForQuestionAnswering.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def batch(arch: str, seed: int = 1, rows: int = 5) -> dict[str, torch.Tensor]:
    """Return a batch with padding, also in front, and a fifth row of nothing but padding."""
    torch.manual_seed(seed)
    mask = torch.ones(5, 11, dtype=torch.int64)
    mask[1, 7:], mask[2, 1:], mask[3, :1], mask[4] = 0, 0, 0, 0
    given = {"input_ids": torch.randint(5, 40, (5, 11)), "attention_mask": mask}
    if arch in ("bert", "electra"):
        given["token_type_ids"] = torch.randint(0, 2, (5, 11)) * mask
    return {name: tensor[:rows] for name, tensor in given.items()}


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_float_encoder_has_transformers_logits(arch: str) -> None:
    model, given = answering(arch), batch(arch)
    with torch.no_grad():
        expected = model(**given)
        ours = convert(model, frozenset()).eval()(**given).logits
        joined = with_logits(model)(**given).logits
    kept = given["attention_mask"].bool()
    assert ours.shape == (5, 11, 2)
    for side, logits in enumerate((expected.start_logits, expected.end_logits)):
        assert torch.equal(joined[..., side][kept], logits[kept])
        assert torch.allclose(ours[..., side][kept], logits[kept], atol=1e-5)
    assert (ours[~kept] == PADDING).all() and (joined[~kept] == PADDING).all()


def integers(arch: str, operations: frozenset[Any]) -> Encoder:
    encoder = convert(answering(arch), operations).eval()
    # Softmax in floating point has no result in a row of nothing but padding.
    calibrate_ranges(encoder, [batch(arch, seed, 4) for seed in (1, 2)], 0.95)
    return encoder


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_integers_are_the_same_everywhere(arch: str, tmp_path: Path) -> None:
    """In the simulation, on torch, in the ONNX graph and in the native library."""
    encoder, given = integers(arch, EVERY), batch(arch, 3)
    hidden = head_input_of(encoder)(given)
    with torch.no_grad():
        expected, found = encoder(**given).logits, integer_model(encoder)(**given).logits
    padding = given["attention_mask"] == 0
    assert hidden.shape == (5, 11, 32) and (hidden[padding] == 0).all() and (expected[padding] == PADDING).all()
    assert torch.allclose(found, expected, atol=1e-5)
    arrays = {name: tensor.numpy() for name, tensor in given.items()}
    graph = integer_onnx(encoder, "token_type_ids" in given)
    save(graph, tmp_path / "model.onnx")
    assert [dim.dim_param or dim.dim_value for dim in graph.graph.output[0].type.tensor_type.shape.dim] == [
        *("batch", "length"),
        2,
    ]
    (logits,) = open_session(tmp_path / "model.onnx", 1).run(["logits"], arrays)
    assert np.allclose(logits, expected, atol=1e-5)
    write_constants(encoder, tmp_path / CONSTANTS)
    native = NativeModel(tmp_path, 1, library_file=built())
    entered, answered = native.hidden_and_logits(**arrays)
    assert np.array_equal(entered, hidden.numpy()) and np.allclose(answered, expected, atol=1e-5)
    assert np.allclose(native(arrays["input_ids"]), encoder(given["input_ids"]).logits.detach(), atol=1e-5)


@pytest.mark.parametrize(
    "others",
    [(), ("gelu",), ("softmax",), ("layernorm",), ("softmax", "layernorm"), ("gelu", "layernorm"), ("gelu", "softmax")],
)
def test_partly_integer_models_agree(others: tuple[Any, ...], tmp_path: Path) -> None:
    encoder, given = integers("bert", frozenset({"linear", *others})), batch("bert", 3, 4)
    with torch.no_grad():
        expected, found = encoder(**given).logits, integer_model(encoder)(**given).logits
    arrays = {name: tensor.numpy() for name, tensor in given.items()}
    save(integer_onnx(encoder, True), tmp_path / "model.onnx")
    write_constants(encoder, tmp_path / CONSTANTS)
    answers = (
        found.numpy(),
        open_session(tmp_path / "model.onnx", 1).run(["logits"], arrays)[0],
        NativeModel(tmp_path, 1, library_file=built())(**arrays),
    )
    # An integer may differ by one where floating point is rounded.
    assert all(np.abs(answer - expected.numpy()).max() < 0.25 for answer in answers)


def test_a_head_for_question_answering_is_kept_and_another_is_not(tmp_path: Path) -> None:
    task, options = question_task(), FinetuneOptions()
    model = answering("bert", seed=4)
    model.config.id2label = {0: "LABEL_0", 1: "LABEL_1"}
    model.save_pretrained(tmp_path / "squad")
    kept = pretrained_classifier(tmp_path / "squad", task, options, 1, 32)
    assert torch.equal(kept.qa_outputs.weight, model.qa_outputs.weight)
    assert [kept.config.id2label[at] for at in (0, 1)] == ["start", "end"]
    tiny_model(tmp_path / "classifier")
    fresh = pretrained_classifier(tmp_path / "classifier", task, options, 1, 32)
    assert type(fresh).__name__ == "BertForQuestionAnswering" and float(fresh.qa_outputs.bias.detach().abs().sum()) == 0
    back = pretrained_classifier(
        tmp_path / "squad", {**task, "kind": "single_label_classification", "labels": ["a", "b"]}, options, 1, 32
    )
    assert type(back).__name__ == "BertForSequenceClassification"


def test_training_finds_answers_and_integers_keep_them(tmp_path: Path) -> None:
    data = question_data(tmp_path / "data", 200, without=0.25)
    model = tiny_model(tmp_path / "model")
    options = FinetuneOptions(batch_size=16, max_steps=70, learning_rate=4e-3, evaluations=1)
    finetune(model, data, options, 1, 32, tmp_path / "work", tmp_path / "float")
    trained = Checkpoint(tmp_path / "float")
    assert trained.record["validation"]["answer_f1"] > 0.6
    assert list(trained.record["thresholds"]) == ["no answer"] and trained.thresholds is not None
    less = QuantizeOptions(batch_size=8, max_steps=4, evaluations=1, learning_rate=1e-3, calibration_examples=32)
    quantize(tmp_path / "float", data, less, 1, 32, tmp_path / "work", tmp_path / "int")
    integer = Checkpoint(tmp_path / "int")
    assert integer.is_integer_only and integer.record["validation"]["answer_f1"] > 0.6
    assert isinstance(integer.load(), Encoder) and read_encoder(integer.path).shape.every_token


def bundles_answer_as_evaluated(rows: list[dict[str, Any]], runs: list[dict[str, Any]]) -> None:
    """Bundle runs of the study, and ask the questions where torch cannot be imported."""
    asked_of = Path("asked.jsonl").absolute()
    asked_of.write_text(
        "".join(json.dumps({key: row[key] for key in ("id", "question", "context")}) + "\n" for row in rows)
    )
    results = Path("results/questions").absolute()
    for own in runs:
        name, output = f"words/tiny/{own['variant']}/1", asked_of.with_name(f"{own['variant']}.parquet")
        folder, engine = write_bundle(results, name), "openvino" if own["variant"] == "openvino" else "onnxruntime"
        run(folder, asked_of, "--output", output, "--logits", engine=engine)
        found = pd.read_parquet(output).set_index("id")
        table = schemas.read_table(Path(own["evaluation"]) / "predictions.parquet", schemas.PREDICTED_ANSWERS)
        expected = table.to_pandas().set_index("id").loc[found.index]
        assert found["prediction"].tolist() == expected["prediction"].tolist()
        stored = np.stack(expected["logits"])
        logits = found[["logit_answer", "logit_none"]].to_numpy()
        np.testing.assert_allclose(logits, stored, atol=0 if own["variant"] == "int" else 1e-4)
        answer = json.loads(run(folder, "--text", rows[0]["question"], "--text2", rows[0]["context"], engine=engine))
        assert answer["prediction"] == expected.loc[rows[0]["id"], "prediction"]
        run(folder, program="example.py", engine=engine)
        card = (folder / "README.md").read_text()
        assert "the answer to a question in a context, or says that there is none" in card and "F1 of answers" in card
        assert "windows of 32 tokens, which share 10" in card and f"pip install {engine} tok" in card
        assert "\n\n\n" not in card
    missing = asked_of.with_name("missing.jsonl")
    missing.write_text(json.dumps({"question": "who ?", "context": None}) + "\n")
    run(folder, missing, "--output", output, "--logits", engine=engine)
    assert pd.read_parquet(output)["problem"].tolist() == ["no text in column 'context'"]


@pytest.mark.slow
def test_a_study_of_questions_ends_in_its_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_model(tmp_path / "model")
    rows = asked(40, 1, without=0.3)
    write_squad(tmp_path / "train.json", asked(160, 0, without=0.3))
    write_squad(tmp_path / "test.json", rows)
    few = {"max_steps": 4, "evaluations": 1, "learning_rate": 1e-3, "batch_size": 8}
    profile = {"batch_sizes": [1], "lengths": [16], "headline": [1, 16], "calls": 2, "warmup": 1, "threads": 1}
    variants: dict[str, Any] = {
        "float": None,
        "int": None,
        "small-int8": [
            {"stage": "distil"},
            {"stage": "cut", "sparsity": 0.5},
            {"stage": "prune", "sparsity": 0.35},
            {"stage": "int8"},
        ],
        "openvino": [{"stage": "int8", "engine": "openvino"}],
    }
    run_study(
        {
            "study": "questions",
            "seeds": [1],
            "max_length": 32,
            "models": {"tiny": {"source": {"kind": "files", "path": "model"}}},
            "tasks": {
                "words": {
                    "kind": "question_answering",
                    "source": {"kind": "files", "train": "train.json", "test": "test.json"},
                    "split_by": "title",
                }
            },
            "variants": variants,
            "stages": {
                "finetune": {**few, "max_steps": 60},
                "distil": few,
                "prune": few,
                "cut": {**few, "importance_examples": 16},
                "quantize": {**few, "calibration_examples": 32, "tolerance": 0.9},
                "int8": {"calibration_examples": 16, "tolerance": 0.9},
            },
            "profile": profile | {"backends": ["onnxruntime", "openvino", "native"], "devices": ["cpu"]},
            "bootstrap": 100,
        }
    )
    summary = Path("results/questions/summary")
    runs = schemas.read_table(summary / "runs.parquet", schemas.RUNS).to_pandas().set_index("variant")
    assert set(runs["status"]) == {"ok"} and set(runs.index) == set(variants)
    plan = json.loads(Path("results/questions/plan.json").read_text())["runs"]
    for planned in plan:
        table = schemas.read_table(Path(planned["evaluation"]) / "predictions.parquet", schemas.PREDICTED_ANSWERS)
        given = {row["id"]: row for row in table.to_pylist()}
        assert given.keys() == {row["id"] for row in rows}
        for metric, score in (("exact_match", exact), ("answer_f1", overlap)):
            expected = [
                best_score(score, [one["text"] for one in row["answers"]], given[row["id"]]["prediction"])
                for row in rows
            ]
            assert runs.loc[planned["variant"], metric] == pytest.approx(np.mean(expected))
    table = schemas.read_table(summary / "variants.parquet", schemas.VARIANTS).to_pandas().set_index("variant")
    assert (table.loc["int", "difference_low"] <= table.loc["int", "difference"]).all()
    native = Path(next(planned for planned in plan if planned["variant"] == "int")["export"]) / "native"
    assert native.is_dir()
    page = Path("results/questions/pages/variants.md").read_text()
    assert "F1 of answers" in page and "exact match" in page
    # The questions with an answer and those without, each with their own means.
    metrics = schemas.read_table(summary / "metrics.parquet", schemas.keyed(schemas.METRICS)).to_pandas()
    own = metrics[(metrics["variant"] == "float") & (metrics["metric"] == "class_answer_f1")].set_index("label")[
        "value"
    ]
    lines = Path("results/questions/pages/classes.md").read_text().splitlines()
    for label, value in own.items():
        (line,) = (line for line in lines if "| float " in line and f"| {label} " in line)
        assert f" {100 * value:.1f} " in line
    assert len(own) == 2 and not Path("results/questions/plots/confusion.svg").exists()
    bundles_answer_as_evaluated(rows, plan)
