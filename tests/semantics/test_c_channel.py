"""C. The channel: nothing that code does to its descriptors and streams touches it."""

from __future__ import annotations

import asyncio
from time import thread_time

import pytest

from tests.whole.kit import HIJACK

from .kit import Talk

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        ("print('plain')", "plain\n"),
        ("import os\nos.write(1, b'raw\\n')", "raw\n"),
        ("import ctypes\nctypes.CDLL(None).puts(b'from C')\nctypes.CDLL(None).fflush(None)", "from C\n"),
        ("import threading\nt = threading.Thread(target=print, args=('thread',))\nt.start()\nt.join()", "thread\n"),
        ("import threading\nthreading.Timer(0.01, print, ('late',)).start()", ""),
        ("import os\nos.close(1)", ""),
        ("import os\nos.closerange(0, 3)", ""),
        ("import sys\nsys.stdin.read()", ""),
        ("import sys\nsys.stdout.close()", ""),
        ("import sys\nsys.stdout = sys.stderr = None", ""),
    ],
)
async def test_c3_the_channel_cannot_be_corrupted(talk: Talk, other: Talk, code: str, shown: str) -> None:
    # A session of its own: what it does to its streams lasts.
    hostile = Talk(talk.client, "hostile")
    await hostile.run("import sys\nsys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__")
    result = await hostile.run(code)
    assert shown in await hostile.output(result.execution, "stdout")
    await hostile.answers()
    kept = await other.run("untouched")
    assert (kept.value, kept.kept_guest) == (41, True)


async def test_c2_values_of_any_size_are_stored_by_reference(talk: Talk) -> None:
    result = await talk.run("'x' * 3_000_000")
    assert result.value == "x" * 3_000_000
    root = await talk.client.execution(result.execution).tree()
    assert "$ref" in root.value["data"]
    await talk.run("del _\nOut.clear()")


async def test_c3_a_large_result_does_not_hold_up_the_loop_of_the_worker(talk: Talk) -> None:
    raw = b'"' + b"x" * 80_000_000 + b'"'
    begun = thread_time()
    # What must not be done in one turn, in CPU seconds: they do not depend on who else runs.
    assert len(bytes(bytearray(raw))) == len(raw)
    assert (raw.find(b"$ref"), raw.find(b"\\u0024")) == (-1, -1)
    at_once = thread_time() - begun
    longest = 0.0

    async def turns() -> None:
        nonlocal longest
        while True:
            begun = thread_time()
            await asyncio.sleep(0.001)
            longest = max(longest, thread_time() - begun)

    execution = await talk.submit("'x' * 80_000_000")
    task = asyncio.create_task(turns())
    async for _ in execution.events():
        pass
    task.cancel()
    assert longest < at_once / 2
    await talk.run("del _\nOut.clear()")


@pytest.mark.grid
async def test_c3_half_a_gigabyte_is_neither_refused_nor_a_hang(talk: Talk) -> None:
    assert len(await talk.value("'x' * 500_000_000")) == 500_000_000


async def test_c3_a_value_beyond_its_limit_is_named(talk: Talk) -> None:
    session = await talk.client.session("small", limits={"result_bytes": 2048})
    result = await (await session.submit("'x' * 5000")).result()
    assert (result.status, result.has_value) == ("ok", False)
    assert any("result_bytes (2048)" in note for note in result.notes)
    assert result.repr is not None


async def test_c4_a_flood_of_prints_slows_the_printer_and_not_the_host(talk: Talk, other: Talk) -> None:
    execution = await talk.submit("for i in range(100): print('x' * 30_000)")
    await talk.until(execution, "output")
    assert await other.value("untouched") == 41
    result = await execution.result()
    assert result.characters == 100 * 30_001


async def test_c5_everything_printed_comes_before_the_result_in_order(talk: Talk) -> None:
    code = (
        "import sys, os, threading\n"
        "for i in range(100):\n    print(i)\n    print(i, file=sys.stderr)\n"
        "t = threading.Thread(target=lambda: [print('t', i) for i in range(100)])\nt.start(); t.join()\n"
        "os.write(2, b'last\\n')"
    )
    result = await talk.run(code)
    out, err = await talk.output(result.execution, "stdout"), await talk.output(result.execution, "stderr")
    assert out == "".join(f"{i}\n" for i in range(100)) + "".join(f"t {i}\n" for i in range(100))
    assert err == "".join(f"{i}\n" for i in range(100)) + "last\n"
    assert result.characters == len(out) + len(err)


async def test_c5_output_is_live_while_the_code_runs(talk: Talk) -> None:
    execution = await talk.submit("print('now')\nlook('later', 0.5)\nprint('then')")
    event = await talk.until(execution, "output")
    assert event.text == "now\n"
    assert (await execution.info()).state == "running"
    await execution.result()


async def test_c5_bursts_come_whole_and_caps_are_named(talk: Talk) -> None:
    result = await talk.run("print('é' * 2_500_000)\nprint('✓' * 10)")
    assert await talk.output(result.execution) == "é" * 2_500_000 + "\n" + "✓" * 10 + "\n"
    session = await talk.client.session("capped", limits={"output_characters": 1000})
    result = await (await session.submit("print('x' * 5000)\nprint('y')")).result()
    assert any("output_characters (1000)" in note for note in result.notes)
    assert "output cut" in await talk.output(result.execution)


@pytest.mark.parametrize(
    ("code", "doing"),
    [
        ("while True: pass", "computing"),
        ("import threading\nlock = threading.Lock()\nlock.acquire()\nlock.acquire()", "silent"),
        ("look('x', 1000)", "waiting"),
    ],
)
async def test_c1_one_that_says_nothing_is_told_apart_from_one_that_computes(talk: Talk, code: str, doing: str) -> None:
    execution = await talk.submit(f"names = 1\n{code}")
    async with asyncio.timeout(30):
        while (beat := (await execution.info()).beat) is None or beat.doing != doing:
            await asyncio.sleep(0.05)
    assert beat.quiet_seconds > 0
    assert beat.memory_bytes > 1_000_000
    assert beat.threads == 1
    assert (beat.names is None) is (doing != "waiting")
    await execution.cancel()
    assert (await execution.info()).beat is None


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        ("(2, b'\\x01\\xff', False)", "not in UTF-8"),
        ("(2, b'\\x03text', False)", "to no stream"),
        ("(2, b'\\x01', False)", "without content"),
        ("(0, b'{', False)", "malformed message"),
        ('(0, b\'{"t":"output","stream":"log","text":""}\', False)', "malformed message: output.stream"),
        ("(9, b'', False)", "a frame of kind 9"),
    ],
)
async def test_c1_what_is_malformed_ends_its_guest_and_says_why(talk: Talk, other: Talk, sent: str, why: str) -> None:
    bad = Talk(talk.client, "bad")
    await bad.run("kept = 7")
    result = await bad.run(f"{HIJACK}\nchannel._outbox.append({sent})\nchannel._drain()\nwhile True: pass")
    assert (result.status, result.error and result.error.type) == ("crashed", "ProtocolViolation")
    assert why in (result.error.message if result.error else "")
    assert await bad.value("kept") == 7
    kept = await other.run("untouched")
    assert (kept.value, kept.kept_guest) == (41, True)


async def test_c1_what_a_guest_uses_is_measured_from_outside(talk: Talk) -> None:
    code = "n = 0\nwhile n < 3_000_000: n += 1\nheld = bytes(range(256)) * 200_000"
    result = await talk.run(code)
    assert result.usage.memory_bytes > 50_000_000
    assert result.usage.cpu_seconds > 0
    more = await talk.run("del held\nalpha = beta = 1")
    assert more.usage.names == result.usage.names + 1
