"""Messages of errors in the user's input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from intaglio.errors import UserError


def refused(call: Callable[..., object], *arguments: Any, **named: Any) -> str:
    """Return the message of the `UserError` that a call raises; it has to be one line."""
    with pytest.raises(UserError) as caught:
        call(*arguments, **named)
    assert "\n" not in str(caught.value)
    return str(caught.value)
