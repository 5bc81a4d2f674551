"""Tables of many classes: what is in memory is that of one run, however many there are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import fakes
from study_on_files import ROOT

CLASSES, ROWS = 77, 3080
# Confusion matrices of all resamples of one run, MiB.
OF_ONE_RUN = 2000 * CLASSES**2 * 8 / 2**20


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process is read from Linux")
def test_more_runs_take_no_more_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fakes._TEST_SIZES, "intents", ROWS)
    task = {"source": {"kind": "files", "train": "a.csv", "test": "b.csv"}, "text": ["text"], "label": "label"}
    plans = []
    for seeds in (1, 3):
        labels = [f"intent {number}" for number in range(CLASSES)]
        content = fakes.study({"intents": task | {"labels": labels}}, ("float", "int"), range(seeds), bootstrap=2000)
        (tmp_path / str(seeds)).mkdir()
        plans.append(fakes.results(tmp_path / str(seeds), content))
    code = r"""if True:
        import re, sys
        from pathlib import Path
        from intaglio.summary.summarize import write_summary
        for plan in sys.argv[1:]:
            write_summary(Path(plan), Path(plan).parent / "summary")
            print(int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]))
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "workflow"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *map(str, plans)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    two, six = (int(peak) / 1024 for peak in done.stdout.split())
    assert six - two < OF_ONE_RUN
    assert six < 1024
