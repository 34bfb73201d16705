"""What becomes of a call whose handler is lost: by its policy, and not before its predecessor can act no more."""

import asyncio
import threading
from typing import Any

import pytest

from perdure.capabilities import NotPerformed, Registry, capability
from perdure.engine.durable import now_ms
from perdure.engine.journal import CallRecord, Request
from perdure.workers.handlers import Handlers, Running, Scope
from perdure.workers.identity import identity_of, known_dead, own_identity

DEAD = "another-boot/1/1"


def handlers(*capabilities: Any, identity: str = "me", ttl: float = 0.2) -> Handlers:
    registry = Registry(capabilities)
    scope = Scope("s@1", "s", "state", "born", frozenset(registry.names()), 2, ttl, lambda: 1.0)
    return Handlers(registry, scope, identity)


def lost(name: str, effect: str, *, worker: str = "me", at: int | None = None) -> CallRecord:
    request = Request("main.0", name, {"what": "x"}, "p", 1)
    return CallRecord("s@1:s0.0", request, effect, worker, at if at is not None else now_ms(), None)


async def outcome(running: Running) -> dict[str, Any]:
    async with asyncio.timeout(10):
        return await running.outcome


async def test_an_unknown_effect_is_in_doubt_and_not_repeated() -> None:
    done: list[str] = []

    @capability("pay", effect="unknown")
    async def pay(what: str) -> str:
        done.append(what)
        return what

    got = await outcome(handlers(pay).resume("s@1", lost("pay", "unknown"), 0))
    assert got["error"]["type"] == "CallInDoubt"
    assert "pay('x')" in got["error"]["message"]
    assert done == []


async def test_a_repeatable_effect_is_repeated_under_the_same_key() -> None:
    keys: list[str] = []

    @capability("look", effect="repeat")
    async def look(what: str, *, key: str) -> str:
        keys.append(key)
        return what

    table = handlers(look)
    request = lost("look", "repeat").request
    begun = table.begin("s@1", request, at_once=True)
    assert begun.running is not None
    assert await outcome(begun.running) == {"value": "x"}
    table.forget("s@1", request.path)
    assert await outcome(table.resume("s@1", lost("look", "repeat"), 0)) == {"value": "x"}
    assert len(keys) == 2
    assert keys[0] == keys[1]


async def test_a_thread_that_comes_after_the_end_of_the_lease_begins_no_handler() -> None:
    """The process may be paused between the look at the lease and the thread's first step."""
    performed_at: list[int] = []
    looks: list[bool] = []

    def left() -> float:
        looks.append(threading.current_thread() is threading.main_thread())
        # Fine on the loop; over in the thread, and until the next attempt of this worker has one again.
        return 1.0 if len(looks) in (1, *range(5, 99)) else 0.0

    @capability("look", effect="repeat")
    def look(what: str) -> str:
        performed_at.append(len(looks))
        return what

    registry = Registry([look])
    scope = Scope("s@1", "s", "state", "born", frozenset(registry.names()), 2, 0.2, left)
    begun = Handlers(registry, scope, "me").begin("s@1", lost("look", "repeat").request, at_once=True)
    assert begun.running is not None
    assert await outcome(begun.running) == {"value": "x"}
    assert looks[:2] == [True, False]
    assert performed_at == [len(looks)]
    assert len(looks) >= 6


@pytest.mark.parametrize("performed", [True, False])
async def test_a_reconcilable_effect_asks_its_probe(performed: bool) -> None:
    done: list[str] = []

    async def probe(what: str) -> str:
        if not performed:
            raise NotPerformed("no trace of it")
        return f"{what} was done"

    @capability("send", effect="reconcile", probe=probe)
    async def send(what: str) -> str:
        done.append(what)
        return f"{what} done now"

    got = await outcome(handlers(send).resume("s@1", lost("send", "reconcile"), 0))
    assert got == {"value": "x was done" if performed else "x done now"}
    assert done == ([] if performed else ["x"])


async def test_a_probe_that_cannot_say_leaves_the_call_in_doubt() -> None:
    async def probe(what: str) -> str:
        raise ConnectionError("unreachable")

    @capability("send", effect="reconcile", probe=probe)
    async def send(what: str) -> str:
        return what

    got = await outcome(handlers(send).resume("s@1", lost("send", "reconcile"), 0))
    assert got["error"]["type"] == "CallInDoubt"


async def test_whoever_asks_again_while_it_runs_gets_the_one_that_runs() -> None:
    started: list[str] = []
    go = asyncio.Event()

    @capability("slow", effect="unknown")
    async def slow(what: str) -> str:
        started.append(what)
        await go.wait()
        return what

    table = handlers(slow)
    record = lost("slow", "unknown")
    first = table.start("s@1", record.request)
    again = table.resume("s@1", record, 0)
    assert again is first
    go.set()
    assert await outcome(again) == {"value": "x"}
    assert started == ["x"]


async def test_nothing_is_repeated_while_a_predecessor_may_live() -> None:
    times: list[float] = []

    @capability("look", effect="repeat", timeout=0.3)
    async def look(what: str) -> str:
        times.append(asyncio.get_running_loop().time())
        return what

    began = asyncio.get_running_loop().time()
    table = handlers(look, ttl=0.2)
    assert await outcome(table.resume("s@1", lost("look", "repeat", worker=DEAD), 0)) == {"value": "x"}
    assert times[0] - began >= 0.45, "its lease and its timeout had to pass first"
    assert await outcome(handlers(look).resume("s@1", lost("look", "repeat", worker=identity_of(2**22)), 0))
    assert times[1] - times[0] < 0.4, "a process of this machine that is gone is known to be dead"


def test_identities_tell_the_living_from_the_dead() -> None:
    assert not known_dead(own_identity())
    assert known_dead(identity_of(2**22)) or identity_of(2**22).endswith("None")
    assert not known_dead(DEAD), "of another machine nothing is known"
    assert not known_dead("nonsense")
    boot, pid, _ = own_identity().split("/")
    assert known_dead(f"{boot}/{pid}/1"), "the same number, started at another time, is another process"


async def test_no_handler_starts_under_a_lease_about_to_end() -> None:
    left = [0.0]
    started: list[str] = []

    @capability("look", effect="repeat")
    async def look(what: str) -> str:
        started.append(what)
        return what

    registry = Registry([look])
    scope = Scope("s@1", "s", "state", "born", frozenset({"look"}), 1, 1.0, lambda: left[0])
    begun = Handlers(registry, scope, "me").begin("s@1", lost("look", "repeat").request, at_once=True)
    assert begun.running is not None
    done, _ = await asyncio.wait({begun.running.outcome}, timeout=0.2)
    assert not done
    assert started == []
    left[0] = 1.0
    assert await outcome(begun.running) == {"value": "x"}


async def test_a_failure_is_plain_data_without_the_hosts_paths() -> None:
    @capability("bad", effect="unknown")
    async def bad(what: str) -> str:
        raise FileNotFoundError(2, "No such file", f"/root/secret/{what}")

    got = await outcome(handlers(bad).start("s@1", lost("bad", "unknown").request))
    assert got["error"]["type"] == "CallFailed"
    assert "/root" not in got["error"]["message"]


@pytest.mark.parametrize("performed", [True, False])
async def test_a_reconcilable_effect_that_gives_no_outcome_in_time_is_probed_at_once(performed: bool) -> None:
    done: list[str] = []

    async def probe(what: str) -> str:
        if not (performed and done):
            raise NotPerformed("no trace of it")
        return f"{what} was done"

    @capability("send", effect="reconcile", probe=probe, timeout=0.05)
    async def send(what: str) -> str:
        if performed:
            done.append(what)
            await asyncio.sleep(5)
        if len(done) < 2:
            done.append(what)
            raise ConnectionError("the line is down")
        return f"{what} done now"

    table = handlers(send)
    got = await outcome(table.start("s@1", lost("send", "reconcile").request))
    assert got == {"value": "x was done" if performed else "x done now"}


async def test_a_thread_that_may_still_act_is_in_doubt_whatever_its_probe_has_not_seen() -> None:
    free = threading.Event()

    def probe(what: str) -> str:
        raise NotPerformed(f"no trace of {what}")

    @capability("send", effect="reconcile", probe=probe, timeout=0.05)
    def send(what: str) -> str:
        free.wait(20)
        return what

    try:
        got = await outcome(handlers(send).start("s@1", lost("send", "reconcile").request))
    finally:
        free.set()
    assert got["error"]["type"] == "CallInDoubt"
    assert "its handler still runs" in got["error"]["message"]


async def test_a_timeout_that_a_handler_had_itself_is_not_told_as_the_end_of_its_time() -> None:
    @capability("bad", effect="unknown", timeout=60)
    async def bad(what: str) -> str:
        raise TimeoutError(f"{what} did not answer within 1 s")

    got = await outcome(handlers(bad).start("s@1", lost("bad", "unknown").request))
    assert got["error"]["type"] == "CallFailed"
    assert got["error"]["message"] == "TimeoutError: x did not answer within 1 s"


async def test_a_thread_whose_own_timeout_ended_it_acts_no_more_and_its_probe_is_believed() -> None:
    tried: list[str] = []

    def probe(what: str) -> str:
        raise NotPerformed(f"no trace of {what}")

    @capability("send", effect="reconcile", probe=probe, timeout=60)
    def send(what: str) -> str:
        tried.append(what)
        if len(tried) == 1:
            raise TimeoutError("nobody answers there")
        return what

    got = await outcome(handlers(send).start("s@1", lost("send", "reconcile").request))
    assert (got, tried) == ({"value": "x"}, ["x", "x"])
