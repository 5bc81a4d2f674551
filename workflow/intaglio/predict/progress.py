"""A progress bar on a terminal, and nothing elsewhere."""

from __future__ import annotations

import sys
import time

_WIDTH = 24
# Seconds between two drawings.
_PAUSE = 0.2


class Bar:
    """Shows how many rows are done, how many a second, and the time left.

    Attributes:
        seconds: time since it was made.
    """

    def __init__(self, total: int) -> None:
        self.total, self._shown = total, sys.stderr.isatty()
        self._begun, self._drawn = time.monotonic(), 0.0

    @property
    def seconds(self) -> float:
        """Time since it was made, in seconds."""
        return time.monotonic() - self._begun

    def update(self, done: int) -> None:
        """Draw the bar, if the last drawing is not too recent."""
        if not self._shown or self.seconds - self._drawn < _PAUSE:
            return
        self._drawn = self.seconds
        share = done / max(1, self.total)
        filled = "█" * round(_WIDTH * share)
        left = self.seconds * (1 - share) / max(share, 1e-9)
        speed = f"{done / max(self.seconds, 1e-9):,.0f} rows/s, {_time(left)} left"
        told = f"{share:4.0%} {filled:░<{_WIDTH}} {done:,} of {self.total:,} rows, {speed}"
        print(f"\r{told}\x1b[K", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Remove the bar."""
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
