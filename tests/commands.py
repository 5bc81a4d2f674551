"""Fake commands of a scheduler, that print what a test says and record how they were called."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest


class Commands:
    """Fake commands, found before the real ones."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.log = folder, folder / "calls"
        folder.mkdir()
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def add(self, name: str, prints: str = "", status: int = 0, **cases: str) -> None:
        """Let a command print something, and something else if a word (the further names) is in its arguments."""
        lines = [f"echo {name} $* >> {shlex.quote(str(self.log))}"]
        lines += [
            f'case "$*" in *{word}*) printf %s {shlex.quote(text)}; exit 0;; esac' for word, text in cases.items()
        ]
        lines += [f"printf %s {shlex.quote(prints)}", f"exit {status}"]
        script = self.folder / name
        script.write_text("#!/bin/sh\n" + "\n".join(lines) + "\n")
        script.chmod(0o755)

    def calls(self, name: str) -> list[str]:
        """Return the arguments of every call of a command."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line.removeprefix(f"{name} ") for line in lines if line.split()[0] == name]
