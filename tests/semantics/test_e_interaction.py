"""E. Interaction: questions, calls, rich results, progress."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .kit import Talk

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def answer_all(talk: Talk, execution: str, answers: list[str]) -> list[str]:
    """Answer one question after another; return the prompts."""
    prompts = []
    async with asyncio.timeout(30):
        for text in answers:
            while not (pending := await talk.client.pending(execution)):
                await talk.client.substrate.changed(0.2)
            prompts.append(pending[0].prompt)
            await talk.client.answer(pending[0].id, text)
    return prompts


async def test_e1_input_works_many_times_everywhere(talk: Talk) -> None:
    code = """
import asyncio, threading
def ask_name(): return input('name? ')
got = [input('first? '), ask_name()]
t = threading.Thread(target=lambda: got.append(input('thread? ')))
t.start(); t.join()
async def inside(): return input('coroutine? ')
got.append(await inside())
got
"""
    execution = await talk.submit(code)
    prompts = await answer_all(talk, execution.id, ["a", "b", "c", "d"])
    assert prompts == ["first? ", "name? ", "thread? ", "coroutine? "]
    async with asyncio.timeout(30):
        assert (await execution.result()).value == ["a", "b", "c", "d"]
    assert await talk.output(execution.id) == "".join(prompts)


async def test_e2_calls_from_sync_code_threads_and_coroutines(talk: Talk) -> None:
    code = """
import asyncio, threading
got = [look(1)]
got.append(await look(2))
t = threading.Thread(target=lambda: got.append(look(3)))
t.start(); t.join()
async def inside(): return await look(4)
got.append(await asyncio.create_task(inside()))
got += await asyncio.gather(look(5), look(6))
def plain(): return look(7)
got.append(await asyncio.to_thread(plain))
got
"""
    assert await talk.value(code) == [1, 2, 3, 4, 5, 6, 7]


async def test_e2_a_call_never_awaited_is_said_with_its_line(talk: Talk) -> None:
    shown = await talk.printed("async def forget():\n    look('x')\nawait forget()", "stderr")
    assert "look in line 2 was never awaited" in shown


async def test_e4_progress_with_carriage_returns_comes_intact(talk: Talk) -> None:
    code = "import time\nfor i in range(4):\n    print(f'\\r{i}/3', end='')\nprint('\\nnaïve ✓')"
    assert await talk.printed(code) == "\r0/3\r1/3\r2/3\r3/3\nnaïve ✓\n"
