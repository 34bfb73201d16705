"""A lane: one state, one outside world, workers that come and go, and the cases that are played there in turn."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from blake3 import blake3

from perdure.engine import Client, Result
from perdure.engine.durable import now_ms
from perdure.engine.ids import settings_id
from perdure.engine.sessions import FOREVER_MS
from perdure.engine.settings import SessionSettings

from .capabilities import capabilities
from .nursery import line_of
from .outside import BOOK
from .program import Case, Played, Program
from .worker import Config, orders_folder

__all__ = ["PATIENCE", "ROOT", "SHORT_LEASE", "Lane", "opened"]

ROOT = Path(__file__).parents[2]

#: Seconds after which a worker that cannot be reached should have been noticed dead, if it is.
DEATH_NOTICED = 5.0
#: Seconds without a kill after which an execution that has not ended is stuck; two or three are usual under load.
PATIENCE = 60.0

#: Kinds of processes that are killed.
VICTIMS = ("guest", "worker", "zygote")

#: Seconds of a lease where it is to be outlived.
SHORT_LEASE = 2.0

#: Milliseconds for which a worker is stopped at most: a lease, and what its successor needs.
STOPPED_MS = 15_000

#: Describes a namespace from inside: plain data by its repr, the rest by its type; run as an execution of its own.
NAMES = """
def _perdure_tell():
    import zlib
    out = {}
    for name, value in sorted(globals().items()):
        if name.startswith("_") or name in ("In", "Out", "exit", "quit", "doubts"):
            continue
        text = repr(sorted(value) if isinstance(value, set) else value)
        if len(text) > 2000:
            text = f"{len(text)} characters, {zlib.crc32(text.encode())}"
        out[name] = type(value).__name__ if " at 0x" in text or " from '" in text else text
    return out, list(globals().get("doubts", ()))
_perdure_tell()
"""


class Stuck(Exception):
    """An execution did not end."""


class Lane:
    """Plays cases, one at a time."""

    def __init__(
        self,
        folder: Path,
        *,
        lease: float = SHORT_LEASE,
        broken: str = "",
        powerless: bool = False,
        patience: float = PATIENCE,
    ) -> None:
        self.folder = folder
        self.powerless = powerless
        self.state = folder / "state0"
        self.lease = lease
        self.patience = patience
        self.broken = broken
        self.steps = False
        self._number = 0
        self._states = 0
        self._pids: dict[str, int] = {}
        self._ready: dict[int, asyncio.Event] = {}
        self._started: asyncio.Queue[int] = asyncio.Queue()
        self._died = asyncio.Event()
        self._nursery: asyncio.subprocess.Process
        self._world: asyncio.subprocess.Process
        self.client: Client
        self._book = 0

    # -- processes -------------------------------------------------------------

    async def start(self) -> None:
        orders_folder(self.folder).mkdir(parents=True)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "deploy" / "dev")))}
        pipe = asyncio.subprocess.PIPE
        run = asyncio.create_subprocess_exec
        outside = [sys.executable, "-m", "tests.invariants.outside", str(self.folder)]
        self._world = await run(*outside, stdin=pipe, stdout=pipe, env=environment)
        nursery = [sys.executable, "-m", "tests.invariants.nursery"]
        preloaded = await self._without_power() if self.powerless else {}
        self._nursery = await run(*nursery, stdin=pipe, stdout=pipe, env=environment | preloaded)
        assert self._world.stdout is not None
        assert await self._world.stdout.readline() == b"ready\n"
        self._hearing = asyncio.create_task(self._hear())
        await self._connect()

    async def _connect(self) -> None:
        self.client = Client.open(self.state, worker=False, capabilities=capabilities(self.folder))
        await self.client.__aenter__()

    async def _without_power(self) -> dict[str, str]:
        """Return the environment of workers of whose files only what was synced survives ``lose_power``."""
        shim = self.folder / "power.so"
        source = ROOT / "tests" / "store" / "power.c"
        compiler = await asyncio.create_subprocess_exec("cc", "-shared", "-fPIC", "-O1", "-o", shim, source, "-ldl")
        assert await compiler.wait() == 0
        (self.folder / "durable").mkdir()
        return {"LD_PRELOAD": str(shim), "PERDURE_DURABLE": str(self.folder / "durable")}

    def synced(self) -> None:
        """Note what this process was told is durable: it wrote without the shim."""
        for name in ("perdure.db", "perdure.db-wal"):
            shutil.copy(self.state / name, self.folder / "durable" / name)

    async def lose_power(self) -> None:
        """Put the store back to what was synced of it; no worker lives."""
        await self.client.__aexit__()
        for name in ("perdure.db", "perdure.db-wal", "perdure.db-shm"):
            (self.state / name).unlink(missing_ok=True)
            kept = self.folder / "durable" / name
            if kept.exists() and not name.endswith("-shm"):
                shutil.copy(kept, self.state / name)
        await self._connect()

    async def renew(self, broken: str = "", *, steps: bool = False, lease: float = SHORT_LEASE) -> None:
        """Go on with an empty state and other workers, broken or not."""
        for name in list(self._pids):
            await self.dismiss(name)
        await self.client.__aexit__()
        self.broken = broken
        self.steps = steps
        self.lease = lease
        self._states += 1
        self.state = self.folder / f"state{self._states}"
        await self._connect()

    async def stop(self) -> None:
        await self.client.__aexit__()
        for pid in self._pids.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._hearing.cancel()
        for process in (self._nursery, self._world):
            if process.returncode is None:
                process.kill()
            await process.wait()

    async def _hear(self) -> None:
        assert self._nursery.stdout is not None
        while line := await self._nursery.stdout.readline():
            news = json.loads(line)
            match news["say"]:
                case "started":
                    self._started.put_nowait(news["pid"])
                case "ready":
                    self._ready[news["pid"]].set()
                case "died":
                    for name, pid in list(self._pids.items()):
                        if pid == news["pid"]:
                            del self._pids[name]
                    self._ready.setdefault(news["pid"], asyncio.Event()).set()
                    self._died.set()
        self._started.put_nowait(0)

    async def worker(self, name: str = "a", *, elsewhere: bool = False) -> int:
        """Return the pid of this worker, started if it is not there."""
        if name in self._pids:
            return self._pids[name]
        config = Config(str(self.folder), str(self.state), name, self.lease, self.broken, elsewhere, self.steps)
        assert self._nursery.stdin is not None
        self._nursery.stdin.write(line_of(config))
        pid = await self._started.get()
        if not pid:
            raise RuntimeError("the nursery has ended: no worker can be started")
        self._pids[name] = pid
        ready = self._ready.setdefault(pid, asyncio.Event())
        await ready.wait()
        if self._pids.get(name) != pid:
            msg = f"worker {name} did not start: {(self.folder / f'{name}.log').read_text()[-2000:]}"
            raise RuntimeError(msg)
        return pid

    async def dismiss(self, name: str) -> None:
        """Kill a worker that is not needed any more."""
        pid = self._pids.get(name)
        while pid is not None and self._pids.get(name) == pid:
            self._died.clear()
            os.kill(pid, signal.SIGKILL)
            await self._died.wait()

    async def tell(self, name: str, what: str) -> bool:
        """Have a living worker do something; False if it could not: it ended, or somebody stopped keeps the store."""
        reader, writer = await asyncio.open_unix_connection(self.folder / f"{name}.control")
        writer.write(what.encode() + b"\n")
        done = await reader.readline()
        writer.close()
        return bool(done)

    async def _told(self, name: str, what: str) -> bool:
        """Have a worker do something; False if it has ended: by an order of the case before, noticed only now."""
        pid = self._pids[name]
        with contextlib.suppress(OSError):
            if await self.tell(name, what):
                return True
        async with asyncio.timeout(DEATH_NOTICED):
            while self._pids.get(name) == pid:
                self._died.clear()
                await self._died.wait()
        return False

    # -- cases -----------------------------------------------------------------

    async def play(self, program: Program, case: Case) -> Played:
        """Run a program to its end, disturbed as the case says."""
        self._number += 1
        session = f"c{self._number:06}"
        played = Played(session, ordered=sum(label != "+" for label, _, _ in case.orders))
        orders = orders_folder(self.folder) / session
        orders.with_suffix(".json").write_text(json.dumps(case.orders))
        await self._session(program, session)
        playing = Playing(self, program, case, played)
        try:
            await self._workers(case)
            for source in program.sources:
                await playing.run(source)
            await playing.names()
        except Stuck as exc:
            played.stuck = str(exc)
        except (OSError, RuntimeError) as exc:
            # A worker that ended of itself, or cannot be reached: what it said of it is gone with the lane's folder.
            logs = (path.read_text()[-2000:] for path in sorted(self.folder.glob("*.log")))
            played.unplayed = "\n".join([repr(exc), *logs])
        with contextlib.suppress(FileNotFoundError):
            played.acts = orders.with_suffix(".acts").read_text().splitlines()
        with contextlib.suppress(FileNotFoundError):
            played.trace = [line.partition(" ")[2] for line in orders.with_suffix(".trace").read_text().splitlines()]
        played.effects = self._effects(session)
        actions = Counter(act.partition("\t")[0] for act in played.acts)
        played.killed = Counter({victim: actions[victim] for victim in VICTIMS})
        return played

    async def _session(self, program: Program, session: str) -> None:
        # The same incarnation for every run of a program: its randomness is then the same too.
        promises = self.client.substrate.promises
        grants = tuple(sorted([*(each.name for each in capabilities(self.folder)), "ask", "input"]))
        incarnation = blake3(program.name.encode()).hexdigest(16)
        settings = SessionSettings(incarnation=incarnation, grants=grants, isolation=program.isolation)
        await promises.create(
            settings_id(session, 0), "settings", settings.model_dump(mode="json"), timeout_at=now_ms() + FOREVER_MS
        )

    async def _workers(self, case: Case) -> None:
        await self.worker()
        if case.workers > 1:
            await self.worker("b", elsewhere=case.elsewhere)
            # Whoever is to be disturbed begins; the other is heard when its turn comes.
            while not await self._told("b", "deaf"):
                await self.worker("b", elsewhere=case.elsewhere)
        else:
            await self.dismiss("b")

    def _effects(self, session: str) -> list[dict[str, Any]]:
        with (self.folder / BOOK).open("rb") as book:
            book.seek(self._book)
            lines = book.read().splitlines()
            self._book = book.tell()
        return [effect for line in lines if (effect := json.loads(line))["session"] == session]

    @property
    def died(self) -> asyncio.Event:
        """Set when a worker has died."""
        return self._died

    def living(self, name: str) -> int | None:
        """Return the pid of a worker, if it lives."""
        return self._pids.get(name)


class Playing:
    """One case on its way."""

    def __init__(self, lane: Lane, program: Program, case: Case, played: Played) -> None:
        self._lane = lane
        self._program = program
        self._case = case
        self._played = played
        self._acts = orders_folder(lane.folder) / f"{played.session}.acts"
        self._trace = orders_folder(lane.folder) / f"{played.session}.trace"
        self._read = 0
        self._working = "a"
        self._deadline: asyncio.Timeout

    async def run(self, source: str) -> None:
        """Run one execution to its end."""
        id, result = await self._result(source)
        played = self._played
        played.statuses.append(result.status)
        played.values.append(self._neutral(result.value if result.has_value else result.repr))
        played.errors.append(self._neutral(str(result.error.message if result.error else "")))
        played.output += await self._output(id)

    async def _result(self, source: str) -> tuple[str, Result]:
        session = await self._lane.client.session(self._played.session)
        execution = await session.submit(source)
        if self._lane.powerless:
            self._lane.synced()
        ended = asyncio.create_task(execution.result())
        try:
            async with asyncio.timeout(self._lane.patience) as self._deadline:
                return execution.id, await self._follow(execution.id, ended)
        except TimeoutError:
            raise Stuck(await self._why(execution.id)) from None
        finally:
            ended.cancel()

    async def _follow(self, id: str, ended: asyncio.Task[Result]) -> Result:
        lane = self._lane
        substrate = lane.client.substrate
        shown = ""
        while not ended.done():
            since = substrate.generation
            if lane.living("a") is None and not (self._case.swaps and self._working == "b"):
                shown = await self._check_shown(id, shown)
                if lane.powerless:
                    await lane.lose_power()
                    substrate = lane.client.substrate
                    ended.cancel()
                    ended = asyncio.create_task(lane.client.execution(id).result())
                if self._case.waiting == "dead":
                    await self._answer(id)
                await lane.worker()
            await self._act(ended)
            if self._program.answers:
                await self._answer(id)
            lane.died.clear()
            if lane.living("a") is None:
                continue
            died = asyncio.create_task(lane.died.wait())
            changed = asyncio.create_task(substrate.changed(0.1, since))
            await asyncio.wait({ended, died, changed}, return_when=asyncio.FIRST_COMPLETED)
            died.cancel()
            changed.cancel()
        await self._check_shown(id, shown)
        return ended.result()

    async def _check_shown(self, id: str, before: str) -> str:
        """Hold what is shown now to what was shown at a crash before."""
        text = "".join(text for _, text in await self._output(id))
        if not text.startswith(before):
            self._played.contradicted = f"shown was {before!r}, and then {text!r}"
        return text

    async def _output(self, id: str) -> list[tuple[str, str]]:
        events = self._lane.client.execution(id).events(follow=False)
        return [(each.stream, self._neutral(each.text)) async for each in events if each.type == "output"]

    async def _answer(self, id: str) -> None:
        client = self._lane.client
        calls = await client.pending(id)
        if self._rests_first() and not (calls and await client.substrate.promises.waiting(id)):
            return
        if self._case.waiting == "retaken" and len(self._launches()) == 1:
            return
        if self._case.swaps:
            await self._swap()
        if self._case.backwards:
            # All of them are asked before the first is answered.
            if len(calls) < len(self._program.answers) and not await client.substrate.promises.waiting(id):
                return
            calls.reverse()
        for call in calls if self._case.waiting in ("at once", "dead") else calls[:1]:
            with contextlib.suppress(Exception):  # answered by the run's end, or given up by the code
                await client.answer(call.id, self._program.answers[call.prompt])

    def _rests_first(self) -> bool:
        """Whether nothing is answered before nothing runs."""
        if self._case.waiting == "dead":
            return self._lane.living("a") is not None and self._read < len(self._case.orders)
        return self._case.waiting == "suspended"

    async def _act(self, ended: asyncio.Future[Result]) -> None:
        """Do what follows on an order that was carried out: let a stopped process go on, and the like."""
        try:
            acts = self._acts.read_text().splitlines()
        except FileNotFoundError:
            return
        if len(acts) > self._read:
            # Patience is for what comes after a kill, not for a hundred of them.
            self._deadline.reschedule(asyncio.get_running_loop().time() + self._lane.patience)
        for act in acts[self._read :]:
            self._read += 1
            action, _label, guest = act.split("\t")
            match action:
                case "stop":
                    await self._go_on(ended)
                case "stop guest":
                    await self._until(_past(self._lane.lease * 1500))
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(guest), signal.SIGCONT)
                case "silence":
                    await self._until(self._more_launches())
                    await self._lane.tell("a", "speak")

    async def _go_on(self, ended: asyncio.Future[Result]) -> None:
        """Let a stopped worker go on: late, when it must not do anything any more.

        Whoever takes over brings the execution to its end first. But a worker may have been stopped with the store's
        lock in its hand: then nobody can, and it is let go on all the same.
        """
        stopped = self._lane.living("a")
        assert stopped is not None
        await self._lane.tell("b", "hear")
        late = _past(STOPPED_MS)
        await self._until(lambda: ended.done() or late())
        os.kill(stopped, signal.SIGCONT)
        for _ in range(3):
            await self._lane.tell("a", "hear")

    def _more_launches(self) -> Callable[[], bool]:
        before = len(self._launches())
        return lambda: len(self._launches()) > before

    async def _until(self, true: Callable[[], bool]) -> None:
        while not true():
            await self._lane.client.substrate.changed(0.05)

    def _launches(self) -> list[str]:
        try:
            return [line for line in self._trace.read_text().splitlines() if line.endswith("launched")]
        except FileNotFoundError:
            return []

    async def _swap(self) -> None:
        """Have the other worker take what comes next."""
        before, self._working = self._working, "b" if self._working == "a" else "a"
        await self._lane.tell(self._working, "hear")
        await self._lane.tell(before, "deaf")

    async def _why(self, id: str) -> str:
        tree = await self._lane.client.execution(id).tree()
        return f"{id} did not end: {tree.model_dump_json()[:3000]}"

    async def names(self) -> None:
        """Ask the session what it holds, from its checkpoint where the case killed something."""
        played = self._played
        if played.statuses[-1] not in ("ok", "error", "exit"):
            return
        if self._case.workers > 1:
            await self._lane.tell("a", "hear")
            await self._lane.dismiss("b")
        if self._acts.exists() or self._case.workers > 1:
            await self._lane.worker()
            await self._lane.tell("a", f"drop {played.session}")
        _, result = await self._result(NAMES)
        if result.status != "ok":
            played.contradicted = f"the namespace cannot be read: {result.error}"
            return
        names, doubts = result.value
        played.names, played.doubts = self._neutral(names), list(doubts)
        await self._lane.worker()
        await self._lane.tell("a", f"drop {played.session}")

    def _neutral(self, value: Any) -> Any:
        """Take the session's own name out of a value."""
        if isinstance(value, str):
            return value.replace(self._played.session, "SESSION")
        if isinstance(value, (list, tuple)):
            return type(value)(map(self._neutral, value))
        if isinstance(value, dict):
            return {self._neutral(key): self._neutral(each) for key, each in value.items()}
        return value


def _past(milliseconds: float) -> Callable[[], bool]:
    late = now_ms() + milliseconds
    return lambda: now_ms() > late


@asynccontextmanager
async def opened(folder: Path, **how: Any) -> AsyncIterator[Lane]:
    """Open a lane in a folder of its own."""
    lane = Lane(folder, **how)
    await lane.start()
    try:
        yield lane
    finally:
        await lane.stop()
