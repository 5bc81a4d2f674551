"""One process works on a job; others wait for it, go on where it died, and never destroy its work."""

import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from intaglio import ownership
from intaglio.ownership import OWNER, TakenOver, assert_owned, sole_owner
from intaglio.store import is_artifact, new_artifact, sole_maker
from intaglio.training.resume import durable

WORKFLOW = Path(__file__).parents[1] / "workflow"
HOLD = "import sys, time; from pathlib import Path; from intaglio.ownership import sole_owner\n"
HOLD += "with sole_owner(Path(sys.argv[1])): print('owner', flush=True); time.sleep(float(sys.argv[2]))"


def holder(folder: Path, seconds: float) -> subprocess.Popen[str]:
    """Start a process that owns a folder for some seconds; returns once it does."""
    command = [sys.executable, "-c", HOLD, str(folder), str(seconds)]
    environment = os.environ | {"PYTHONPATH": str(WORKFLOW)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None and process.stdout.readline() == "owner\n"
    return process


def other_node(folder: Path, **differing: object) -> Path:
    """Write the file of an owner on another node."""
    folder.mkdir(exist_ok=True)
    me = ownership.myself()
    owner = replace(me, node="n2 boot pid", host="n2", token="theirs", **differing)
    (folder / OWNER).write_text(json.dumps(asdict(owner)))
    return folder / OWNER


def test_another_process_is_waited_for(tmp_path, caplog):
    with holder(tmp_path / "work", 1.5) as process, sole_owner(tmp_path / "work") as waited:
        assert waited and process.wait(5) == 0
    assert f"process {process.pid} on" in caplog.text and "waiting" in caplog.text
    assert not (tmp_path / "work" / OWNER).exists()


def test_a_killed_process_is_no_owner(tmp_path):
    with holder(tmp_path, 60) as process:
        process.kill()
        process.wait()
    start = time.monotonic()
    with sole_owner(tmp_path) as waited:
        assert not waited and time.monotonic() - start < 1


def test_a_number_that_another_process_has_now_is_no_owner(tmp_path):
    owner = replace(ownership.myself(), started=0.0)
    (tmp_path / OWNER).write_text(json.dumps(asdict(owner)))
    with sole_owner(tmp_path) as waited:
        assert not waited


def test_on_another_node_an_owner_lives_as_long_as_it_touches_its_file(tmp_path, monkeypatch):
    monkeypatch.setattr(ownership, "SILENCE", 2.0)
    file, ended = other_node(tmp_path), threading.Event()
    beats = threading.Thread(target=lambda: [os.utime(file, (n, n)) or time.sleep(0.3) for n in range(10)])
    beats.start()
    start = time.monotonic()
    with sole_owner(tmp_path) as waited:
        assert waited and 4.5 < time.monotonic() - start < 9
    ended.set()
    beats.join()


@pytest.mark.parametrize("content", ["", '{"node": "n'])
def test_half_a_file_is_waited_for_as_long(tmp_path, monkeypatch, content):
    monkeypatch.setattr(ownership, "SILENCE", 1.0)
    (tmp_path / OWNER).write_text(content)
    start = time.monotonic()
    with sole_owner(tmp_path):
        assert time.monotonic() - start >= 1


# Snakemake's plugin hides SLURM's variable from the job itself.
@pytest.mark.parametrize("variable", ["SLURM_RESTART_COUNT", "INTAGLIO_RESTARTS"])
def test_a_requeued_job_goes_on_at_once(tmp_path, monkeypatch, variable):
    other_node(tmp_path, job="7", restart=0)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv(variable, "1")
    with sole_owner(tmp_path) as waited:
        assert not waited


def test_who_was_taken_for_dead_writes_nothing_more(tmp_path, caplog):
    with pytest.raises(TakenOver), sole_owner(tmp_path):
        other_node(tmp_path)
        with durable(tmp_path / "progress-1", "progress"):
            pass
    assert not (tmp_path / "progress-1").exists()
    assert "another process goes on with this job" in caplog.text
    assert json.loads((tmp_path / OWNER).read_text())["token"] == "theirs"
    assert_owned(tmp_path)


@pytest.mark.parametrize("made", [True, False])
def test_what_another_process_has_made_is_not_made_again(tmp_path, made):
    work, output = tmp_path / "work", tmp_path / "output"
    with holder(work, 1.0):
        if made:
            with new_artifact(output, "evaluation"):
                pass
        with sole_maker(output, "evaluation", work) as wanted:
            assert wanted is not made
    assert not work.exists()
    # One that was there before is made anew, as it was asked for; and without a folder of work, nobody is waited for.
    for folder in (work, None):
        with sole_maker(output, "evaluation", folder) as wanted:
            assert wanted


def test_of_many_processes_one_at_a_time_works(tmp_path):
    script = HOLD.splitlines()[0] + "\nfrom intaglio.ownership import *\nfolder = Path(sys.argv[1])\n"
    script += "with sole_owner(folder / 'work'):\n (folder / 'inside').mkdir(); time.sleep(0.05)\n"
    script += " (folder / 'inside').rmdir()"
    environment = os.environ | {"PYTHONPATH": str(WORKFLOW)}
    processes = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], env=environment) for _ in range(6)]
    assert [process.wait(60) for process in processes] == [0] * 6


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    host, ended = socket.gethostname(), subprocess.Popen(["true"])
    ended.wait()
    names = [f".made.{host}-{ended.pid}.part", f".made.{host}-{os.getppid()}.part", f".made.n2-{ended.pid}.part"]
    for name in names:
        (tmp_path / name).mkdir()
    with new_artifact(tmp_path / "made", "data"):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"made", *names[1:]}


def test_several_processes_that_make_the_same_leave_one_of_theirs(tmp_path):
    script = "import sys; from pathlib import Path; from intaglio.store import *\nfor number in range(300):\n"
    script += " with new_artifact(Path(sys.argv[1]), 'data') as draft: (draft / 'file').write_text(str(number))\n"
    environment = os.environ | {"PYTHONPATH": str(WORKFLOW)}
    processes = [subprocess.Popen([sys.executable, "-c", script, tmp_path / "out"], env=environment) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0] * 3
    assert is_artifact(tmp_path / "out", "data") and [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_takes_the_place_of_a_link_leaves_alone_what_it_shows(tmp_path):
    with new_artifact(tmp_path / "theirs", "data") as draft:
        (draft / "file").write_text("theirs")
    (tmp_path / "mine").symlink_to(tmp_path / "theirs")
    with new_artifact(tmp_path / "mine", "data") as draft:
        (draft / "file").write_text("mine")
    assert [(tmp_path / name / "file").read_text() for name in ("mine", "theirs")] == ["mine", "theirs"]
    assert not (tmp_path / "mine").is_symlink() and len(list(tmp_path.iterdir())) == 2


MOUNTED = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=64k none "$0" && exec "$@"']


def test_a_full_disk_is_one_line(tmp_path):
    (tmp_path / "disk").mkdir()
    if not shutil.which("unshare") or subprocess.run([*MOUNTED, tmp_path / "disk", "true"]).returncode:
        pytest.skip("a small disk cannot be mounted here")
    rows = "".join(f"{number % 2},a text of some words and the number {number}\n" for number in range(5000))
    (tmp_path / "rows.csv").write_text(f"label,text\n{rows}")
    task = {"source": {"kind": "files", "train": str(tmp_path / "rows.csv")}, "text": ["text"], "label": "label"}
    command = [sys.executable, "-m", "intaglio", "data", "--options", json.dumps(task | {"labels": ["0", "1"]})]
    full = subprocess.run(
        [*MOUNTED, tmp_path / "disk", *command, "--output", tmp_path / "disk/data"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(WORKFLOW)},
    )
    assert full.returncode == 2
    assert len(full.stderr.splitlines()) == 1 and "cannot be written: No space left on device" in full.stderr


@pytest.mark.parametrize(("umask", "mode"), [(0o027, 0o640), (0o002, 0o664), (0o077, 0o600)])
def test_results_can_be_read_and_written_as_the_umask_says(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        with new_artifact(tmp_path / "made", "data") as draft:
            (draft / "part").mkdir(0o700)
            (draft / "part/weights").touch(0o600)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "made/part/weights").stat().st_mode) == mode
    assert stat.S_IMODE((tmp_path / "made/part").stat().st_mode) == mode | 0o111 & ~umask
