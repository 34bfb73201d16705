"""Nothing on the host can load a pickle, or run bytecode that was stored: its modules have no way to."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.repository.layers import ROOT, sources

#: What loads code with data.
LOADERS = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "kishu", "marshal", "shelve", "copyreg"}
#: What a benchmark runs in the place of a guest: it loads what it has just dumped.
MEASURES = {f"workers/bench/{name}.py" for name in ("checkpoint_process", "checkpoint_peers", "programs")}


def is_host(path: str) -> bool:
    return not path.startswith(("tests/", "workers/guest/"))


def loaders(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        line = getattr(node, "lineno", 0)
        match node:
            case ast.Import():
                names = [alias.name for alias in node.names]
            case ast.ImportFrom(module=str(module), level=0):
                names = [module]
            case ast.Call(func=ast.Name(id="eval" | "exec" | "__import__") as func):
                yield f"line {line} calls {func.id}"
            case ast.Call(func=ast.Attribute(attr="import_module"), args=[ast.Constant(value=str(module)), *_]):
                names = [module]
            case ast.keyword(arg="allow_pickle"):
                yield f"line {line} lets another load pickles"
        yield from (f"line {line} imports {name}" for name in names if name.partition(".")[0] in LOADERS)


def test_nothing_on_the_host_can_load_a_pickle() -> None:
    found = [
        f"{path}: {what}"
        for path in map(str, sources())
        if is_host(path) and path not in MEASURES
        for what in loaders((ROOT / path).read_text())
    ]
    assert found == []
    assert all([*loaders((ROOT / path).read_text())] for path in MEASURES), "one is an exception no more"


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "def f():\n    from pickle import loads",
        "import os, marshal as m",
        "from dill.session import load_session",
        "importlib.import_module('cloudpickle').loads(x)",
        "np.load(file, allow_pickle=True)",
        "exec(code)",
        "__import__('pick' + 'le')",
    ],
)
def test_whatever_loads_is_seen(source: str) -> None:
    assert [*loaders(source)]


def test_the_words_alone_are_no_loaders() -> None:
    assert [*loaders("from .pickle_free import loads\njson.loads('pickle')\nself.exec(code)\nimport picklejar")] == []
