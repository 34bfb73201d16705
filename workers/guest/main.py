"""The guest process: one namespace, one loop, and the messages of its worker, one after another.

1. User code runs only between ``execute`` and ``done``, after confinement.
2. Everything is said on the channel; descriptors 1 and 2 belong to the code.
"""

from __future__ import annotations

import builtins
import faulthandler
import gc
import json
import os
import signal
import socket
import struct
import sys
import tempfile
import traceback
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NoReturn

from . import checkpoint, confine, ends, entropy, finish, imports, loop, unraisable
from .calls import Calls
from .carried import Carried
from .channel import EXIT_CHANNEL, Channel
from .checkpoints import ambient, lost
from .checkpoints.packs import pack_of
from .checkpoints.pages import Pages
from .checkpoints.touched import Watcher
from .display import Displays
from .dropped import Dropped
from .executor import Executor
from .faked import refuse_what_is_not_there
from .hub import Hub
from .lineage import Family
from .losses import Losses
from .merging import merge
from .namespace import ENGINE_INTERNALS, INPUTS, MODULE_NAMES, RESULTS, RESULTS_SEEN, Namespace, Sources
from .output import NoInput, Output
from .risks import Risks
from .signals import Critical
from .signals import install as install_signals
from .steps import Steps
from .threads import Threads
from .values import decode
from .wallclock import WallClock
from .wire import WireError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from .checkpoints.touched import Touched
    from .confine import Beneath, Ground
    from .wire import Message

__all__ = ["PROTOCOL", "Guest", "main"]

#: Version of the messages; the host refuses another.
PROTOCOL = 2
#: The channel's descriptor.
CHANNEL_FD = 3
#: The descriptor of the lock that its workspace is held by.
LOCK_FD = ends.LOCK

#: Seconds without a message after which large values are looked at: a session that is worked with has none.
VERIFY_AFTER = 1.0

#: What begins a checkpoint, sent or received: the length of the JSON before the data.
_LENGTH = struct.Struct(">I")
#: Names that a restore says it could not load, and characters of each, of why, and of where in it.
TOLD, TOLD_CHARACTERS = 200, 500
#: Data that is received starts on a page.
_PAGE = 4096


class Guest:
    """All parts of the process, wired.

    It comes into being in three parts: what is the same in every guest, made before the fork and shared; what belongs
    to one process (``open``); what belongs to one session (``begin``).
    """

    def __init__(self) -> None:
        self._config: dict[str, Any] = {}
        #: Whether code is behind walls that refuse it processes, the network and files.
        self.confined = False
        #: Descriptors that stay open, and that of them where the worker looks for last words.
        self.keep: list[int] = []
        self._own = 2
        self.limits = limits = finish.Limits({})
        self.critical = critical = Critical()
        self.channel = channel = Channel(CHANNEL_FD, critical)
        self.output = Output(channel.send_text, limits.output)
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
        self.hub.names = self.namespace.count
        self.watcher = Watcher(self.sources.__contains__)
        self.losses = Losses()
        #: The number of the checkpoint that the host has of this namespace.
        self._given = 0
        #: What the last checkpoint was told that code touched, and what the next one is to be told besides.
        self._looked_at: Touched | None = None
        self._again: Touched | None = None
        #: The number of the checkpoint that was verified; one that there is not before the first.
        self._verified = 0
        #: Where the execution stood whose checkpoint this guest was restored from; None between executions.
        self._progress: dict[str, Any] | None = None
        #: What variables from outside changed in this execution.
        self._merged: dict[str, list[str]] | None = None
        self.checkpoints = checkpoint.Checkpoints(self.namespace.dict, protected=MODULE_NAMES, live=self._live)
        self._install()

    def _install(self) -> None:
        """Hook what must be hooked. Nothing here may disturb a zygote, which has all of it too and goes on."""
        install_signals(self.critical)
        entropy.patch()
        os.environ.pop("LD_PRELOAD", None)
        loop.install(self.hub, self.family)
        self.threads.install()
        self.namespace.set_up()
        self.executor = Executor(self.namespace)
        self.carried = Carried(self.executor, self.hub, self.family, self.namespace, self.sources)
        self.risks = Risks(self.executor, self.hub, self.threads, self.namespace, self.sources)
        self.steps = Steps(self.hub, self.risks)
        self.steps.image = self._step_image
        self.steps.settled, self.steps.refused = self._step_settled, self._step_refused
        self.executor.between = self.steps.between
        unraisable.install()
        module = sys.modules["perdure"] = self.calls.module()
        sys.modules["perdure.figures"] = self.displays.figures()
        builtins.display = module.display = self.displays.display  # type: ignore[attr-defined]
        builtins.input = self.calls.input
        self.dropped.install()
        self.watcher.know_runtime()

    def open(self) -> None:
        """Open what belongs to this address space and this process: before the confinement, which takes that right."""
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self.executor.open()
        pages = Pages.open()
        self.checkpoints.watch(pages)
        own = self._own = os.dup(2)
        faulthandler.enable(own)
        self.keep = [own, *self.output.take_descriptors(), *self.executor.loop.descriptors()]
        self.keep += pages.descriptors() if pages is not None else []
        out, err = self.output.streams()
        sys.stdout = sys.__stdout__ = out  # type: ignore[misc]
        sys.stderr = sys.__stderr__ = err  # type: ignore[misc]
        sys.stdin = sys.__stdin__ = NoInput()  # type: ignore[misc, assignment]
        os.register_at_fork(after_in_child=self._forked)

    def begin(self, config: dict[str, Any]) -> None:
        """Belong to a session from here on."""
        self._config = config
        # The lock came with the session: in a zygote something else has its number.
        ends.install()
        _move_in(config["workspace"])
        sys.path.insert(0, "")
        sys.argv = [""]
        entropy.install(config["seed"], self.wall.shim)
        imports.install(config["workspace"], self.wall.beside)
        self.limits = limits = finish.Limits(config.get("limits") or {})
        self.output.begin(limits.output)
        self.displays.limit((limits.repr, limits.repr_seconds), limits.display)
        self.namespace.history = limits.history
        self.risks.libraries.workspace = config["workspace"]
        self.calls.grant(config.get("grants") or [])

    def _forked(self) -> None:
        self.output.forked = True
        self.threads.forget_forked()

    def last_words(self, problem: BaseException) -> None:
        """Say why this process ends, where its worker looks for it."""
        with suppress(OSError):
            os.write(self._own, "".join(traceback.format_exception(problem)).encode(errors="replace"))

    # -- messages --------------------------------------------------------------

    def serve(self) -> None:
        """Answer messages until the channel closes."""
        answers = {"execute": self._execute, "checkpoint": self._checkpoint, "restore": self._restore}
        while True:
            message = self.hub.next_message(None if self._verified == self.checkpoints.generation else VERIFY_AFTER)
            if message is None:
                self._verify()
            else:
                answers[message["t"]](message)

    def _verify(self) -> None:
        """Look, while nothing else is to be done, whether the last checkpoint missed something."""
        self._verified = self.checkpoints.generation
        if self._given != self._verified or self._runs():
            # The next one is whole, or looks at everything.
            return
        with self._fenced(), self.wall.paused(), self.carried.undisturbed():
            done = self.executor.context.copy().run(self.checkpoints.verify, self.hub.wanted)
        if not done:
            self._verified = -1

    @contextmanager
    def _fenced(self) -> Iterator[None]:
        """Refuse what hooks of a checkpoint ask while the body runs, and drop what they write to descriptors."""
        self.calls.refused, self.hub.hooks_run = "a checkpoint is being made", True
        drop_written = self.output.drop_raw()
        try:
            yield
        finally:
            drop_written()
            self.calls.refused, self.hub.hooks_run = "", False

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
        progress = self._resume(execution, message.get("step", 0))
        loop.GuestLoop.keep_timers(self.family.execution)
        self.family.begin(execution)
        if progress:
            self.output.resume(self.limits.output, progress["output"])
            self.displays.resume(progress["displays"])
            self.family.main.set_counters(progress["main"])
        else:
            if message["code"]:
                self.namespace.keep_input(number, message["code"])
                # No code names them, and they grow beyond what is looked at in any case.
                self.watcher.touch(INPUTS)
            if message.get("filename"):
                self._as_script(filename, message.get("argv") or [])
            self.output.begin(self.limits.output)
            self.displays.begin()
        self.hub.begin(execution, recorded)
        self._fork = message.get("fork")
        lost.ends_with(self._state_lost if message.get("lost_ends") else None)
        self.steps.begin(message.get("steps"), recorded, progress.get("steps", {}))
        self._merged = progress["merged"] if progress else self._merge(message)
        ended = self.executor.run(message["code"], filename, progress.get("statement", 0))
        ended.merged = self._merged
        self.sources.register_all()
        answer = finish.done(self, number, filename, ended) | self.steps.ended()
        self._touch_results(number)
        self.hub.finish_replay()
        self.hub.end()
        # What nobody can change any more needs not be asked for: it is ready when the host has read the rest.
        follows = bool(message.get("image") and not answer["left"] and not self.hub.unanswered())
        self.hub.send({**answer, "follows": follows})
        if follows:
            self._send_checkpoint()

    def _touch_results(self, number: int) -> None:
        if self.namespace.kept == number and self.checkpoints.weight(RESULTS[0]) <= RESULTS_SEEN:
            self.watcher.touch(RESULTS)

    def _merge(self, message: Message) -> dict[str, list[str]] | None:
        """Put in the variables that came with a submission."""
        values = self.channel.content(message, "variables")
        if values is None:
            return None
        protected = ENGINE_INTERNALS | MODULE_NAMES
        self.watcher.touch(values)
        return merge(self.namespace.dict, decode(values), message.get("strategy", "overwrite"), protected)

    def _resume(self, execution: str, step: int) -> dict[str, Any]:
        """Return where to go on in an execution; nothing at its beginning."""
        progress, self._progress = self._progress, None
        if not step:
            return {}
        # A fork goes on from a step of the execution that it leaves, under a name of its own.
        if progress is None or progress["step"] != step:
            msg = f"step {step} of {execution} does not go on from this namespace"
            raise WireError(msg)
        return progress

    def _state_lost(self, thing: lost.Lost) -> None:
        """End here: the guest of the first run had this, so what it did with it cannot be done again."""
        if self.hub.hooks_run:
            return
        what, why, where = lost.describe(thing)
        line = self.calls.where()[0]
        self.hub.send({"t": "state_lost", "what": what, "where": where, "why": why, "line": line})
        self.hub.halt()

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
        self._given = message.get("since", 0)
        self._send_checkpoint()

    def _send_checkpoint(self) -> None:
        self.hub.close()
        self.output.flush()
        since = self._given
        send = self._image(None)
        self.hub.send({"t": "checkpoint", "stream": send(), "since": since})
        self._given = self.checkpoints.generation
        self.losses.take(self.checkpoints.losses(), self.namespace.dict, self.checkpoints.states_lost())

    def _step_image(self, statement: int, line: int) -> tuple[Message, Iterable[tuple[str, str]]]:
        """Return the message that ends a step before a statement, and what would be lost by it."""
        if waits := self.output.too_much():
            return {}, [("output", f"{waits} bytes written to descriptors 1 and 2 wait for the next flush of print")]
        progress = {
            "step": self.steps.commits + 1,
            "statement": statement,
            "main": self.family.main.counters(),
            "output": self.output.state(),
            "displays": self.displays.state(),
            "merged": self._merged,
            "steps": self.steps.state(),
        }
        send = self._image(progress, trial=True)
        users = [each for each in self.checkpoints.losses() if each.name not in ENGINE_INTERNALS]
        lose = [
            *self.losses.new(users, self.namespace.dict),
            *self.losses.new_states(self.checkpoints.states_lost()),
        ]
        if lose:
            self._step_refused()
            return {}, lose
        return {"t": "step", "stream": send(), "statement": statement, "line": line}, ()

    def _step_refused(self) -> None:
        """Nobody has the checkpoint that was made last: what it would have added is for the next one."""
        self.checkpoints.take_back()
        self._again = self._looked_at

    def _step_settled(self) -> None:
        """The host has the checkpoint that was made last."""
        self._given = self.checkpoints.generation

    def _image(self, progress: dict[str, Any] | None, *, trial: bool = False) -> Callable[[], int]:
        """Make a checkpoint of all that is carried over; sent as a stream when it is asked for.

        One that the host does not have makes the next one whole, unless it was a trial and is taken back.
        """
        with self._fenced():
            # None of it may be read after the hooks of the checkpoint ran.
            runtime, texts = {**self.carried.state(), "progress": progress}, self.sources.texts()
            if self._given != self.checkpoints.generation:
                self.checkpoints.forget()
            # A copy of the context: variables have their values, and what hooks set is not seen.
            context = self.executor.context.copy()
            with self.wall.paused(), self.carried.undisturbed():
                # What changed unseen is stored then, and said.
                strict = self.checkpoints.generation % self.limits.verify == self.limits.verify - 1
                save = self.checkpoints.save
                touched = self._touched()
                delta = context.run(save, touched, strict=strict, trial=trial, runtime=runtime, texts=texts)
        data = json.dumps(delta.data, separators=(",", ":")).encode()
        return lambda: self.channel.send_stream(_LENGTH.pack(len(data)), data, *delta.chunks)

    def _touched(self) -> Touched:
        """Return what code may have touched since the last checkpoint: everything, while something of it still runs."""
        touched = self.watcher.take()
        touched.everything |= self._runs()
        if self._again is not None:
            touched.add(self._again)
        self._again, self._looked_at = None, touched
        return touched

    def _runs(self) -> bool:
        """Whether something of the user's lives on: a thread, a task."""
        return bool(self.threads.names() or finish.tasks(self))

    def _restore(self, message: Message) -> None:
        memory = memoryview(self.channel.streams.take_memory(message["stream"]))
        (size,) = _LENGTH.unpack_from(memory)
        start = _LENGTH.size + size
        content = json.loads(bytes(memory[_LENGTH.size : start]))
        start += -start % _PAGE
        packs = {
            int(number): pack_of([(at, memory[start + offset : start + offset + size]) for at, offset, size in pieces])
            for number, pieces in content["packs"].items()
        }
        manifest = content["manifest"]
        self.carried.before_load(manifest["runtime"])
        loaded = self.executor.context.run(self.checkpoints.restore, manifest, packs)
        self.carried.set_state(manifest["runtime"], loaded.text)
        self._progress = manifest["runtime"].get("progress")
        self._given = self.checkpoints.generation
        self.losses.take(loaded.reports, self.namespace.dict)
        self.watcher.take()
        self.hub.send({"t": "restored", **_absent(loaded.absent)})

    def _live(self) -> dict[str, object]:
        return {"loop": self.executor.loop}


def _absent(names: dict[str, list[str]]) -> Message:
    """Return what a restore says that it could not load; more than fits one message is counted."""
    short = [(name, *what) for name, what in names.items() if len(name) <= TOLD_CHARACTERS]
    told = [[each[:TOLD_CHARACTERS] for each in what] for what in short[:TOLD]]
    return {"absent": told, "more": len(names) - len(told)} if names else {}


def main(beneath: Beneath | None = None, template: Guest | None = None) -> None:
    """Run the guest; never returns.

    ``beneath`` is what the zygote that it was forked from says, and ``template`` the guest that was made there.
    """
    guest = template or Guest()
    guest.open()
    ground = _ground(beneath, guest.keep) if beneath is not None else None
    gc.collect()
    gc.freeze()
    if ground is not None:
        # It may be long until a session wants this guest, whose workspace's lock comes with the first byte.
        _take_lock()
    channel = guest.channel
    start = next(message for message in iter(lambda: next(channel.receive(), None), 0) if message is not None)
    config = start["config"]
    guest.begin(config)
    isolation: dict[str, Any] = {"level": "none"}
    if config.get("isolation") is not None:
        isolation = _confine(config["isolation"], guest.keep, ground)
        guest.confined = isolation["level"] == "strict"
        refuse_what_is_not_there()
        if guest.confined:
            imports.without_processes()
    ambient.reborn()
    guest.watcher.begin()
    gc.collect()
    gc.freeze()
    version = ".".join(map(str, sys.version_info[:3]))
    guest.hub.send({"t": "ready", "pid": os.getpid(), "python": version, "protocol": PROTOCOL, "isolation": isolation})
    try:
        guest.serve()
    except BaseException as problem:
        guest.last_words(problem)
        raise


def _ground(beneath: Beneath, keep: list[int]) -> Ground:
    try:
        return confine.Ground.prepare(beneath, {0, 1, 2, CHANNEL_FD, LOCK_FD, *keep})
    except confine.ConfinementFailed as problem:
        _refuse(problem, keep)


def _take_lock() -> None:
    """Wait for the session's hold on its workspace; end with the worker that never sent it."""
    with socket.socket(fileno=os.dup(CHANNEL_FD)) as channel:
        data, handed, _, _ = socket.recv_fds(channel, 1, 1)
    if not data or not handed:
        os._exit(EXIT_CHANNEL)
    os.dup2(handed[0], LOCK_FD, inheritable=False)
    os.close(handed[0])


def _move_in(workspace: str) -> None:
    os.environ.update(HOME=workspace, TMPDIR=workspace, PWD=workspace)
    tempfile.tempdir = None
    os.chdir(workspace)


def _confine(policy: dict[str, Any], keep: list[int], ground: Ground | None) -> dict[str, Any]:
    try:
        return confine.apply(policy, keep=keep, ground=ground)
    except confine.ConfinementFailed as problem:
        _refuse(problem, keep)


def _refuse(problem: Exception, keep: list[int]) -> NoReturn:
    os.write(keep[0], f"{problem}\n".encode())
    os._exit(confine.REFUSED_EXIT)
