"""Every kind of int8 product is exact; choosing the fastest takes milliseconds and changes no result."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import intaglio
from encoders import batch, calibrated, loss_of
from intaglio.arithmetic import linear
from intaglio.errors import UserError
from intaglio.execution.on_torch import integer_model
from intaglio.native.build import built
from intaglio.products import choice, kernels
from intaglio.products.choice import fastest, product
from intaglio.products.kernels import FloatProduct, IntegerProduct, IntProduct, NativeProduct, OneDnnProduct

# What weights of an output channel sum to at most, and a bias with the half of a shift (docs/arithmetic.md).
WEIGHT_SUM, BIAS = 98_400, 2**21 + 2**19


def has_onednn() -> bool:
    """Whether oneDNN's product is here, and exact: it saturates on a CPU without VNNI, where it is not used."""
    ones = torch.full((4, 64), 127, dtype=torch.int8)
    try:
        found = OneDnnProduct(ones, torch.zeros(4, dtype=torch.int32))(ones)
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
    return bool((found == 127 * 127 * 64).all())


def has_library() -> bool:
    """Whether the native library is here, or can be compiled."""
    try:
        return built().is_file()
    except UserError:
        return False


KINDS = [
    pytest.param(FloatProduct, "cpu", id="float"),
    pytest.param(
        OneDnnProduct,
        "cpu",
        id="onednn",
        marks=pytest.mark.skipif(not has_onednn(), reason="no exact int8 product of oneDNN on this CPU"),
    ),
    pytest.param(IntProduct, "cpu", id="int"),
    pytest.param(
        NativeProduct, "cpu", id="native", marks=pytest.mark.skipif(not has_library(), reason="no C++ compiler")
    ),
    *(
        pytest.param(
            kind,
            "cuda",
            id=f"{kind.__name__}-cuda",
            marks=pytest.mark.gpu,
        )
        for kind in (IntProduct, FloatProduct)
    ),
]


def exact(kind: Any, x: np.ndarray, weight: np.ndarray, bias: np.ndarray, device: str) -> None:
    """Assert that a product is that of int64."""
    int8, int32 = (torch.as_tensor(weight, dtype=torch.int8), torch.as_tensor(bias, dtype=torch.int32))
    found = kind(int8.to(device), int32.to(device))(torch.as_tensor(x, dtype=torch.int8, device=device))
    assert found.dtype in (torch.int32, torch.float32)
    np.testing.assert_array_equal(found.cpu().numpy(), x.astype(np.int64) @ weight.astype(np.int64).T + bias)


def saturating(rows: int, inner: int, outer: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Products of the largest numbers, of all signs: sums of pairs leave 16 bits, sums of a row reach 2^24."""
    signs = np.where(np.arange(inner) % 2, -1, 1)
    largest = min(127, WEIGHT_SUM // inner)
    weight = np.stack([np.full(inner, largest), np.full(inner, -largest), signs * largest, -signs * largest])
    x = np.stack([np.full(inner, 127), np.full(inner, -128), np.where(signs > 0, 127, -128), np.zeros(inner)])
    bias = np.array([BIAS, -BIAS, BIAS, -BIAS, 0])
    return np.resize(x, (rows, inner)), np.resize(weight, (outer, inner)), np.resize(bias, outer)


@pytest.mark.parametrize(("kind", "device"), KINDS)
@pytest.mark.parametrize("rows", [1, 4, 17, 130])
@pytest.mark.parametrize(("inner", "outer"), [(8, 8), (64, 40), (768, 24), (3072, 16)])
def test_largest_numbers(kind: Any, device: str, rows: int, inner: int, outer: int) -> None:
    exact(kind, *saturating(rows, inner, outer), device)


@pytest.mark.parametrize(("kind", "device"), KINDS)
@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 70),
    inner=st.integers(1, 200),
    outer=st.integers(1, 40),
    low=st.sampled_from([0, 100, 127]),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_numbers(kind: Any, device: str, rows: int, inner: int, outer: int, low: int, seed: int) -> None:
    if kind is IntProduct:
        # what `product` gives it; torch's own is wrong on a CPU for an inner size of 1
        inner, outer = 8 * (inner // 8 + 1), 8 * (outer // 8 + 1)
    random = np.random.default_rng(seed)
    signs = random.choice([-1, 1], (2, 70, 208))
    x = (signs[0] * random.integers(low, 128, (70, 208)))[:rows, :inner]
    weight = (signs[1] * random.integers(low, 128, (70, 208)))[:outer, :inner]
    exact(kind, x, weight, random.integers(-BIAS, BIAS + 1, outer), device)


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No choice made before, and none left behind."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("os.getloadavg", lambda: (0.0, 0.0, 0.0))
    choice._remembered.cache_clear()
    yield
    choice._remembered.cache_clear()


class Absent(IntegerProduct):
    """A kernel that this torch was built without."""

    name = "absent"

    def __init__(self, *_: Tensor) -> None:
        raise RuntimeError("qlinear_prepack: not compiled")


class Saturating(IntegerProduct):
    """What int8 products are on a CPU without VNNI: unsigned times signed, pairs added up in 16 bits."""

    name = "saturating"

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.weight, self.bias = weight.int(), bias

    def __call__(self, x: Tensor) -> Tensor:
        left = (x.int() + 128)[:, None]
        pairs = (left * self.weight).unflatten(-1, (-1, 2)).sum(-1).clamp(-(2**15), 2**15 - 1)
        return (pairs.sum(-1) - 128 * self.weight.sum(1) + self.bias).float()


class ReferenceLoop(FloatProduct):
    """Exact, and as slow as oneDNN's matmul,ref_int8 on Zen 4: 0.7 s for 128 x 512 x 512."""

    name = "loop"
    slept = 0.0

    def __call__(self, x: Tensor) -> Tensor:
        pause = 0.7 * x.numel() * self.weight.shape[1] / (128 * 512 * 512)
        type(self).slept += pause
        time.sleep(pause)
        return super().__call__(x)


def chosen(monkeypatch: pytest.MonkeyPatch, *rivals: Any) -> Any:
    """The choice on a CPU that has these kernels beside float32's."""
    monkeypatch.setattr(kernels, "ON_CPU", [FloatProduct, *rivals])
    return fastest(60, 256, 512, fixed=True)


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("kind", [Saturating, Absent])
def test_a_kernel_that_saturates_or_is_absent_is_not_taken(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # however fast it is
    monkeypatch.setattr(choice, "seconds", lambda given, _: {kernel: -i for i, kernel in enumerate(given)})
    assert chosen(monkeypatch, kind) is FloatProduct


@pytest.mark.usefixtures("fresh")
def test_a_reference_loop_costs_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    ReferenceLoop.slept = 0.0
    assert chosen(monkeypatch, ReferenceLoop) is FloatProduct
    assert 0 < ReferenceLoop.slept < 0.1


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("place", range(3))
def test_the_fastest_of_exact_kernels_is_taken(place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        choice, "seconds", lambda given, _: {kernel: 1 + (i != place) for i, kernel in enumerate(given)}
    )
    first, second = (type(name, (FloatProduct,), {"name": name}) for name in ("first", "second"))
    assert chosen(monkeypatch, first, second) is [FloatProduct, first, second][place]


@pytest.mark.usefixtures("fresh")
def test_a_choice_is_made_by_size_and_remembered_for_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    class ForFew(FloatProduct):
        name = "for few"

    measured = []

    def seconds(given: Any, x: Tensor) -> Any:
        measured.append(len(x))
        return {kernel: float((kernel is ForFew) == (len(x) > 50)) for kernel in given}

    monkeypatch.setattr(kernels, "ON_CPU", [FloatProduct, ForFew])
    monkeypatch.setattr(choice, "seconds", seconds)
    sizes = [(rows, 64, 64) for rows in (1, 3, 50, 500, 5000)]
    kinds = [fastest(*size, fixed=True) for size in sizes]
    assert kinds == [ForFew, ForFew, FloatProduct, FloatProduct, FloatProduct]
    measured.clear()
    choice._remembered.cache_clear()
    assert [fastest(*size, fixed=True) for size in sizes] == kinds
    # 50 rows count as 64, and beyond 1,024 nothing changes
    assert fastest(64, 64, 64, fixed=True) is FloatProduct
    assert not measured
    # weights that change are packed for each product
    fastest(64, 64, 64, fixed=False)
    assert measured


@pytest.mark.usefixtures("fresh")
def test_a_choice_on_a_busy_machine_is_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (1000.0, 0.0, 0.0))
    fastest(4, 64, 64, fixed=True)
    assert not choice._file(torch.get_num_threads()).exists()


@pytest.mark.usefixtures("fresh")
def test_a_damaged_or_unwritable_memory_is_no_mistake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = choice._file(torch.get_num_threads())
    file.parent.mkdir()
    file.write_text("{")
    assert fastest(4, 64, 64, fixed=True) in kernels.ON_CPU
    choice._remembered.cache_clear()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert fastest(4, 64, 64, fixed=True) in kernels.ON_CPU


def test_sizes_that_int_mm_does_not_take() -> None:
    assert [IntProduct.takes(*size) for size in [(16, 8), (1, 8), (16, 4)]] == [True, False, False]


@pytest.mark.usefixtures("fresh")
def test_what_is_taken_here_is_exact() -> None:
    exact(product, *saturating(40, 768, 24), "cpu")


AVAILABLE = [FloatProduct, IntProduct, *([OneDnnProduct] if has_onednn() else []), *([NativeProduct] * has_library())]


def test_whichever_kernel_is_taken_a_model_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, _ = calibrated()
    ids = torch.randint(1, 30, (3, 16), generator=torch.Generator().manual_seed(0))
    logits = []
    for kind in AVAILABLE:
        monkeypatch.setattr(choice, "fastest", lambda *_, kind=kind, **__: kind)
        model = integer_model(encoder)
        with torch.inference_mode():
            logits.append(model(ids).logits)
        assert model.kernels() == [kind.name]
    assert all(torch.equal(found, logits[0]) for found in logits)


def test_whichever_kernel_is_taken_training_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for kind in AVAILABLE:
        monkeypatch.setattr(linear, "fastest", lambda *_, kind=kind, **__: kind)
        encoder, model = calibrated()
        inputs = batch(model, 4, 16)
        torch.manual_seed(0)
        loss = loss_of(encoder.train(), inputs, torch.arange(4) % 2)
        loss.backward()
        found.append([loss.detach(), *(x.grad for x in encoder.parameters() if x.grad is not None)])
    for other in found[1:]:
        assert all(torch.equal(x, y) for x, y in zip(found[0], other, strict=True))


@pytest.mark.skipif(not has_library(), reason="no C++ compiler")
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted in /proc")
@pytest.mark.parametrize(
    "imports", ["", "import sklearn.metrics", "import sentencepiece"], ids=["torch", "sklearn", "sentencepiece"]
)
def test_products_run_in_the_threads_of_torch(imports: str) -> None:
    """Whatever other OpenMP libraries a process has loaded: threads of a second pool would compete with torch's."""
    program = f"""
import os, torch
{imports}
from intaglio.products.kernels import NativeProduct
torch.set_num_threads(3)
torch.rand(1000, 1000).exp()
before = set(os.listdir("/proc/self/task"))
assert len(before) >= 3
product = NativeProduct(torch.ones(640, 256, dtype=torch.int8), torch.zeros(640, dtype=torch.int32))
assert (product(torch.ones(512, 256, dtype=torch.int8)) == 256).all()
assert set(os.listdir("/proc/self/task")) == before
"""
    environment = os.environ | {"PYTHONPATH": str(Path(intaglio.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
