import json

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from intaglio.encoder.files import convert, save_encoder
from intaglio.errors import UserError
from intaglio.machine import fingerprint
from intaglio.measure.evaluate import evaluate
from intaglio.schemas import METRICS, PREDICTIONS, read_table
from intaglio.store import MANIFEST, new_artifact, open_artifact
from questions import asked, write_questions
from stage_runs import load_checkpoint
from tiny import ARCHITECTURES, tiny_checkpoint, tiny_data, tiny_model

LABELS = ("negative", "positive", "neither")


def one_by_one(checkpoint, frame, max_length):
    """Return logits from transformers alone: no batches, no padding."""
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint).eval()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    logits = []
    for row in frame.to_dict("records"):
        texts = [row[name] for name in ("text_a", "text_b") if name in row]
        inputs = tokenizer(*texts, truncation=True, max_length=max_length, return_tensors="pt")
        with torch.no_grad():
            logits.append(model(**inputs).logits[0].numpy())
    return np.stack(logits)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_equals_examples_one_by_one_without_padding(tmp_path, arch):
    checkpoint = tiny_checkpoint(tmp_path / "checkpoint", arch, LABELS)
    data = tiny_data(tmp_path / "data", labels=LABELS, pair=arch != "bert", test_sets=("test_a", "test_b"))
    evaluate(checkpoint, data, 20, tmp_path / "evaluation", batch_size=5)
    found = pd.read_parquet(tmp_path / "evaluation" / "predictions.parquet")
    assert found["test_set"].tolist() == ["test_a"] * 32 + ["test_b"] * 32
    for name, part in found.groupby("test_set"):
        truth = pd.read_parquet(data / f"{name}.parquet")
        assert part["id"].tolist() == truth["id"].tolist()
        assert part["label"].tolist() == truth["label"].tolist()
        expected = one_by_one(checkpoint, truth, 20)
        np.testing.assert_allclose(np.stack(part["logits"]), expected, atol=1e-5)
        assert part["prediction"].tolist() == expected.argmax(1).tolist()


def test_encoder_of_ours(tmp_path):
    checkpoint = tiny_checkpoint(tmp_path / "checkpoint", "electra", LABELS)
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint).eval()
    with new_artifact(tmp_path / "encoder", "checkpoint") as draft:
        save_encoder(convert(model, frozenset()), model.config, draft)
        AutoTokenizer.from_pretrained(checkpoint).save_pretrained(draft)
    data = tiny_data(tmp_path / "data", labels=LABELS, pair=True)
    evaluate(tmp_path / "encoder", data, 48, tmp_path / "evaluation")
    found = pd.read_parquet(tmp_path / "evaluation" / "predictions.parquet")
    expected = one_by_one(checkpoint, pd.read_parquet(data / "test.parquet"), 48)
    np.testing.assert_allclose(np.stack(found["logits"]), expected, atol=1e-5)


def test_artifact(tmp_path):
    checkpoint = tiny_checkpoint(tmp_path / "checkpoint")
    data = tiny_data(tmp_path / "data", metric="matthews", test_sets=("test_a", "test_b"))
    evaluate(checkpoint, data, 32, tmp_path / "evaluation")
    about = open_artifact(tmp_path / "evaluation", "evaluation")
    metrics = read_table(tmp_path / "evaluation" / "metrics.parquet", METRICS)
    predictions = read_table(tmp_path / "evaluation" / "predictions.parquet", PREDICTIONS)
    for table in (metrics, predictions):
        assert json.loads(table.schema.metadata[b"machine"]) == fingerprint()
        assert json.loads(table.schema.metadata[b"checkpoint"]) == open_artifact(checkpoint, "checkpoint")
    frame = metrics.to_pandas()
    primary = frame[frame["primary"]].set_index("test_set")
    assert primary["metric"].tolist() == ["matthews", "matthews"]
    assert about["primary"] == {name: {"matthews": primary["value"][name]} for name in ("test_a", "test_b")}
    part = predictions.to_pandas().query("test_set == 'test_b'")
    accuracy = frame.query("test_set == 'test_b' and metric == 'accuracy'")["value"].item()
    assert accuracy == (part["label"] == part["prediction"]).mean()


def test_logits_that_are_not_finite(tmp_path):
    checkpoint = tiny_checkpoint(tmp_path / "checkpoint")
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint)
    with torch.no_grad():
        model.classifier.bias[0] = float("nan")
    model.save_pretrained(checkpoint)
    data = tiny_data(tmp_path / "data")
    with pytest.raises(UserError, match=r"test set 'test': the logits of 32 of 32 examples are not finite .*'test-0'"):
        evaluate(checkpoint, data, 32, tmp_path / "evaluation")
    assert not (tmp_path / "evaluation").exists()


def test_checkpoint_of_another_task(tmp_path):
    checkpoint = tiny_checkpoint(tmp_path / "checkpoint")
    data = tiny_data(tmp_path / "data", labels=LABELS)
    with pytest.raises(UserError, match="another task"):
        evaluate(checkpoint, data, 32, tmp_path / "evaluation")


def test_classifier_on_questions(tmp_path):
    checkpoint = tiny_checkpoint(tmp_path / "checkpoint")
    data = write_questions(tmp_path / "data", {"test": asked(4, 0)})
    with pytest.raises(UserError, match="another task"):
        evaluate(checkpoint, data, 32, tmp_path / "evaluation")


def test_length_beyond_the_positions(tmp_path):
    # Two of RoBERTa's positions belong to padding.
    checkpoint = tiny_checkpoint(tmp_path / "checkpoint", "roberta")
    with pytest.raises(UserError, match=r"max_length: 49 tokens, but the model in .* takes at most 48"):
        evaluate(checkpoint, tmp_path, 49, tmp_path / "evaluation")


def test_a_model_is_no_checkpoint(tmp_path):
    with pytest.raises(UserError, match="is a model, where a checkpoint is needed"):
        load_checkpoint(tiny_model(tmp_path / "model"))


def test_weights_that_transformers_would_make_up(tmp_path):
    checkpoint = tiny_checkpoint(tmp_path / "checkpoint")
    AutoModelForSequenceClassification.from_pretrained(checkpoint).bert.save_pretrained(checkpoint)
    manifest = json.loads((checkpoint / MANIFEST).read_text())
    manifest["files"] = {}
    (checkpoint / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"lacks 'classifier.bias'"):
        load_checkpoint(checkpoint)
