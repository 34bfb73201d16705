"""The spine through the public client: real worker, real guests, a real file, real kills."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

import pytest

from perdure.capabilities import NotPerformed, capability
from perdure.engine import Client
from perdure.engine.errors import AlreadySettled, BadSubmission, PromiseNotFound, SessionBusy, StateNotFound

from .kit import FAST, World, bury_guests, guests, kill_guests, opened, outcome

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


async def text_of(client: Client, id: str) -> str:
    return "".join([event.text async for event in client.execution(id).events(follow=False) if event.type == "output"])


async def test_code_runs_in_one_namespace_that_outlives_guests_and_workers(state: Path) -> None:
    async with opened(state) as client:
        first = await outcome(client, "s", "x = [1, 2]\ny = x\ndef f():\n    return len(x)\nx")
        assert (first.status, first.value) == ("ok", [1, 2])
        second = await outcome(client, "s", "x.append(3); f()")
        assert second.value == 3
        assert second.kept_guest
        await bury_guests()
        third = await outcome(client, "s", "y is x, f()")
        assert third.value == (True, 3)
        assert not third.kept_guest
    async with opened(state) as client:
        assert (await outcome(client, "s", "x.append(4); y, f()")).value == ([1, 2, 3, 4], 4)


async def test_randomness_goes_on_where_it_was_when_the_guest_dies(state: Path) -> None:
    async with opened(state) as client:
        first = await outcome(client, "s", "import random\nrandom.random()")
        await bury_guests()
        assert not (second := await outcome(client, "s", "random.random()")).kept_guest
        third = await outcome(client, "s", "random.random()")
        assert len({first.value, second.value, third.value}) == 3
        await bury_guests()
        assert (await outcome(client, "s", "random.random()")).value not in {first.value, second.value, third.value}


async def test_output_is_ordered_complete_and_read_from_any_offset(state: Path) -> None:
    code = """
import sys
for i in range(50):
    print('line', i)
print('err', file=sys.stderr)
print('naïve \\N{SNOWMAN}')
"""
    async with opened(state) as client:
        result = await outcome(client, "s", code)
        assert result.status == "ok"
        expected = "".join(f"line {i}\n" for i in range(50)) + "err\nnaïve \N{SNOWMAN}\n"
        assert await text_of(client, "s@1") == expected
        assert result.characters == len(expected)
        tail = [event async for event in client.execution("s@1").events(len(expected) - 5) if event.type == "output"]
        assert "".join(event.text for event in tail) == expected[-5:]
        assert {event.stream async for event in client.execution("s@1").events() if event.type == "output"} == {
            "stdout",
            "stderr",
        }


async def test_an_error_keeps_what_ran_before_it_and_shows_the_users_frames(state: Path) -> None:
    async with opened(state) as client:
        result = await outcome(client, "s", "a = 1\ndef g(n):\n    return n / 0\ng(a)\na = 2", filename="calc.py")
        assert result.status == "error"
        assert result.error is not None
        assert result.error.type == "ZeroDivisionError"
        assert 'File "calc.py", line 3, in g' in result.error.traceback
        assert "perdure" not in result.error.traceback
        assert (await outcome(client, "s", "a")).value == 1


async def test_calls_from_sync_code_and_awaits(state: Path, world: World) -> None:
    code = """
import asyncio
import re
a = pay("one", 5)
b = await asyncio.gather(*[look(i) for i in range(5)])
def inner():
    return look("deep")
c = inner()
async def chain(i):
    return (await look(f"c{i}")) + "!"
async with asyncio.TaskGroup() as group:
    tasks = [group.create_task(chain(i)) for i in range(3)]
a, b, c, [t.result() for t in tasks]
"""
    async with opened(state, world) as client:
        result = await outcome(client, "s", code, grants=["pay", "look"])
        assert result.error is None
        assert result.value == (
            {"paid": "one", "cents": 5},
            [0, 1, 2, 3, 4],
            "deep",
            ["c0!", "c1!", "c2!"],
        )
        assert len(world.effects()) == 10


async def test_what_is_not_granted_is_denied_and_bad_arguments_say_which(state: Path, world: World) -> None:
    code = """
import perdure
said = []
try:
    perdure.call("pay", what="x")
except perdure.CapabilityNotGranted as exc:
    said.append(str(exc))
try:
    look()
except perdure.BadArguments as exc:
    said.append(str(exc))
said
"""
    async with opened(state, world) as client:
        result = await outcome(client, "s", code, grants=["look"])
        assert result.error is None
        assert "pay" in result.value[0]
        assert "what" in result.value[1]
        assert world.effects() == []


async def test_a_killed_guest_goes_on_where_it_was(state: Path, world: World) -> None:
    killed: list[str] = []

    def kill(what: str) -> None:
        if what in ("pay b", "look c") and what not in killed:
            killed.append(what)
            kill_guests()

    world.on_effect = kill
    code = """
import random
r = random.random()
print('start')
x = [pay('a'), pay('b')]
print('mid')
y = look('c')
print('end')
(x, y, r)
"""
    async with opened(state, world) as client:
        result = await outcome(client, "s", code, grants=["pay", "look"])
        assert result.error is None
        assert len(killed) == 2
        assert sorted(world.effects()) == ["look c", "pay a", "pay b"]
        assert await text_of(client, "s@1") == "start\nmid\nend\n"
        undisturbed = await outcome(client, "t", code, grants=["pay", "look"])
        assert result.value[:2] == undisturbed.value[:2]
        tree = await client.execution("s@1").tree()
        assert sum(node.kind == "death" for node in tree.children) == 2


async def test_a_question_waits_without_a_process_and_its_answer_goes_on(state: Path) -> None:
    async with opened(state) as client:
        session = await client.session("s", grants=["ask"])
        execution = await session.submit("name = ask('Who?')\nprint('hello', name)\nname")
        async with asyncio.timeout(20):
            async for event in execution.events():
                if event.type == "waiting":
                    break
        pending = await client.pending()
        assert [(call.id, call.prompt) for call in pending] == [("s@1:s0.0", "Who?")]
        assert (await execution.info()).state == "waiting"
    async with opened(state) as client:
        await client.answer("s@1:s0.0", "Ada")
        with pytest.raises(AlreadySettled):
            await client.answer("s@1:s0.0", "Bob")
        async with asyncio.timeout(20):
            result = await client.execution("s@1").result()
        assert result.value == "Ada"
        assert await text_of(client, "s@1") == "hello Ada\n"
        assert await client.pending() == []


async def test_input_is_a_question_too(state: Path) -> None:
    async with opened(state) as client:
        session = await client.session("s", grants=["ask", "input"])
        execution = await session.submit("a = input('first? ')\nb = input('second? ')\na + b")
        for number, text in enumerate(["x", "y"]):
            async with asyncio.timeout(20):
                while not (pending := await client.pending()):
                    await client.substrate.changed(0.2)
                await client.answer(pending[0].id, text)
                while any(call.id == pending[0].id for call in await client.pending()):
                    await client.substrate.changed(0.2)
            assert number < 2
        async with asyncio.timeout(20):
            assert (await execution.result()).value == "xy"


async def test_a_long_sleep_suspends_and_is_not_slept_again(state: Path) -> None:
    code = "import asyncio\nprint('a')\nawait asyncio.sleep(3)\nprint('b')"
    async with opened(state) as client:
        session = await client.session("s")
        execution = await session.submit(code)
        began = asyncio.get_running_loop().time()
        async with asyncio.timeout(20):
            async for event in execution.events():
                if event.type == "waiting":
                    assert event.until is not None
                    break
    async with opened(state) as client:
        async with asyncio.timeout(20):
            result = await client.execution("s@1").result()
        assert result.status == "ok"
        assert asyncio.get_running_loop().time() - began >= 2.9
        assert await text_of(client, "s@1") == "a\nb\n"


async def test_a_second_submission_is_busy_or_waits_its_turn(state: Path, world: World) -> None:
    async with opened(state, world) as client:
        session = await client.session("s", grants=["look"])
        first = await session.submit("x = look('a', 0.5)")
        with pytest.raises(SessionBusy):
            await session.submit("x")
        second = await session.submit("x", wait=True)
        assert second.id == "s@2"
        assert (await second.result()).value == "a"
        assert (await first.result()).status == "ok"


async def test_a_cancel_stops_code_keeps_the_namespace_and_says_so(state: Path) -> None:
    code = """
import time
seen = 0
print('on')
try:
    while True:
        seen += 1
        time.sleep(0.01)
finally:
    cleaned = True
"""
    async with opened(state) as client:
        session = await client.session("s")
        execution = await session.submit(code)
        async with asyncio.timeout(20):
            async for event in execution.events():
                if event.type == "output":
                    break
            await execution.cancel()
            result = await execution.result()
        assert result.status == "cancelled"
        assert (await outcome(client, "s", "seen > 0, cleaned")).value == (True, True)


async def test_a_cancel_does_not_wait_for_a_call_under_way(state: Path, world: World) -> None:
    async with opened(state, world) as client:
        session = await client.session("s", grants=["slow"])
        execution = await session.submit("kept = 1\nslow('x', 20)")
        async with asyncio.timeout(15):
            while not world.effects():
                await asyncio.sleep(0.01)
            await execution.cancel()
            result = await execution.result()
        assert result.status == "cancelled"
        tree = await execution.tree()
        assert [record.value["error"]["type"] for record in tree.children[0].children] == ["CallCancelled"]
        assert (await outcome(client, "s", "kept")).value == 1


async def test_a_cancel_of_what_waits_needs_no_answer(state: Path) -> None:
    async with opened(state) as client:
        session = await client.session("s", grants=["ask"])
        execution = await session.submit("ask('Who?')")
        async with asyncio.timeout(20):
            async for event in execution.events():
                if event.type == "waiting":
                    break
            await execution.cancel()
            result = await execution.result()
        assert result.status == "cancelled"
        assert await client.pending() == []
        assert (await outcome(client, "s", "1")).value == 1


@pytest.mark.parametrize(
    "code", ["import os; os._exit(3)", "import os; os.kill(os.getpid(), 9)", "import ctypes; ctypes.string_at(0)"]
)
async def test_code_that_kills_its_process_ends_as_crashed_and_blocks_nothing(state: Path, code: str) -> None:
    async with opened(state) as client:
        assert (await outcome(client, "s", "x = 1")).status == "ok"
        result = await outcome(client, "s", code)
        assert result.status == "crashed"
        assert result.error is not None
        assert "3 times" in result.error.message
        assert "it had asked for nothing yet" in result.error.message
        assert (await outcome(client, "s", "x")).value == 1


async def test_a_crash_names_the_signal_and_how_far_the_code_had_come(state: Path, world: World) -> None:
    async with opened(state, world) as client:
        code = "look(1)\n\nlook(2)\nimport os, signal\nos.kill(os.getpid(), signal.SIGSEGV)"
        result = await outcome(client, "s", code, grants=["look"])
        assert result.status == "crashed"
        assert result.error is not None
        assert "killed by SIGSEGV" in result.error.message
        assert "the last call that it had made was look at line 3" in result.error.message


async def test_a_fault_names_the_line_of_the_code_and_the_frame_that_it_was_in(state: Path) -> None:
    async with opened(state) as client:
        result = await outcome(client, "s", "import ctypes\ndef deep():\n    ctypes.string_at(0)\ndeep()")
        assert result.error is not None
        assert re.search(
            r"killed by SIGSEGV in string_at at line \d+ of \S+/ctypes/__init__.py, called in deep at line 3 of <s@1>;",
            result.error.message,
        )


async def test_a_capability_that_always_fails_is_asked_so_often_and_no_more(state: Path) -> None:
    asked: list[int] = []

    @capability("broken", effect="repeat", max_retries=2)
    async def broken() -> None:
        asked.append(1)
        raise NotPerformed("the line is dead")

    async with Client.open(state, capabilities=[broken], settings=FAST) as client:
        result = await outcome(client, "s", "x = 1\nbroken()", grants=["broken"])
        assert result.status == "error"
        assert result.error is not None
        assert (result.error.type, len(asked)) == ("NotPerformed", 3)
        assert (await outcome(client, "s", "x")).value == 1


@pytest.mark.timeout(120)
async def test_kills_from_outside_are_not_its_own_doing_and_have_a_bound_of_their_own(state: Path) -> None:
    code = "import select\nselect.select([], [], [], 3)\n7"
    settings = FAST.model_copy(update={"outside_deaths": 6})
    async with opened(state, settings=settings) as client:
        for bound, times in ((False, 4), (True, 6)):
            session = await client.session(f"s{times}")
            execution = await session.submit(code)
            ended, kills = asyncio.create_task(execution.result()), 0
            async with asyncio.timeout(50):
                # A guest that died as its attempt was lost is not counted: so to the end, not so many times.
                while not ended.done() and (bound or kills < times):
                    if guests():
                        await bury_guests()
                        kills += 1
                    await asyncio.sleep(0.01)
                result = await ended
            if not bound:
                assert result.value == 7, result.error
                await bury_guests()  # The one that is kept.
            else:
                assert result.status == "crashed"
                assert result.error is not None
                assert f"killed from outside {times} times" in result.error.message


async def test_what_cannot_be_kept_is_named(state: Path) -> None:
    async with opened(state) as client:
        result = await outcome(client, "s", "g = (i for i in range(3)); next(g); n = 5")
        assert [report.name for report in result.lost] == ["g"]
        session = await client.session("s")
        assert {report.name: report.status for report in await session.variables()} == {"g": "lost", "n": "kept"}
        kill_guests()
        assert (await outcome(client, "s", "n")).value == 5
        used = await outcome(client, "s", "next(g)")
        assert used.error is not None
        assert (used.error.module, used.error.type) == ("perdure", "LostObjectError")
        caught = await outcome(
            client, "s", "import perdure\ntry: next(g)\nexcept perdure.LostObjectError: print('again')"
        )
        assert caught.ok
        assert [(each.earlier, each.type) for each in (*result.lost, *caught.lost)] == [
            (False, "generator"),
            (True, "lost: the generator of <genexpr>()"),
        ]


async def test_nothing_is_recorded_for_code_that_does_not_compile(state: Path) -> None:
    async with opened(state) as client:
        session = await client.session("s")
        with pytest.raises(BadSubmission, match=r"SyntaxError.*line 2"):
            await session.submit("x = 1\nx = = 2\n")
        assert await session.last() is None


async def test_answers_to_what_is_not_there(state: Path) -> None:
    async with opened(state) as client:
        with pytest.raises(PromiseNotFound):
            await client.answer("s@1:s0.0", 1)
    with pytest.raises(StateNotFound):
        async with Client.open(state / "nowhere", create=False):
            pass


async def test_files_come_into_the_workspace_and_stay_with_the_session(state: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.txt").write_text("alpha")
    async with opened(state) as client:
        session = await client.session("s")
        execution = await session.submit(
            "from pathlib import Path\nPath('out.txt').write_text(Path('data/a.txt').read_text() * 2)",
            files=[tmp_path / "data"],
        )
        assert (await execution.result()).value == 10
        kill_guests()
        assert (
            await outcome(client, "s", "from pathlib import Path\nPath('out.txt').read_text()")
        ).value == "alphaalpha"


async def test_values_of_any_size_come_back(state: Path, world: World) -> None:
    async with opened(state, world) as client:
        result = await outcome(client, "s", "big = look('x' * 1_000_000)\n(len(big), big)", grants=["look"])
        assert result.error is None
        assert result.value[0] == 1_000_000
        kill_guests()
        assert (await outcome(client, "s", "len(big)")).value == 1_000_000


async def test_gather_of_two_step_chains_with_a_suspension_between(state: Path, world: World) -> None:
    code = """
import asyncio
import re
async def chain(i):
    a = await look(i, (i * 7 % 10) / 100)
    b = await look(a * 10, (i * 3 % 10) / 100)
    return i, a, b
async def question():
    return await ask("go?")
asked = asyncio.create_task(question())
result = await asyncio.gather(*[chain(i) for i in range(10)])
answer = await asked
[r for r in result if r[1] != r[0] or r[2] != r[0] * 10], answer
"""
    for lose_guest in (False, True):
        async with opened(state, world) as client:
            name = f"s{lose_guest}"
            session = await client.session(name, grants=["look", "ask"])
            execution = await session.submit(code)
            async with asyncio.timeout(20):
                async for event in execution.events():
                    if event.type == "waiting":
                        break
                if lose_guest:
                    assert kill_guests() > 0
                await client.answer((await client.pending())[0].id, "go")
                result = await execution.result()
            assert result.error is None
            assert result.value == ([], "go")
    assert len(world.effects()) == 40


async def test_one_effect_though_the_lease_is_lost_while_the_handler_runs(state: Path, world: World) -> None:
    async with opened(state, world) as client:
        worker = client._worker
        session = await client.session("s", grants=["slow"])
        execution = await session.submit("slow('x', 3.0)")
        async with asyncio.timeout(30):
            while not world.effects():
                await client.substrate.changed(0.05)
            worker._leases.attach(Silent())  # heartbeats are held back past the lease
            while (await execution.info()).state != "settled" and worker._leases.left("s@1", 1) > 0:
                await asyncio.sleep(0.05)
            worker._leases.attach(client.substrate.promises._sender)
            result = await execution.result()
        assert world.effects() == ["slow x"]
        assert result.status == "ok"
        assert result.value == "x"
        assert result.attempts > 1


class Silent:
    """Takes heartbeats and sends none."""

    async def task_heartbeat(self, pid: str, tasks: object) -> None:
        del pid, tasks


async def test_a_changed_request_on_replay_is_a_divergence_with_both_requests(state: Path, world: World) -> None:
    code = (
        "import os\npay('a')\nflag = os.path.exists('../../flag')\nlook('second' if flag else 'first', 0.3)\npay('b')"
    )
    flag = state / "flag"

    def kill(what: str) -> None:
        if what == "pay b":
            flag.touch()
            kill_guests()

    world.on_effect = kill
    async with opened(state, world) as client:
        session = await client.session("s", grants=["pay", "look"], isolation="process")
        execution = await session.submit(code)
        async with asyncio.timeout(30):
            result = await execution.result()
    assert result.status == "diverged"
    assert result.error is not None
    assert "look('first', wait=0.3)" in result.error.message
    assert "look('second', wait=0.3)" in result.error.message
    assert result.error.line == 4
    assert world.effects() == ["pay a", "look first", "pay b"], "nothing was performed after the divergence"
