"""Runs session code in real interpreters that hold nothing but the guest runtime, and moves images between them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GUEST = Path(__file__).resolve().parents[2] / "workers" / "guest"

# The runner is imported, so that `__main__` is free for the session.
_START = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import runner; runner.main()"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one interpreter did: the reports of its load and dump, and what the code printed."""

    loaded: dict[str, dict[str, Any]]
    dumped: dict[str, dict[str, Any]]
    output: str


class Session:
    """A namespace that lives in one image and is continued by a new process for every piece of code."""

    def __init__(self, folder: Path, python: str = sys.executable) -> None:
        self.image = folder / "image"
        self.folder = folder
        self.python = python
        self.count = 0

    def run(self, code: str, *, python: str | None = None, dump: bool = True, **options: Any) -> Outcome:
        """Load the image if there is one, run `code`, dump again; raises `AssertionError` if the code does."""
        self.count += 1
        order = {"guest": str(GUEST), "image": str(self.image), "code": code, "dump": dump, "count": self.count}
        done = subprocess.run(
            [python or self.python, "-I", "-c", _START],
            input=json.dumps({**order, **options}),
            capture_output=True,
            text=True,
            timeout=50,
            cwd=self.folder,
            check=False,
            env={"PYTHONHASHSEED": "0", "HOME": str(self.folder), "PATH": "/usr/bin:/bin"},
        )
        assert done.returncode == 0, f"the guest ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        answer = json.loads(done.stdout.splitlines()[-1])
        return Outcome(**answer)
