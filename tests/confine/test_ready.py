"""Guests that wait for a session: what they get of theirs, and that none is left over."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from perdure.engine.settings import Limits
from perdure.workers import zygotes as zygotes_module
from perdure.workers.zygotes import Kind

from .real import KINDS, Place, run
from .test_zygote import is_alive, until

CORE = KINDS["core"]
#: What a session's own walls are, looked at from inside: the workspaces of others, its limits, its layers.
MINE = """
import json, os, random, resource
def refused(path):
    try:
        os.listdir(path)
    except OSError:
        return True
    return False
here = os.getcwd()
open("mine", "w").close()
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps([os.path.basename(here), refused(os.path.dirname(here)),
                  refused(os.path.join(os.path.dirname(here), "workspace-1")), status["Seccomp"].strip(),
                  resource.getrlimit(resource.RLIMIT_DATA)[0], resource.getrlimit(resource.RLIMIT_FSIZE)[0],
                  random.random(), os.environ["HOME"] == here]))
"""


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    place = Place(tmp_path.resolve() / "state", ready=2)
    yield place
    await place.close()


async def waiting(place: Place, kind: Kind = CORE, number: int = 2) -> None:
    """Wait until so many guests wait."""
    source = await place.zygotes.get(kind)
    await until(lambda: len(source.ready) == number, f"{number} guests wait")


@pytest.mark.parametrize("level", ["core", "full"])
async def test_one_that_waited_has_all_of_its_own_session_and_nothing_of_another(place: Place, level: str) -> None:
    kind = KINDS[level]
    await waiting(place, kind)
    forks = (await place.zygotes.get(kind)).zygote.forks
    other = await place.start(kind, seed="other")
    limits = Limits(memory_bytes=512 << 20, file_bytes=1 << 20)
    guest = await place.start(kind, seed="mine", limits=limits)
    assert forks == 2, "both were there before"
    assert guest.isolation["canary"]
    (seen,) = (await run(guest, MINE)).said()
    assert seen[:6] == ["workspace-2", True, True, "2", 512 << 20, 1 << 20]
    assert seen[7]
    (others,) = (await run(other, MINE)).said()
    assert others[6] != seen[6]
    assert others[4] != seen[4]


async def test_others_come_when_they_are_taken_or_end(place: Place) -> None:
    await waiting(place)
    source = await place.zygotes.get(CORE)
    await place.start(CORE)
    await waiting(place)
    killed = source.ready._waiting[0]
    os.kill(killed.pid, signal.SIGKILL)
    await until(lambda: killed not in source.ready._waiting, "it is seen dead")
    await waiting(place)
    assert (await run(await place.start(CORE), "print('[1]')")).said() == [[1]]


async def test_one_that_died_unseen_is_replaced_by_another(place: Place) -> None:
    await waiting(place)
    source = await place.zygotes.get(CORE)
    for guest in source.ready._waiting:
        os.kill(guest.pid, signal.SIGKILL)
    # Nothing has run since, so nobody has seen it.
    assert len(source.ready) == 2
    assert (await run(await place.start(CORE), "print('[1]')")).said() == [[1]]


async def test_memory_is_given_back_first_by_those_that_wait(place: Place) -> None:
    await waiting(place)
    pids = [guest.pid for guest in (await place.zygotes.get(CORE)).ready._waiting]
    assert await place.zygotes.relieve() == 2
    assert not any(map(is_alive, pids))
    assert await place.zygotes.relieve() == 0
    await place.start(CORE)
    await waiting(place)


async def test_who_has_not_been_here_for_long_has_none(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zygotes_module, "WITH_READY", 1)
    monkeypatch.setattr(zygotes_module, "KEPT", 2)
    kinds = [Kind(CORE.python, CORE.level, CORE.namespaces, f"tenant-{number}") for number in range(3)]
    sources = []
    for kind in kinds:
        await waiting(place, kind)
        sources.append(await place.zygotes.get(kind))
    await until(lambda: not sources[0].zygote.alive, "the third beyond two kept is given up")
    await until(lambda: len(sources[1].ready) == 0, "the second keeps none waiting")
    assert sources[1].zygote.alive
    assert len(sources[2].ready) == 2
    assert (await run(await place.start(kinds[0]), "print('[1]')")).said() == [[1]]


async def test_a_renewed_zygote_takes_those_that_wait_along(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    await waiting(place)
    old = await place.zygotes.get(CORE)
    guest = await place.start(CORE)
    monkeypatch.setattr(zygotes_module, "FORKS", 1)
    assert (await place.zygotes.get(CORE)).zygote is not old.zygote
    monkeypatch.undo()
    await until(lambda: len(old.ready) == 0, "none waits any more")
    assert old.zygote.alive, "for its guest"
    await guest.kill("over")
    await until(lambda: not old.zygote.alive, "it ends with its last guest")


async def test_none_outlives_the_worker(place: Place) -> None:
    await waiting(place)
    source = await place.zygotes.get(CORE)
    pids = [source.zygote.pid, *(guest.pid for guest in source.ready._waiting)]
    source.ready.fill()
    await asyncio.gather(place.zygotes.close(), place.zygotes.close())
    await until(lambda: not any(map(is_alive, pids)), "all have ended")
