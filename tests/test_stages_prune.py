import gc
import json
import shutil
import signal
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, TrainerCallback

from encoders import ARCHITECTURES
from intaglio import store
from intaglio.checkpoint import TRAINING_RECORD, Checkpoint
from intaglio.encoder.cutting import Kept, cut_out
from intaglio.encoder.files import convert, save_encoder
from intaglio.encoder.parts import linear_layers
from intaglio.errors import UserError
from intaglio.execution.constants import constants_of
from intaglio.metrics import KNOWN_METRICS
from intaglio.stages import run as stage_run
from intaglio.stages.masks import sparsity_rows
from intaglio.stages.prune import GradualMasks
from intaglio.study.options import Distillation, PruneOptions, QuantizeOptions
from intaglio.training.train import train
from stage_runs import assert_same_outcome, prune, quantize
from tiny import tiny_checkpoint, tiny_data

WEIGHTS = 2 * (4 * 32 * 32 + 2 * 32 * 64)
# A large learning rate moves every weight.
TRAINING = {"learning_rate": 1e-2, "max_steps": 12, "batch_size": 8, "checkpoint_minutes": 60, "evaluations": 6}
STEPS = 12


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True, scope="module")
def quick_collection():
    """Every training ends with a garbage collection, which would look through all that was ever imported."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_data(tmp_path_factory.mktemp("data") / "data", n=40)


def with_record(checkpoint):
    (checkpoint / TRAINING_RECORD).write_text(json.dumps({"total_train_seconds": 1.0}))
    return checkpoint


@pytest.fixture(scope="module")
def parents(tmp_path_factory):
    """A float checkpoint of every architecture."""
    folder = tmp_path_factory.mktemp("parents")
    return {arch: with_record(tiny_checkpoint(folder / arch, arch)) for arch in ARCHITECTURES}


def as_encoder(folder, parent, change):
    """Write the checkpoint as an Intaglio encoder, after a change."""
    model = Checkpoint(parent).load()
    with store.new_artifact(folder, "checkpoint") as draft:
        save_encoder(change(convert(model, frozenset())), model.config, draft)
        for file in parent.glob("tokenizer*"):
            shutil.copy(file, draft)
    return with_record(folder)


@pytest.fixture(scope="module")
def converted(parents, tmp_path_factory):
    return as_encoder(tmp_path_factory.mktemp("encoder") / "encoder", parents["bert"], lambda encoder: encoder)


@pytest.fixture(scope="module")
def smaller(parents, tmp_path_factory):
    """With one head and 40 neurons in the first layer, two and 64 in the second."""
    kept = Kept(((1,), (0, 1)), (tuple(range(0, 40)), tuple(range(64))))
    return as_encoder(tmp_path_factory.mktemp("smaller") / "smaller", parents["bert"], partial(cut_out, kept=kept))


class Watch(TrainerCallback):
    """Keeps the masks after every step and in every evaluation; sends SIGTERM, or dies, in a step."""

    def __init__(self, leave=None, die=None):
        self.leave, self.die = leave, die
        self.zeros, self.evaluated = {}, {}

    @staticmethod
    def masks(model):
        return torch.cat([(layer.weight == 0).flatten() for layer in linear_layers(model).values()])

    def on_step_end(self, _args, state, _control, model, **_):
        self.zeros[state.global_step] = self.masks(model)
        if state.global_step == self.leave:
            signal.raise_signal(signal.SIGTERM)
        if state.global_step == self.die:
            raise KeyboardInterrupt

    def on_evaluate(self, _args, state, _control, model, **_):
        self.evaluated[state.global_step] = self.masks(model)


@pytest.fixture
def run(data, tmp_path, monkeypatch):
    """Run a stage here under a Watch; keyword arguments are options. Return its output folder and what was watched."""

    def start(stage, parent, name="output", leave=None, die=None, teacher=None, **options):
        watch = Watch(leave, die)
        kind = PruneOptions if stage is prune else QuantizeOptions
        output = tmp_path / name
        with monkeypatch.context() as patch:
            patch.setattr(stage_run, "train", partial(_train_watched, watch))
            stage(parent, data, kind(**TRAINING | options), 3, 32, tmp_path / f"{name}-work", output, teacher)
        return output, watch

    return start


def _train_watched(watch, job, learner):
    return train(job, replace(learner, callbacks=[*learner.callbacks, watch]))


def masks_of(checkpoint):
    return Watch.masks(Checkpoint(checkpoint).load())


def pattern(weights, share, scope):
    """The mask of linear weights, by NumPy."""
    groups = [np.concatenate([weight.ravel() for weight in weights])] if scope == "global" else weights
    found = []
    for group in groups:
        mask = np.zeros(group.size, dtype=bool)
        mask[np.argsort(np.abs(group.ravel()), kind="stable")[: round(share * group.size)]] = True
        found.append(mask)
    return torch.from_numpy(np.concatenate(found))


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_one_shot_removes_the_smallest_weights_and_training_leaves_them(run, parents, scope):
    weights = [layer.weight.detach().numpy() for layer in linear_layers(Checkpoint(parents["bert"]).load()).values()]
    expected = pattern(weights, 0.37, scope)
    output, watch = run(prune, parents["bert"], schedule="one-shot", sparsity=0.37, scope=scope)
    assert len(watch.zeros) == STEPS
    assert all(torch.equal(zeros, expected) for zeros in [*watch.zeros.values(), *watch.evaluated.values()])
    assert torch.equal(masks_of(output), expected)
    record = Checkpoint(output).record
    assert record["sparsity"] == sparsity_rows(Checkpoint(output).load())
    assert (record["stage"], record["steps"], record["total_train_seconds"] > 1) == ("prune", STEPS, True)
    # All that is not zero has moved.
    before, after = Checkpoint(parents["bert"]).load(), Checkpoint(output).load()
    for layer, other in zip(linear_layers(before).values(), linear_layers(after).values(), strict=True):
        assert (layer.weight != other.weight).all()


@pytest.mark.parametrize("schedule", ["one-shot", "gradual"])
def test_two_of_every_four_are_removed(run, parents, schedule):
    output, watch = run(prune, parents["roberta"], structure="2:4", schedule=schedule)
    fours = masks_of(output).view(-1, 4)
    assert (fours.sum(1) == 2).all()
    assert all((zeros.view(-1, 4).sum(1) <= 2).all() for zeros in watch.zeros.values())
    assert (watch.zeros[1].sum() == WEIGHTS // 2) == (schedule == "one-shot")


def test_gradual_pruning_follows_the_schedule_and_its_masks_grow(run, parents, monkeypatch):
    # The metric falls from evaluation to evaluation: the first would be the best.
    values = iter(np.linspace(1, 0, 6))
    monkeypatch.setitem(KNOWN_METRICS, "accuracy", replace(KNOWN_METRICS["accuracy"], compute=lambda *_: next(values)))
    options = {"sparsity": 0.6, "pruning": 0.5, "prunings": 4}
    output, watch = run(prune, parents["bert"], **options)
    # Six steps in four parts: 1.5, 3, 4.5, 6, of two nearest numbers the even one.
    shares = {2: 0.6 * 37 / 64, 3: 0.6 * 7 / 8, 4: 0.6 * 63 / 64, 6: 0.6}
    expected, before = 0, torch.zeros(WEIGHTS, dtype=torch.bool)
    for step in range(1, STEPS + 1):
        expected = round(shares[step] * WEIGHTS) if step in shares else expected
        assert watch.zeros[step].sum() == expected
        assert (watch.zeros[step] | ~before).all()
        assert step in shares or torch.equal(watch.zeros[step], before)
        before = watch.zeros[step]
    # Evaluations stand at every second step.
    assert Checkpoint(output).record["best_step"] == 6
    assert torch.equal(masks_of(output), watch.zeros[6])
    assert sum(row["zeros"] for row in Checkpoint(output).record["sparsity"]) == round(0.6 * WEIGHTS)


def test_weights_are_removed_until_the_last_step_if_so_asked(run, parents):
    output, _ = run(prune, parents["bert"], sparsity=0.9, pruning=1.0, scope="layer", patience=1)
    assert Checkpoint(output).record["best_step"] == STEPS
    zeros = [row["zeros"] for row in Checkpoint(output).record["sparsity"]]
    assert zeros == [922, 922, 922, 922, 1843, 1843] * 2


@pytest.mark.parametrize(
    ("options", "sparsities"),
    [
        ({"prunings": 2, "pruning": 0.5, "sparsity": 0.8}, {5: 0.7, 10: 0.8}),
        ({"prunings": 10, "pruning": 0.1, "sparsity": 0.8}, {1: 0.8 * (1 - 0.5**3), 2: 0.8}),
        ({"prunings": 3, "pruning": 0.01}, {1: 0.5}),
    ],
)
def test_prunings_at_the_same_step_are_one_and_none_comes_before_the_first(parents, options, sparsities):
    found = GradualMasks(Checkpoint(parents["bert"]).load(), PruneOptions(**options)).sparsities(20)
    assert found[max(found)] == sparsities[max(sparsities)]
    if options["pruning"] == 0.1:
        assert set(found) == {1, 2}
    else:
        assert found == pytest.approx(sparsities)


@pytest.mark.parametrize("parent", ["transformers", "encoder"])
def test_a_gradual_pruning_that_was_interrupted_ends_the_same_to_the_bit(run, parents, converted, parent):
    start = partial(
        run, prune, converted if parent == "encoder" else parents["bert"], sparsity=0.6, prunings=4, pruning=0.75
    )
    undisturbed, _ = start("undisturbed")
    # Weights are removed after steps 2, 4, 7 and 9: asked to leave right then, dead between two removals.
    with pytest.raises(SystemExit) as leaving:
        start("broken", leave=4)
    assert leaving.value.code == 143
    with pytest.raises(KeyboardInterrupt):
        start("broken", die=8, checkpoint_minutes=0)
    resumed, watch = start("broken")
    assert min(watch.zeros) == 8
    assert_same_outcome(undisturbed, resumed)


def test_one_shot_pruning_that_was_interrupted_ends_the_same_to_the_bit(run, parents):
    start = partial(run, prune, parents["bert"], sparsity=0.6, schedule="one-shot", max_steps=6)
    undisturbed, _ = start("undisturbed")
    with pytest.raises(SystemExit):
        start("broken", leave=3)
    assert_same_outcome(undisturbed, start("broken")[0])


def test_an_encoder_is_pruned_as_the_transformers_model(run, parents, converted):
    output, _ = run(prune, converted, schedule="one-shot", sparsity=0.5, max_steps=2)
    reference, _ = run(prune, parents["bert"], "reference", schedule="one-shot", sparsity=0.5, max_steps=2)
    assert Checkpoint(output).kind == "encoder"
    assert not Checkpoint(output).load().shape.integer
    assert torch.equal(masks_of(output), masks_of(reference))


@pytest.mark.parametrize("structure", ["unstructured", "2:4"])
def test_what_was_cut_is_pruned_and_quantized(run, smaller, structure):
    pruned, _ = run(prune, smaller, "pruned", structure=structure, schedule="one-shot", scope="layer", max_steps=2)
    rows = Checkpoint(pruned).record["sparsity"]
    assert [row["weights"] for row in rows] == [512] * 4 + [1280] * 2 + [1024] * 4 + [2048] * 2
    assert all(2 * row["zeros"] == row["weights"] for row in rows)
    assert Checkpoint(pruned).load().shape.heads == (1, 2)
    quantized, _ = run(quantize, pruned, "quantized", max_steps=2)
    assert torch.equal(masks_of(quantized), masks_of(pruned))
    assert Checkpoint(quantized).load().shape.neurons == (40, 64)


def test_a_teacher_helps_to_recover_and_is_not_pruned(run, parents):
    options = {"schedule": "one-shot", "max_steps": 3, "evaluations": 1, "distillation": Distillation(labels=0)}
    alone, _ = run(prune, parents["bert"], "alone", **options | {"distillation": None})
    taught, _ = run(prune, parents["bert"], "taught", teacher=parents["bert"], **options)
    assert torch.equal(masks_of(taught), masks_of(alone))
    weights = [load_file(output / "model.safetensors") for output in (alone, taught)]
    assert weights[0].keys() == weights[1].keys()
    assert not torch.equal(*(found["classifier.weight"] for found in weights))
    with pytest.raises(UserError, match="distillation: there is no --teacher"):
        run(prune, parents["bert"], "without", **options)


@pytest.mark.parametrize("parent", ["transformers", "encoder"])
def test_the_options_decide_about_dropout(run, parents, converted, parent):
    start = partial(run, prune, converted if parent == "encoder" else parents["bert"], max_steps=3)
    first = start("first", dropout=0.0, attention_dropout=0.0)[0]
    second = start("second", dropout=0.5, attention_dropout=0.0)[0]
    third = start("third")[0]
    assert [Checkpoint(output).config().hidden_dropout_prob for output in (first, second, third)] == [0.0, 0.5, 0.1]
    found = [load_file(output / "model.safetensors") for output in (first, second, third)]
    assert len({float(weights[min(weights)].double().sum()) for weights in found}) == 3


def test_the_configuration_is_the_parents(run, parents):
    output, _ = run(prune, parents["electra"], max_steps=2)
    found, expected = (AutoConfig.from_pretrained(folder).to_dict() for folder in (output, parents["electra"]))
    # The first is the path; the second is turned off by every training.
    for name in ("_name_or_path", "use_cache"):
        found.pop(name), expected.pop(name)
    assert found == expected


@pytest.mark.parametrize(
    ("arch", "structure"), [("bert", "2:4"), *((arch, "unstructured") for arch in ARCHITECTURES[1:])]
)
def test_masks_hold_through_quantization_in_real_weights_and_in_integers(run, parents, arch, structure):
    pruned, _ = run(prune, parents[arch], "pruned", structure=structure, schedule="one-shot", max_steps=2)
    expected = masks_of(pruned)
    assert expected.sum() == WEIGHTS // 2
    output, watch = run(quantize, pruned, max_steps=4, evaluations=2)
    assert len(watch.evaluated) == 2
    assert all(torch.equal(zeros, expected) for zeros in [*watch.zeros.values(), *watch.evaluated.values()])
    assert torch.equal(masks_of(output), expected)
    assert Checkpoint(output).record["sparsity"] == Checkpoint(pruned).record["sparsity"]
    integers = []
    for layer in constants_of(Checkpoint(output).load()).layers:
        integers += [layer.projections.weight, layer.attention_output.weight, layer.intermediate.weight]
        integers.append(layer.output.weight)
    values = torch.cat([weight.flatten() for weight in integers])
    assert not values[expected].any()
    # What is left is quantized to zero only where it is small.
    assert values[~expected].ne(0).float().mean() > 0.9


def test_a_quantization_that_was_interrupted_keeps_the_masks(run, parents):
    pruned, _ = run(prune, parents["bert"], "pruned", schedule="one-shot", max_steps=2)
    start = partial(run, quantize, pruned, max_steps=6, evaluations=3)
    undisturbed, _ = start("undisturbed")
    with pytest.raises(SystemExit):
        start("broken", leave=3)
    resumed, _ = start("broken")
    assert_same_outcome(undisturbed, resumed)
    assert torch.equal(masks_of(resumed), masks_of(pruned))


def test_quantizing_what_is_not_pruned_records_no_sparsity(run, parents):
    assert "sparsity" not in Checkpoint(run(quantize, parents["bert"], max_steps=2)[0]).record


def test_a_parent_with_more_zeros_than_asked_for_is_refused(run, parents):
    pruned, _ = run(prune, parents["bert"], "pruned", schedule="one-shot", sparsity=0.5, max_steps=2)
    with pytest.raises(UserError, match=r"8192 of its weights are zero already, more than the 4915 .* sparsity: 0\.3"):
        run(prune, pruned, sparsity=0.3)


def test_a_quantized_parent_is_refused(run, parents):
    quantized, _ = run(quantize, parents["bert"], "quantized", max_steps=2)
    with pytest.raises(UserError, match="is quantized already, and its integers are final"):
        run(prune, quantized)


def test_a_parent_without_a_record_is_refused(run, tmp_path):
    with pytest.raises(UserError, match=r"no training\.json"):
        run(prune, tiny_checkpoint(tmp_path / "bare"))


def test_a_sparsity_that_was_not_reached_is_a_defect(run, parents, monkeypatch):
    monkeypatch.setattr(GradualMasks, "sparsities", lambda *_: {1: 0.4})
    with pytest.raises(RuntimeError, match=r"the weights are not 0\.5 zero"):
        run(prune, parents["bert"], max_steps=3)
