"""What code says how to make again: it comes back by itself, everything else as it was, and a failure says why."""

from __future__ import annotations

from pathlib import Path

import pytest

from .kit import World, opened, outcome

MAKE = """
import concurrent.futures, perdure, random
workers = 3
class Pool(concurrent.futures.ThreadPoolExecutor): pass
made = []
def pool():
    made.append(random.random()); print('making')
    return Pool(workers)
pool_of = {'one': perdure.recompute(pool)}
same = pool_of['one']
numbers = perdure.recompute(lambda: [1, 2, 3])
numbers.append(4)
drawn = random.Random(); state = random.getstate()
lines = perdure.recompute(lambda: (line for line in ('a', 'b')))
next(lines)
plain = (x for x in 'ab'); next(plain)
"""


async def test_what_can_be_made_again_comes_back_when_everything_else_is_there(tmp_path: Path) -> None:
    async with opened(tmp_path / "state") as client:
        first = await outcome(client, "s", MAKE)
        assert first.status == "ok", first
        assert [report.name for report in first.lost] == ["plain"]
    for _ in range(2):
        async with opened(tmp_path / "state") as client:
            reports = {report.name: report for report in await (await client.session("s")).variables()}
            assert (reports["same"].status, reports["numbers"].status) == ("rebuilt", "kept")
            assert "made again" in reports["same"].why
            code = "same is pool_of['one'], same._max_workers, same.submit(len, 'abc').result(), numbers, next(lines)"
            found = await outcome(client, "s", code)
            assert found.value == (True, 3, 3, [1, 2, 3, 4], "a"), found
            assert found.writes == 0, "what is printed meanwhile is not shown"
            assert (await outcome(client, "s", "len(made) > 1, random.getstate() == state")).value == (True, True)
            lost = await outcome(client, "s", "next(plain)")
            assert lost.error is not None
            assert "perdure.recompute(function)" in lost.error.message


async def test_what_cannot_be_made_again_is_lost_and_says_so(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with opened(tmp_path / "state", world) as client:
        code = (
            "import perdure\nready = False\n"
            "def begun():\n    made = (x for x in 'ab'); next(made); return made\n"
            "def make():\n    if ready: 1 / 0\n    return begun()\n"
            "def asks():\n    if ready: look('x')\n    return begun()\n"
            "a = perdure.recompute(make); b = perdure.recompute(asks); ready = True; c = 5"
        )
        assert (await outcome(client, "s", code, grants=["look"])).status == "ok"
    async with opened(tmp_path / "state", world) as client:
        for name, why in (("a", "ZeroDivisionError"), ("b", "making it again failed")):
            failed = await outcome(client, "s", f"next({name})")
            assert failed.error is not None
            assert (failed.error.type, why in failed.error.message) == ("LostObjectError", True), failed.error
        assert (await outcome(client, "s", "c")).value == 5
        assert world.effects() == [], "nothing is asked while a session comes back"


@pytest.mark.parametrize("code", ["perdure.recompute(lambda: 1 / 0)", "perdure.recompute(5)"])
async def test_what_fails_at_once_raises_where_it_is_written(tmp_path: Path, code: str) -> None:
    async with opened(tmp_path / "state") as client:
        failed = await outcome(client, "s", f"import perdure\n{code}")
        assert failed.error is not None
        assert (failed.error.type, failed.error.line) in (("ZeroDivisionError", 2), ("TypeError", 2))
