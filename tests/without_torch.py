"""Programs of a bundle, run where only the packages of an environment for predictions can be imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# What an environment for predictions does not have. Of the engines, it has one.
ABSENT = (
    *("torch", "transformers", "pydantic", "snakemake", "onnx", "scipy", "sklearn", "pandas", "psutil"),
    *("tqdm", "jinja2", "datasets", "safetensors", "yaml", "huggingface_hub"),
)
ENGINES = ("onnxruntime", "openvino")
WITHOUT = """
import runpy, sys
absent = sys.argv.pop(1).split()
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Absent())
sys.argv = sys.argv[1:]
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run(bundle: Path, *words: str | Path, program: str = "predict.py", engine: str = ENGINES[0]) -> str:
    """Run a program of a bundle where torch and others cannot be imported; return what it printed."""
    absent = " ".join([*ABSENT, *(other for other in ENGINES if other != engine)])
    command = [sys.executable, "-c", WITHOUT, absent, bundle / program, *words]
    done = subprocess.run(
        [str(word) for word in command], cwd=bundle.parent.parent, env={}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
