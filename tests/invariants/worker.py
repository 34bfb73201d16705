"""A worker under test: real in every part, observed, and obedient to orders that say where it is to be killed.

``ORDERS/SESSION.json`` is a list of ``[label, nth, action]``, carried out one after another: the nth event with that
label (``*`` is any) since the order before was carried out. What is carried out is noted in ``SESSION.done`` first, so
that whoever comes after knows. Every event's label goes to ``SESSION.trace``.

The label ``+`` is a march: the action is carried out at every event at which it was not yet, up to nth times in all, so
that each resume ends at the next boundary. Where it was is noted in ``SESSION.at``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

from perdure.engine import events
from perdure.engine.settings import WorkerSettings
from perdure.engine.substrate import Substrate
from perdure.workers.service import Worker, standard_registry

from . import controls
from .capabilities import capabilities

__all__ = ["Config", "run"]

MANY_DEATHS = 1000

#: Who is killed where a march kills any.
ANY = ("guest", "worker", "guest", "worker", "guest", "worker", "guest", "zygote")


@dataclass(frozen=True)
class Config:
    """How a worker under test is to be."""

    folder: str
    state: str
    name: str = "a"
    lease: float = 2.0
    broken: str = ""
    elsewhere: bool = False
    steps: bool = False

    @property
    def path(self) -> Path:
        return Path(self.folder)


def orders_folder(folder: Path) -> Path:
    return folder / "orders"


@dataclass
class Orders:
    """What is to be done to one session's executions, and how far that has come."""

    path: Path
    steps: list[tuple[str, int, str]]
    done: int = -1
    counted: int = 0
    guest: int = 0
    been: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, folder: Path, session: str) -> Orders:
        path = folder / session
        try:
            steps = [tuple(step) for step in json.loads(path.with_suffix(".json").read_text())]
        except FileNotFoundError:
            steps = []
        been = path.with_suffix(".at")
        return cls(path, steps, been=set(been.read_text().splitlines()) if been.exists() else set())

    def paths(self) -> dict[str, str]:
        """Return the lineage paths of calls by record, whichever worker recorded them."""
        try:
            lines = self.path.with_suffix(".calls").read_text().splitlines()
        except FileNotFoundError:
            return {}
        return {id: path for id, _, path in (line.partition(" ") for line in lines)}

    def due(self, label: str, key: str) -> str:
        """Return the action that is due at this event, noted as carried out; empty if there is none.

        ``key`` tells the event from others of its label.
        """
        if not self.steps:
            return ""
        try:
            done = self.path.with_suffix(".done").stat().st_size
        except FileNotFoundError:
            done = 0
        if done != self.done:
            self.done, self.counted = done, 0
        if done >= len(self.steps):
            return ""
        wanted, nth, action = self.steps[done]
        if wanted == "+":
            return self._march(label, key, nth, action)
        if wanted not in ("*", label):
            return ""
        self.counted += 1
        if self.counted < nth:
            return ""
        if action in ("guest", "stop guest") and not alive(self.guest):
            return ""  # The next event at which there is one will do; nobody's number is that of the whole group.
        append(self.path.with_suffix(".done"), "x")
        self._note(action, label)
        return action

    def _march(self, label: str, key: str, most: int, action: str) -> str:
        if key in self.been or len(self.been) >= most:
            return ""
        if action == "any":
            action = ANY[crc32(key.encode()) % len(ANY)]
        if action == "guest" and not alive(self.guest):
            return ""
        self.been.add(key)
        append(self.path.with_suffix(".at"), f"{key}\n")
        self._note(action, label)
        return action

    def _note(self, action: str, label: str) -> None:
        append(self.path.with_suffix(".acts"), f"{action}\t{label}\t{self.guest}\n")


def append(path: Path, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def alive(pid: int) -> bool:
    """Whether the process is there and no zombie."""
    try:
        return bool(pid) and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


class Observed:
    """Names every event, and carries out what is ordered there."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._folder = orders_folder(config.path)
        self._orders: dict[str, Orders] = {}
        self._received: dict[str, str] = {}
        self._deliver: Any = None
        self.worker: Worker | None = None

    def __call__(self, event: events.Event) -> None:
        session, _, number = event.execution.partition("@")
        orders = self._orders.get(session)
        if orders is None:
            orders = self._orders[session] = Orders.of(self._folder, session)
        if isinstance(event, events.Launched):
            orders.guest = event.pid
        label = f"{number} {name_of(event, orders.paths())}"
        if isinstance(event, events.Recorded) and event.kind == "call":
            append(orders.path.with_suffix(".calls"), f"{event.id} {event.param['path']}\n")
        append(orders.path.with_suffix(".trace"), f"{os.getpid()} {label}\n")
        action = orders.due(label, f"{label} {getattr(event, 'id', '')}")
        if action:
            self._act(action, orders, event)

    def _act(self, action: str, orders: Orders, event: events.Event) -> None:
        for pid in victims(action, orders.guest):
            kill(pid)
        match action:
            case "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "stop guest":
                os.kill(orders.guest, signal.SIGSTOP)
            case "redeliver":
                for _ in range(2):
                    self._deliver(self._received[event.execution])
            case "silence":
                assert self.worker is not None
                self.worker._leases.attach(Silent())

    def listen(self, source: Any) -> None:
        """Keep what offers work, so that it can be delivered again."""
        recv = source.recv

        def keeping(callback: Any) -> None:
            def receive(raw: str) -> None:
                message = json.loads(raw)
                if message["kind"] == "execute":
                    self._received[message["data"]["task"]["id"]] = raw
                    self._deliver = callback
                callback(raw)

            recv(receive)

        source.recv = keeping


class Silent:
    """Takes heartbeats, sends none, and hears no answer."""

    async def task_heartbeat(self, pid: str, tasks: object) -> None:
        del pid, tasks
        await asyncio.get_running_loop().create_future()


def victims(action: str, guest: int) -> list[int]:
    """Return the processes that an order kills."""
    match action:
        case "guest":
            return [guest]
        case "worker":
            return [os.getpid()]
        case "zygote":
            # What guests are forked from: this process has no other children.
            return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
    return []


def kill(pid: int) -> None:
    """SIGKILL a process and wait until it is dead: what comes after this event never reaches it."""
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            poll.poll()
        finally:
            os.close(pidfd)


#: Events that come once, and need no more than a name.
NAMES: dict[type[events.Event], str] = {
    events.Launched: "launched",
    events.Suspending: "suspending",
    events.Imaged: "imaged",
    events.Stored: "stored",
    events.Ended: "ended",
}


def name_of(event: events.Event, paths: dict[str, str]) -> str:
    """Return the label of an event: alike in every run of a program, as far as the program is.

    ``paths`` are the calls recorded so far, by record: their numbers depend on how output was batched.
    """
    match event:
        case events.Recording(_, id, kind, param):
            return f"{_name_of_record(id, kind, param)} recording"
        case events.Recorded(_, id, kind, param):
            return f"{_name_of_record(id, kind, param)} recorded"
        case events.Settling(_, id):
            return f"{_name_of_settled(id, paths)} settling"
        case events.Settled(_, id):
            return f"{_name_of_settled(id, paths)} settled"
        case events.Delivering(_, path):
            return f"call {path} delivering"
        case events.Delivered(_, path):
            return f"call {path} delivered"
    return NAMES[type(event)]


def _name_of_settled(id: str, paths: dict[str, str]) -> str:
    return f"call {paths[id]}" if id in paths else id.partition(":")[2]


def _name_of_record(id: str, kind: str, param: Any) -> str:
    match kind:
        case "call":
            return f"call {param['path']} {'answer' if 'outcome' in param else 'start'}"
        case "step":
            return f"step {id.partition(':')[2]}"
    return kind


async def run(config: Config, ready: int) -> None:
    """Work until killed; a byte on ``ready`` says that work is taken."""
    controls.apply(config.broken)
    observed = Observed(config)
    substrate = Substrate.embedded(config.state)
    if config.elsewhere:
        another_machine(substrate, config.path / "elsewhere" / Path(config.state).name)
    observed.listen(substrate.source)
    settings = WorkerSettings(
        lease_seconds=config.lease,
        lease_margin_seconds=config.lease / 8,
        kept_guests=4,
        step_cpu_seconds=0.0 if config.steps else 1.0,  # 0: a step ends between any two statements
        poison_deaths=MANY_DEATHS,  # a storm kills a guest more often in a row than code kills itself
    )
    registry = standard_registry(capabilities(config.path))
    worker = observed.worker = Worker(substrate, registry, settings, observed)
    server = await asyncio.start_unix_server(Control(worker, substrate).serve, config.path / f"{config.name}.control")
    await worker.start()
    os.write(ready, b"r")
    os.close(ready)
    async with server:
        await asyncio.get_running_loop().create_future()


def another_machine(substrate: Substrate, root: Path) -> None:
    """Give this worker workspaces and locks that no other worker has; the store and the blobs are shared."""
    folder = type(substrate.folder)(root)
    for each in (folder.workspaces, folder.run):
        each.mkdir(parents=True, exist_ok=True)
    (root / "key").write_bytes(substrate.folder.key())
    substrate.folder = folder


class Control:
    """What a case asks of a worker that lives: to be offered no work, to be heard again, how long a lease lasts."""

    def __init__(self, worker: Worker, substrate: Substrate) -> None:
        self._worker = worker
        self._substrate = substrate

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            await self._do(line.decode().strip())
            writer.write(b"done\n")
            await writer.drain()
        writer.close()

    async def _do(self, what: str) -> None:
        network = self._substrate.network
        if what in ("deaf", "hear"):
            receives = int(what == "hear")
            sql = "UPDATE members SET receives = ? WHERE id = ?"
            await network._committer.write(lambda db, _now, _messages: db.execute(sql, (receives, db.member)))
        elif what == "speak":
            self._worker._leases.attach(self._substrate.promises._sender)
        elif what.startswith("drop "):
            await self._worker._pool.drop(what.removeprefix("drop "), "the case asked for it")
