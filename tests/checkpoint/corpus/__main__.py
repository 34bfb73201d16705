"""Writes the table of the corpus into the documentation: `python -m tests.checkpoint.corpus`."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from .run import write

ROOT = Path(__file__).resolve().parents[3]

with tempfile.TemporaryDirectory() as folder:
    for half in ("make", "check"):
        command = [sys.executable, "-I", str(Path(__file__).with_name("run.py")), half]
        subprocess.run([*command, str(ROOT / "workers" / "guest"), folder], check=True)
    write(ROOT / "docs" / "checkpoints.md", json.loads(Path(folder, "check.json").read_text()))
