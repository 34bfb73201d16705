"""Shapes that broke other engines, under the names they are known by."""

from __future__ import annotations

from ..program import Program
from .concurrent import told_as_it_went

__all__ = ["PROGRAMS", "UNLIKE"]

PROGRAMS = [
    Program(
        "dbos_688",
        (
            """
import asyncio
async def step_a():
    return await look("a", behind="c")
async def step_b():
    return await book("b")
async def step_c():
    return await flaky("c")
a, b, c = await asyncio.gather(step_a(), step_b(), step_c())
{"a": a, "b": b, "c": c}
""",
        ),
        about="gather of distinct steps that finish in another order than they start; the log is in order of finishing",
    ),
    Program(
        "resonate_sdk_py_438",
        (
            """
import asyncio
async def slow():
    await look("slow", behind="fast mark")
    return "slow", await number()
async def fast():
    await look("fast")
    got = "fast", await number()
    await look("fast mark")
    return got
async def question():
    return await ask("and then?")
await asyncio.gather(slow(), fast(), question())
""",
        ),
        {"and then?": "go on"},
        check=lambda played: "" if played.values[-1][:2] == [("slow", 101), ("fast", 201)] else str(played.values),
        about="two chains whose second calls are alike, and are asked in the order in which the first were answered",
    ),
    Program(
        "vercel_workflow_3070",
        (
            """
import asyncio
async def batch():
    return await asyncio.gather(*[hook(n) for n in range(3)])
async def hook(n):
    return await ask(f"hook {n}")
order = []
for round in range(2):
    race = [asyncio.ensure_future(asyncio.sleep(0.03, "slept")), asyncio.ensure_future(batch())]
    done, pending = await asyncio.wait(race, return_when=asyncio.FIRST_COMPLETED)
    for each in [task for task in race if task in done]:
        order.append(str(each.result()))
        print("got", order[-1])
    for each in pending:
        each.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    await look(f"round {round}")
del race, done, pending, each
order
""",
        ),
        {f"hook {n}": n for n in range(3)},
        free=True,
        raced=True,
        check=told_as_it_went,
        about="a batch of hooks raced against a sleep, again and again: who won may not change",
    ),
    Program(
        "langgraph_7780",
        (
            """
done = []
def node(name):
    done.append(sure(f"charge {name}"))
    book(f"mail {name}")
    approved = ask(f"approve {name}?")
    done.append(sure(f"ship {name}"))
    return approved
approvals = [node(name) for name in ("x", "y")]
done, approvals
""",
        ),
        {"approve x?": True, "approve y?": False},
        about="effects before a pause for a person, in a node that the engine enters again on resume",
    ),
]

#: Programs that see that they are run again, and then ask for something else: each must end as diverged.
UNLIKE = [
    Program(
        "asks_another_thing",
        (
            """
import os
flag = f"../../{os.path.basename(os.getcwd())}.flag"
first = sure("a")
again = os.path.exists(flag)
open(flag, "w").close()
second = sure("another" if again else "b")
third = sure("c")
""",
        ),
        unlike=True,
        isolation="process",
    ),
    Program(
        "asks_less",
        (
            """
import os
flag = f"../../{os.path.basename(os.getcwd())}.flag"
first = sure("a")
again = os.path.exists(flag)
open(flag, "w").close()
second = sure("b")
third = None if again else sure("c")
""",
        ),
        unlike=True,
        isolation="process",
    ),
]
