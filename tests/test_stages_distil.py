import json
from dataclasses import replace
from functools import partial

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from encoders import ARCHITECTURES, INT, batch, random_model
from intaglio.checkpoint import TRAINING_RECORD, Checkpoint
from intaglio.encoder.files import convert, save_encoder
from intaglio.encoder.parts import layer_parts
from intaglio.errors import UserError
from intaglio.schemas import TRAINING_HISTORY, read_table
from intaglio.stages import run as stage_run
from intaglio.stages.distil import with_layers
from intaglio.store import new_artifact, open_artifact
from intaglio.study.options import Distillation, DistilOptions, QuantizeOptions
from intaglio.training.job import Learner, StageJob
from intaglio.training.train import train
from stage_runs import SigtermAt, assert_same_outcome, distil, load_checkpoint, outcome, quantize
from tiny import tiny_config, tiny_data, tiny_model, tiny_tokenizer

ALL = Distillation(labels=0.5, logits=0.5, hidden=1.0, relations=1.0)
OPTIONS = DistilOptions(batch_size=8, epochs=1, learning_rate=1e-3, distillation=ALL)
SECONDS = 2.5


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_data(tmp_path_factory.mktemp("data") / "data", n=40)


def checkpoint(folder, model=None, arch="bert", tokenizer=None):
    """Write a [checkpoint] of a transformers model or of an Intaglio encoder, with a training record."""
    with new_artifact(folder, "checkpoint") as draft:
        if hasattr(model, "shape"):
            save_encoder(model, tiny_config(arch), draft)
        else:
            (model or random_model(arch)).save_pretrained(draft)
        (tokenizer or tiny_tokenizer(arch)).save_pretrained(draft)
        (draft / TRAINING_RECORD).write_text(json.dumps({"total_train_seconds": SECONDS}))
    return folder


@pytest.fixture
def parent(tmp_path):
    return checkpoint(tmp_path / "parent")


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# Fewer layers


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_student_has_copies_of_every_other_layer_and_of_all_beside_them(arch):
    model = random_model(arch, num_hidden_layers=4)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    student = with_layers(model, DistilOptions())
    assert student.config.num_hidden_layers == len(layer_parts(student)) == 2
    for own, index in zip(layer_parts(student), (1, 3), strict=True):
        copied = layer_parts(model)[index].block.state_dict()
        assert all(torch.equal(tensor, copied[name]) for name, tensor in own.block.state_dict().items())
    beside = {name for name in student.state_dict() if ".layer." not in name}
    assert beside == {name for name in before if ".layer." not in name}
    assert all(torch.equal(student.state_dict()[name], before[name]) for name in beside)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.zero_()
    assert model.config.num_hidden_layers == 4
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_only_layer_is_the_last():
    model = random_model()
    student = with_layers(model, DistilOptions(layers=1))
    query = student.state_dict()["bert.encoder.layer.0.attention.self.query.weight"]
    assert torch.equal(query, model.state_dict()["bert.encoder.layer.1.attention.self.query.weight"])
    assert not torch.equal(query, model.state_dict()["bert.encoder.layer.0.attention.self.query.weight"])


@pytest.mark.parametrize(("layers", "total", "expected"), [(None, 5, 3), (None, 1, 1), (2, 2, 2), (3, 4, 3)])
def test_a_student_has_so_many_layers(layers, total, expected):
    student = with_layers(random_model(num_hidden_layers=total), DistilOptions(layers=layers))
    assert len(layer_parts(student)) == expected


def test_all_layers_are_the_same_model():
    model = random_model()
    student, inputs = with_layers(model, DistilOptions(layers=2)).eval(), batch(model)
    assert torch.equal(student(**inputs).logits, model(**inputs).logits)


def test_a_student_has_the_dropout_of_the_options():
    student = with_layers(random_model(), DistilOptions(dropout=0.25, attention_dropout=0.125))
    rates = {part.p for part in student.modules() if isinstance(part, torch.nn.Dropout)}
    assert rates == {0.25, 0.125}


def test_more_layers_than_there_are_are_refused(data, parent, tmp_path):
    options = OPTIONS.model_copy(update={"layers": 3})
    with pytest.raises(UserError, match=r"^layers: 3 in the student, but the model to copy them from has 2$"):
        distil(parent, data, options, 0, 32, tmp_path / "work", tmp_path / "output")


# The stage


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_student_of_fewer_layers_end_to_end(arch, data, tmp_path):
    parent, work, output = checkpoint(tmp_path / "parent", arch=arch), tmp_path / "work", tmp_path / "output"
    before = files(parent)
    distil(parent, data, OPTIONS, 1, 32, work, output)
    assert open_artifact(output, "checkpoint") == {"stage": "distil", "seed": 1, "parent": str(parent)}
    assert not work.exists()
    assert files(parent) == before
    model, tokenizer = load_checkpoint(output)
    assert len(layer_parts(model)) == 1
    assert model.config.id2label == {0: "negative", 1: "positive"}
    assert model(**tokenizer("a good film", return_tensors="pt")).logits.shape == (1, 2)
    record = Checkpoint(output).record
    assert record["options"] == OPTIONS.model_dump(mode="json")
    assert (record["stage"], record["seed"], record["parent"]) == ("distil", 1, str(parent))
    assert record["total_train_seconds"] == pytest.approx(SECONDS + record["train_seconds"])
    history = read_table(output / "history.parquet", TRAINING_HISTORY).to_pandas()
    assert set(history["name"]) == {"loss", "learning_rate", "validation_loss", "validation_accuracy"}


def taught_loss(monkeypatch, **arguments):
    """Return the loss with which the stage would train, and the student."""
    found = []

    def untrained(_, learner):
        found.append((learner.loss, learner.model))
        raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr(stage_run, "train", untrained)
        with pytest.raises(InterruptedError):
            distil(**arguments)
    return found[0]


def test_the_parent_teaches_unless_another_does(data, parent, tmp_path, monkeypatch):
    teacher = checkpoint(tmp_path / "teacher", random_model(seed=9, num_hidden_layers=3))
    common = {"data": data, "options": OPTIONS, "seed": 0, "max_length": 32}
    common |= {"work": tmp_path / "work", "output": tmp_path / "output"}
    loss, student = taught_loss(monkeypatch, start=parent, **common)
    other_loss, other_student = taught_loss(monkeypatch, start=parent, teacher=teacher, **common)
    for found, expected in ((loss.teacher, parent), (other_loss.teacher, teacher)):
        weights = load_file(expected / "model.safetensors")
        assert all(torch.equal(tensor, weights[name]) for name, tensor in found.state_dict().items())
    # The layers are the parent's, whoever teaches.
    assert all(torch.equal(tensor, other_student.state_dict()[name]) for name, tensor in student.state_dict().items())


def test_a_pretrained_student_gets_a_head_of_the_seed_and_the_labels(data, tmp_path, monkeypatch):
    parent, student = checkpoint(tmp_path / "parent"), tiny_model(tmp_path / "student", labels=("a", "b", "c"), seed=4)
    common = {"start": parent, "data": data, "options": OPTIONS, "max_length": 32, "student": student}
    common |= {"work": tmp_path / "work", "output": tmp_path / "output"}
    first, same, other = (taught_loss(monkeypatch, seed=seed, **common)[1].state_dict() for seed in (1, 1, 2))
    weights = load_file(student / "model.safetensors")
    assert all(torch.equal(first[name], weights[name]) for name in first if name.startswith("bert."))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert first["classifier.weight"].shape == (2, 32)
    assert not torch.equal(first["classifier.weight"], other["classifier.weight"])


@pytest.mark.parametrize("kind", ["transformers", "encoder"])
def test_a_pretrained_student_end_to_end(kind, data, tmp_path):
    model = random_model()
    parent = checkpoint(tmp_path / "parent", model if kind == "transformers" else convert(model, frozenset()))
    assert (Checkpoint(parent).kind == "encoder") == (kind == "encoder")
    # Another architecture and, in a folder as transformers saves it, another width, with the same tokens.
    student = tmp_path / "student"
    random_model("electra", hidden_size=16, num_attention_heads=1, intermediate_size=32).save_pretrained(student)
    tiny_tokenizer("electra").save_pretrained(student)
    options = OPTIONS.model_copy(update={"distillation": Distillation(relations=1.0), "student": "electra"})
    distil(parent, data, options, 1, 32, tmp_path / "work", tmp_path / "output", student=student)
    found = AutoModelForSequenceClassification.from_pretrained(tmp_path / "output")
    assert (found.config.model_type, found.config.hidden_size) == ("electra", 16)
    assert found.config.id2label == {0: "negative", 1: "positive"}
    assert AutoTokenizer.from_pretrained(tmp_path / "output").get_vocab() == tiny_tokenizer().get_vocab()


def test_a_student_learns_what_its_teacher_says_rather_than_the_labels(tmp_path):
    data = tiny_data(tmp_path / "data", n=200)
    # A teacher that is certain of the contrary, by its labels being named the other way round.
    model = random_model(seed=1)
    config = {"learning_rate": 5e-3, "batch_size": 16, "epochs": 4}
    job = StageJob(data, data, DistilOptions(**config), 0, 32, tmp_path / "teaching", tmp_path)
    train(job, Learner(model, tiny_tokenizer()))
    with torch.no_grad():
        model.classifier.weight.copy_(model.classifier.weight.flip(0))
        model.classifier.bias.copy_(model.classifier.bias.flip(0))
    parent = checkpoint(tmp_path / "parent", model)
    options = DistilOptions(**config, layers=1, evaluations=1, distillation=Distillation(labels=0, logits=1))
    distil(parent, data, options, 0, 32, tmp_path / "work", tmp_path / "output")
    # Chosen and judged by the labels nevertheless.
    validation = Checkpoint(tmp_path / "output").record["validation"]
    assert validation["accuracy"] < 0.2
    assert validation["loss"] > cross_entropy(torch.zeros(1, 2), torch.tensor([0])).item()


def test_widths_that_differ_are_refused(data, parent, tmp_path):
    student = tmp_path / "student"
    random_model(hidden_size=16, num_attention_heads=1, intermediate_size=32).save_pretrained(student)
    tiny_tokenizer().save_pretrained(student)
    with pytest.raises(UserError, match=r"^distillation.hidden: hidden states are 16 wide in the student and 32 in"):
        distil(parent, data, OPTIONS, 0, 32, tmp_path / "work", tmp_path / "output", student=student)


def test_another_vocabulary_is_refused(data, parent, tmp_path):
    student = tiny_model(tmp_path / "student", "roberta")
    with pytest.raises(UserError, match=r"^distillation: the vocabulary of the teacher .* is another than the student"):
        distil(parent, data, OPTIONS, 0, 32, tmp_path / "work", tmp_path / "output", student=student)


def test_layers_of_an_encoder_of_ours_are_not_copied(data, tmp_path):
    parent = checkpoint(tmp_path / "parent", convert(random_model(), frozenset()))
    with pytest.raises(UserError, match=r"cut or quantized, so its layers cannot be copied; name a `student`$"):
        distil(parent, data, OPTIONS, 0, 32, tmp_path / "work", tmp_path / "output")


# Integers with a teacher

QUANTIZE = QuantizeOptions(batch_size=8, epochs=1, learning_rate=1e-4, distillation=ALL, recalibrations=2)


def test_quantization_aware_training_with_a_teacher_end_to_end(data, parent, tmp_path):
    teacher = checkpoint(tmp_path / "teacher", random_model(seed=9, num_hidden_layers=4))
    before = files(teacher)
    quantize(parent, data, QUANTIZE, 0, 32, tmp_path / "work", tmp_path / "output", teacher=teacher)
    encoder = Checkpoint(tmp_path / "output").load()
    assert encoder.shape.integer == INT
    assert {name.split(".")[0] for name in encoder.state_dict()} == {"embeddings", "layers", "head"}
    assert files(teacher) == before
    alone = QUANTIZE.model_copy(update={"distillation": None})
    quantize(parent, data, alone, 0, 32, tmp_path / "work", tmp_path / "alone")
    first, second = (outcome(tmp_path / name)[0]["layers.0.attention.query.weight"] for name in ("output", "alone"))
    assert not torch.equal(first, second)


def test_quantization_with_half_a_teacher_is_refused(data, parent, tmp_path):
    with pytest.raises(UserError, match=r"^distillation: there is no --teacher to go with it"):
        quantize(parent, data, QUANTIZE, 0, 32, tmp_path / "work", tmp_path / "output")
    alone = QUANTIZE.model_copy(update={"distillation": None})
    with pytest.raises(UserError, match=r"^--teacher: there is no distillation to go with it"):
        quantize(parent, data, alone, 0, 32, tmp_path / "work", tmp_path / "output", teacher=parent)


# Interruptions


def interrupted(step, job, learner):
    return train(job, replace(learner, callbacks=[*learner.callbacks, SigtermAt(step)]))


@pytest.mark.parametrize("stage", ["distil", "quantize"])
def test_an_interrupted_training_ends_the_same_to_the_bit(stage, data, parent, tmp_path, monkeypatch):
    changes = {"epochs": 2.5, "gradient_accumulation": 2, "evaluations": 4}
    teacher = checkpoint(tmp_path / "teacher", random_model(seed=9, num_hidden_layers=4))
    run, options = {"distil": (distil, OPTIONS), "quantize": (quantize, QUANTIZE)}[stage]
    job = partial(run, parent, data, options.model_copy(update=changes), 3, 32, teacher=teacher)
    job(tmp_path / "undisturbed_work", tmp_path / "undisturbed")
    work, output = tmp_path / "work", tmp_path / "output"
    for step in (4, 9):
        with monkeypatch.context() as patch:
            patch.setattr(stage_run, "train", partial(interrupted, step))
            with pytest.raises(SystemExit) as exit_:
                job(work, output)
        assert exit_.value.code == 143
        weights = load_file(work / f"progress-{step}/checkpoint-{step}/model.safetensors")
        saved = load_file(tmp_path / "undisturbed/model.safetensors")
        # Of the teacher nothing is kept: as many weights as the student has.
        assert len(weights) == len(saved)
    job(work, output)
    assert_same_outcome(output, tmp_path / "undisturbed")
