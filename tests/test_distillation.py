import json
import math
from contextlib import nullcontext

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from scipy.special import log_softmax, softmax
from tokenizers import normalizers
from torch.nn.functional import cross_entropy
from transformers import AlbertConfig, AutoModelForSequenceClassification

from encoders import ARCHITECTURES, INT, batch, calibrated, random_model
from intaglio import distillation
from intaglio.arithmetic.integers import real
from intaglio.distillation import (
    DistillationLoss,
    distillation_loss,
    evenly_spaced,
    hidden_distance,
    relation_divergence,
    relation_heads,
)
from intaglio.encoder.files import convert, save_encoder
from intaglio.errors import UserError
from intaglio.kinds import divergence_of_classes
from intaglio.metrics import SINGLE_LABEL
from intaglio.store import new_artifact
from intaglio.study.options import Distillation, FinetuneOptions, QuantizeOptions
from intaglio.tokens.artifact import read_tokens
from intaglio.tokens.tokenize import collate
from intaglio.training.job import Learner, StageJob
from intaglio.training.train import train
from tiny import MAX_LENGTH, tiny_checkpoint, tiny_data, tiny_tokenizer

ALL = Distillation(labels=0.3, logits=0.7, temperature=2.5, hidden=1.1, relations=0.9)
NARROW = {"hidden_size": 16, "intermediate_size": 32}
STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
KINDS = ["transformers", "float", "integer"]


pytestmark = pytest.mark.usefixtures("one_thread")


def still(arch):
    """Return the changes of a configuration that turn dropout off."""
    if arch == "distilbert":
        return {"dropout": 0.0, "attention_dropout": 0.0, "seq_classif_dropout": 0.0}
    return STILL


def only(**weights):
    return Distillation(**{"labels": 0, "logits": 0, **weights})


def labeled(model, **changes):
    inputs = batch(model, **changes)
    return inputs | {"labels": torch.arange(len(inputs["input_ids"])) % 2}


def divergence(log_p, log_q):
    return (np.exp(log_p) * (log_p - log_q)).sum(-1)


def by_relations(teacher, student, lengths, heads):
    """Compute relation_divergence with NumPy, one example, head and token after the other, without padding."""
    found = []
    for x, y, length in zip(teacher, student, lengths, strict=True):
        rows = []
        for head in range(heads):
            logs = []
            for states in (x, y):
                width = states.shape[-1] // heads
                part = states[:length, head * width : (head + 1) * width].astype(np.float64)
                logs.append(log_softmax(part @ part.T / math.sqrt(width), axis=-1))
            rows += list(divergence(*logs))
        found.append(np.mean(rows))
    return np.array(found)


# The terms


def teaching(teacher, student, tokenizer, data, max_length, weights):
    options = QuantizeOptions(distillation=weights)
    job = StageJob(data, data, options, 0, max_length, data, data, teacher)
    return distillation_loss(job, student, tokenizer)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_logits_against_the_definition(temperature):
    teacher, student = np.array([[1.0, 2.0, -1.0], [0.0, 5.0, 0.0]]), np.array([[0.5, 0.0, 1.0], [3.0, 5.0, -2.0]])
    p, q = (softmax(logits / temperature, axis=-1) for logits in (teacher, student))
    expected = temperature**2 * (p * np.log(p / q)).sum(-1)
    found = divergence_of_classes(torch.tensor(teacher), torch.tensor(student), temperature)
    assert np.allclose(found, expected, rtol=1e-4)


def test_logits_of_two_labels_by_hand():
    # p = (1/2, 1/2), q = (1/4, 3/4): KL = ln(2)/2 + ln(2/3)/2 = ln(4/3)/2.
    teacher, student = torch.zeros(1, 2), torch.tensor([[0.0, math.log(3)]])
    assert divergence_of_classes(teacher, student, 1.0).item() == pytest.approx(math.log(4 / 3) / 2)
    # Twice the logits at twice the temperature: four times as much.
    assert divergence_of_classes(teacher, 2 * student, 2.0).item() == pytest.approx(2 * math.log(4 / 3))


def test_hidden_states_by_hand_without_padding():
    teacher = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[1.0, 1.0], [100.0, 100.0]]])
    student = torch.tensor([[[0.0, 2.0], [3.0, 7.0]], [[1.0, 3.0], [-100.0, 50.0]]])
    mask = torch.tensor([[1, 1], [1, 0]])
    # ((1 + 0)/2 + (0 + 9)/2) / 2, and (0 + 4)/2
    assert hidden_distance(teacher, student, mask).tolist() == [2.5, 2.0]


@pytest.mark.parametrize(("width", "other", "heads"), [(32, 32, 4), (48, 24, 3), (8, 8, 1)])
def test_relations_against_numpy(width, other, heads):
    random = np.random.default_rng(0)
    teacher, student = (random.normal(size=(3, 6, size)).astype(np.float32) for size in (width, other))
    lengths = [6, 1, 4]
    mask = torch.tensor([[1] * length + [0] * (6 - length) for length in lengths])
    found = relation_divergence(torch.tensor(teacher), torch.tensor(student), mask)
    assert relation_heads(width, other) == heads
    assert np.allclose(found, by_relations(teacher, student, lengths, heads), rtol=1e-4, atol=1e-7)
    # One token relates to itself alone, whatever the model.
    assert found[1] == 0


def test_relations_have_gradients_beside_padding():
    teacher, student = torch.randn(2, 5, 16), torch.randn(2, 5, 16, requires_grad=True)
    mask = torch.tensor([[1] * 5, [1, 1, 0, 0, 0]])
    relation_divergence(teacher, student, mask).sum().backward()
    assert torch.isfinite(student.grad).all()
    assert (student.grad[1, 2:] == 0).all()
    assert (student.grad[1, :2] != 0).any()


@pytest.mark.parametrize(
    ("width", "other", "heads"),
    [(768, 768, 48), (768, 384, 48), (384, 384, 48), (1024, 768, 32), (768, 320, 32), (5, 7, 1)],
)
def test_relation_heads_divide_both_widths(width, other, heads):
    assert relation_heads(width, other) == relation_heads(other, width) == heads


@pytest.mark.parametrize(
    ("layers", "total", "expected"),
    [
        (6, 12, [1, 3, 5, 7, 9, 11]),
        (3, 6, [1, 3, 5]),
        (1, 2, [1]),
        (5, 12, [2, 4, 7, 9, 11]),
        (2, 3, [1, 2]),
        (3, 3, [0, 1, 2]),
        (4, 2, [0, 0, 1, 1]),
    ],
)
def test_layers_are_evenly_spaced_and_end_with_the_last(layers, total, expected):
    assert evenly_spaced(layers, total) == expected


# Their sum over models


def as_kind(model, kind):
    """Return a transformers model, or the same as our encoder, float or on calibrated integers."""
    if kind == "transformers":
        return model
    encoder = convert(model, INT if kind == "integer" else frozenset())
    if kind == "integer":
        with encoder.calibrating(0.95):
            encoder(**batch(model, rows=8, length=20, seed=5))
    return encoder


def states(model, inputs):
    """Return logits, hidden states of the layers, and queries, keys, values of the last one, without hooks."""
    inputs = {key: tensor for key, tensor in inputs.items() if key != "labels"}
    if not hasattr(model, "shape"):
        outputs = model(**inputs, output_hidden_states=True)
        last, before = dict(model.named_modules()), outputs.hidden_states[-2]
        ends = (".query", ".key", ".value", ".q_lin", ".k_lin", ".v_lin")
        linear = [module for key, module in last.items() if key.endswith(ends)][-3:]
        return outputs.logits, outputs.hidden_states[1:], [layer(before) for layer in linear]
    absent = inputs["attention_mask"] == 0
    masked, padding = absent[:, None, None, :], absent[:, :, None]
    x, hidden = model.embeddings(inputs["input_ids"], None, padding), []
    for layer in model.layers:
        attention = [getattr(layer.attention, part)(x.narrow) for part in ("query", "key", "value")]
        x = layer(x, masked, padding)
        hidden.append(real(x.wide))
    return model.head(hidden[-1][:, 0]), hidden, [real(part) for part in attention]


def expected_loss(teacher, student, inputs, weights):
    """Compute the loss from what `states` finds, with NumPy and torch's cross-entropy."""
    with torch.no_grad():
        (p, theirs, their_attention), (q, ours, our_attention) = (states(model, inputs) for model in (teacher, student))
    lengths = inputs["attention_mask"].sum(1).tolist()
    terms = weights.temperature**2 * divergence(
        *(log_softmax(logits.double().numpy() / weights.temperature, axis=-1) for logits in (p, q))
    )
    total = weights.logits * terms.sum()
    total += weights.labels * cross_entropy(q, inputs["labels"], reduction="sum").item()
    for number, state in enumerate(ours) if weights.hidden else ():
        other = theirs[(number + 1) * len(theirs) // len(ours) - 1]
        for x, y, length in zip(other.numpy(), state.numpy(), lengths, strict=True):
            total += weights.hidden / len(ours) * np.square(x[:length] - y[:length]).mean()
    for x, y in zip(their_attention, our_attention, strict=True):
        heads = relation_heads(x.shape[-1], y.shape[-1])
        total += weights.relations * by_relations(x.numpy(), y.numpy(), lengths, heads).sum()
    return total / len(lengths)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_loss_is_the_weighted_sum_of_what_the_layers_show(arch, kind):
    teacher = random_model(arch, seed=1, num_hidden_layers=4)
    student = as_kind(random_model(arch, seed=2, **still(arch)), kind)
    inputs = labeled(teacher, rows=5)
    loss = DistillationLoss(teacher, student, ALL)
    expected = expected_loss(teacher, student, inputs, ALL)
    assert loss(student, inputs).item() == pytest.approx(expected, rel=1e-4)
    # While training, integers are overwritten in place after they were seen.
    assert loss(student.train(), inputs).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_can_teach(kind):
    teacher, student = as_kind(random_model(seed=1), kind), random_model(seed=2)
    inputs = labeled(student)
    found = DistillationLoss(teacher, student, ALL)(student, inputs)
    assert found.item() == pytest.approx(expected_loss(teacher, student, inputs, ALL), rel=1e-4)


def test_a_wider_teacher_shows_relations():
    teacher, student = random_model(seed=1), random_model(seed=2, **NARROW)
    weights, inputs = only(relations=1.0), labeled(student)
    found = DistillationLoss(teacher, student, weights)(student, inputs)
    assert found.item() == pytest.approx(expected_loss(teacher, student, inputs, weights), rel=1e-4)
    with pytest.raises(UserError, match=r"^distillation.hidden: hidden states are 16 wide in the student and 32 in"):
        DistillationLoss(teacher, student, only(hidden=1.0))


def test_any_model_can_teach_by_its_logits():
    config = AlbertConfig(
        vocab_size=99, hidden_size=8, embedding_size=8, num_attention_heads=1, intermediate_size=8, num_labels=2
    )
    teacher, student = AutoModelForSequenceClassification.from_config(config).eval(), random_model()
    inputs = labeled(student)
    weights = only(logits=1.0, temperature=1.0)
    with torch.no_grad():
        given = {key: inputs[key] for key in ("input_ids", "attention_mask")}
        p, q = (model(**given).logits.double().log_softmax(-1).numpy() for model in (teacher, student))
    found = DistillationLoss(teacher, student, weights)(student, inputs)
    assert found.item() == pytest.approx(divergence(p, q).mean(), rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_copy_of_the_teacher_has_nothing_to_learn(arch, kind):
    teacher, student = (as_kind(random_model(arch, seed=1, **still(arch)), kind) for _ in range(2))
    loss = DistillationLoss(teacher, student, only(logits=1.0, hidden=1.0, relations=1.0))
    found = loss(student, labeled(random_model(arch)))
    assert found.item() == pytest.approx(0, abs=1e-12)
    found.backward()
    assert all(parameter.grad.abs().max() < 1e-6 for parameter in student.parameters() if parameter.grad is not None)
    assert all(parameter.grad is None for parameter in teacher.parameters())


def gradients(model):
    found = {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_parts_add_up_to_the_whole_batch(kind):
    teacher, student = random_model(seed=1), as_kind(random_model(seed=2, **STILL), kind)
    loss, inputs = DistillationLoss(teacher, student, ALL), labeled(teacher, rows=6, length=14)
    whole = loss(student, inputs)
    whole.backward()
    expected = gradients(student)
    order, total = inputs["attention_mask"].sum(1).argsort(), 0.0
    for part in (order[:2], order[2:]):
        # Each part is as long as its longest example.
        length = int(inputs["attention_mask"][part].sum(1).max())
        piece = {key: t[part] if t.ndim == 1 else t[part, :length] for key, t in inputs.items()}
        share = loss(student, piece, torch.tensor(6))
        share.backward()
        total += share.item()
    assert total == pytest.approx(whole.item(), rel=1e-5)
    for key, gradient in gradients(student).items():
        assert torch.allclose(gradient, expected[key], rtol=1e-3, atol=1e-5), key


def test_integers_that_are_overwritten_leave_right_gradients():
    encoder, model = calibrated(**STILL)
    loss, inputs = DistillationLoss(random_model(seed=3), encoder, ALL), labeled(model)
    found = []
    for training in (False, True):
        loss(encoder.train(training), inputs).backward()
        found.append(gradients(encoder))
    assert found[0].keys() == found[1].keys() >= {"layers.1.attention.query.weight", "embeddings.word.weight"}
    for key, gradient in found[0].items():
        assert gradient.abs().max() > 0 or key.endswith("key.bias"), key
        assert torch.allclose(gradient, found[1][key], rtol=1e-4, atol=1e-7), key


def test_gradients_of_our_encoder_are_those_of_transformers():
    teacher, found = random_model(seed=1), []
    for kind in ("transformers", "float"):
        student = as_kind(random_model(seed=2), kind)
        DistillationLoss(teacher, student, ALL)(student, labeled(teacher)).backward()
        found.append(sorted(gradients(student).values(), key=lambda gradient: gradient.norm().item()))
    norms = [[gradient.norm().item() for gradient in side] for side in found]
    assert norms[0] == pytest.approx(norms[1], rel=1e-3, abs=1e-5)


def test_the_loss_has_float32_in_mixed_precision():
    teacher, student = random_model(seed=1), random_model(seed=2)
    inputs, loss = labeled(teacher), DistillationLoss(teacher, student, ALL)
    exact = loss(student, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = loss(student, inputs)
        # Both models in the same precision: a teacher in float32 would differ from its copy.
        copy = random_model(seed=1)
        assert DistillationLoss(teacher, copy, only(logits=1.0, hidden=1.0, relations=1.0))(copy, inputs).item() < 1e-6
    assert mixed.dtype == torch.float32
    assert mixed.item() == pytest.approx(exact.item(), rel=0.05)
    assert mixed.item() != exact.item()
    mixed.backward()
    assert all(gradient.isfinite().all() and gradient.any() for gradient in gradients(student).values())


def test_the_host_waits_for_nothing(monkeypatch):
    # Tensors without data have no mixed precision.
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    # Whoever asked for a value would raise.
    teacher, student = (as_kind(random_model(seed=seed), "float").to("meta") for seed in (1, 2))
    inputs = {key: tensor.to("meta") for key, tensor in labeled(random_model()).items()}
    examples = torch.tensor(4, device="meta")
    loss = DistillationLoss(teacher, student, ALL, separator=3)(student, inputs, examples)
    loss.backward()
    assert loss.device.type == "meta"


def test_hooks_do_not_stay():
    teacher, student = random_model(), random_model()
    DistillationLoss(teacher, student, ALL)(student, labeled(student))
    assert not any(module._forward_hooks for model in (teacher, student) for module in model.modules())


# Teachers on disk


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_data(tmp_path_factory.mktemp("data") / "data", n=24)


def test_teacher_and_weights_belong_together(data, tmp_path):
    teacher, student = tiny_checkpoint(tmp_path / "teacher"), random_model()
    assert teaching(None, student, tiny_tokenizer(), data, 32, None) is None
    with pytest.raises(UserError, match=r"^distillation: there is no --teacher"):
        teaching(None, student, tiny_tokenizer(), data, 32, ALL)
    with pytest.raises(UserError, match=r"^--teacher: there is no distillation"):
        teaching(teacher, student, tiny_tokenizer(), data, 32, None)


def test_a_teacher_that_does_not_fit_is_refused(data, tmp_path):
    other = tiny_checkpoint(tmp_path / "other", "roberta")
    with pytest.raises(UserError, match=r"^distillation: the vocabulary of the teacher .*other is another than the"):
        teaching(other, random_model(), tiny_tokenizer(), data, 32, ALL)
    same_words = tiny_tokenizer()
    same_words.backend_tokenizer.normalizer = normalizers.Replace("the", "a")
    with pytest.raises(UserError, match=r"^distillation: the tokenizer of the teacher .*bert makes other tokens"):
        teaching(tiny_checkpoint(tmp_path / "bert"), random_model(), same_words, data, 32, ALL)
    reversed_ = tiny_checkpoint(tmp_path / "reversed", labels=("positive", "negative"))
    with pytest.raises(UserError, match=r"^distillation: the teacher .*reversed tells .'positive', 'negative'. apart"):
        teaching(reversed_, random_model(), tiny_tokenizer(), data, 32, ALL)
    teacher = tiny_checkpoint(tmp_path / "teacher")
    with pytest.raises(UserError, match=f"^max_length: {MAX_LENGTH + 1} tokens, but the teacher"):
        teaching(teacher, random_model(), tiny_tokenizer(), data, MAX_LENGTH + 1, ALL)


def test_labels_are_compared_in_their_order(tmp_path):
    labels = tuple(f"label {number}" for number in range(12))
    teacher = tiny_checkpoint(tmp_path / "teacher", labels=labels)
    with new_artifact(tmp_path / "data", "data") as draft:
        (draft / "task.json").write_text(json.dumps({"kind": SINGLE_LABEL, "labels": labels}))
        pq.write_table(pa.table({"text_a": ["the film was long"]}), draft / "validation.parquet")
    assert teaching(teacher, random_model(), tiny_tokenizer(), tmp_path / "data", 32, ALL) is not None


def test_an_encoder_of_ours_teaches_from_disk(data, tmp_path):
    model = random_model()
    with new_artifact(tmp_path / "teacher", "checkpoint") as draft:
        save_encoder(convert(model, frozenset()), model.config, draft)
        tiny_tokenizer().save_pretrained(draft)
    student = random_model(seed=2)
    found = teaching(tmp_path / "teacher", student, tiny_tokenizer(), data, 32, ALL)
    expected = DistillationLoss(model, student, ALL)
    inputs = labeled(student)
    assert found(student, inputs).item() == pytest.approx(expected(student, inputs).item(), rel=1e-4)


def test_a_teacher_gets_the_segments_that_its_student_does_not_read(tmp_path):
    data = tiny_data(tmp_path / "data", n=24, pair=True)
    teacher = tiny_checkpoint(tmp_path / "teacher")
    loss = teaching(teacher, random_model("distilbert"), tiny_tokenizer("distilbert"), data, 32, only(logits=1.0))
    seen = []
    loss.teacher.register_forward_pre_hook(lambda _, __, kwargs: seen.append(kwargs), with_kwargs=True)
    student = random_model("distilbert")
    batches = []
    for arch in ("bert", "distilbert"):
        rows = read_tokens(data, "train", tiny_tokenizer(arch), 32, labels=True)
        batches.append(dict(collate(tiny_tokenizer(arch))(list(rows[:6]))))
    loss(student, batches[1])
    assert "token_type_ids" not in batches[1]
    assert batches[0]["token_type_ids"].any()
    assert seen[0].keys() == batches[0].keys() - {"labels"}
    assert all(torch.equal(tensor, batches[0][key]) for key, tensor in seen[0].items())


def test_a_teacher_that_reads_no_segments_gets_none(tmp_path):
    data = tiny_data(tmp_path / "data", n=24, pair=True)
    teacher, student = tiny_checkpoint(tmp_path / "teacher", "distilbert"), random_model()
    loss = teaching(teacher, student, tiny_tokenizer(), data, 32, only(logits=1.0))
    seen = []
    loss.teacher.register_forward_pre_hook(lambda _, __, kwargs: seen.append(kwargs), with_kwargs=True)
    loss(student, labeled(student, types=True))
    assert seen[0].keys() == {"input_ids", "attention_mask"}


# Training with it


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_training_minimizes_and_logs_it_and_validates_by_the_labels(data, tmp_path, monkeypatch, kind, parts):
    teacher, model = random_model(seed=1), as_kind(random_model(seed=2, **STILL), kind)
    before = {key: tensor.clone() for key, tensor in teacher.state_dict().items()}
    rows = read_tokens(data, "train", tiny_tokenizer(), 32, labels=True)
    everything = dict(collate(tiny_tokenizer())(list(rows[:24])))
    everything.pop("token_type_ids")
    loss = DistillationLoss(teacher, model, ALL)
    expected = expected_loss(teacher, model.eval(), everything, ALL)
    calls = []
    monkeypatch.setattr(distillation, "_outputs_of", counted(distillation._outputs_of, calls))
    options = FinetuneOptions(batch_size=24, gradient_accumulation=parts, max_steps=2, learning_rate=1e-2, warmup=0)
    job = StageJob(tmp_path, data, options, 0, 32, tmp_path / "work", tmp_path / "output")
    result = train(job, Learner(model, tiny_tokenizer(), loss=loss))
    losses = [row["value"] for row in result.history if row["name"] == "loss"]
    assert losses[0] == pytest.approx(expected, rel=1e-4)
    assert losses[1] < losses[0]
    # Two models a part and step; nothing of it in the evaluations.
    assert len(calls) == 2 * 2 * parts
    rows = read_tokens(data, "validation", tiny_tokenizer(), 32, labels=True)
    inputs = dict(collate(tiny_tokenizer())(list(rows)))
    labels = inputs.pop("labels")
    with torch.no_grad():
        logits = model.eval()(**inputs).logits
    assert result.validation["loss"] == pytest.approx(cross_entropy(logits, labels).item(), rel=1e-4)
    assert not teacher.training
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(torch.equal(tensor, before[key]) for key, tensor in teacher.state_dict().items())


def counted(function, calls):
    def counting(*args):
        calls.append(args)
        return function(*args)

    return counting
