"""The guest process: one namespace, one loop, and the messages of its worker, one after another.

1. User code runs only between ``execute`` and ``done``, after confinement.
2. Everything is said on the channel; descriptors 1 and 2 belong to the code.
"""

from __future__ import annotations

import builtins
import errno
import faulthandler
import gc
import json
import os
import struct
import sys
import tempfile
from typing import TYPE_CHECKING, Any

from . import checkpoint, entropy, finish, loop, unraisable
from .calls import Calls
from .channel import Channel
from .checkpoints import ambient
from .checkpoints.pages import Pages
from .checkpoints.touched import Watcher
from .display import Displays
from .dropped import Dropped
from .executor import Executor
from .hub import Hub
from .lineage import Family
from .merging import merge
from .namespace import ENGINE_INTERNALS, MODULE_NAMES, Namespace, Sources
from .output import NoInput, Output
from .signals import Critical
from .signals import install as install_signals
from .threads import Threads
from .values import decode
from .wallclock import WallClock

if TYPE_CHECKING:
    from .checkpoints.touched import Touched
    from .confine import Beneath
    from .wire import Message

__all__ = ["PROTOCOL", "main"]

#: Version of the messages; the host refuses another.
PROTOCOL = 1
#: The channel's descriptor.
CHANNEL_FD = 3

#: What begins a checkpoint, sent or received: the length of the JSON before the data.
_LENGTH = struct.Struct(">I")
#: Data that is received starts on a page.
_PAGE = 4096


class Guest:
    """All parts of the process, wired."""

    def __init__(self, channel: Channel, critical: Critical, config: dict[str, Any]) -> None:
        self._config = config
        self.limits = limits = finish.Limits(config.get("limits") or {})
        self.channel = channel
        self.output = Output(lambda message: channel.send(message, entered=True), limits.output)
        self.wall = WallClock()
        self.hub = Hub(channel, critical, self.output.flush, self.wall)
        self.family = Family()
        self.threads = Threads(self.hub, self.family)
        self.sources = Sources()
        self.namespace = Namespace(limits.history)
        self.calls = Calls(self.hub, self.family, self.sources.__contains__)
        self.displays = Displays(channel, self.output.flush, (limits.repr, limits.repr_seconds), limits.display)
        self.dropped = Dropped(self.sources.__contains__)
        #: Where a forked session leaves the other, and the seed it goes on with.
        self._fork: dict[str, Any] | None = None
        self.hub.consumed = self._consumed
        self.watcher = Watcher(self.sources.__contains__)
        # Here, between the fork and the confinement: what it opens belongs to this address space, and may not be later.
        self.pages = Pages.open()
        self.checkpoints = checkpoint.Checkpoints(
            self.namespace.dict, protected=MODULE_NAMES, live=self._live, pages=self.pages
        )

    def install(self) -> list[int]:
        """Hook what must be hooked; return descriptors that stay open."""
        entropy.install(self._config["seed"], self.wall.shim)
        os.environ.pop("LD_PRELOAD", None)
        loop.install(self.hub, self.family)
        self.threads.install()
        self.namespace.set_up()
        self.executor = Executor(self.namespace)
        own = os.dup(2)
        faulthandler.enable(own)
        descriptors = [own, *self.output.take_descriptors(), *self.executor.loop.descriptors()]
        descriptors += self.pages.descriptors() if self.pages is not None else []
        out, err = self.output.streams()
        sys.stdout = sys.__stdout__ = out  # type: ignore[misc]
        sys.stderr = sys.__stderr__ = err  # type: ignore[misc]
        sys.stdin = sys.__stdin__ = NoInput()  # type: ignore[misc, assignment]
        unraisable.install()
        module = sys.modules["perdure"] = self.calls.module()
        sys.modules["perdure.figures"] = self.displays.figures()
        builtins.display = module.display = self.displays.display  # type: ignore[attr-defined]
        builtins.input = self.calls.input
        self.dropped.install()
        self.calls.grant(self._config.get("grants") or [])
        sys.path.insert(0, "")
        sys.argv = [""]
        os.register_at_fork(after_in_child=self._forked)
        return descriptors

    def _forked(self) -> None:
        self.output.forked = True
        self.threads.forget_forked()

    # -- messages --------------------------------------------------------------

    def serve(self) -> None:
        """Answer messages until the channel closes."""
        answers = {"execute": self._execute, "checkpoint": self._checkpoint, "restore": self._restore}
        while True:
            message = self.hub.next_message()
            answers[message["t"]](message)

    def _execute(self, message: Message) -> None:
        execution = message["execution"]
        filename = message.get("filename") or f"<{execution}>"
        number = int(execution.rpartition("@")[2]) if "@" in execution else 0
        code_stream = message.get("code_stream")
        if code_stream is not None:
            message["code"] = self.channel.streams.take(code_stream).decode("utf-8", "surrogatepass")
        recorded = self.channel.content(message, "replay")
        for item in (recorded or {}).get("deliveries", ()):
            for outcome in item[3:] if item[0] == "r" else ():
                if "value_stream" in outcome:
                    outcome["value"] = self.channel.content(outcome, "value")
        if message.get("grants") is not None:
            self.calls.grant(message["grants"])
        self.sources.add(filename, message["code"])
        if message["code"]:
            self.namespace.keep_input(number, message["code"])
        if message.get("filename"):
            self._as_script(filename, message.get("argv") or [])
        self.output.begin(self.limits.output)
        self.displays.begin()
        self.family.begin(execution)
        self.hub.begin(execution, recorded)
        self._fork = message.get("fork")
        merged = self._merge(message)
        ended = self.executor.run(message["code"], filename)
        ended.merged = merged
        self.sources.register_all()
        answer = finish.done(self, number, filename, ended)
        self.hub.finish_replay()
        self.hub.end()
        self.hub.send(answer)

    def _merge(self, message: Message) -> dict[str, list[str]] | None:
        """Put in the variables that came with a submission."""
        values = self.channel.content(message, "variables")
        if values is None:
            return None
        protected = ENGINE_INTERNALS | MODULE_NAMES
        self.watcher.touch(values)
        return merge(self.namespace.dict, decode(values), message.get("strategy", "overwrite"), protected)

    def _consumed(self, path: str) -> None:
        if self._fork is not None and path == self._fork["path"]:
            entropy.reseed(self._fork["seed"])
            self._fork = None

    def _as_script(self, filename: str, argv: list[str]) -> None:
        """Set what a script sees of how it was started, as ``python FILE ARGUMENTS`` does."""
        path = os.path.join(self._config["workspace"], filename)
        self.namespace.dict["__file__"] = path
        # A class is looked up by its module's file, a function by its code's.
        self.sources.register(filename, path)
        sys.argv = argv or [filename]
        sys.path[0] = os.path.dirname(path)

    def _checkpoint(self, message: Message) -> None:
        """Send what changed since the checkpoint that the host has; everything, if it is not the last one made here."""
        self.calls.refused = "a checkpoint is being made"
        # None of it may be read after the hooks of the checkpoint ran.
        runtime, texts = self._state(), self.sources.texts()
        if message.get("since") != self.checkpoints.generation:
            self.checkpoints.forget()
        with self.wall.paused(), entropy.undone():
            delta = self.checkpoints.save(self._touched(), runtime=runtime, texts=texts)
        self.output.flush()
        data = json.dumps(delta.data, separators=(",", ":")).encode()
        stream = self.channel.send_stream(_LENGTH.pack(len(data)), data, *delta.chunks)
        self.calls.refused = ""
        self.hub.send({"t": "checkpoint", "stream": stream})

    def _touched(self) -> Touched:
        """Return what code may have touched since the last checkpoint: everything, while something of it still runs."""
        touched = self.watcher.take()
        if self.threads.names() or finish.tasks(self):
            touched.everything = True
        return touched

    def _restore(self, message: Message) -> None:
        memory = memoryview(self.channel.streams.take_memory(message["stream"]))
        (size,) = _LENGTH.unpack_from(memory)
        start = _LENGTH.size + size
        content = json.loads(bytes(memory[_LENGTH.size : start]))
        start += -start % _PAGE
        packs = {
            int(number): memory[start + offset : start + offset + length]
            for number, (offset, length) in content["packs"].items()
        }
        manifest = content["manifest"]
        loaded = self.checkpoints.restore(manifest, packs)
        self._set_state(manifest["runtime"], loaded.text)
        self.namespace.restored()
        self.watcher.take()
        self.hub.send({"t": "restored"})

    def _state(self) -> dict[str, Any]:
        """Return what the runtime itself carries over."""
        return {
            "entropy": entropy.get_state(),
            "clock": self.hub.clock.state(),
            "futures": self.executor.flags,
            "births": loop.births.state(),
        }

    def _set_state(self, state: dict[str, Any], texts: dict[str, str]) -> None:
        entropy.set_state(state["entropy"])
        self.hub.clock.set_state(state["clock"])
        self.executor.flags = state["futures"]
        loop.births.set_state(state["births"])
        for filename, code in texts.items():
            self.sources.add(filename, code)

    def _live(self) -> dict[str, object]:
        return {"loop": self.executor.loop}


def main(beneath: Beneath | None = None) -> None:
    """Run the guest; never returns. ``beneath`` is what the zygote that it was forked from says."""
    critical = Critical()
    install_signals(critical)
    channel = Channel(CHANNEL_FD, critical)
    start = next(message for message in iter(lambda: next(channel.receive(), None), 0) if message is not None)
    config = start["config"]
    _move_in(config["workspace"])
    guest = Guest(channel, critical, config)
    keep = guest.install()
    isolation: dict[str, Any] = {"level": "none"}
    if config.get("isolation") is not None:
        isolation = _confine(config["isolation"], keep, beneath)
    if config.get("may_fork"):
        # What may fork is the runtime; code finds the same everywhere.
        os.fork = _no_fork
    ambient.reborn()
    guest.watcher.begin()
    gc.collect()
    gc.freeze()
    version = ".".join(map(str, sys.version_info[:3]))
    guest.hub.send({"t": "ready", "pid": os.getpid(), "python": version, "protocol": PROTOCOL, "isolation": isolation})
    guest.serve()


def _no_fork() -> int:
    raise PermissionError(errno.EPERM, "a guest may not start processes")


def _move_in(workspace: str) -> None:
    os.environ.update(HOME=workspace, TMPDIR=workspace, PWD=workspace)
    tempfile.tempdir = None
    os.chdir(workspace)


def _confine(policy: dict[str, Any], keep: list[int], beneath: Beneath | None) -> dict[str, Any]:
    from . import confine

    try:
        return confine.apply(policy, keep=keep, beneath=beneath)
    except confine.ConfinementFailed as problem:
        os.write(keep[0], f"{problem}\n".encode())
        os._exit(confine.REFUSED_EXIT)
