"""Waiting for people and for time: questions in every order, with and without deadlines."""

from __future__ import annotations

from ..program import Program
from .concurrent import told_as_it_went

__all__ = ["PROGRAMS"]

PROGRAMS = [
    Program("one_question", ("print('before')\nname = ask('Who?')\nprint('hello', name)\nname",), {"Who?": "Ada"}),
    Program("input_twice", ("a = input('first? ')\nb = input('second? ')\na + b",), {"first? ": "x", "second? ": "y"}),
    Program(
        "questions_and_payments",
        (
            """
paid = []
for n in range(3):
    if ask(f"pay {n}?") == "yes":
        paid.append(sure(n and f"p{n}" or "p0"))
    print("asked", n)
paid
""",
        ),
        {"pay 0?": "yes", "pay 1?": "no", "pay 2?": "yes"},
    ),
    Program(
        "questions_at_once",
        (
            """
import asyncio
answers = await asyncio.gather(*[ask(f"q{n}") for n in range(4)])
print(answers)
answers
""",
        ),
        {f"q{n}": n * n for n in range(4)},
    ),
    Program(
        "questions_as_they_come",
        (
            """
import asyncio
order = []
async def one(n):
    answer = await ask(f"q{n}")
    order.append(answer)
    print("got", answer)
    await look(answer)
await asyncio.gather(*map(one, range(3)))
order
""",
        ),
        {f"q{n}": f"a{n}" for n in range(3)},
        free=True,
        check=told_as_it_went,
    ),
    Program(
        "answers_as_they_come",
        (
            """
import asyncio
order = []
async def one(n):
    answer = await ask(f"q{n}")
    order.append(answer)
    print("got", answer)
await asyncio.gather(*map(one, range(3)))
end = look("end")
order
""",
        ),
        {f"q{n}": f"a{n}" for n in range(3)},
        free=True,
        check=told_as_it_went,
    ),
    Program(
        "answers_shown",
        (
            """
import asyncio
order = []
async def one(n):
    order.append(await ask(f"q{n}"))
    print("got", order[-1])
await asyncio.gather(*map(one, range(3)))
order
""",
        ),
        {f"q{n}": f"a{n}" for n in range(3)},
        free=True,
        check=told_as_it_went,
    ),
    Program(
        "a_question_beside_calls",
        (
            """
import asyncio
async def chain():
    return [await look("c1"), await look("c2"), await look("c3")]
async def question():
    answer = await ask("go?")
    return answer, await surely(answer)
await asyncio.gather(question(), chain())
""",
        ),
        {"go?": "now"},
    ),
    Program(
        "a_question_with_a_far_deadline",
        ("import asyncio\nanswer = await asyncio.wait_for(ask('soon?'), 3600)\n(answer, look('then'))",),
        {"soon?": "yes"},
    ),
    Program(
        "a_question_that_is_given_up",
        (
            """
import asyncio
try:
    await asyncio.wait_for(ask("anybody?"), 0.03)
except TimeoutError:
    said = "nobody"
print(said)
said, look("alone")
""",
        ),
    ),
    Program(
        "a_question_in_a_thread",
        (
            """
import threading
got = []
thread = threading.Thread(target=lambda: got.append((ask("from the thread?"), look("t"))))
thread.start()
thread.join()
del thread
got
""",
        ),
        {"from the thread?": 5},
    ),
    Program(
        "a_question_and_a_timer",
        (
            """
import asyncio
log = []
async def tick():
    for n in range(3):
        await asyncio.sleep(0.01)
        log.append(n)
    return await look("ticked")
async def question():
    return await ask("well?")
got = await asyncio.gather(tick(), question())
got, log
""",
        ),
        {"well?": "good"},
    ),
    Program(
        "a_long_sleep",
        ("import asyncio\nprint('a')\nx = look(1)\nawait asyncio.sleep(2.2)\nprint('b')\n(x, look(2))",),
    ),
    Program(
        "a_handler_past_the_lease",
        (
            """
import asyncio, perdure
doubts = []
async def work():
    try:
        return await slow("work", behind="release")
    except perdure.CallInDoubt:
        doubts.append("work")
        return "work"
async def question():
    said = await ask("ready?")
    await look("release")
    return said
await asyncio.gather(work(), question())
""",
        ),
        {"ready?": "yes"},
        restless=True,
    ),
    Program(
        "an_answer_refused_by_the_code",
        ("while (n := ask('number?')) < 10:\n    print('too small')\nsure(str(n))",),
        {"number?": 12},
    ),
]
