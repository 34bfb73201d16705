"""docs/capabilities.md: its examples run, in order, and its tables say what the code does."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from perdure.capabilities import standard

pytestmark = pytest.mark.docs

_PAGE = Path(__file__).parents[2] / "docs" / "capabilities.md"


async def test_the_examples_run_in_order() -> None:
    text = _PAGE.read_text()
    names: dict[str, Any] = {"__name__": "capabilities_page"}
    blocks = list(re.finditer(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    assert len(blocks) >= 9
    for block in blocks:
        line = text[: block.start(1)].count("\n")
        tree = ast.increment_lineno(ast.parse(block[1]), line)
        code = compile(tree, str(_PAGE), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        running = eval(code, names)  # noqa: S307 - the page's own examples
        if inspect.iscoroutine(running):
            await running


def test_the_table_of_the_standard_set_is_the_set() -> None:
    said: dict[str, str] = {}
    for names, effect in re.findall(r"^\| (`.*?) \| (`?[a-z ]+`?) \|", _PAGE.read_text(), re.MULTILINE):
        for name in re.findall(r"`([a-z_.]+)", names):
            said[name] = effect.strip("`")
    real = {each.name: "answered from outside" if each.external else each.effect for each in standard()}
    assert said == real
