"""The corpus covers the language, and the table of differences is about programs and reasons that exist."""

from __future__ import annotations

import ast
import warnings
from pathlib import Path

import pytest

from .corpus import PROGRAMS, pieces
from .known import KNOWN, REASONS, RESTORED, Known

PAGE = Path(__file__).parents[2] / "docs" / "python.md"

#: Nodes that no program contains: other ways of parsing than a module, what is old and kept for its name only.
NOT_IN_A_MODULE = {"Expression", "FunctionType", "Interactive", "TypeIgnore", "AugLoad", "AugStore", "Param", "Suite"}
ABSTRACT = {"AST", "mod", "stmt", "expr", "expr_context", "boolop", "operator", "unaryop", "cmpop", "excepthandler"} | {
    "pattern", "type_ignore", "type_param", "slice", "Index", "ExtSlice",
    "Num", "Str", "Bytes", "NameConstant", "Ellipsis",
}  # fmt: skip


def _nodes() -> set[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = {
            name
            for name in dir(ast)
            if name[0] != "_" and isinstance(getattr(ast, name), type) and issubclass(getattr(ast, name), ast.AST)
        }
        return found - ABSTRACT - NOT_IN_A_MODULE


def _parsed() -> list[ast.Module]:
    trees = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for program in PROGRAMS.values():
            try:
                trees.append(ast.parse(program.code))
            except (SyntaxError, ValueError):
                continue
    return trees


def test_every_kind_of_node_occurs() -> None:
    seen = {type(node).__name__ for tree in _parsed() for node in ast.walk(tree)}
    # Template strings came with 3.14; the corpus has to run on 3.12.
    assert _nodes() - seen - {"TemplateStr", "Interpolation"} == set()


def test_there_are_several_hundred_programs_and_they_come_apart() -> None:
    assert len(PROGRAMS) >= 500
    assert sum(len(pieces(program.code)) for program in PROGRAMS.values()) >= 2000


def test_pieces_keep_their_lines() -> None:
    assert pieces("x = 1; y = 2\n\n@d\ndef f():\n    pass\n") == ["x = 1; y = 2\n", "\n\n@d\ndef f():\n    pass\n"]


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.program)
def test_the_table_names_programs_and_reasons(known: Known) -> None:
    assert known.program in PROGRAMS
    assert known.reason in REASONS
    assert known.forms


def test_every_reason_is_used_and_documented() -> None:
    assert {known.reason for known in KNOWN} == set(REASONS)
    text = " ".join(PAGE.read_text().split())
    assert [reason for reason in (*REASONS.values(), *RESTORED.values()) if reason not in text] == []
