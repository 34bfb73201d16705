"""The host and checkpoints: it never loads one, believes nothing a guest says of it, and records what changed."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from perdure.engine import Client
from perdure.engine.checkpoints import INTERNAL_NAMES, Composed
from perdure.workers.guest.namespace import ENGINE_INTERNALS

HOST = """
import asyncio, pickle, sys
events = []
sys.addaudithook(lambda event, args: events.append((event, args)) if event == "pickle.find_class" else None)
from perdure.engine import Client
async def main():
    for codes in (MAKE, ["(job.tags, f(2), n)", "grow(); n += 1", "whole"]):
        async with Client.open(sys.argv[1]) as client:
            session = await client.session("s")
            for code in codes:
                execution = await session.submit(code)
                result = await execution.result()
                assert result.status == "ok", result
                last = result.repr
            names = {report.name: report for report in await session.variables()}
            await execution.tree()
    assert last == "[1, 2, 3, 'x']" and names["job"].type == "Job" and names["n"].type == "int"
    assert names["lines"].status == "lost" and "make it again" in names["lines"].why
    assert "_ih" not in names
MAKE = ["class Job: pass\\njob = Job(); job.tags = [1]\\ndef f(x): return x * 2\\nn = 1",
    "lines = (line for line in 'ab'); next(lines)",
    "whole = [1, 2, 3]\\ndef grow(): whole.append('x')", "job.big = list(range(100_000))"]
asyncio.run(main())
assert events == [], events
pickle.loads(pickle.dumps(len))
assert events, "the hook does not hear"
"""


def test_the_host_never_unpickles(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HOST, str(tmp_path / "state")],
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr


def test_both_sides_mean_the_same_names() -> None:
    assert INTERNAL_NAMES == ENGINE_INTERNALS


def unit(**changes: Any) -> dict[str, Any]:
    return {"roots": [[1, "list", 10, 0, 10]], "stream": [[1, 0, 10]], **changes}


def delta(**changes: Any) -> dict[str, Any]:
    return {
        "format": 2,
        "generation": 1,
        "since": 0,
        "names": {"a": [1]},
        "units": {"2": unit()},
        "pack": 10,
        **changes,
    }


HOSTILE = {
    "another format": delta(format=3),
    "a field that nobody knows": delta(more=1),
    "it follows another": delta(since=4),
    "bytes behind the end of the pack": delta(units={"2": unit(stream=[[1, 5, 6]])}),
    "bytes before its start": delta(units={"2": unit(stream=[[1, -5, 6]])}),
    "another pack": delta(units={"2": unit(stream=[[7, 0, 1]])}),
    "an extent of two numbers": delta(units={"2": unit(stream=[[1, 0]])}),
    "more times than memory": delta(units={"2": unit(stream=[[1, 0, 10, 1 << 60]])}),
    "more than it says": delta(units={"2": unit(stream=[[1, 0, 10, 1000]])}),
    "a buffer elsewhere": delta(units={"2": unit(buffers=[[10, False, [[1, 8, 10]]]])}),
    "a text elsewhere": delta(texts={"text:x": [[2, 0, 1]]}),
    "an order of other names": delta(order=["b"]),
    "a name twice in order": delta(order=["a", "a"]),
    "texts for numbers": delta(dead=["x"]),
    "no list of units": delta(units=[1]),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_a_guest_says_is_checked(what: str) -> None:
    composed = Composed()
    with pytest.raises(ValueError, match=r"\w"):
        composed.apply(HOSTILE[what], {1: [(0, "", 0, 10)]})
    assert composed == Composed()
    composed.apply(delta(), {1: [(0, "", 0, 10)]})
    assert composed.generation == 1


async def test_several_are_restored_at_once(tmp_path: Path) -> None:
    make = "import os; big = os.urandom(300_000); digest = hash(big); alias = [big]"
    look = "hash(big) == digest, alias[0] is big"

    async def run(client: Client, session: str, code: str) -> Any:
        return (await (await (await client.session(session)).submit(code)).result()).value

    async with Client.open(tmp_path / "state") as client:
        await asyncio.gather(*(run(client, f"s{n}", make) for n in range(5)))
    async with Client.open(tmp_path / "state") as client:
        found = await asyncio.gather(*(run(client, f"s{n}", look) for n in range(5)))
        assert found == [(True, True)] * 5


async def test_one_checkpoint_is_restored_twice_at_once(tmp_path: Path) -> None:
    code = "answer = ask('which?'); big.append(answer); hash(big[0]) == digest, alias is big, big[1:], open('f').read()"
    async with Client.open(tmp_path / "state") as client:
        session = await client.session("s", grants=["ask"])
        make = "import os; big = [os.urandom(300_000)]; digest = hash(big[0]); alias = big; open('f', 'w').write('x')"
        assert (await (await session.submit(make)).result()).status == "ok"
        asking = await session.submit(code)
        async with asyncio.timeout(30):
            while not (pending := await client.pending()):
                await asyncio.sleep(0.01)
        forks = await asyncio.gather(
            *(session.fork(at=pending[0].id, answer=f"a{n}", name=f"fork{n}") for n in range(3))
        )
        executions = [await fork.last() for fork in forks]
        found = [(await execution.result()).value for execution in executions if execution is not None]
        assert found == [(True, True, [f"a{n}"], "x") for n in range(3)], "and none sees what another did"
        await client.answer(pending[0].id, "own")
        assert (await asking.result()).value == (True, True, ["own"], "x")
