"""What guests load is compiled once, not by each zygote."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest

from perdure.workers.bytecode import compile_all
from perdure.workers.guest import launch
from perdure.workers.zygotes import Zygotes


def compiled(file: Path) -> Path:
    return Path(importlib.util.cache_from_source(file, optimization=""))


def test_what_has_changed_is_compiled_and_nothing_else(tmp_path: Path) -> None:
    folder, single = tmp_path / "package", tmp_path / "single.py"
    folder.mkdir()
    files = [folder / "a.py", folder / "b.py", single]
    for file in files:
        file.write_text("x = 1\n")
        os.utime(file, (1_000_000_000, 1_000_000_000))
    compile_all([folder, single])
    before = [compiled(file).stat().st_mtime_ns for file in files]
    files[1].write_text("x = 2\n")
    compile_all([folder, single])
    after = [compiled(file).stat().st_mtime_ns for file in files]
    assert [old == new for old, new in zip(before, after, strict=True)] == [True, False, True]


def test_a_folder_that_cannot_be_written_to_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\n")
    (tmp_path / "__pycache__").write_text("in the way")
    compile_all([tmp_path])
    assert (tmp_path / "__pycache__").read_text() == "in the way"


@pytest.mark.asyncio
async def test_a_worker_compiles_the_runtime_of_its_guests(tmp_path: Path) -> None:
    compiled(Path(launch.__file__)).unlink(missing_ok=True)
    await Zygotes(tmp_path / "state", tmp_path / "state" / "workspaces").readable(Path(sys.executable))
    runtime = Path(launch.__file__).parent
    files = [*runtime.glob("*.py"), *(runtime / "checkpoints").glob("*.py")]
    assert [file.name for file in files if not compiled(file).exists()] == []
