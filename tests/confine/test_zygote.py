"""Zygotes: what they preload, what their guests share and do not, and how they and their guests end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from perdure.workers import zygotes as zygotes_module
from perdure.workers.guest import launch, native_parts
from perdure.workers.orders import Execute
from perdure.workers.zygote import Plan, Zygote, ZygoteGone
from perdure.workers.zygotes import Kind

from .real import KINDS, Place, run

CORE = KINDS["core"]
NUMBERS = """
import hashlib, json, os, random, secrets, uuid
import numpy as np
print(json.dumps([random.random(), np.random.rand(), np.random.default_rng().random(), secrets.token_hex(4),
                  os.urandom(4).hex(), str(uuid.uuid4()), str(uuid.uuid1()), hash("a string")]))
"""


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    place = Place(tmp_path.resolve() / "state")
    yield place
    await place.close()


async def until(true: Callable[[], bool], what: str) -> None:
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.01)
    assert true(), what


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("level", ["core", "full"])
async def test_guests_share_a_zygote_and_nothing_random(tmp_path: Path, level: str) -> None:
    place = Place(tmp_path.resolve() / "state", preload=("numpy", "numpy.random", "uuid"))
    try:
        seen = {}
        for name, seed in (("one", "seed one"), ("again", "seed one"), ("other", "seed two")):
            guest = await place.start(KINDS[level], seed=seed)
            (seen[name],) = (await run(guest, NUMBERS)).said()
        source = await place.zygotes.get(KINDS[level])
        assert source.zygote.preloaded == ("numpy", "numpy.random", "uuid")
        assert source.zygote.forks == 3
    finally:
        await place.close()
    # uuid1 holds the time of day, which is no seed's business.
    assert seen["one"][:6] == seen["again"][:6]
    assert not set(seen["one"][:7]) & set(seen["other"][:7])
    assert seen["one"][7] == seen["other"][7], "one hash seed for all"


COUNTS = """
import asyncio, gc, json, sys
class Mine:
    pass
mine, forever = Mine(), 1 << 30
library = [asyncio.Task, asyncio.Task.__init__, json.dumps.__code__, json.dumps.__code__.co_names, json.__dict__]
kept = [sys.getrefcount(each) > forever for each in library]
import weakref
gone = []
weakref.finalize(mine, gone.append, 1)
counted = sys.getrefcount(mine) < 10
del mine
import wave
print(json.dumps([kept, counted, gone, sys.getrefcount(wave) > forever, gc.collect() >= 0]))
"""


@pytest.mark.skipif(native_parts.load("_forever") is None, reason="it was not compiled, and costs memory alone")
@pytest.mark.skipif(sys.version_info >= (3, 14), reason="not known for this Python, and costs memory alone")
async def test_guests_share_what_the_zygote_has_and_free_what_is_theirs(place: Place) -> None:
    guest = await place.start(CORE)
    # Half of what it is where every look at an object of the zygote writes to it.
    assert own_memory(guest.pid) < 3.5e6
    (seen,) = (await run(guest, COUNTS)).said()
    assert seen == [[True] * 5, True, [1], False, True]


def own_memory(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty:")) << 10


async def test_a_package_that_cannot_be_preloaded_is_named_and_left_out(tmp_path: Path) -> None:
    library = tmp_path / "library"
    library.mkdir()
    (library / "fatal_to_import.py").write_text("import os\nos._exit(3)\n")
    (library / "starts_a_thread.py").write_text(
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()\n"
    )
    (library / "raises.py").write_text("1 / 0\n")
    wanted = ("json", "raises", "no_such_package", "fatal_to_import", "starts_a_thread", "decimal")
    place = Place(tmp_path.resolve() / "state", wanted, (library.resolve(),))
    try:
        with pytest.MonkeyPatch.context() as patch:
            original = launch.environment

            def environment(python: str) -> dict[str, str]:
                return {**original(python), "PYTHONPATH": str(library.resolve())}

            patch.setattr("perdure.workers.zygote.environment", environment)
            source = await place.zygotes.get(CORE)
        assert source.zygote.preloaded == ("json", "decimal")
        failed = place.zygotes.failed(CORE.python)
        assert failed.keys() == set(wanted) - {"json", "decimal"}
        assert "ZeroDivisionError" in failed["raises"]
        assert "ModuleNotFoundError" in failed["no_such_package"]
        assert failed["starts_a_thread"] == "it started threads"
        guest = await place.start(CORE)
        assert (await run(guest, "print('[1]')")).said() == [[1]]
    finally:
        await place.close()


async def test_a_zygote_that_is_killed_while_it_imports_loses_no_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = (tmp_path / "library").resolve()
    library.mkdir()
    deadly = library / "deadly"
    deadly.touch()
    code = "import os, pathlib\nif pathlib.Path(__file__).with_name('deadly').exists():\n    os.kill(os.getpid(), 9)\n"
    (library / "unlucky.py").write_text(code)
    place = Place(tmp_path.resolve() / "state", ("json", "unlucky"), (library,))
    original, tries = Zygote.start, 0

    async def start(plan: Plan, timeout: float) -> Zygote:
        nonlocal tries
        tries += 1
        if tries == zygotes_module.TRIES:
            deadly.unlink()
        return await original(plan, timeout)

    monkeypatch.setattr("perdure.workers.zygotes.Zygote.start", start)
    try:
        environment = launch.environment
        monkeypatch.setattr(
            "perdure.workers.zygote.environment", lambda python: environment(python) | {"PYTHONPATH": str(library)}
        )
        source = await place.zygotes.get(CORE)
        assert source.zygote.preloaded == ("json", "unlucky")
        assert (tries, place.zygotes.failed(CORE.python)) == (zygotes_module.TRIES, {})
    finally:
        await place.close()


async def test_the_way_a_guest_ended_is_told(place: Place) -> None:
    left = await place.start(CORE)
    assert (await run(left, "import os; os._exit(7)")).death == "exited with code 7"
    broken = await place.start(CORE)
    assert (await run(broken, "import ctypes; ctypes.string_at(0)")).death.startswith("killed by SIGSEGV in string_at")
    confused = await place.start(CORE)
    await confused.link.send(Execute(execution="s@1", code="1", flags={}, step=5, grants=[]))
    reason = "_perdure_guest.wire.WireError: step 5 of s@1 does not go on from this namespace"
    assert str(await confused.died) == f"exited with code 70: {reason}"
    killed = await place.start(CORE)
    assert str(await killed.kill("no longer wanted")) == "no longer wanted"


@pytest.mark.parametrize("level", ["process", "core", "full"])
async def test_guests_end_with_their_zygote_and_the_next_comes_from_another(place: Place, level: str) -> None:
    guest = await place.start(KINDS[level])
    busy = asyncio.create_task(run(guest, "while True: pass"))
    source = await place.zygotes.get(KINDS[level])
    os.kill(source.zygote.pid, signal.SIGKILL)
    assert (await busy).death == "killed by SIGKILL"
    assert not is_alive(guest.pid)
    with pytest.raises(ZygoteGone):
        await source.zygote.fork(0, 0)
    assert (await run(await place.start(KINDS[level]), "print('[1]')")).said() == [[1]]
    assert (await place.zygotes.get(KINDS[level])).zygote is not source.zygote


async def test_a_zygote_is_renewed_and_ends_with_its_last_guest(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zygotes_module, "FORKS", 2)
    first, second = await place.start(CORE), await place.start(CORE)
    source = await place.zygotes.get(CORE)
    third = await place.start(CORE)
    assert source.zygote.forks == 1
    await first.kill("over")
    assert (await run(second, "print('[2]')")).said() == [[2]]
    retired = [zygote for zygote in place.zygotes._retired]  # noqa: C416 - nobody else knows them
    assert len(retired) == 1
    await second.kill("over")
    await until(lambda: not retired[0].alive, "a retired zygote ends")
    assert (await run(third, "print('[3]')")).said() == [[3]]


async def test_tenants_and_levels_have_zygotes_of_their_own(place: Place) -> None:
    kinds = [CORE, Kind(CORE.python, CORE.level, CORE.namespaces, "another"), KINDS["process"]]
    sources = [await place.zygotes.get(kind) for kind in kinds]
    assert len({source.zygote.pid for source in sources}) == 3
    assert [source.layers for source in sources][2] == ()


async def test_a_guest_given_up_while_it_is_born_leaves_nothing(place: Place) -> None:
    source = await place.zygotes.get(CORE)
    for pause in (0.0, 0.001, 0.003, 0.006, 0.01, 0.02):
        starting = asyncio.create_task(place.start(CORE))
        await asyncio.sleep(pause)
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
    for guest in place.guests:
        await guest.kill("over")
    await until(lambda: source.zygote.guests == 0, "every guest is gone")
    assert Path(f"/proc/{source.zygote.pid}/task/{source.zygote.pid}/children").read_text() == ""


async def test_an_interpreter_where_guests_may_write_is_refused(place: Place) -> None:
    planted = place.workspaces / "bin" / "python"
    planted.parent.mkdir()
    planted.symlink_to(CORE.python.resolve())
    with pytest.raises(Exception, match="anybody's"):
        await place.zygotes.get(Kind(planted))
