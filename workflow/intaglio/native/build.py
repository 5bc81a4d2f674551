"""Compilation of the native library, once per machine or shared folder: `python -m intaglio.native.build`."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SOURCE = Path(__file__).parent / "source"
LIBRARY = Path(__file__).parent / "libintaglio.so"
# Results must be those of IEEE arithmetic as written: no fused multiply-adds, no reordering.
_FLAGS = ("-std=c++20", "-O3", "-fPIC", "-ffp-contract=off", "-fno-math-errno", "-fvisibility=hidden", "-Wno-psabi")
# The library needs nothing but the C library, so that it runs on machines without a compiler.
_LINKED = ("-shared", "-static-libstdc++", "-static-libgcc", "-pthread")
_AVX2 = ("-mavx2", "-mfma")
_AVX512 = (*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni")
_INSTRUCTIONS = {
    "avx2.cpp": _AVX2,
    "avx_vnni.cpp": (*_AVX2, "-mavxvnni"),
    "avx512_vnni.cpp": _AVX512,
    "amx.cpp": (*_AVX512, "-mamx-tile", "-mamx-int8"),
}


class BuildError(Exception):
    """The library could not be compiled; its text says why, in one line."""


def build(output: Path = LIBRARY, emulated: bool = False) -> Path:
    """Compile the library and return its path; takes some ten seconds on two cores.

    Args:
        output: the file to write; it appears complete or not at all.
        emulated: compute dot products in AVX2, to test the instruction sets that this processor lacks.

    Raises:
        BuildError: there is no C++ compiler, or it fails.
    """
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
    if not compiler:
        raise BuildError("no C++ compiler: install g++ 12 or newer, or name one in the variable CXX")
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
    return output


def _run(command: list[str]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", "") or str(error)
        reason = next((line for line in said.splitlines() if "error" in line), said.strip().splitlines()[-1])
        raise BuildError(f"{' '.join(command[:1])}: {reason}") from error


if __name__ == "__main__":
    try:
        print(build())
    except BuildError as error:
        sys.exit(str(error))
