"""Choice of the kernel of int8 products on this CPU, by their sizes: the fastest of the exact ones.

A choice is measured once, in some tenths of a second, and remembered for the machine in the user's cache folder, unless
others were computing. It never changes a result.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from intaglio.machine import instructions
from intaglio.native import build
from intaglio.products import kernels
from intaglio.products.kernels import FloatProduct, IntegerProduct, IntProduct

Kernel = type[IntegerProduct]
# Rows, inner size and outputs of the first products. Some kernels are reference loops, a thousand times slower than
# others: the first product is so small that even these take a millisecond.
_PROBES = ((4, 64, 64), (32, 256, 256))
# A kernel slower than the fastest by this factor is not tried on a larger product.
_HOPELESS = 5.0
# Allowance for packing and dispatch per call, in seconds; larger products make up for them.
_DISPATCH = 1e-4
# Number of timed rounds, of which the fastest counts as other processes may run, and their time budget in seconds for
# each kernel.
_ROUNDS, _BUDGET = 30, 0.04
# Numbers of rows are rounded up to a power of two, at most this one.
_MOST_ROWS = 1024


def fastest(rows: int, inner: int, outputs: int, fixed: bool) -> Kernel:
    """Return the kernel for products of int8 [rows, inner] with a weight [outputs, inner] on the CPU.

    Args:
        rows, inner, outputs: sizes of the product.
        fixed: whether the weight stays, as in inference; in training it is packed for each product.
    """
    rows = min(_MOST_ROWS, 1 << (rows - 1).bit_length())
    names = _remembered(torch.get_num_threads())
    key = f"{rows} x {inner} x {outputs}, {'fixed' if fixed else 'changing'} weight"
    kinds = {kind.name: kind for kind in kernels.ON_CPU}
    if names.get(key) not in kinds:
        names[key] = _measured(rows, inner, outputs, fixed).name
        _remember(names, torch.get_num_threads())
    return kinds[names[key]]


def _measured(rows: int, inner: int, outputs: int, fixed: bool) -> Kernel:
    safe, *rivals = [kind for kind in kernels.ON_CPU if kind.takes(inner, outputs)]
    taken = safe
    for size in (*_PROBES, (rows, inner, outputs)):
        weight, x = _operands(*size)
        exact = [kind for kind in rivals if _is_exact(kind, weight, x)]
        if not exact:
            return safe
        times = seconds({kind: _call(kind, weight, fixed) for kind in (safe, *exact)}, x)
        taken = min(times, key=lambda kind: times[kind])
        rivals = [kind for kind in exact if times[kind] <= _DISPATCH + _HOPELESS * times[taken]]
    return taken


def _call(kind: Kernel, weight: Tensor, fixed: bool) -> Callable[[Tensor], Tensor]:
    bias = torch.zeros(len(weight), dtype=torch.int32)
    if not fixed:
        return lambda x: kind(weight, bias)(x)
    return kind(weight, bias)


def _operands(rows: int, inner: int, outputs: int) -> tuple[Tensor, Tensor]:
    """Return an int8 weight and int8 rows that contain the extreme values.

    These saturate the 16-bit sums of pairs that CPUs without VNNI use in int8 products. Most weights are small, as in
    models.
    """
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(outputs, inner, generator=random).mul_(25).clamp_(-127, 127).to(torch.int8)
    x = torch.randint(-128, 128, (rows, inner), generator=random).to(torch.int8)
    columns = min(inner, 64)
    weight[0, :columns], weight[-1, :columns], x[0], x[-1] = 127, -127, -128, 127
    return weight, x


def _is_exact(kind: Kernel, weight: Tensor, x: Tensor) -> bool:
    """Return whether a kernel is there and its result equals float64's."""
    try:
        found = kind(weight, torch.zeros(len(weight), dtype=torch.int32))(x)
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
    return torch.equal(found.double(), x.double() @ weight.T.double())


def seconds(calls: Mapping[Kernel, Callable[[Tensor], Tensor]], x: Tensor) -> dict[Kernel, float]:
    """Return the time of the fastest call of each kind, in seconds; calls take turns until the budget is spent."""
    best = dict.fromkeys(calls, float("inf"))
    end = time.perf_counter() + _BUDGET * len(calls)
    for _ in range(_ROUNDS):
        for kind, call in calls.items():
            start = time.perf_counter()
            call(x)
            best[kind] = min(best[kind], time.perf_counter() - start)
        if time.perf_counter() > end:
            break
    return best


def _file(threads: int) -> Path:
    """Return the file of the choices on this kind of CPU, with these versions of the kernels."""
    folder = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    decisive: Sequence[object] = (sorted(instructions()), torch.__version__, build.identity(), threads)
    digest = hashlib.sha256(json.dumps(decisive).encode()).hexdigest()[:12]
    return Path(folder, "intaglio", f"products-{digest}.json")


@cache
def _remembered(threads: int) -> dict[str, str]:
    """Return the names of kernels by size; an empty dictionary, to be filled, if there are none."""
    try:
        found: dict[str, str] = json.loads(_file(threads).read_text())
    except (OSError, ValueError):
        found = {}
    return found


def _remember(names: dict[str, str], threads: int) -> None:
    if os.getloadavg()[0] > (os.cpu_count() or 1):
        # Of kernels that others disturb, any may seem the fastest.
        return
    # A home that cannot be written to only costs another measurement.
    with suppress(OSError):
        file = _file(threads)
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_name(f"{file.name}.{os.getpid()}")
        draft.write_text(json.dumps(names, indent=1, sort_keys=True))
        draft.replace(file)


class ChosenProduct(IntegerProduct):
    """A product on the CPU by the fastest kernel for its number of rows; float32.

    To torch.compile it is one operator, whatever kernel it calls.
    """

    name = "chosen"

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.weight, self.bias = weight, bias
        self.number = torch.tensor(id(self))
        self.made: dict[Kernel, IntegerProduct] = {}
        _CHOSEN[id(self)] = self

    def __call__(self, x: Tensor) -> Tensor:
        """See `IntegerProduct`."""
        result: Tensor = torch.ops.intaglio.product(x, self.bias, self.number)
        return result

    def compute(self, x: Tensor) -> Tensor:
        """Return what a call returns."""
        outputs, inner = self.weight.shape
        kind = fastest(len(x), inner, outputs, fixed=True)
        if kind not in self.made:
            self.made[kind] = kind(self.weight, self.bias)
        return self.made[kind](x).float()

    def kernels(self) -> list[str]:
        """Return the names of the kernels that were called."""
        return [kind.name for kind in self.made]


_CHOSEN: WeakValueDictionary[int, ChosenProduct] = WeakValueDictionary()
_LIBRARY = torch.library.Library("intaglio", "DEF")
_LIBRARY.define("product(Tensor x, Tensor bias, Tensor number) -> Tensor")
_LIBRARY.impl("product", lambda x, _bias, number: _CHOSEN[int(number)].compute(x), "CompositeExplicitAutograd")
torch.library.register_fake(
    "intaglio::product", lambda x, bias, _number: x.new_empty((len(x), len(bias)), dtype=torch.float32), lib=_LIBRARY
)


def product(weight: Tensor, bias: Tensor) -> IntegerProduct:
    """Return a product with int8 `weight` [out, in] and int32 `bias` [out] on their device."""
    if not weight.is_cuda:
        return ChosenProduct(weight, bias)
    outputs, inner = weight.shape
    return (IntProduct if IntProduct.takes(inner, outputs) else FloatProduct)(weight, bias)
