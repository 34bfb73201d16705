"""Every row of what running code means, and every limit, has a test that exists and uses what it is named for."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

from perdure.engine.settings import Limits

from .rows import LIMITS, ROWS

TESTS = Path(__file__).parents[1]


@cache
def functions() -> dict[str, tuple[Path, str]]:
    """Every test function: its file, and what that file says."""
    found = {}
    for path in TESTS.rglob("test_*.py"):
        text = path.read_text()
        for node in ast.parse(text).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                found[node.name] = path, text
    return found


def test_every_row_has_tests_that_exist_the_first_through_a_client() -> None:
    found = functions()
    for row, (_, names) in ROWS.items():
        assert {*names} <= found.keys(), (row, {*names} - found.keys())
        path, text = found[names[0]]
        assert path.parent.name in ("semantics", "whole"), row
        assert re.search(rf"def {names[0]}\([^)]*\b(talk: Talk|client: Client|tmp_path: Path)", text), row


def test_every_test_of_a_row_is_in_the_table() -> None:
    here = {name for name, (path, _) in functions().items() if path.parent.name == "semantics"}
    listed = {name for _, names in ROWS.values() for name in names}
    assert {name for name in here if re.match(r"test_[a-f]\d_", name)} <= listed


def test_every_limit_bites_somewhere() -> None:
    found = functions()
    assert {*LIMITS} == {*Limits.model_fields}
    for limit, name in LIMITS.items():
        assert name in found, limit
        assert limit in found[name][1], f"{found[name][0].name} sets no {limit}"
