"""Several processes on one file: who gets what, and what happens when one dies, stops or is paused.

`PERDURE_ROUNDS` says how many wake-ups eight of them hand each other.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import resource
import signal
import socket
import sys
import time
import warnings
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self

import pytest

from perdure.engine.store import SqliteConnection
from perdure.engine.store.members import hold
from perdure.engine.store.peers import Peers

CHILD = Path(__file__).with_name("child.py")
ANY = "poll://any@g"
#: Wake-ups that eight processes hand each other; `make hammer` asks for 10,000.
ROUNDS = int(os.environ.get("PERDURE_ROUNDS", "480"))
AT_ONCE = 2.0  # seconds: far below any lease and any repeated offer, far above what a loaded machine needs


class Child:
    """One process of `child.py`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @classmethod
    async def start(cls, role: str, *arguments: object) -> Child:
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(CHILD), role, *map(str, arguments),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )  # fmt: skip
        return cls(process)

    async def heard(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = await self.process.stdout.readline()
        return json.loads(line) if line else {}

    async def ask(self, kind: str, **data: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([kind, data]).encode() + b"\n")
        return await self.heard()

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def close(self) -> None:
        if self.process.stdin is not None:
            self.process.stdin.close()

    async def end(self) -> int:
        self.close()
        return await self.process.wait()


@pytest.fixture
async def children() -> AsyncIterator[list[Child]]:
    started: list[Child] = []
    yield started
    for child in started:
        if child.process.returncode is None:
            child.process.kill()
            await child.process.wait()


class Member:
    """A connection of this process that takes work, and what it was told."""

    def __init__(self, path: Path, *, group: str = "g", pid: str | None = None) -> None:
        self.connection = SqliteConnection(path, group=group, pid=pid)
        self.told: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.connection.recv(lambda message: self.told.put_nowait(json.loads(message)))

    async def __aenter__(self) -> Self:
        await self.connection.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.connection.stop()

    async def ask(self, kind: str, **data: Any) -> tuple[int, Any]:
        request = {"kind": kind, "head": {"corrId": "c", "version": "1"}, "data": data}
        answer = json.loads(await self.connection.send(json.dumps(request)))
        return answer["head"]["status"], answer["data"]

    async def create(self, id: str, target: str = ANY) -> None:
        tags = {"resonate:target": target}
        assert (await self.ask("promise.create", id=id, timeoutAt=2**53, tags=tags))[0] == 200

    async def offered(self) -> tuple[str, int]:
        async with asyncio.timeout(AT_ONCE):
            message = await self.told.get()
        task = message["data"]["task"]
        return task["id"], task["version"]


async def held_by_child(member: Member, path: Path, children: list[Child], ttl: int = 600_000) -> Child:
    """A task `t` that a child process holds for a long time."""
    await member.create("t")
    assert await member.offered() == ("t", 0)
    child = await Child.start("hold", path, "t", ttl)
    children.append(child)
    assert await child.heard() == {"status": 200}
    return child


async def test_a_killed_process_is_noticed_at_once_and_its_task_goes_to_another(
    path: Path, children: list[Child]
) -> None:
    async with Member(path) as member:
        child = await held_by_child(member, path, children)
        child.signal(signal.SIGKILL)
        assert await member.offered() == ("t", 1)
        assert (await member.ask("task.acquire", id="t", version=1, pid="p", ttl=1000))[0] == 200


async def test_a_process_that_stops_gives_its_task_back(path: Path, children: list[Child]) -> None:
    async with Member(path) as member:
        child = await held_by_child(member, path, children)
        assert await child.end() == 0
        assert await member.offered() == ("t", 1)


async def test_a_process_killed_while_nobody_watched_is_buried_by_the_next(path: Path, children: list[Child]) -> None:
    async with Member(path) as member:
        child = await held_by_child(member, path, children)
    child.signal(signal.SIGKILL)
    await child.process.wait()
    async with Member(path) as member:
        assert await member.offered() == ("t", 1)
    assert [file.name for file in Path(f"{path}-members").iterdir()] == ["write.lock"]


async def test_files_of_a_process_killed_before_it_was_listed_are_swept_and_a_living_ones_are_not(path: Path) -> None:
    async with Member(path):
        folder = Path(f"{path}-members")
        for name in ("dead.lock", "dead.sock"):
            (folder / name).touch()
        held = hold(folder, "coming")
        async with Member(path, group="other"):
            names = {file.name for file in folder.iterdir()}
            assert "coming.lock" in names
            assert len(names) == 6  # two members with two files each, the one that comes, the write lock
        os.close(held)


async def test_a_paused_process_that_comes_back_is_fenced(path: Path, children: list[Child]) -> None:
    async with Member(path) as member:
        child = await held_by_child(member, path, children, ttl=300)
        child.signal(signal.SIGSTOP)
        assert await member.offered() == ("t", 1)
        assert (await member.ask("task.acquire", id="t", version=1, pid="p", ttl=60_000))[0] == 200
        child.signal(signal.SIGCONT)
        create = {"kind": "promise.create", "data": {"id": "t:1", "timeoutAt": 2**53}}
        answer = await child.ask("task.fence", id="t", version=1, action=create)
        assert answer["status"] == 409
        assert (await member.ask("promise.get", id="t:1"))[0] == 404


async def test_a_unicast_message_reaches_its_owner_alone(path: Path) -> None:
    async with Member(path, pid="one") as one, Member(path, pid="two") as two:
        await one.create("t", target="poll://uni@g/two")
        assert await two.offered() == ("t", 0)
        assert one.told.empty()


async def test_an_anycast_message_reaches_exactly_one(path: Path) -> None:
    async with Member(path) as one, Member(path) as two, Member(path, group="other") as asker:
        for number in range(40):
            await asker.create(f"t{number}")
        deadline = time.monotonic() + AT_ONCE
        while one.told.qsize() + two.told.qsize() < 40 and time.monotonic() < deadline:
            await asyncio.sleep(0.001)
        got = [queue.get_nowait()["data"]["task"]["id"] for queue in (one.told, two.told) for _ in range(queue.qsize())]
        assert sorted(got) == sorted(f"t{number}" for number in range(40))
        assert asker.told.empty()


async def test_who_begins_to_receive_after_it_was_started_is_offered_work_from_then_on(path: Path) -> None:
    async with Member(path, group="other") as asker, SqliteConnection(path, group="g") as late:
        await asker.create("before")
        told: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        late.recv(lambda message: told.put_nowait(json.loads(message)))
        async with asyncio.timeout(AT_ONCE):
            assert (await told.get())["data"]["task"]["id"] == "before"
            await asker.create("after")
            assert (await told.get())["data"]["task"]["id"] == "after"


async def test_an_anycast_address_may_prefer_one_process(path: Path) -> None:
    async with Member(path, pid="one"), Member(path, pid="two") as two, Member(path, group="other") as asker:
        for number in range(8):
            await asker.create(f"t{number}", target=f"{ANY}/two")
            assert await two.offered() == (f"t{number}", 0)


async def test_a_resumed_task_is_offered_to_who_held_it_last(path: Path) -> None:
    async with Member(path) as one, Member(path) as two, Member(path, group="other") as asker:
        for number in range(6):
            task = f"t{number}"
            await asker.create(task)
            await asker.ask("promise.create", id=f"{task}:x", timeoutAt=2**53, tags={"resonate:external": "true"})
            assert (await two.ask("task.acquire", id=task, version=0, pid="p", ttl=60_000))[0] == 200
            awaits = [{"data": {"awaited": f"{task}:x", "awaiter": task}}]
            assert (await two.ask("task.suspend", id=task, version=1, actions=awaits))[0] == 200
            while not (one.told.empty() and two.told.empty()):
                (two.told if one.told.empty() else one.told).get_nowait()
            await asker.ask("promise.settle", id=f"{task}:x", state="resolved")
            assert await two.offered() == (task, 1)


async def test_a_listener_in_another_process_is_told_with_the_value(path: Path) -> None:
    async with Member(path, pid="one") as one, Member(path, pid="two") as two:
        large = "x" * 300_000
        await two.ask("promise.create", id="a", timeoutAt=2**53)
        await one.ask("promise.register_listener", awaited="a", address=one.connection.unicast())
        await two.ask("promise.settle", id="a", state="resolved", value={"data": large})
        async with asyncio.timeout(AT_ONCE):
            message = await one.told.get()
        assert (message["kind"], message["data"]["promise"]["value"]["data"]) == ("unblock", large)


async def test_commits_of_another_process_are_heard_of(path: Path) -> None:
    async with Member(path) as one, Member(path) as two:
        seen = one.connection.generation
        for number in range(20):
            waiting = asyncio.create_task(one.connection.changed(AT_ONCE, since=seen))
            await two.ask("promise.create", id=f"p{number}", timeoutAt=2**53)
            seen = await waiting
            while not await one.connection.scan(f"p{number}"):
                seen = await one.connection.changed(AT_ONCE, since=seen)
        assert await one.connection.changed(0.01) >= seen


async def test_delivery_between_processes_takes_milliseconds(path: Path) -> None:
    async with Member(path) as worker, Member(path, group="other") as asker:
        await asker.create("warm")
        await worker.offered()
        took: list[float] = []
        for number in range(30):
            await asker.create(f"t{number}")
            begun = time.perf_counter()
            await worker.offered()
            took.append(time.perf_counter() - begun)
        assert sorted(took)[15] < 0.05


@pytest.mark.timeout(60 + ROUNDS // 10)
async def test_eight_processes_each_task_once_none_lost(path: Path, children: list[Child]) -> None:
    rounds = ROUNDS // 8
    child = await Child.start("hammer", path, rounds, 8)
    children.append(child)
    took: list[str] = []
    async with asyncio.timeout(40 + ROUNDS // 10):
        while len(took) < 8 * rounds:
            said = await child.heard()
            assert said
            assert "error" not in said
            took += [said["took"]] if "took" in said else []
        child.close()
        untold = [(await child.heard())["untold"] for _ in range(8)]
    assert await child.end() == 0
    assert len(took) == len(set(took)) == 8 * rounds
    # A wake-up that was lost would be made up for by the next look at the file: the work would be done all the same.
    assert untold == [[]] * 8


async def test_what_killed_processes_left_is_finished_by_the_others(path: Path, children: list[Child]) -> None:
    child = await Child.start("hammer", path, 50, 4)
    children.append(child)
    killed: set[int] = set()
    async with SqliteConnection(path, group="watchers") as watcher, asyncio.timeout(40):
        while len(killed) < 2:
            said = await child.heard()
            assert said
            if "took" in said and said["pid"] not in killed | {child.process.pid}:
                os.kill(said["pid"], signal.SIGKILL)
                killed.add(said["pid"])
        left = 1
        while left:
            seen = watcher.generation
            promises = await watcher.scan("", limit=1000)
            left = 100 - len(promises) if len(promises) < 100 else sum(p.state == "pending" for p in promises)
            if left:
                await watcher.changed(1, since=seen)
        assert await child.end() == 0


async def test_what_no_message_said_is_found_by_looking(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Peers, "send", lambda *_: None)
    async with Member(path, pid="one") as one, Member(path, group="other", pid="two") as two:
        await two.create("t")
        assert await one.offered() == ("t", 0)
        await one.ask("promise.register_listener", awaited="t", address=one.connection.unicast())
        await two.ask("promise.settle", id="t", state="resolved")
        async with asyncio.timeout(AT_ONCE):
            assert (await one.told.get())["kind"] == "unblock"
        assert one.told.empty()


async def test_who_loses_the_files_it_is_known_by_is_found_again(path: Path) -> None:
    folder = Path(f"{path}-members")

    async def reaches(asker: Member, taker: Member, task: str) -> None:
        await asker.create(task)
        while (await taker.told.get())["data"]["task"]["id"] != task:
            pass  # what was found by looking may be told a little later as well
        await taker.ask("promise.settle", id=task, state="resolved")

    async with asyncio.timeout(30), Member(path) as one, Member(path, group="other") as other:
        for lost in ("folder", "files", "sockets"):
            for file in folder.iterdir():
                if lost != "sockets" or file.suffix == ".sock":
                    file.unlink()
            if lost == "folder":
                folder.rmdir()
            async with Member(path, group="late") as late:  # takes whom it cannot find for dead
                await reaches(late, one, f"late-{lost}")
                while not (one.connection._peers.heard() and late.connection._peers.connected(one.connection._member)):
                    await asyncio.sleep(0.01)
            await reaches(other, one, f"other-{lost}")
        assert sorted(file.suffix for file in folder.iterdir()) == [".lock"] * 3 + [".sock"] * 2


@pytest.mark.parametrize("turns", range(8))
def test_who_connects_while_the_wires_are_cut_is_cut_too(path: Path, turns: int) -> None:
    async def connect_and_close() -> None:
        peers = Peers(path.parent, "me", Deaf())
        peers.listen()
        with socket.socket(socket.AF_UNIX) as late:
            late.connect(str(path.parent / "me.sock"))
            late.sendall(b'{"hello":7}\n')
            for _ in range(turns):
                await asyncio.sleep(0)
            await peers.close()

    with warnings.catch_warnings(record=True) as unclosed:
        warnings.simplefilter("always")
        asyncio.run(connect_and_close())
        gc.collect()
    assert [str(each.message) for each in unclosed] == []


async def test_a_process_without_descriptors_hears_its_peers_when_it_has_some(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perdure.engine.store.peers.DEAF_SECONDS", 0.05)
    peers = Peers(path.parent, "me", Deaf())
    peers.listen()
    limits, full = resource.getrlimit(resource.RLIMIT_NOFILE), list[int]()
    with socket.socket(socket.AF_UNIX) as late:
        late.connect(str(path.parent / "me.sock"))
        late.sendall(b'{"hello":7}\n')
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (late.fileno() + 10, limits[1]))
            with contextlib.suppress(OSError):
                full.extend(os.dup(0) for _ in range(1_000))
            await asyncio.sleep(0.2)
            assert not peers.connected(7)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            for descriptor in full:
                os.close(descriptor)
        while not peers.connected(7):
            await asyncio.sleep(0.01)
        await peers.close()


class Deaf:
    """What a process does about its peers: nothing."""

    def on_execute(self, task: str, version: int) -> None: ...
    def on_fetch(self) -> None: ...
    def on_changed(self) -> None: ...
    def on_lost(self, member: int) -> None: ...


async def test_a_look_that_fails_is_not_the_last(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Member(path) as one, Member(path, group="other") as two:
        failed = asyncio.Event()

        def fails() -> None:
            failed.set()
            raise OSError

        async with asyncio.timeout(20):
            with monkeypatch.context() as patched:
                patched.setattr(one.connection._peers, "heard", lambda: False)
                patched.setattr(one.connection._peers, "listen", fails)
                await failed.wait()
            monkeypatch.setattr(two.connection._peers, "send", lambda *_: None)
            await two.create("t")
            assert (await one.told.get())["data"]["task"]["id"] == "t"


async def test_a_deadline_set_by_a_process_that_died_is_met_by_another(path: Path, children: list[Child]) -> None:
    async with Member(path) as member:
        child = await held_by_child(member, path, children)
        soon = int(time.time() * 1000) + 1500
        await child.ask("promise.create", id="timer", timeoutAt=soon, tags={"resonate:timer": "true"})
        child.signal(signal.SIGKILL)
        await member.ask("promise.register_listener", awaited="timer", address=member.connection.unicast())
        assert await member.offered() == ("t", 1)
        async with asyncio.timeout(1.5 + AT_ONCE):
            assert (await member.told.get())["data"]["promise"]["state"] == "resolved"


async def test_long_paths_are_no_obstacle(tmp_path: Path) -> None:
    folder = tmp_path / ("d" * 120)
    folder.mkdir()
    async with Member(folder / "store.db") as one, Member(folder / "store.db", group="other") as two:
        await two.create("t")
        assert await one.offered() == ("t", 0)
