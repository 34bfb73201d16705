"""What the tests of confinement share: one look at the interpreter, and a policy over a fresh workspace."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from perdure.workers.confine.interpreter import Interpreter, inspect_interpreter
from perdure.workers.confine.policy import Policy, Readable, readable_paths, strict_policy, unconfined_policy

from .kit import ready_workspace

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(scope="session")
def interpreter() -> Interpreter:
    return inspect_interpreter(Path(sys.executable))


@pytest.fixture(scope="session")
def workspaces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workspaces").resolve()


@pytest.fixture(scope="session")
def readable(interpreter: Interpreter, workspaces: Path) -> Readable:
    return readable_paths(interpreter, private=[workspaces])


@pytest.fixture
def strict(readable: Readable, workspaces: Path) -> Policy:
    return strict_policy(readable, [ready_workspace(workspaces)], parent=os.getpid())


@pytest.fixture
def process_level() -> Callable[[], Policy]:
    return lambda: unconfined_policy(parent=os.getpid())
