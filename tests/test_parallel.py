"""Results of several processes are those of one, in the order of the inputs, and errors are the user's."""

from __future__ import annotations

import os
import signal

import pytest

from intaglio import parallel
from intaglio.errors import UserError


def _of(number: int) -> tuple[int, int]:
    return number * number, os.getpid()


def _kill(number: int) -> int:
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def _refuse(number: int) -> int:
    raise UserError(f"number {number} is damaged")


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "usable_cores", lambda: 2)


@pytest.mark.parametrize("alone", [True, False])
def test_in_the_order_of_the_inputs(alone: bool) -> None:
    found = list(parallel.in_processes(_of, range(7), alone))
    assert [value for value, _ in found] == [0, 1, 4, 9, 16, 25, 36]
    assert (os.getpid() in {process for _, process in found}) == alone


def test_errors_are_the_users() -> None:
    with pytest.raises(UserError, match="number 0 is damaged"):
        list(parallel.in_processes(_refuse, range(3), False))
    with pytest.raises(UserError, match="a process was killed"):
        list(parallel.in_processes(_kill, range(3), False))
