"""D. Cancel, time, crash: what stops, how it is said, and what it leaves alone."""

from __future__ import annotations

import asyncio
import subprocess
from typing import TYPE_CHECKING

import pytest

from perdure.engine import Client
from perdure.engine.errors import SessionBusy, StateUnusable
from perdure.engine.life import TABLE, after
from tests.whole.kit import World, kill_guests, opened, outcome, zombies

if TYPE_CHECKING:
    from pathlib import Path

    from .kit import Talk

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize(
    ("code", "status", "exit_code"),
    [
        ("import sys\nsys.exit(3)", "exit", 3),
        ("exit()", "exit", 0),
        ("raise SystemExit('bad')", "exit", 1),
        ("def f(): return f()\nf()", "error", None),
        ("x = bytearray(1 << 45)", "error", None),
        ("import os\nos._exit(3)", "crashed", None),
        ("import ctypes\nctypes.string_at(0)", "crashed", None),
        (
            "import sys\nsys.setrecursionlimit(10**9)\nclass A:\n    def __repr__(self): return repr(self)\nrepr(A())",
            "",
            None,
        ),
        ("import os\nos.kill(os.getpid(), 9)", "crashed", None),
    ],
)
async def test_d3_every_way_to_die_is_typed(
    talk: Talk, other: Talk, code: str, status: str, exit_code: int | None
) -> None:
    await talk.value("kept = 7")
    result = await talk.run(code)
    assert result.status == (status or result.status)
    assert result.status in ("exit", "error", "crashed")
    assert result.exit_code == exit_code
    assert await talk.value("kept") == 7
    kept = await other.run("untouched")
    assert (kept.value, kept.kept_guest) == (41, True)
    async with asyncio.timeout(30):
        while zombies():
            await asyncio.sleep(0.02)


async def test_d3_a_zombie_would_be_seen() -> None:
    with subprocess.Popen(["/bin/true"]) as process:
        while process.pid not in zombies():
            assert process.returncode is None
    assert process.pid not in zombies()


async def test_d4_one_at_a_time_by_the_callers_choice(talk: Talk) -> None:
    session = await talk.client.session("talk")
    first = await session.submit("look('a', 0.3)")
    with pytest.raises(SessionBusy, match=first.id):
        await session.submit("1")
    assert await talk.value("2") == 2
    assert (await first.result()).value == "a"


async def test_d6_loops_belong_to_who_made_them(talk: Talk) -> None:
    await talk.run("import asyncio\nmine = asyncio.new_event_loop()")
    assert await talk.value("mine.is_closed(), mine.run_until_complete(asyncio.sleep(0, 5))") == (False, 5)
    await talk.run("mine.close()")


#: Says that it is on from where a cancel is swallowed: it may come at once.
STUBBORN = """
import hashlib
def stay(): hashlib.pbkdf2_hmac('sha256', b'', b'', 2_000_000_000)
kept = 3
try:
    print('on')
    stay()
except BaseException:
    stay()
"""
SWALLOWS = """
while True:
    try:
        print('on')
        while True: pass
    except BaseException:
        continue
"""


@pytest.mark.parametrize(
    "loop",
    [
        "while True: seen += 1",
        "while True: time.sleep(0.01)",
        "await asyncio.sleep(1000)",
        "while True: await asyncio.sleep(0)",
        "await asyncio.gather(asyncio.sleep(1000), asyncio.sleep(1000))",
        "re.match(r'(a+)+$', 'a' * 40 + 'b')",
        "threading.Event().wait()",
        "look('x', 1000)",
        "input('? ')",
    ],
)
async def test_d1_a_cancel_stops_it_and_says_that_it_stopped_by_itself(talk: Talk, loop: str) -> None:
    execution = await talk.submit(
        f"import asyncio, re, threading, time\nseen, cleaned = 0, False\n"
        f"try:\n    print('on')\n    {loop}\nfinally:\n    cleaned = True"
    )
    await talk.until(execution, "output")
    result = await execution.cancel()
    assert result is not None
    assert (result.status, result.stop) == ("cancelled", "stopped")
    assert result.error is not None
    assert result.error.type in ("Cancelled", "CancelledError")
    after = await talk.run("cleaned")
    assert (after.value, after.kept_guest) == (True, True)


async def test_d1_what_ignores_a_cancel_is_killed_after_its_grace_and_it_is_said(talk: Talk) -> None:
    session = await talk.client.session("stubborn", limits={"grace_seconds": 0.3})
    for code in (STUBBORN, SWALLOWS):
        execution = await session.submit(code, wait=True)
        await talk.until(execution, "output")
        result = await execution.cancel()
        assert result is not None
        assert (result.status, result.stop) == ("cancelled", "killed")
        assert "0.3 s after it was asked to stop" in (result.error.message if result.error else "")
        assert (await (await session.submit("1+1", wait=True)).result()).value == 2


async def test_d1_a_cancel_leaves_background_tasks_alone(talk: Talk) -> None:
    await talk.run(
        "import asyncio\nbackground = asyncio.create_task(asyncio.sleep(0.2, 'alive'))\nawait asyncio.sleep(0)"
    )
    execution = await talk.submit("print('on')\nawait asyncio.sleep(1000)")
    await talk.until(execution, "output")
    await execution.cancel()
    assert await talk.value("await background") == "alive"


async def test_d1_what_catches_a_cancel_gets_to_the_end_of_its_statement_and_no_further(talk: Talk) -> None:
    await talk.run("globals().pop('caught', None)")
    execution = await talk.submit(
        "try:\n    print('on')\n    while True: pass\nexcept KeyboardInterrupt as error:\n"
        "    caught = type(error).__name__\ncaught += '!'"
    )
    await talk.until(execution, "output")
    result = await execution.cancel()
    assert result is not None
    assert (result.status, result.stop) == ("cancelled", "stopped")
    after = await talk.run("caught")
    assert (after.value, after.kept_guest) == ("Cancelled", True)


async def test_d1_a_cancel_that_was_asked_for_while_no_worker_was_there_comes_first(tmp_path: Path) -> None:
    """Of what had not begun nothing runs; what had is replayed to where it was, and stopped there."""
    world = World(tmp_path)
    async with Client.open(tmp_path / "state", worker=False, capabilities=world.capabilities()) as client:
        execution = await (await client.session("new", grants=["pay"])).submit("pay('first')\n'ran'")
        assert await execution.cancel() is None
    async with opened(tmp_path / "state", world) as client, asyncio.timeout(30):
        result = await client.execution(execution.id).result()
        assert (result.status, result.stop) == ("cancelled", "stopped")
        assert result.error is not None
        assert result.error.message == "it was cancelled before any of it ran"
        assert world.effects() == []
        assert (await outcome(client, "new", "1 + 1")).value == 2
        begun = await (await client.session("begun", grants=["pay", "look"])).submit(
            "pay('once')\nlook('x', 1000)\npay('never')"
        )
        while not [node for step in (await begun.tree()).children for node in step.children if "x" in node.label]:
            await asyncio.sleep(0.01)
    async with Client.open(tmp_path / "state", worker=False, capabilities=world.capabilities()) as client:
        assert await client.execution(begun.id).cancel() is None
    async with opened(tmp_path / "state", world) as client, asyncio.timeout(30):
        result = await client.execution(begun.id).result()
        assert (result.status, result.stop) == ("cancelled", "stopped"), result
        assert world.effects() == ["pay once"]


async def test_d1_a_cancel_before_the_code_runs_is_not_lost(talk: Talk) -> None:
    session = await talk.client.session("early")
    execution = await session.submit("while True: pass")
    result = await execution.cancel()
    assert result is not None
    assert (result.status, result.stop) == ("cancelled", "stopped")


@pytest.mark.parametrize("lose", [False, True])
async def test_d1_what_waits_is_stopped_where_it_waits(talk: Talk, lose: bool) -> None:
    execution = await talk.submit("kept = 0\ntry:\n    kept = 1\n    input('? ')\nfinally:\n    kept += 10")
    await talk.until(execution, "waiting")
    if lose:
        kill_guests()
    result = await execution.cancel()
    assert result is not None
    assert (result.status, result.stop) == ("cancelled", "stopped")
    assert await talk.client.pending(execution.id) == []
    assert await talk.value("kept") == 11


async def test_d1_nobody_to_stop_it_is_said_and_the_request_stands(talk: Talk) -> None:
    execution = await talk.submit("look('x', 0.1)")
    assert await execution.cancel(wait=0) is None
    result = await execution.result()
    assert result.status in ("cancelled", "ok")


async def test_d1_a_store_that_does_not_answer_is_not_nobody_who_stops_it(
    talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def late(_: object) -> None:
        raise TimeoutError("the server did not answer within 10 s")

    execution = await talk.submit("look('x', 0.1)")
    with monkeypatch.context() as patch:
        patch.setattr(type(execution), "result", late)
        with pytest.raises(StateUnusable, match="which is recorded; what became of it cannot be read now"):
            await execution.cancel()
    assert (await execution.result()).status in ("cancelled", "ok")


async def test_d2_a_timeout_leaves_background_tasks_alone(talk: Talk) -> None:
    await talk.run(
        "import asyncio\nbackground = asyncio.create_task(asyncio.sleep(0.2, 'alive'))\nawait asyncio.sleep(0)"
    )
    result = await talk.run(
        "also = asyncio.create_task(asyncio.sleep(0.1, 'too'))\nawait asyncio.sleep(1000)", seconds=0.3
    )
    assert (result.status, result.stop) == ("timeout", "stopped")
    assert await talk.value("await background, await also") == ("alive", "too")


@pytest.mark.parametrize(
    "code", ["while True: pass", "import asyncio\nawait asyncio.sleep(1000)", "import time\ntime.sleep(1000)"]
)
async def test_d2_a_timeout_stops_the_work_and_nothing_leaks(talk: Talk, code: str) -> None:
    result = await talk.run(f"kept = 5\nprint('on')\n{code}", seconds=0.3)
    assert (result.status, result.stop) == ("timeout", "stopped")
    assert result.error is not None
    assert result.error.type == "ExecutionTimeout"
    assert "wall_seconds" in result.error.message
    assert await talk.value("kept") == 5
    assert await talk.printed("import time\ntime.sleep(0.1)\nprint('alone')") == "alone\n"


async def test_d2_the_sessions_bound_cannot_be_raised_and_waiting_does_not_count(talk: Talk) -> None:
    session = await talk.client.session("bounded", grants=["ask"], limits={"wall_seconds": 1.0, "grace_seconds": 0.2})
    result = await (await session.submit(STUBBORN, seconds=100)).result()
    assert (result.status, result.stop) == ("timeout", "killed")
    execution = await session.submit("ask('?')", wait=True)
    waiting = await talk.until(execution, "waiting")
    await asyncio.sleep(1.2)
    await talk.client.answer(waiting.calls[0], "yes")
    assert (await execution.result()).value == "yes"


async def test_d3_limits_are_named_where_they_bite(talk: Talk) -> None:
    session = await talk.client.session("tight", limits={"memory_bytes": 512 << 20, "file_bytes": 1 << 20})
    result = await (await session.submit("x = bytearray(1 << 45)")).result()
    assert result.error is not None
    assert "memory_bytes" in " ".join(result.error.notes)
    result = await (await session.submit("open('f', 'wb').write(bytes(2 << 20))", wait=True)).result()
    assert result.error is not None
    assert "file_bytes" in " ".join(result.error.notes)


async def test_d5_a_coroutine_never_awaited_is_said_with_its_line(talk: Talk) -> None:
    result = await talk.run("async def f(): pass\nx = 1\nf()\ny = 2")
    assert any("coroutine 'f' was never awaited" in note and "line 3" in note for note in result.notes), result.notes
    assert "was never awaited" in await talk.output(result.execution, "stderr")
    kept = await talk.run("later = f()")
    assert not any("never awaited" in note for note in kept.notes)
    assert (await talk.run("await later")).status == "ok"


async def test_d_the_life_of_a_session_is_a_table(talk: Talk) -> None:
    session = await talk.client.session("lived", grants=["ask"])
    assert (await session.info()).state == "new"
    execution = await session.submit("ask('?')")
    waiting = await talk.until(execution, "waiting")
    assert (await session.info()).state == "waiting"
    await talk.client.answer(waiting.calls[0], "yes")
    await execution.result()
    assert (await session.info()).state == "idle"
    assert {*TABLE.values()} == {"running", "waiting", "stopping", "idle"}
    assert after(["submitted", "rested", "woken", "settled", "submitted", "asked_to_stop"]) == "stopping"
    with pytest.raises(ValueError, match="cannot happen"):
        after(["submitted", "submitted"])
