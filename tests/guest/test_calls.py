"""Calls, lineage, and replay of the recorded order."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest

from perdure.workers.watchdog import usage_of

from .harness import Done, Host, echo, recorded

CHAINS = """
import asyncio
order = []
async def chain(i):
    a = await http.get(i)
    order.append((i, 'a'))
    b = await http.post(a * 10)
    order.append((i, 'b'))
    return i, a, b
got = await asyncio.gather(*[chain(i) for i in range(10)])
print(order)
got
"""


def shuffled(host: Host, code: str, seed: int) -> Done:
    """Run code and answer its calls in a random order, whenever it rests."""
    chance = random.Random(seed)
    host.begin(code)
    seen: list[dict[str, Any]] = []
    asked: list[dict[str, Any]] = []
    while True:
        message = host.receive()
        if message["t"] == "done":
            return Done(message, seen)
        seen.append(message)
        if message["t"] == "call":
            asked.append(message)
        elif message["t"] == "idle":
            chosen = asked.pop(chance.randrange(len(asked)))
            host.reply(chosen["path"], value=chosen["args"]["x"])


def test_replies_in_any_order_reach_their_calls_and_replay_alike() -> None:
    with Host() as host:
        live = shuffled(host, CHAINS, 7)
    assert live.result == [(i, i, i * 10) for i in range(10)]
    outcomes = {call["path"]: {"value": call["args"]["x"]} for call in live.calls}
    with Host() as host:
        again = host.run(CHAINS, lambda _call: None, recorded(live.entered, outcomes))
    assert again.status == "ok"
    assert again.stdout == live.stdout
    assert [(c["path"], c["args"]) for c in again.calls] == [(c["path"], c["args"]) for c in live.calls]
    assert again.entered == []


@pytest.mark.parametrize("kept", [1, 7, 13, 19])
def test_replay_of_a_part_goes_on_live(kept: int) -> None:
    with Host() as host:
        live = shuffled(host, CHAINS, 3)
    outcomes = {call["path"]: {"value": call["args"]["x"]} for call in live.calls}
    part = live.entered[:kept]
    replayed = {item[1] for item in part}
    with Host() as host:
        again = host.run(CHAINS, lambda c: None if c["path"] in replayed else echo(c), recorded(part, outcomes))
    assert again.result == live.result
    assert again.entered[0][1] not in replayed
    assert len(again.entered) == 20 - kept


def test_lineage_under_groups_and_as_completed() -> None:
    code = """
import asyncio
async def ask_twice(i):
    await http.get(i)
    async with asyncio.TaskGroup() as group:
        group.create_task(one(i))
    await http.get(i)
async def one(i):
    await http.post(i)
async with asyncio.TaskGroup() as group:
    for i in range(2):
        group.create_task(ask_twice(i))
for each in asyncio.as_completed([one(8), one(9)]):
    await each
http.get('end')
"""
    with Host() as host:
        paths = {(c["path"], c["args"]["x"]) for c in host.run(code).calls}
    assert paths == {
        ("main/1.0", 0), ("main/1/1.0", 0), ("main/1.1", 0),
        ("main/2.0", 1), ("main/2/1.0", 1), ("main/2.1", 1),
        ("main/3.0", 8), ("main/4.0", 9), ("main.0", "end"),
    }  # fmt: skip


def test_a_task_of_an_earlier_execution_keeps_it_in_its_path() -> None:
    with Host() as host:
        host.run(
            "import asyncio\n"
            "async def late():\n"
            "    await asyncio.sleep(0)\n"
            "    return await http.get('late')\n"
            "t = asyncio.create_task(late())"
        )
        done = host.run("await t")
        assert [c["path"] for c in done.calls] == ["analysis@1|main/1.0"]
        assert done.result == "late"


def test_calls_from_threads_pools_and_eager_tasks() -> None:
    code = """
import asyncio, threading
from concurrent.futures import ThreadPoolExecutor
got = []
t = threading.Thread(target=lambda: got.append(http.get('thread')))
t.start(); t.join()
with ThreadPoolExecutor(2) as pool:
    got += pool.map(http.get, ['p', 'q'])
async def main():
    asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
    got.append(await asyncio.create_task(asyncio.sleep(0, 'plain')))
    async def eager():
        return await http.get('eager')
    got.append(await asyncio.create_task(eager()))
    got.append(await asyncio.to_thread(http.get, 'to_thread'))
asyncio.run(main())
got
"""
    with Host() as host:
        done = host.run(code)
    assert done.result == ["thread", "p", "q", "plain", "eager", "to_thread"]
    assert {(c["path"], c["args"]["x"]) for c in done.calls} == {
        ("main/1.0", "thread"), ("main/2.0", "p"), ("main/3.0", "q"),
        ("main/4/2.0", "eager"), ("main/4/3.0", "to_thread"),
    }  # fmt: skip


def test_a_call_is_sent_when_it_is_made() -> None:
    with Host() as host:
        host.begin(
            "import asyncio\n"
            "a = http.get(1) if False else None\n"
            "async def f():\n"
            "    x = http.get(1); y = http.get(2)\n"
            "    return await y, await x\n"
            "await f()"
        )
        first, second = host.until("call"), host.until("call")
        assert set(host.idle()["waiting"]) == {first["path"], second["path"]}
        host.reply(second["path"], value="b")
        host.reply(first["path"], value="a")
        assert host.finish().result == ("b", "a")


def test_calls_can_be_tasks_waited_for_and_timed_out() -> None:
    code = """
import asyncio
made = await asyncio.create_task(http.get('task'))
done, pending = await asyncio.wait([asyncio.ensure_future(http.get('wait'))], timeout=5)
try:
    await asyncio.wait_for(ask('never'), 0.01)
except TimeoutError:
    made += ' late'
made, done.pop().result()
"""
    with Host() as host:
        done = host.run(code, lambda c: None if c["name"] == "ask" else echo(c))
        assert done.result == ("task late", "wait")
        assert host.run("1").left == []


def test_an_error_is_raised_at_the_call() -> None:
    def fail(_call: dict[str, Any]) -> dict[str, Any]:
        return {"error": {"type": "CallInDoubt", "message": "who knows", "data": {"n": 1}}}

    with Host() as host:
        error = host.run("x = 1\nhttp.get(2)", fail).error
        assert (error["module"], error["type"], error["message"], error["line"]) == (
            "perdure",
            "CallInDoubt",
            "who knows",
            2,
        )
        assert error["traceback"].splitlines()[1:3] == ['  File "<analysis@1>", line 2, in <module>', "    http.get(2)"]
        assert "_perdure" not in error["traceback"]
        code = (
            "import perdure\n"
            "try:\n"
            "    await http.get(2)\n"
            "except perdure.CallError as e:\n"
            "    got = e\n"
            "(type(got).__name__, got.data)"
        )
        assert host.run(code, fail).error is None
        assert host.run(
            (
                "async def f():\n"
                "    try:\n"
                "        await http.get(2)\n"
                "    except perdure.CallError as e:\n"
                "        return e.type, e.data\n"
                "await f()"
            ),
            fail,
        ).result == ("CallInDoubt", {"n": 1})


def test_what_is_not_granted_or_does_not_fit_is_refused_here() -> None:
    with Host() as host:
        assert host.run("import perdure\nperdure.call('rm', 1)").error["type"] == "CapabilityNotGranted"
        for code in ("http.get(1, 2, 3)", "http.get(q=1)", "http.get(1, x=1)", "http.get(object())"):
            done = host.run(code)
            assert done.error["type"] == "BadArguments"
            assert done.calls == []
        assert host.run("perdure.call('http.get', 5)").result == 5
        assert host.run("http.nothing").error["type"] == "AttributeError"


def test_a_call_never_awaited_is_named_with_its_line() -> None:
    with Host() as host:
        done = host.run("import asyncio\nasync def f():\n    http.get(1)\nawait f()", lambda _c: None)
        assert "the call of http.get in line 3 was never awaited" in done.stderr


def test_proxies_pickle_and_can_be_shadowed() -> None:
    with Host() as host:
        assert host.run("import pickle\npickle.loads(pickle.dumps(http.get))(3)").result == 3
        assert host.run("http = 5\nhttp").result == 5
        assert host.run("del http\nhttp.get(6)").result == 6


def test_a_flood_that_nobody_reads_stops_its_printer_and_takes_no_memory() -> None:
    with Host() as host:
        host.begin("n = 0\nwhile True:\n    print('x' * 1000)\n    n += 1")
        before, now = -1.0, 0.0
        deadline = time.monotonic() + 30
        while (now == 0.0 or before != now) and time.monotonic() < deadline:
            time.sleep(0.2)
            before, now = now, usage_of(host.pid).cpu
        assert usage_of(host.pid).memory < 100 << 20
        held = 0
        while (message := host.maybe_receive(5)) is not None and held < 1 << 20:
            held += len(message["text"])
        assert held >= 1 << 20  # It goes on as soon as somebody reads.


def test_input_many_times_with_its_prompt_first() -> None:
    with Host() as host:
        done = host.run("[input(f'q{i} ') for i in range(20)]", lambda c: {"value": c["args"]["prompt"].strip()})
        assert done.result == [f"q{i}" for i in range(20)]
        assert done.stdout == "".join(f"q{i} " for i in range(20))
        assert host.run("async def f():\n    return input()\nawait f()", lambda _c: {"value": "x"}).result == "x"


def test_large_arguments_and_replies_travel_as_streams() -> None:
    with Host() as host:
        host.begin("len(http.get('x' * 3_000_000))")
        call = host.until("call")
        data = host.streams.take(call["args_stream"])
        assert len(data) > 3_000_000
        host.send(
            {"t": "reply", "path": call["path"], "value_stream": host.send_stream(b'"' + b"y" * 2_000_000 + b'"')}
        )
        assert host.finish().result == 2_000_000


def test_a_sleep_is_a_timer_and_is_not_slept_again() -> None:
    code = "import time, asyncio\ntime.sleep(0.05)\nawait asyncio.sleep(0.05)\nhttp.get(1)"
    with Host() as host:
        host.begin(code)
        idle = host.idle()
        assert [path for path, _left in idle["timers"]] == ["main~0"]
        live = host.finish()
    assert live.entered == [["t", "main~0", 0], ["t", "main~1", 0], ["r", "main.0", 0]]
    slow = code.replace("0.05", "1000")
    with Host() as host:
        again = host.run(slow, lambda _c: None, recorded(live.entered, {"main.0": {"value": 1}}))
        assert again.result == 1


def test_a_recorded_deadline_counts_what_is_left() -> None:
    with Host() as host:
        replay = {"deliveries": [], "timers": {"main~0": 0.01}, "consumed": 4}
        done = host.run("import asyncio\nawait asyncio.sleep(1000)", replay=replay)
        assert done.message["entered"] == {"at": 4, "items": [["t", "main~0", 0]]}


GREEDY = """
import asyncio
log = []
async def other(n):
    log.append(f"{n} asks")
    log.append(f"{n} took {await echo(n)}")
async def greedy():
    for n in range(3):
        log.append(input())
await asyncio.gather(other(1), greedy(), other(2))
log
"""


def test_a_task_that_never_yields_takes_nothing_but_what_it_asks_synchronously() -> None:
    def answer(call: dict[str, Any]) -> dict[str, Any]:
        return {"value": "a line" if call["name"] == "input" else call["args"]["x"]}

    expected = ["1 asks", *["a line"] * 3, "2 asks", "1 took 1", "2 took 2"]
    with Host() as host:
        live = host.run(GREEDY, answer)
    assert live.result == expected, "the reply to the first call was there before the first line"
    assert [item[:2] for item in live.entered] == [
        *(["r", "main/2.0"], ["r", "main/2.1"], ["r", "main/2.2"]),
        *(["r", "main/1.0"], ["r", "main/3.0"]),
    ]
    known = {call["path"]: answer(call) for call in live.calls}
    for part in (2, len(live.entered)):
        with Host() as host:
            again = host.run(GREEDY, answer, recorded(live.entered[:part], known))
        assert again.result == expected


def test_a_loop_that_never_rests_takes_deliveries_at_recorded_turns() -> None:
    code = """
import asyncio
turns = 0
async def spin(reply):
    global turns
    while not reply.done():
        turns += 1
        await asyncio.sleep(0)
async def main():
    reply = asyncio.ensure_future(http.get('x'))
    await spin(reply)
await main()
turns
"""
    with Host() as host:
        live = host.run(code)
    assert live.entered[0][2] % 64 == 0
    assert live.entered[0][2] > 0
    with Host() as host:
        again = host.run(code, lambda _c: None, recorded(live.entered, {"main.0": {"value": "x"}}))
    assert again.result == live.result


def test_a_delivery_that_nobody_waits_for_is_a_divergence() -> None:
    replay = {"deliveries": [["r", "main.1", 0, {"value": 1}]], "timers": {}, "consumed": 1}
    for code in (
        "http.get(1)",
        "1",
        "import asyncio\nawait asyncio.sleep(5)",
        "import asyncio\nasync def f():\n    return await ask(1)\nawait f()",
    ):
        with Host() as host:
            done = host.run(code, lambda _c: None, replay)
            assert done.status == "diverged"
            assert done.path == "main.1"


def test_a_call_between_executions_is_refused() -> None:
    with Host() as host:
        host.run(
            "import threading, time, perdure\n"
            "got = []\n"
            "release = threading.Event()\n"
            "def late():\n"
            "    release.wait()\n"
            "    try:\n"
            "        http.get(1)\n"
            "    except perdure.NoExecution as e:\n"
            "        got.append(str(e))"
        )
        host.run("t = threading.Thread(target=late, name='late'); t.start()")
        assert host.run("import _thread\nthreading.Timer(0.02, release.set).start()").left != []
        assert host.maybe_receive(0.1) is None
        assert "no execution" in host.run("t.join(); got[0]").result


def test_a_thread_that_ends_while_the_code_waits_leaves_it_at_rest() -> None:
    code = "import threading, select\nthreading.Thread(target=select.select, args=([], [], [], 0.2)).start()\necho(1)"
    with Host() as host:
        host.begin(code)
        told = [host.idle()["threads"], host.idle()["threads"]]
    assert told == [1, 0]


@pytest.mark.parametrize(
    ("waits", "threads", "held_up"),
    [
        ("t = threading.Thread(target=ask); t.start(); t.join()", 0, 1),
        ("t = threading.Thread(target=ask); t.start(); t.join(30)", 1, 0),
        ("q = queue.Queue(); threading.Thread(target=lambda: q.put(ask())).start(); q.get()", 0, 1),
        ("q = queue.Queue(); threading.Thread(target=lambda: q.put(ask())).start(); q.get(timeout=30)", 1, 0),
        ("with ThreadPoolExecutor(2) as pool: list(pool.map(ask, range(5)))", 0, 1),
        # The thread asks when the other has come out of `start`, where it waits for it.
        (
            (
                "go = []\ndef late():\n    while not go: pass\n    ask()\n"
                "threading.Thread(target=late).start()\ngo.append(1)\nwhile True: pass"
            ),
            1,
            0,
        ),
    ],
)
def test_a_thread_that_waits_for_another_keeps_nobody_up(waits: str, threads: int, held_up: int) -> None:
    with Host() as host:
        host.begin(f"import queue, threading\nfrom concurrent.futures import ThreadPoolExecutor\n{waits}")
        asked = 2 if "pool" in waits else 1
        for _ in range(asked):
            host.until("call")
        told = host.idle()
        while told["threads"] > threads or len(told["waiting"]) < asked:
            told = host.idle()  # It was told on the way, before all had come to rest.
        assert (told["threads"], told["held_up"]) == (threads, held_up)
