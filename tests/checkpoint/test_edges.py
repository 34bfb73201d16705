"""The list of what checkpoints must stand: every line names where it is tried, and that is there; none can rot."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

from .changes import cases as changes
from .corpus.run import cases as corpus

TESTS = Path(__file__).resolve().parents[1]
LISTED = Path(__file__).with_name("edges.txt")


def rows() -> dict[str, list[str]]:
    lines = [line for line in LISTED.read_text().splitlines() if line and line[0] != "#"]
    # What is written before the last sign of equality with spaces may hold others: code.
    parts = [line.rpartition(" = ") for line in lines]
    assert all(what and where for what, _, where in parts)
    found = {what: where.split(" & ") for what, _, where in parts}
    assert len(found) == len(lines), "a line is there twice"
    return found


@cache
def defined_in(file: str) -> frozenset[str]:
    tree = ast.parse((TESTS / file).read_text())
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def is_there(where: str) -> bool:
    kind, _, name = where.partition(": ")
    match kind:
        case "corpus":
            return name in {case.name for case in corpus()}
        case "changes":
            return name in changes()
        case "none":
            return len(name) > 20
        case _:
            file, _, test = where.partition("::")
            return test.startswith("test_") and (TESTS / file).exists() and test in defined_in(file)


@pytest.mark.parametrize("what", rows())
def test_it_is_tried_or_has_a_reason(what: str) -> None:
    assert [where for where in rows()[what] if not is_there(where)] == []


def test_the_list_is_long_and_few_have_only_a_reason() -> None:
    found = rows()
    assert len(found) >= 125
    assert sum(places[0].startswith("none: ") for places in found.values()) <= 3


def test_what_is_not_there_is_seen() -> None:
    for where in (
        "corpus: nothing",
        "changes: nothing",
        "checkpoint/test_host.py::test_nothing",
        "none: so",
        "x.py::test_x",
    ):
        assert not is_there(where)
