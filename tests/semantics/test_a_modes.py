"""A. Modes and compilation: what runs where, once, and what is shown when it fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from perdure.workers.guest.compiler import CACHE_SIZE
from tests.whole.kit import HIJACK

from .kit import Talk

if TYPE_CHECKING:
    from perdure.engine import Client

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a2_await_at_the_top_and_future_statements(talk: Talk) -> None:
    await talk.run("import asyncio\nasync def give(x):\n    await asyncio.sleep(0)\n    return x")
    assert await talk.value("[await give(i) for i in range(3)]") == [0, 1, 2]
    assert await talk.value("def f(a: int): pass\nf.__annotations__['a'] is int") is True
    await talk.run("from __future__ import annotations")
    assert await talk.value("def f(a: int): pass\nf.__annotations__['a']") == "int"


async def test_a1_an_await_is_taken_wherever_it_stands(talk: Talk) -> None:
    code = """
import asyncio, contextlib
async def give(x):
    await asyncio.sleep(0)
    return x
async def count(n):
    for i in range(n):
        yield i
@contextlib.asynccontextmanager
async def held(x):
    yield x
seen = {}
await give(0)
seen['assignment'] = await give(1)
seen['argument'] = max(await give(2), 1)
seen['literal'] = [await give(3), {await give(4): await give(5)}, (await give(6),)]
seen['comprehension'] = [await give(i) for i in range(2)], {i async for i in count(2)}, {k: await give(k) for k in (7,)}
seen['generator'] = [i async for i in (await give(j) async for j in count(2))]
seen['conditional'] = await give(8) if await give(True) else 0
if await give(True): seen['if'] = 9
while await give('while' not in seen): seen['while'] = 10
for i in await give([11]): seen['for'] = i
async for i in count(2): seen['async for'] = i
async with held(12) as seen['async with']: pass
with contextlib.nullcontext(await give(13)) as seen['with']: pass
try: raise await give(ValueError(14))
except ValueError as e: seen['try'] = await give(e.args[0])
match await give(15):
    case 15: seen['match'] = 15
seen['f-string'] = f'{await give(16)}'
assert await give(True), await give('no')
del seen[await give('if')]
(walrus := await give(17))
seen['walrus'] = walrus
seen
"""
    result = await talk.run(code)
    assert result.mode == "TOP_LEVEL_AWAIT"
    assert result.value == {
        "assignment": 1,
        "argument": 2,
        "literal": [3, {4: 5}, (6,)],
        "comprehension": ([0, 1], {0, 1}, {7: 7}),
        "generator": [0, 1],
        "conditional": 8,
        "while": 10,
        "for": 11,
        "async for": 1,
        "async with": 12,
        "with": 13,
        "try": 14,
        "match": 15,
        "f-string": "16",
        "walrus": 17,
    }


async def test_a3_a_loop_of_the_codes_own_does_not_take_the_place_of_the_sessions(talk: Talk) -> None:
    await talk.run(
        "import asyncio\nmine = asyncio.new_event_loop()\nasyncio.set_event_loop(mine)\n"
        "asyncio.run(asyncio.sleep(0))\nmine.close()"
    )
    await talk.run("async def give(x): return x\ntask = asyncio.create_task(give(5))")
    assert await talk.value("await task") == 5


async def test_a3_statements_without_await_run_with_no_loop(talk: Talk) -> None:
    await talk.run("import asyncio\nasync def give(x):\n    await asyncio.sleep(0)\n    return x")
    assert await talk.value("asyncio.run(give(1)), asyncio.new_event_loop().run_until_complete(give(2))") == (1, 2)
    await talk.run("task = asyncio.create_task(give(3))\nfuture = asyncio.ensure_future(give(4))")
    await talk.run("both = asyncio.gather(give(5), give(6))")
    assert await talk.value("await task, await future, await both") == (3, 4, [5, 6])


async def test_a3_background_tasks_advance_only_while_the_code_awaits(talk: Talk) -> None:
    await talk.run(
        "import asyncio\nticks = 0\nasync def tick():\n    global ticks\n    while True:\n"
        "        ticks += 1\n        await asyncio.sleep(0)\nticking = asyncio.create_task(tick())"
    )
    assert await talk.value("ticks") == 0
    assert await talk.value("await asyncio.sleep(0.01)\nticks > 0")
    before = await talk.value("ticks")
    assert await talk.value("ticks") == before
    await talk.run("ticking.cancel()")


async def test_a3_what_a_task_of_an_earlier_execution_waits_for_is_not_mixed_up_with_later_ones(talk: Talk) -> None:
    sleeps = "import asyncio\n{0} = asyncio.create_task(asyncio.sleep(0.2, '{0}'))\nawait asyncio.sleep(0)"
    for name in ("first", "second", "third"):
        await talk.run(sleeps.format(name))
    assert await talk.value("await asyncio.gather(third, first, second)") == ["third", "first", "second"]
    await talk.run("del first, second, third")


async def test_a3_all_statements_share_one_context(talk: Talk) -> None:
    await talk.run("import contextvars, asyncio\nv = contextvars.ContextVar('v')\nv.set(1)")
    await talk.run("await asyncio.sleep(0, v.set(v.get() + 1))")
    assert await talk.value("v.get()") == 2


async def test_a3_user_threads_run_between_executions_and_are_named(talk: Talk) -> None:
    code = (
        "import threading\ngo, seen = threading.Event(), []\n"
        "worker = threading.Thread(target=lambda: (go.wait(), seen.append(1)), name='busy')\nworker.start()"
    )
    result = await talk.run(code)
    assert "busy" in result.left
    assert await talk.value("go.set()\nworker.join()\nseen") == [1]


async def test_a5_tracebacks_show_the_users_frames_with_carets(talk: Talk) -> None:
    made = await talk.run("def divide(a, b):\n    return a / b")
    error = await talk.error("def outer():\n    return [divide(1, 0)]\nouter()")
    shown = [line.strip() for line in error.traceback.splitlines()]
    assert f'File "<{made.execution}>", line 2, in divide' in shown
    assert "return a / b" in shown
    assert "~~^~~" in shown
    assert "perdure" not in error.traceback.replace("<talk", "")
    assert (error.type, error.line) == ("ZeroDivisionError", 2)


async def test_a4_what_was_compiled_is_kept_from_one_execution_to_the_next_and_bounded(talk: Talk) -> None:
    counters = f"{HIJACK}\ndict(frame.f_locals['self'].executor.cache.counters())"
    code = "sum(n for n in range(3))"
    assert [await talk.value(code) for _ in range(2)] == [3, 3]
    before = await talk.value(counters)
    assert await talk.value(code) == 3
    after = await talk.value(counters)
    # The question itself is the same program too.
    assert (after["hits"], after["misses"]) == (before["hits"] + 2, before["misses"])
    assert 0 < after["kept"] <= CACHE_SIZE
    await talk.run("del frame, channel")  # all of the runtime hangs on it, and every checkpoint would look at that


async def test_a5_an_exceptions_notes_end_with_where_it_was(talk: Talk) -> None:
    result = await talk.run("error = ValueError('x')\nerror.add_note('mine')\nraise error")
    assert result.error is not None
    assert result.error.notes == ("mine", f"in {result.execution}, step 0")


async def test_a5_chained_and_grouped_exceptions_come_whole(talk: Talk) -> None:
    error = await talk.error(
        "try:\n    1/0\nexcept ZeroDivisionError as e:\n"
        "    raise ExceptionGroup('g', [ValueError('v'), KeyError('k')]) from e"
    )
    for part in ("ZeroDivisionError", "direct cause", "ValueError: v", "KeyError: 'k'", "ExceptionGroup: g"):
        assert part in error.traceback


async def test_a6_each_statement_once_and_falsy_results_are_results(talk: Talk) -> None:
    for code, value in [("0", 0), ("''", ""), ("[]", []), ("False", False), ("0.0", 0.0), ("None", None)]:
        result = await talk.run(code)
        assert result.has_value
        assert (result.value, result.repr) == (value, None if value is None else repr(value))
    assert await talk.value("log = []\nlog.append(1)\nlog.append(2) or len(log)") == 2
    assert not (await talk.run("x = 3")).has_value


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("raise SystemExit", "raised SystemExit"),
        ("\n        while True: pass", "takes more than"),
        ("return 'x' * 100_000_000", "more characters"),
        ("return 3", "raised TypeError"),
    ],
)
async def test_a6_a_hostile_repr_is_contained(talk: Talk, body: str, says: str) -> None:
    result = await talk.run(f"class Bad:\n    def __repr__(self):\n        {body.strip()}\nBad()")
    assert result.status == "ok"
    assert says in (result.repr or "")
    assert len(result.repr or "") < 20_000
    await talk.run("del _, Bad")
    await talk.answers()


async def test_a7_no_magics_and_no_ipython(talk: Talk) -> None:
    from perdure.engine.errors import BadSubmission

    with pytest.raises(BadSubmission, match="SyntaxError"):
        await talk.run("%timeit 1")
    assert await talk.value("import sys\n'IPython' in sys.modules") is False


async def test_a3_a_sleep_without_an_end_is_one(client: Client) -> None:
    # A session of its own: tasks that others left running would keep it from coming to rest.
    endless = Talk(client, "endless")
    bounded = "await asyncio.wait_for(asyncio.sleep(math.inf), 0.02)"
    assert (await endless.error(f"import asyncio, math\n{bounded}")).type == "TimeoutError"
    execution = await endless.submit("await asyncio.sleep(math.inf)")
    assert (await endless.until(execution, "waiting")).until is not None
    stopped = await execution.cancel()
    assert stopped is not None
    assert stopped.status == "cancelled"
