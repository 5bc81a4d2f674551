"""A job knows when its time is up, and returns to the queue where SLURM may start it again."""

import math
import time

import pytest

from commands import Commands
from intaglio import allocation
from intaglio.allocation import TimeLimit, return_to_queue, seconds_left, seconds_of
from intaglio.errors import UserError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0:59\n", 59),
        ("1:00", 60),
        ("2:03:04", 7384),
        ("1-00:00:00", 86400),
        *((word, math.inf) for word in ("UNLIMITED", "infinite", "NOT_SET", "INVALID", "")),
    ],
)
def test_times_as_slurm_prints_them(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


def test_who_says_when_the_time_is_up(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    commands.add("squeue", "59:00\n")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert seconds_left() == math.inf and not commands.calls("squeue")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert seconds_left() == 3540
    assert commands.calls("squeue") == ["--noheader --format=%L --jobs 7"]
    for name, value in (("JOB", "5"), ("TASK", "3")):
        monkeypatch.setenv(f"SLURM_ARRAY_{name}_ID", value)
    assert seconds_left() == 3540 and commands.calls("squeue")[-1].endswith("--jobs 5_3")
    commands.add("squeue", status=1)
    assert seconds_left() == math.inf
    monkeypatch.setenv("INTAGLIO_DEADLINE", str(time.time() + 100))
    assert seconds_left() == pytest.approx(100, abs=1)
    monkeypatch.setenv("INTAGLIO_DEADLINE", "at noon")
    with pytest.raises(UserError, match="seconds since 1970"):
        seconds_left()


@pytest.mark.parametrize(("total", "stops_at"), [(60, 45), (480, 360), (3600, 3480), (math.inf, math.inf)])
def test_time_is_kept_for_saving(monkeypatch: pytest.MonkeyPatch, total: float, stops_at: float) -> None:
    now = 0.0
    monkeypatch.setattr(allocation.time, "monotonic", lambda: now)
    monkeypatch.setattr(allocation, "seconds_left", lambda: total - now)
    limit = TimeLimit()
    assert not limit
    now = min(stops_at, 1e9) - 1
    assert not limit
    if total == math.inf:
        return
    # Somebody gives the job more time, at the last moment.
    total += 100
    now = stops_at
    assert not limit and not limit.reached
    now = stops_at + 100
    assert limit and limit.reached


@pytest.mark.parametrize(
    ("state", "preempted_at", "out_of_time", "returns"),
    [
        ("RUNNING", "None", True, True),
        ("RUNNING", "2026-11-27T12:00:00", False, True),
        # By whatever signal; SLURM has decided already; cancelled by its user.
        ("RUNNING", "None", False, False),
        ("COMPLETING", "2026-11-27T12:00:00", False, False),
        ("CANCELLED", "None", True, False),
    ],
)
def test_a_job_returns_to_the_queue_if_nobody_cancelled_it(
    commands: Commands,
    monkeypatch: pytest.MonkeyPatch,
    state: str,
    preempted_at: str,
    out_of_time: bool,
    returns: bool,
) -> None:
    shown = (
        f"JobId=7 JobName=a JobState={state} Reason=None PreemptEligibleTime=now PreemptTime={preempted_at} Comment=a b"
    )
    commands.add("scontrol", show=shown)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv(allocation.RETURNS, "1")
    assert return_to_queue(out_of_time) is returns
    assert ("requeue 7" in commands.calls("scontrol")) is returns
    # A job of which nobody said that it may be started again, such as one of a notebook.
    monkeypatch.delenv(allocation.RETURNS)
    assert not return_to_queue(out_of_time)
