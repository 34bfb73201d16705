"""The command line as a user starts it: a real process, in a folder of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Cli", "Ran"]

#: Seconds for one command: a loaded machine may need many times the usual second or two.
PATIENCE = 50.0


@dataclass(frozen=True)
class Ran:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


class Cli:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / ".perdure"

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        return path

    def command(self, *args: str) -> list[str]:
        return [str(Path(sys.executable).parent / "perdure"), *args]

    def environment(self, **more: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PERDURE_")}
        return {**kept, "PYTHONPATH": str(self.folder), "COLUMNS": "100", **more}

    def __call__(self, *args: str, stdin: str = "", **environment: str) -> Ran:
        done = subprocess.run(
            self.command(*args),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            cwd=self.folder,
            env=self.environment(**environment),
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    def start(self, *args: str, out: Path) -> subprocess.Popen[bytes]:
        """Start a command and leave it running, its output going to a file."""
        with out.open("ab") as file, out.with_suffix(".err").open("ab") as errors:
            return subprocess.Popen(
                self.command(*args),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=errors,
                cwd=self.folder,
                env=self.environment(),
            )

    def until(self, out: Path, text: str, process: subprocess.Popen[bytes] | None = None) -> None:
        """Wait until a file holds a text; fail if the process ends first."""
        give_up = time.monotonic() + PATIENCE
        while text not in out.read_text():
            over = process is not None and process.poll() is not None
            assert not over, out.read_text() + out.with_suffix(".err").read_text()
            assert time.monotonic() < give_up, out.read_text()
            time.sleep(0.01)
