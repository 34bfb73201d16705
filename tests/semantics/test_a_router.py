"""A1 and A4: the mode of a submission is told without running it; what was compiled is kept, bounded and counted."""

from __future__ import annotations

import ast
import inspect
import linecache
from typing import TYPE_CHECKING, Any

import pytest

from perdure.workers.guest.compiler import Cache, Program
from perdure.workers.guest.namespace import Sources
from perdure.workers.guest.router import Mode, route

if TYPE_CHECKING:
    from .kit import Talk

TOP, ASYNC, BLOCKS, SIMPLE, UNKNOWN = Mode

AWAITING = [
    "await x",
    "y = await x",
    "y: int = await x",
    "y += await x",
    "f(a, *[await x])",
    "f(**{'a': await x})",
    "[await x for x in y]",
    "{await x for x in y}",
    "{1: await x for x in y}",
    "[x async for x in y]",
    "[x for x in await y]",
    "(x for x in await y)",
    "(await x for x in y)",
    "(x async for x in y)",
    "(1, [2, {3: await x}])",
    "1 if await x else 2",
    "not await x",
    "(await x).y[await z]",
    "f'{await x}'",
    "while await x: break",
    "for i in await x: pass",
    "async for i in x: pass",
    "async with x: pass",
    "with x:\n    await y",
    "if a:\n    pass\nelif await b:\n    pass",
    "try:\n    pass\nfinally:\n    await x",
    "match await x:\n    case 1: pass",
    "@(await x)\ndef f(): pass",
    "def f(a=await x): pass",
    "class A(await x): pass",
    "lambda a=await x: a",
    "del (await x).y",
    "assert await x",
    "raise await x",
    "(y := await x)",
]
NOT_AWAITING = [
    "((await x for x in y) for z in w)",
    "async def f():\n    await x",
    "async def f():\n    async with x: pass",
    "lambda: x",
    "class A:\n    async def f(self): await x",
    "def f():\n    async def g(): await x\n    return g",
    "x = 'await y'",
]


@pytest.mark.parametrize("code", AWAITING)
def test_a1_an_await_of_the_module_is_found_wherever_it_is(code: str) -> None:
    assert route(code).mode is TOP


@pytest.mark.parametrize("code", NOT_AWAITING)
def test_a1_an_await_inside_a_function_is_not_the_modules(code: str) -> None:
    assert route(code).mode in (ASYNC, SIMPLE)


@pytest.mark.parametrize("code", AWAITING + NOT_AWAITING)
def test_a1_the_router_agrees_with_the_compiler(code: str) -> None:
    compiled = compile(code, "<t>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    assert (route(code).mode is TOP) is bool(compiled.co_flags & inspect.CO_COROUTINE)


@pytest.mark.parametrize(
    ("code", "mode", "blocking"),
    [
        ("import time\ntime.sleep(1)", BLOCKS, ("time.sleep",)),
        ("import time as t\nt.sleep(1)", BLOCKS, ("time.sleep",)),
        ("from time import sleep as rest\nrest(1)", BLOCKS, ("time.sleep",)),
        ("import time\nrest = time.sleep\nrest(1)", BLOCKS, ("time.sleep",)),
        ("import requests", BLOCKS, ("requests",)),
        ("import requests as r\nr.get('x')", BLOCKS, ("requests", "requests.get")),
        ("from urllib.request import urlopen\nurlopen('x')", BLOCKS, ("urllib.request.urlopen",)),
        ("import urllib.request\nurllib.request.urlopen('x')", BLOCKS, ("urllib.request", "urllib.request.urlopen")),
        ("with open('x') as f: pass", BLOCKS, ("open",)),
        ("name = input()", BLOCKS, ("input",)),
        ("def f():\n    time.sleep(1)\nimport time", BLOCKS, ("time.sleep",)),
        ("import subprocess, sqlite3, socket", BLOCKS, ("subprocess", "sqlite3", "socket")),
        ("import time\ntime = None\ntime.sleep(1)", SIMPLE, ()),
        ("from time import sleep\nsleep = print\nsleep(1)", SIMPLE, ()),
        ("from time import sleep\ndef sleep(n): pass\nsleep(1)", SIMPLE, ()),
        ("def f(open): open('x')", SIMPLE, ()),
        ("def f():\n    open = print\n    open('x')", SIMPLE, ()),
        ("for open in []: open('x')", SIMPLE, ()),
        ("import urllib.parse", SIMPLE, ()),
        ("import time", SIMPLE, ()),
        ("from .time import sleep\nsleep(1)", SIMPLE, ()),
        ("import time\nasync def f(): time.sleep(1)", ASYNC, ("time.sleep",)),
        ("import time\nawait f(time.sleep(1))", TOP, ("time.sleep",)),
    ],
)
def test_a3_blocking_calls_are_named_through_aliases_and_rebinding(
    code: str, mode: Mode, blocking: tuple[str, ...]
) -> None:
    assert route(code) == (mode, blocking)


@pytest.mark.parametrize("code", ["x = = 1", "return 1", "x = 1\n  y = 2", "def f():\n await x\nawait = 1", "\0"])
def test_a1_what_does_not_compile_is_unknown(code: str) -> None:
    assert route(code) == (UNKNOWN, ())


def test_a1_a_tree_of_any_depth_is_walked() -> None:
    assert route("x = " + "+".join(["1"] * 3000)).mode in (SIMPLE, UNKNOWN)
    assert route("if a:\n    pass\n" + "".join(f"elif b{n}:\n    pass\n" for n in range(500))).mode in (SIMPLE, UNKNOWN)


def test_a4_programs_are_kept_by_source_and_flags_whatever_their_name() -> None:
    cache = Cache(size=2)
    code = "def f():\n    return lambda: 1\nf"
    first, second = cache.get(code, "<a>", 0), cache.get(code, "<b>", 0)
    assert cache.counters() == {"hits": 1, "misses": 1, "kept": 1}
    assert [_inner_file(program) for program in (first, second)] == ["<a>", "<b>"]
    for other in ("1", "2"):
        cache.get(other, "<t>", 0)
    assert cache.counters()["kept"] == 2
    with pytest.raises(SyntaxError):
        cache.get("(", "<t>", 0)
    assert cache.counters()["kept"] == 2


def _inner_file(program: Program) -> str:
    space: dict[str, Any] = {}
    exec(program.units[0].code, space)
    return str(space["f"]().__code__.co_filename)


def test_a4_what_the_compiler_warned_of_is_compiled_and_warned_of_again() -> None:
    cache = Cache()
    for name in ("<a>", "<b>"):
        with pytest.warns(SyntaxWarning, match="is"):
            cache.get("1 is 1", name, 0)
    assert cache.counters()["kept"] == 0


def test_a5_sources_are_bounded_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perdure.workers.guest.namespace.SOURCES_KEPT", 100)
    sources = Sources()
    for number in range(4):
        sources.add(f"<s@{number}>", "x" * 40)
    assert [f"<s@{number}>" in sources for number in range(4)] == [False, False, True, True]
    assert sources.dropped == 2
    assert "<s@0>" not in linecache.cache
    assert linecache.getline("<s@3>", 1) == "x" * 40
    for number in range(4):
        linecache.cache.pop(f"<s@{number}>", None)


@pytest.mark.asyncio(loop_scope="module")
async def test_a1_the_mode_is_in_the_result_the_info_and_the_tree(talk: Talk) -> None:
    result = await talk.run("import time as t\nt.sleep(0)")
    assert (result.mode, result.blocking) == ("BLOCKING_SYNC", ("time.sleep",))
    execution = talk.client.execution(result.execution)
    assert (await execution.info()).mode == "BLOCKING_SYNC"
    assert "BLOCKING_SYNC" in (await execution.tree()).label
    assert (await talk.run("import asyncio\nawait asyncio.sleep(0)")).mode == "TOP_LEVEL_AWAIT"


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("code", "mode", "value"),
    [
        ("async def later(): return 1\n2", "ASYNC_DEF", 2),
        ("async def later(): return 3\nimport asyncio\nasyncio.run(later())", "ASYNC_DEF", 3),
        ("[n for n in range(4)]", "SIMPLE_SYNC", [0, 1, 2, 3]),
        ("class A:\n    def f(self): return 5\nA().f()", "SIMPLE_SYNC", 5),
        ("import time\ntime.sleep(0)\n6", "BLOCKING_SYNC", 6),
        ("import asyncio\nawait asyncio.sleep(0, 7)", "TOP_LEVEL_AWAIT", 7),
    ],
)
async def test_a1_each_mode_through_a_session(talk: Talk, code: str, mode: str, value: object) -> None:
    result = await talk.run(code)
    assert (result.mode, result.value) == (mode, value)


@pytest.mark.asyncio(loop_scope="module")
async def test_a1_what_does_not_compile_in_the_guest_changes_nothing(talk: Talk) -> None:
    await talk.run("x = 1")
    result = await talk.run("x = 2\nexec('x = = 3')")
    assert result.error is not None
    assert result.error.type == "SyntaxError"
    assert await talk.value("x") == 2
