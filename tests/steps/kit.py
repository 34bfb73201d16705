"""Programs run in real guests whose steps end at every statement, or at none, in one guest or in many."""

from __future__ import annotations

import asyncio
import json
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from perdure.engine.checkpoints import Composed, inline
from perdure.workers.checkpoints import packed
from tests.guest.harness import GRANTS, Host, echo

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["AT_EVERY_STATEMENT", "Story", "play"]

#: Breaks it on purpose: whoever goes on draws again what was drawn before.
RESEED = False
LENGTH = struct.Struct(">I")
#: A test's policy: a step ends wherever it can.
AT_EVERY_STATEMENT: dict[str, float] = {"cpu_seconds": 0, "calls": 0}

#: Run after a program: everything that can be told of what it leaves, and what it would draw next.
LOOK = """
import re as _re, os as _os, random as _random, asyncio as _asyncio
import threading as _threading, decimal as _decimal, sys as _sys
async def _nothing(): pass
async def _name():
    task = _asyncio.create_task(_nothing())
    await task
    return task.get_name(), hash(task)
def _shown(value):
    if isinstance(value, (int, float, str, bytes, list, tuple, dict, set, frozenset, type(None), complex, range)):
        return _re.sub(' at 0x[0-9a-f]+', '', repr(value))
    return type(value).__qualname__
_see = {name: _shown(value) for name, value in list(globals().items())
        if not name.startswith('_') and name not in ('In', 'Out')}
[list(_see.items()), _random.random(), _os.urandom(8).hex(), await _name(), _threading.Thread().name,
 str(_decimal.getcontext().prec), _sys.argv, _sys.path[1:2], __doc__, repr(_), _os.getcwd() == _os.getcwd()]
"""


@dataclass
class Story:
    """What could be seen of a run."""

    writes: list[tuple[str, str]] = field(default_factory=list)
    calls: list[tuple[str, Any]] = field(default_factory=list)
    done: dict[str, Any] = field(default_factory=dict)
    left: Any = None
    #: How many steps were settled; not to be compared.
    steps: int = 0
    prevented: list[Any] = field(default_factory=list)

    def seen(self) -> tuple[Any, ...]:
        told = {key: self.done.get(key) for key in ("status", "value", "repr", "error", "line", "notes", "left")}
        return self.writes, self.calls, told, self.left


def play(
    code: str,
    *,
    steps: dict[str, float] | None = None,
    restart: Callable[[int], bool] = lambda _step: False,
    before: tuple[str, ...] = (),
    look: str = LOOK,
) -> Story:
    """Run a program; ``restart`` says after which steps its guest is killed and another one goes on."""
    story, chain = Story(), Chain()
    host = Host()
    try:
        for earlier in before:
            host.run(earlier)
        host.begin(code, steps=steps)
        number = host.number
        while (message := host.receive())["t"] != "done":
            match message["t"]:
                case "output":
                    story.writes.append((message["stream"], message["text"]))
                case "call":
                    story.calls.append((message["path"], message["args"]))
                    host.send({"t": "reply", "path": message["path"], **(echo(message) or {})})
                case "step":
                    story.steps += 1
                    chain.add(bytes(host.streams.take(message["stream"])))
                    if restart(story.steps):
                        host = _another(host, chain, code, number, story.steps, steps)
                    else:
                        host.send({"t": "settled", "ok": True})
                case "idle":
                    pass
                case other:
                    raise AssertionError(other)
        story.done = message
        story.prevented = message["prevented"]
        if look:
            story.left = host.run(look).value
    finally:
        host.__exit__()
    return story


class Chain:
    """The checkpoints of a namespace as a host keeps them."""

    def __init__(self) -> None:
        self._composed = Composed()

    def add(self, content: bytes) -> None:
        """Take in what a guest sent."""
        (size,) = LENGTH.unpack_from(content)
        data = json.loads(content[LENGTH.size : LENGTH.size + size])
        pack = content[LENGTH.size + size :]
        if data["since"] == 0:
            self._composed = Composed()
        if RESEED:
            data.setdefault("runtime", {})["entropy"] = {"seed": 42, "position": 0, "kernel": 0, "seeded": False}
        self._composed.apply(data, {data["generation"]: [(0, inline(pack), 0, len(pack))]} if pack else {})

    def content(self) -> bytes:
        """Return what a guest is restored from."""
        # Nothing here is in a blob store.
        return b"".join(asyncio.run(packed(self._composed, None)))  # type: ignore[arg-type]


def _another(host: Host, chain: Chain, code: str, number: int, step: int, steps: dict[str, float] | None) -> Host:
    host.kill()
    other = Host(folder=host.folder)
    other.send({"t": "restore", "stream": other.send_stream(chain.content())})
    assert other.receive()["t"] == "restored"
    other.number = number
    execution = f"{other.session}@{number}"
    message: dict[str, Any] = {"t": "execute", "execution": execution, "code": code, "filename": None, "argv": []}
    other.send({**message, "flags": {}, "step": step, "steps": steps, "grants": GRANTS})
    return other
