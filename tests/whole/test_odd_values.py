"""Values that raise when they are asked for their class: a checkpoint asks none, and the session goes on."""

from __future__ import annotations

from pathlib import Path

from perdure.engine import WorkerSettings

from .kit import opened, outcome

PROXIES = """
import gc, weakref
class A: pass
a = A()
p = weakref.proxy(a)
gone = A()
dead = weakref.proxy(gone)
del gone
"""

ODD = """
class Odd:
    @property
    def __class__(self):
        raise RuntimeError("asked")
odd = Odd()
held = [odd]
kept = 5
"""


async def test_a_weak_proxy_stands_for_the_same_object_after_a_restore(tmp_path: Path) -> None:
    async with opened(tmp_path / "state", settings=WorkerSettings(kept_guests=0)) as client:
        first = await outcome(client, "weak", PROXIES)
        assert first.status == "ok"
        assert first.lost == ()
        dead = "try:\n    dead.x\nexcept ReferenceError as exc:\n    answer = type(dead).__name__, str(exc)\nanswer"
        assert (await outcome(client, "weak", dead)).value == ("ProxyType", "weakly-referenced object no longer exists")
        assert (await outcome(client, "weak", "p.x = 5\na.x, type(p).__name__")).value == (5, "ProxyType")


async def test_a_value_that_raises_for_its_class_ends_no_session(tmp_path: Path) -> None:
    async with opened(tmp_path / "state", settings=WorkerSettings(kept_guests=0)) as client:
        assert (await outcome(client, "odd", ODD)).status == "ok"
        assert (await outcome(client, "odd", "kept")).value == 5
