"""Compilation of the native library, once for all machines of a kind: `python -m intaglio.native.build`."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from intaglio.errors import UserError

SOURCE = Path(__file__).parent / "source"
COMPILED = Path(__file__).parent / "compiled"
# Results must be those of IEEE arithmetic as written: no fused multiply-adds, no reordering.
_FLAGS = ("-std=c++20", "-O3", "-fPIC", "-ffp-contract=off", "-fno-math-errno", "-fvisibility=hidden", "-Wno-psabi")
# The library needs nothing but the C library, so that it runs on machines without a compiler.
_LINKED = ("-shared", "-s", "-static-libstdc++", "-static-libgcc", "-pthread")
_AVX2 = ("-mavx2", "-mfma")
_AVX512 = (*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni")
_INSTRUCTIONS = {
    "avx2.cpp": _AVX2,
    "avx_vnni.cpp": (*_AVX2, "-mavxvnni"),
    "avx512_vnni.cpp": _AVX512,
    "amx.cpp": (*_AVX512, "-mamx-tile", "-mamx-int8"),
}


def built() -> Path:
    """Return the library of this version's sources; compile it if it is missing.

    Raises:
        UserError: it is missing, and there is no C++ compiler, or the package's folder cannot be written to.
    """
    library = COMPILED / f"libintaglio-{identity()}.so"
    if not library.is_file():
        COMPILED.mkdir(exist_ok=True)
        build(library)
        for other in COMPILED.glob("libintaglio-*.so"):
            if other != library:
                other.unlink(missing_ok=True)
    return library


@cache
def library_if_any() -> Path | None:
    """Return what `built` returns; None where there is no library."""
    try:
        return built()
    except UserError:
        return None


@cache
def identity() -> str:
    """Return what names the library of these sources on this kind of machine."""
    digest = hashlib.sha256(platform.machine().encode())
    for file in (Path(__file__), *sorted(SOURCE.iterdir())):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def build(output: Path, emulated: bool = False) -> None:
    """Compile the library; takes some twenty seconds on two cores.

    Args:
        output: the file to write; it appears complete or not at all.
        emulated: compute dot products in AVX2, to test the instruction sets that this processor lacks.

    Raises:
        UserError: there is no C++ compiler, it fails, or the folder cannot be written to.
    """
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
    if not compiler:
        raise UserError("native library: no C++ compiler; install g++ 12 or newer, or name one in the variable CXX")
    if not os.access(output.parent, os.W_OK):
        raise UserError(f"native library: {output.parent} cannot be written to; run python -m intaglio.native.build")
    x86 = platform.machine() in ("x86_64", "AMD64")
    files = [file for file in sorted(SOURCE.glob("*.cpp")) if x86 or file.name not in _INSTRUCTIONS]
    with tempfile.TemporaryDirectory(dir=output.parent) as folder, ThreadPoolExecutor(os.cpu_count()) as threads:
        objects = [str(Path(folder, file.stem + ".o")) for file in files]

        def compile_one(file: Path, target: str) -> None:
            wanted = ("-DINTAGLIO_EMULATED", *_AVX2) if emulated else _INSTRUCTIONS.get(file.name, ())
            _run([compiler, *_FLAGS, *wanted, "-c", str(file), "-o", target])

        list(threads.map(compile_one, files, objects))
        made = Path(folder, output.name)
        _run([compiler, *_LINKED, *objects, "-o", str(made)])
        made.replace(output)


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        said = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
        reason = next((line for line in said if "error" in line), said[-1])
        raise UserError(f"native library: {command[0]} fails: {reason}") from error


if __name__ == "__main__":
    try:
        print(built())
    except UserError as error:
        sys.exit(str(error))
