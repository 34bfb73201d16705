"""Each ``__init__`` is the public list and nothing else."""

import ast
import importlib
from pathlib import PurePosixPath

import pytest

from tests.repository.layers import ROOT, sources

INITS = [path for path in sources() if path.name == "__init__.py"]


def problems(source: str) -> list[str]:
    """What this ``__init__`` holds beside a docstring, imports, and the list of all that it imports.

    Imports may stand under ``if TYPE_CHECKING``, and the same names by their modules in an ``on_demand`` beside it.
    """
    body = ast.parse(source).body
    if body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        body = body[1:]
    found, imported, listed = [], [], None
    for node in body:
        if isinstance(node, ast.ImportFrom) and node.module == "typing":
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            modules = {
                each.module: [alias.name for alias in each.names]
                for each in node.body
                if isinstance(each, ast.ImportFrom)
            }
            imported += [name for names in modules.values() for name in names]
            expected = f"from .exports import on_demand\n__getattr__ = on_demand(__name__, {modules})"
            if "\n".join(map(ast.unparse, node.orelse)) != expected:
                found.append(f"line {node.lineno}: what is loaded on demand is not what is imported for type checkers")
        elif isinstance(node, ast.ImportFrom) and node.module != "__future__":
            imported += [alias.asname or alias.name for alias in node.names]
        elif isinstance(node, ast.Assign | ast.AnnAssign) and _targets(node) == ["__all__"] and node.value:
            listed = ast.literal_eval(node.value)
        else:
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
    if listed is None:
        return [*found, "no __all__"]
    return found + [f"{name}: imported or listed, not both" for name in sorted(set(imported) ^ set(listed))]


def _targets(node: ast.Assign | ast.AnnAssign) -> list[str]:
    return [ast.unparse(target) for target in (node.targets if isinstance(node, ast.Assign) else [node.target])]


@pytest.mark.parametrize("path", INITS, ids=str)
def test_an_init_is_the_public_list_and_nothing_else(path: PurePosixPath) -> None:
    assert problems((ROOT / path).read_text()) == []


@pytest.mark.parametrize("path", INITS, ids=str)
def test_every_listed_name_is_there(path: PurePosixPath) -> None:
    module = importlib.import_module(".".join(("perdure", *path.parent.parts)))
    assert [name for name in module.__all__ if not hasattr(module, name)] == []


@pytest.mark.parametrize("folder", [path.parent for path in INITS if len(path.parent.parts) == 1], ids=str)
def test_each_top_level_folder_is_typed(folder: PurePosixPath) -> None:
    assert (ROOT / folder / "py.typed").is_file()


ON_DEMAND = """
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from .a import b
else:
    from .exports import on_demand
    __getattr__ = on_demand(__name__, {'a': ['b']})
__all__ = ['b']
"""


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("", 1),
        ("from .a import b", 1),
        ("from .a import b\n__all__ = []", 1),
        ("__all__ = ['b']", 1),
        ("import os\n__all__ = []", 1),
        ("def f(): ...\n__all__ = []", 1),
        (ON_DEMAND.replace("['b']})", "['c']})"), 1),
        (ON_DEMAND.replace("__all__ = ['b']", "__all__ = ['c']"), 2),
        ('"""Doc."""\nfrom .a import b\n__all__ = ["b"]', 0),
        ("__all__: list[str] = []", 0),
        (ON_DEMAND, 0),
    ],
)
def test_what_does_not_belong_is_found(source: str, found: int) -> None:
    assert len(problems(source)) == found
