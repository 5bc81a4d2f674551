import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import nn
from torch.nn.utils import prune as torch_prune

from encoders import ARCHITECTURES, batch, random_model
from intaglio.encoder.files import convert
from intaglio.encoder.parts import linear_layers
from intaglio.errors import UserError
from intaglio.stages.masks import (
    HeldMasks,
    choose_masks,
    cubic_sparsity,
    held_masks,
    set_to_zero,
    sparsity_rows,
    two_of_four,
)

NAMES = ("query", "key", "value", "attention_output", "intermediate", "output")
# Few values, so that many magnitudes are equal.
VALUES = st.sampled_from([-2.0, -1.0, -0.5, -0.0, 0.0, 0.5, 1.0, 2.0])
SHARES = st.floats(0.01, 0.99)


def matrices(widths):
    shape = st.tuples(st.integers(1, 6), widths)
    return st.lists(arrays.arrays(np.float32, shape, elements=VALUES), min_size=1, max_size=4)


def smallest(values, count):
    """Where the `count` smallest magnitudes of a flat array are; NumPy's stable sort puts the first of equals first."""
    mask = np.zeros(len(values), dtype=bool)
    mask[np.argsort(np.abs(values), kind="stable")[:count]] = True
    return mask


def chosen(weights, *how):
    return [mask.numpy() for mask in choose_masks([torch.from_numpy(weight) for weight in weights], *how)]


@given(matrices(st.integers(1, 8)), SHARES)
@settings(deadline=None)
def test_of_a_layer_the_smallest_weights_are_chosen(weights, share):
    for weight, mask in zip(weights, chosen(weights, share, "layer", "unstructured"), strict=True):
        expected = smallest(weight.ravel(), round(share * weight.size))
        assert np.array_equal(mask.ravel(), expected)


@given(matrices(st.integers(1, 8)), SHARES)
@settings(deadline=None)
def test_of_all_layers_together_the_smallest_weights_are_chosen(weights, share):
    masks = np.concatenate([mask.ravel() for mask in chosen(weights, share, "global", "unstructured")])
    together = np.concatenate([weight.ravel() for weight in weights])
    assert np.array_equal(masks, smallest(together, round(share * together.size)))


@given(matrices(st.sampled_from([4, 8, 12])), st.sampled_from(["global", "layer"]))
@settings(deadline=None)
def test_two_of_four_is_the_pattern_of_a_loop(weights, scope):
    for weight, mask in zip(weights, chosen(weights, 0.5, scope, "2:4"), strict=True):
        expected = np.zeros(weight.shape, dtype=bool)
        for row in range(weight.shape[0]):
            for start in range(0, weight.shape[1], 4):
                ranked = sorted(range(start, start + 4), key=lambda column: (abs(weight[row, column]), column))
                expected[row, ranked[:2]] = True
        assert np.array_equal(mask, expected)
        assert np.array_equal(two_of_four(torch.from_numpy(weight)).numpy(), expected)


@given(matrices(st.sampled_from([4, 8])), st.sampled_from(["global", "layer"]), st.lists(st.floats(0.01, 0.5)))
@settings(deadline=None)
def test_on_the_way_to_two_of_four_masks_grow_into_each_other(weights, scope, shares):
    before = [np.zeros(weight.shape, dtype=bool) for weight in weights]
    for share in [*sorted(shares), 0.5]:
        masks = chosen(weights, share, scope, "2:4")
        assert all((new | ~old).all() for new, old in zip(masks, before, strict=True))
        assert sum(mask.sum() for mask in masks) <= sum(weight.size // 2 for weight in weights)
        for weight, mask in zip(weights, masks, strict=True):
            weight[mask] = 0
        before = masks
    assert all((mask.reshape(-1, 4).sum(1) == 2).all() for mask in before)


def test_a_width_that_does_not_divide_by_four_is_refused():
    with pytest.raises(UserError, match=r"^structure: 2:4 takes .* divide by 4, .* has 6; choose unstructured$"):
        two_of_four(torch.ones(4, 6))


def test_the_cubic_schedule_by_hand():
    # Eq. 1 with s_i = 0, s_f = 0.8, n = 4: 0.8 * (1 - 27/64), 0.8 * (1 - 1/8), 0.8 * (1 - 1/64).
    values = [cubic_sparsity(0.8, step / 4) for step in range(5)]
    assert values == pytest.approx([0, 0.4625, 0.7, 0.7875, 0.8], abs=1e-12)
    assert values[-1] == 0.8


def encoders_of(arch):
    yield random_model(arch)
    for integer in (frozenset(), frozenset({"linear"})):
        yield convert(random_model(arch), integer)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_linear_weights_of_every_layer_are_counted(arch):
    for model in encoders_of(arch):
        layers = linear_layers(model)
        assert list(layers) == [f"{number}.{name}" for number in (0, 1) for name in NAMES]
        assert [layers[f"1.{name}"].weight.shape for name in NAMES] == [(32, 32)] * 4 + [(64, 32), (32, 64)]
        assert not held_masks(model)
        masks = choose_masks([layer.weight for layer in layers.values()], 0.35, "global", "unstructured")
        set_to_zero(list(layers.values()), masks)
        rows = sparsity_rows(model)
        assert [row["zeros"] for row in rows] == [int(mask.sum()) for mask in masks]
        assert sum(row["zeros"] for row in rows) == round(0.35 * 2 * 8192) == 5734
        assert [row["weights"] for row in rows] == [1024, 1024, 1024, 1024, 2048, 2048] * 2
        assert len(held_masks(model)) == 1


def test_zeros_are_where_the_mask_is_and_nowhere_else():
    layer = nn.Linear(3, 1)
    layer.weight.data = torch.tensor([[0.0, 1.0, 2.0]])
    set_to_zero([layer], [torch.tensor([[False, True, False]])])
    assert layer.weight.tolist() == [[torch.finfo(torch.float32).tiny, 0.0, 2.0]]


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_training_with_held_masks_is_that_of_masked_layers(arch):
    """torch's own pruning multiplies weights by a mask in every forward pass."""
    model, reference = random_model(arch), random_model(arch)
    layers = list(linear_layers(model).values())
    masks = choose_masks([layer.weight for layer in layers], 0.6, "global", "unstructured")
    set_to_zero(layers, masks)
    (held,) = held_masks(model)
    held.on_train_begin(None, None, None)
    for layer, mask in zip(linear_layers(reference).values(), masks, strict=True):
        torch_prune.custom_from_mask(layer, "weight", ~mask)
    inputs = batch(model)
    for network, after_step in ((model, held.on_optimizer_step), (reference, None)):
        groups = [
            {"params": [p for p in network.parameters() if p.ndim > 1], "weight_decay": 0.1},
            {"params": [p for p in network.parameters() if p.ndim < 2], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=1e-3)
        for label in (0, 1, 1):
            nn.functional.cross_entropy(network(**inputs).logits, torch.full((4,), label)).backward()
            # So small that every step is clipped: weights that are to be zero must not count for the norm.
            nn.utils.clip_grad_norm_(network.parameters(), 1e-2)
            optimizer.step()
            optimizer.zero_grad()
            if after_step is not None:
                after_step(None, None, None)
    assert (model(**inputs).logits - reference(**inputs).logits).abs().max() < 1e-6
    for layer, other, mask in zip(layers, linear_layers(reference).values(), masks, strict=True):
        assert torch.equal(layer.weight == 0, mask)
        assert (layer.weight - other.weight_orig * ~mask).abs().max() < 1e-6


def test_after_training_gradients_pass_again():
    model = random_model()
    layers = list(linear_layers(model).values())
    set_to_zero(layers, [torch.ones_like(layer.weight, dtype=torch.bool) for layer in layers])
    held = HeldMasks(model)
    for end in (False, True):
        held.on_train_end(None, None, None) if end else held.on_train_begin(None, None, None)
        model.zero_grad()
        model(**batch(model)).logits.sum().backward()
        assert bool(layers[-1].weight.grad.any()) == end
