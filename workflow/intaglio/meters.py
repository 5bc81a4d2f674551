"""Counters of energy, where the machine has them: RAPL of processors, NVML of NVIDIA's GPUs.

Both count all that their device does, for other processes, too. Importing this module needs neither torch nor a driver.
"""

from __future__ import annotations

import ctypes
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

# Where Linux shows RAPL, of Intel's processors and AMD's.
POWERCAP = Path("/sys/class/powercap")
# The library that comes with NVIDIA's driver.
NVML = "libnvidia-ml.so.1"
# Seconds over which the power at rest is measured. RAPL counts on every millisecond, NVML within 0.1 s.
REST = 2.0
# Seconds between readings of a `Tally`, of which the range of a counter needs some.
EVERY = 10.0
_log = logging.getLogger(__name__)


class MissingMeterError(Exception):
    """A counter of energy is not there, or cannot be read; the message says why."""


class Meter(Protocol):
    """A counter of energy.

    Attributes:
        name: what is read, and what it counts in addition to the work at hand.
    """

    name: str

    def joules(self) -> float:
        """Return the energy since some moment, J; raises MissingMeterError if the counter is gone."""
        ...


class Rapl:
    """The energy of all processor packages, by Linux's powercap: cores, caches and memory controllers; no memory.

    A counter begins again at 0 when it reaches its range: at 300 W mostly within a quarter of an hour. So it has to be
    read more often, and `joules` adds up what it finds.

    Source: https://docs.kernel.org/power/powercap/powercap.html

    Raises:
        MissingMeterError: there are no packages, or their counters cannot be read.
    """

    def __init__(self) -> None:
        named = {zone: _read(zone / "name") for zone in sorted(POWERCAP.glob("intel-rapl:*"))}
        # Others are parts of packages, or, as psys, contain them.
        packages = {zone: name for zone, name in named.items() if name.startswith("package-")}
        if not packages:
            raise MissingMeterError(f"no RAPL in {POWERCAP}; virtual machines and containers seldom have it")
        names = " and ".join(packages.values())
        self.name = f"RAPL {names} (whole processors without memory, other processes included)"
        self._counters = [zone / "energy_uj" for zone in packages]
        self._ranges = [int(_read(zone / "max_energy_range_uj")) for zone in packages]
        self._last = self._counts()
        self._microjoules = 0

    def joules(self) -> float:
        """Return the energy of all packages since this object was made, J."""
        now = self._counts()
        for before, after, largest in zip(self._last, now, self._ranges, strict=True):
            self._microjoules += (after - before) % largest
        self._last = now
        return self._microjoules / 1e6

    def _counts(self) -> list[int]:
        return [int(_read(counter)) for counter in self._counters]


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except PermissionError as error:
        allow = "an administrator can allow others to read it (chmod a+r)"
        raise MissingMeterError(f"{path} is for root alone; {allow}") from error
    except OSError as error:
        raise MissingMeterError(f"{path} cannot be read ({error.strerror})") from error


class Nvml:
    """The energy of a GPU since its driver was loaded, by NVIDIA's management library; from the Volta generation on.

    The library is called directly: it comes with the driver, and three of its functions suffice.

    Args:
        uuid: of the GPU, as torch has it; an index may mean another one in this library than in CUDA.

    Source: https://docs.nvidia.com/deploy/nvml-api/group__nvmlDeviceQueries.html

    Raises:
        MissingMeterError: there is no such library or GPU, or it has no counter.
    """

    name = "NVML (whole GPU with its memory, other processes included)"

    def __init__(self, uuid: str) -> None:
        try:
            self._library = ctypes.CDLL(NVML)
        except OSError as error:
            raise MissingMeterError(f"no NVML ({error})") from error
        self._library.nvmlErrorString.restype = ctypes.c_char_p
        self._device = ctypes.c_void_p()
        self._call("nvmlInit_v2")
        name = f"GPU-{uuid.removeprefix('GPU-')}"
        self._call("nvmlDeviceGetHandleByUUID", name.encode(), ctypes.byref(self._device))
        self.joules()

    def joules(self) -> float:
        """Return the energy of the GPU since its driver was loaded, J."""
        millijoules = ctypes.c_ulonglong()
        self._call("nvmlDeviceGetTotalEnergyConsumption", self._device, ctypes.byref(millijoules))
        return millijoules.value / 1000

    def _call(self, function: str, *arguments: object) -> None:
        try:
            status = getattr(self._library, function)(*arguments)
        except AttributeError as error:
            raise MissingMeterError(f"{function} is not in NVML of this driver; a newer one has it") from error
        if status:
            raise MissingMeterError(f"{function} of NVML: {self._library.nvmlErrorString(status).decode()}")


def meters(device: str) -> tuple[list[Meter], list[str]]:
    """Return the meters of what works where a model runs, and for each missing one the reason.

    Args:
        device: cpu, or cuda for torch's present GPU and the processor that serves it.
    """
    found: list[Meter] = []
    reasons = []
    makers: list[Callable[[], Meter]] = [_of_gpu, Rapl] if device == "cuda" else [Rapl]
    for make in makers:
        try:
            found.append(make())
        except MissingMeterError as error:
            reasons.append(str(error))
    return found, reasons


def _of_gpu() -> Meter:
    import torch

    if torch.version.cuda is None:
        raise MissingMeterError("no NVML for GPUs of other makers than NVIDIA")
    return Nvml(str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid))


class Spent(NamedTuple):
    """Energy in J, by meter, and the time in s in which it was spent."""

    joules: list[float]
    seconds: float


class Reading:
    """A moment (`since`, by `time.perf_counter`), from which on energy and time are counted."""

    def __init__(self, by: Sequence[Meter]) -> None:
        self._meters = by
        self._joules = [meter.joules() for meter in by]
        self.since = time.perf_counter()

    def spent(self) -> Spent:
        """Return what was spent since."""
        seconds = time.perf_counter() - self.since
        joules = [meter.joules() - before for meter, before in zip(self._meters, self._joules, strict=True)]
        return Spent(joules, seconds)


def idle_watts(by: Sequence[Meter]) -> list[float]:
    """Wait; return the power meanwhile, W, by meter."""
    reading = Reading(by)
    time.sleep(REST)
    joules, seconds = reading.spent()
    return [each / seconds for each in joules]


class Tally:
    """Adds up what is spent between `start` and `stop`, any number of times; a counter that is lost stops no work.

    Args:
        by: the meters; none costs nothing.
        spent: joules, seconds and idle_watts (W) by the meter's name, from where it goes on; changed in place. The
            power at rest of meters that are new to it is measured now.
    """

    def __init__(self, by: Sequence[Meter], spent: dict[str, dict[str, float]]) -> None:
        self._meters, self._spent = by, spent
        self._reading: Reading | None = None
        new = [meter for meter in by if meter.name not in spent]
        with self._readable():
            for meter, watts in zip(new, idle_watts(new) if new else (), strict=True):
                spent[meter.name] = {"joules": 0.0, "seconds": 0.0, "idle_watts": watts}

    def start(self) -> None:
        """Count from now on."""
        if self._meters:
            with self._readable():
                self._reading = Reading(self._meters)

    def refresh(self) -> None:
        """Read if that is due, so that no counter begins again more than once between two readings."""
        if self._reading is not None and time.perf_counter() - self._reading.since >= EVERY:
            self.stop()
            self.start()

    def stop(self) -> None:
        """Add what was spent since `start`."""
        reading, self._reading = self._reading, None
        if reading is None:
            return
        with self._readable():
            joules, seconds = reading.spent()
            for meter, of_it in zip(self._meters, joules, strict=True):
                self._spent[meter.name]["joules"] += of_it
                self._spent[meter.name]["seconds"] += seconds

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """Count nothing any more, and forget what was counted, if a counter is lost."""
        try:
            yield
        except MissingMeterError as error:
            _log.warning("the energy is not known: %s", error)
            self._meters, self._reading = (), None
            self._spent.clear()
