"""The native library computes what is simulated, to the bit, with every instruction set; the others are emulated."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import reference
from encoders import ARCHITECTURES, INT, INTEGER_POINTS, Point, batch, calibrated, name
from intaglio.arithmetic import layernorm
from intaglio.errors import UserError
from intaglio.execution.constants import constants_of
from intaglio.execution.native import write_constants
from intaglio.native import build, operators, runner
from streams import simulated
from test_execution import TYPED, trained

# What a value may differ by where LayerNorm is in floating point: rounding of its sums.
ROUNDING = 1e-5
SETS = ("amx", "avx512-vnni", "avx-vnni", "avx2", "generic")


@pytest.fixture(scope="session")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The library, and one that emulates the instructions that this processor lacks."""
    try:
        emulated = tmp_path_factory.mktemp("native") / "emulated.so"
        build.build(emulated, emulated=True)
        return [build.built(), emulated]
    except UserError as error:
        pytest.skip(str(error))


def library_with(libraries: list[Path], instructions: str) -> Path:
    """The library that has an instruction set: the real one if the processor has it."""
    for path in libraries:
        if instructions in runner.library(path).available():
            return path
    pytest.skip(f"{instructions}: neither here nor emulated")


def written(encoder: Any, folder: Path) -> Path:
    write_constants(encoder, folder / runner.CONSTANTS)
    return folder


def agrees(encoder: Any, model: runner.NativeModel, inputs: dict[str, torch.Tensor], exact: bool) -> None:
    expected = simulated(encoder, inputs)
    hidden, logits = model.hidden_and_logits(**{key: tensor.numpy() for key, tensor in inputs.items()})
    np.testing.assert_allclose(hidden, expected["hidden"][0], rtol=0, atol=0 if exact else ROUNDING)
    largest = max(1.0, float(np.abs(expected["logits"][0]).max()))
    np.testing.assert_allclose(logits, expected["logits"][0], rtol=0, atol=ROUNDING * largest)


@pytest.mark.parametrize("point", INTEGER_POINTS, ids=name)
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_variant_on_the_fastest_instructions(
    libraries: list[Path], tmp_path: Path, arch: str, point: Point
) -> None:
    encoder, model = calibrated(point, arch)
    opened = runner.NativeModel(written(encoder, tmp_path), 2, library_file=libraries[0])
    for rows, length in ((6, 16), (1, 1), (3, 40)):
        inputs = batch(model, rows, length, seed=length, types=arch in TYPED)
        agrees(encoder, opened, inputs, exact="layernorm" in point)


@pytest.mark.parametrize("instructions", SETS)
@pytest.mark.parametrize("arch", ["bert", "roberta"])
def test_every_instruction_set(libraries: list[Path], tmp_path: Path, arch: str, instructions: str) -> None:
    encoder, model = calibrated(INT, arch)
    trained(encoder, batch(model, 6, 16, types=arch in TYPED))
    folder = written(encoder, tmp_path)
    opened = runner.NativeModel(folder, 2, instructions, library_with(libraries, instructions))
    assert opened.instructions == instructions
    for rows, length in ((6, 16), (1, 1), (40, 3), (2, 40)):
        agrees(encoder, opened, batch(model, rows, length, seed=rows, types=arch in TYPED), exact=True)


def test_masks_of_every_kind(libraries: list[Path], tmp_path: Path) -> None:
    encoder, model = calibrated(INT, "bert")
    opened = runner.NativeModel(written(encoder, tmp_path), 2, library_file=libraries[0])
    inputs = batch(model, 6, 12)
    mask = torch.ones_like(inputs["input_ids"])
    mask[1, :] = 0  # nothing but padding
    mask[2, 0] = 0  # the first token is padding
    mask[3, 3:7] = 0  # a hole
    mask[4, 1:] = 0  # one token
    mask[5, :8] = 0  # padding on the left
    agrees(encoder, opened, {**inputs, "attention_mask": mask}, exact=True)
    plain = {"input_ids": inputs["input_ids"]}
    agrees(encoder, opened, plain, exact=True)


def test_cut_models_and_odd_sizes(libraries: list[Path], tmp_path: Path) -> None:
    """Sizes that are no multiple of any register."""
    encoder, model = calibrated(INT, "bert", hidden_size=36, num_attention_heads=3, intermediate_size=50)
    for number, instructions in enumerate(SETS):
        folder = tmp_path / str(number)
        folder.mkdir()
        library = library_with(libraries, instructions)
        opened = runner.NativeModel(written(encoder, folder), 3, instructions, library)
        agrees(encoder, opened, batch(model, 5, 23), exact=True)


def test_a_large_batch_is_what_its_rows_are(libraries: list[Path], tmp_path: Path) -> None:
    """Also where it is computed in parts, and with any number of threads."""
    encoder, model = calibrated(INT, "roberta")
    folder = written(encoder, tmp_path)
    inputs = {key: x.numpy() for key, x in batch(model, 70, 40).items()}
    expected = runner.NativeModel(folder, 1, library_file=libraries[0]).hidden_and_logits(**inputs)[0]
    opened = runner.NativeModel(folder, 4, library_file=libraries[0])
    np.testing.assert_array_equal(opened.hidden_and_logits(**inputs)[0], expected)
    for row in (0, 33, 69):
        one = {key: x[row : row + 1] for key, x in inputs.items()}
        np.testing.assert_array_equal(opened.hidden_and_logits(**one)[0][0], expected[row])


@pytest.mark.parametrize("instructions", SETS)
@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 70),
    inner=st.integers(1, 200),
    outer=st.integers(1, 70),
    low=st.sampled_from([0, 60, 127]),
    seed=st.integers(0, 2**32 - 1),
)
def test_products_are_exact(
    libraries: list[Path], instructions: str, rows: int, inner: int, outer: int, low: int, seed: int
) -> None:
    """Against NumPy's int64, with numbers whose pairs leave 16 bits."""
    random = np.random.default_rng(seed)
    x = (random.choice([-1, 1], (rows, inner)) * random.integers(low, 129, (rows, inner))).clip(-128, 127)
    weight = random.choice([-1, 1], (outer, inner)) * random.integers(low, 128, (outer, inner))
    bias = random.integers(-(2**21), 2**21, outer)
    product = operators.PackedProduct(
        weight.astype(np.int8), bias.astype(np.int32), 2, instructions, library_with(libraries, instructions)
    )
    np.testing.assert_array_equal(product(x.astype(np.int8)), x.astype(np.int64) @ weight.T.astype(np.int64) + bias)


@pytest.mark.parametrize("instructions", SETS)
@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 5), keys=st.integers(1, 300), spread=st.integers(1, 2**23), seed=st.integers(0, 2**32 - 1))
def test_softmax_is_the_specification(
    libraries: list[Path], instructions: str, rows: int, keys: int, spread: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    scores = random.integers(-spread, spread + 1, (rows, keys))
    for constants in ((0, 4096, 1, 0), (3, 5000, 900, 10), (17, 40, 1500, 8)):
        found = operators.native_softmax(
            scores.astype(np.int32), constants, instructions, library_with(libraries, instructions)
        )
        np.testing.assert_array_equal(found, reference.softmax(scores, constants, None))


@pytest.mark.parametrize("instructions", SETS)
@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 4), width=st.integers(2, 130), spread=st.integers(0, 2**21 - 1), seed=st.integers(0, 2**32 - 1)
)
def test_layer_norm_is_the_specification(
    libraries: list[Path], instructions: str, rows: int, width: int, spread: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    x = random.integers(-spread, spread + 1, (rows, width))
    gamma = random.integers(-layernorm.GAMMA_BOUND, layernorm.GAMMA_BOUND + 1, width)
    beta = random.integers(-layernorm.BETA_BOUND, layernorm.BETA_BOUND + 1, width)
    guards = layernorm.guards(1e-5, torch.tensor(1e-4), width).long().numpy()
    wide, short = operators.native_layer_norm(
        x.astype(np.int32), gamma, beta, guards, 9, instructions, library_with(libraries, instructions)
    )
    expected = reference.layer_norm(x, gamma, beta, [int(guard) for guard in guards])
    np.testing.assert_array_equal(wide, expected)
    np.testing.assert_array_equal(short, reference.shorten(expected, 9))


@pytest.mark.parametrize("instructions", SETS)
@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 40), width=st.integers(2, 130), spread=st.integers(0, 2**21 - 1), seed=st.integers(0, 2**32 - 1)
)
def test_layer_norm_for_training_is_that_of_torch(
    libraries: list[Path], instructions: str, rows: int, width: int, spread: int, seed: int
) -> None:
    random = torch.Generator().manual_seed(seed)
    x = torch.randint(-spread, spread + 1, (rows, width), generator=random).float()
    affine = layernorm.quantize_affine(
        torch.randn(width, generator=random), torch.randn(width, generator=random), torch.tensor(0.03)
    )
    guard = layernorm.guards(1e-5, torch.tensor(1e-4), width)
    constants = affine.gamma.int().numpy(), affine.beta.int().numpy(), guard.long().numpy()
    library = library_with(libraries, instructions)
    found = operators.norm_for_training(x.numpy(), *constants, 2, instructions, library)
    for ours, theirs in zip(found, layernorm._on_torch(x, guard, affine), strict=True):
        np.testing.assert_array_equal(ours, theirs.numpy())
    x[-1, 0] = torch.nan
    result, *_ = operators.norm_for_training(x.numpy(), *constants, 2, instructions, library)
    assert np.isnan(result[-1]).all() and np.isfinite(result[:-1]).all()


def test_the_form_runs_alone(libraries: list[Path], tmp_path: Path) -> None:
    """In a process that has NumPy and neither torch nor Intaglio, opened in well under a second."""
    encoder, model = calibrated(INT, "bert")
    written(encoder, tmp_path)
    (tmp_path / runner.LIBRARY).write_bytes(libraries[0].read_bytes())
    (tmp_path / runner.RUNNER).write_text(Path(runner.__file__).read_text())
    inputs = batch(model, 2, 8)
    program = (
        "import sys; from runner import NativeModel; "
        f"print(NativeModel('.', 1)({inputs['input_ids'].tolist()}, {inputs['attention_mask'].tolist()}).tolist()); "
        "assert not {'torch', 'intaglio'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    expected = simulated(encoder, inputs)["logits"][0]
    np.testing.assert_allclose(np.array(eval(done.stdout)), expected, atol=1e-4)


def test_calls_from_several_threads_do_not_mix(libraries: list[Path], tmp_path: Path) -> None:
    encoder, model = calibrated(INT, "bert")
    opened = runner.NativeModel(written(encoder, tmp_path), 2, library_file=libraries[0])
    batches = [{key: x.numpy() for key, x in batch(model, 8, 30, seed=seed).items()} for seed in range(4)]
    expected = [opened(**inputs) for inputs in batches]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda number: opened(**batches[number % 4]), range(80)))
    for number, logits in enumerate(found):
        np.testing.assert_array_equal(logits, expected[number % 4])


def test_mistakes_are_said(libraries: list[Path], tmp_path: Path) -> None:
    encoder, _ = calibrated(INT, "bert")
    folder = written(encoder, tmp_path)
    with pytest.raises(ValueError, match="sparc: not an instruction set"):
        runner.NativeModel(folder, 1, "sparc", libraries[0])
    model = runner.NativeModel(folder, 1, library_file=libraries[0])
    with pytest.raises(ValueError, match="token 1000000 is not one of"):
        model([[1_000_000]])
    with pytest.raises(ValueError, match=r"position .* is not one of"):
        model(np.full((1, 5000), 7))
    with pytest.raises(ValueError, match="one shape"):
        model([[1, 2]], [[1]])
    (folder / runner.CONSTANTS).write_bytes(b"not a file of constants")
    with pytest.raises(ValueError, match="export it again"):
        runner.NativeModel(folder, 1, library_file=libraries[0])


def test_without_a_compiler_the_library_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="no C\\+\\+ compiler; install"):
        build.build(tmp_path / "library.so")


def test_constants_have_the_names_of_the_encoder(tmp_path: Path) -> None:
    encoder, _ = calibrated(INT, "roberta")
    tensors, numbers = runner.read_constants(written(encoder, tmp_path) / runner.CONSTANTS)
    constants = constants_of(encoder)
    np.testing.assert_array_equal(tensors["layers.1.output.weight"], constants.layers[1].output.weight.numpy())
    assert numbers["layers.0.softmax.down"] == constants.layers[0].softmax.down
