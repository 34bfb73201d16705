"""A guest's life: confine, say ready, then do what the host orders, one order after another.

1. Nothing of the user's runs, and nothing of the user's is loaded, before the process is confined.
2. The end of the channel is the end of the process.
"""

from __future__ import annotations

import asyncio
import builtins
import gc
import linecache
import os
import platform
import signal
import struct
import sys
import threading
from typing import Any

from . import checkpoint, errors, result
from .capabilities import Grants
from .channel import Channel
from .entropy import Entropy
from .executor import Executor, Outcome
from .lineage import Family
from .loop import install as install_loop
from .output import Output, TextStream
from .runtime import Runtime, watch_pools
from .signals import Critical
from .signals import install as install_signals
from .values import NotPlain, encode

__all__ = ["main"]

PROTOCOL = 1
CHANNEL = 3
#: The image a guest sends is this header, the position of its entropy, and the namespace image.
_IMAGE = struct.Struct(">4sQ")
_MAGIC = b"PGI1"
#: Names in a submission's namespace that belong to the module, not to the code.
MODULE_NAMES = frozenset({"__name__", "__builtins__", "__doc__", "__loader__", "__package__", "__spec__", "__file__"})


class Guest:
    """The parts of a guest, put together."""

    def __init__(self, config: dict[str, Any], channel: Channel, critical: Critical) -> None:
        self.config = config
        self.channel = channel
        self.critical = critical
        limits = config["limits"]
        self.output = Output(self._write, limits["output_characters"])
        self.family = Family()
        self.runtime = Runtime(channel, self.family, self.output, limits["inline_bytes"])
        self.entropy = Entropy(config["seed"])
        self.namespace = _fresh_main()
        self.loop = install_loop(self.runtime)
        self.grants = Grants(self.runtime)
        self.executor = Executor(self.namespace, self.loop, self.runtime)

    def _write(self, stream: str, text: str) -> None:
        self.runtime.write(stream, text)

    def prepare(self) -> None:
        """Make the process what code expects to find."""
        for name, fd in (("stdout", 1), ("stderr", 2)):
            stream = TextStream(self.output, name, fd)
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)
        sys.stdin = sys.__stdin__ = _NoInput()  # type: ignore[assignment, misc]
        sys.argv = [""]
        sys.path.insert(0, self.config["workspace"])
        watch_pools(self.family)
        self.entropy.install()
        install_signals(self.critical)
        signal.signal(signal.SIGUSR1, self._cancelled)
        ambient = sys.modules.get("_perdure_guest.checkpoints.ambient")
        if ambient is not None:
            ambient.reborn()

    def _cancelled(self, *_: object) -> None:
        runtime = self.runtime
        if runtime.execution is None or runtime.cancelled:
            return
        runtime.cancelled = True
        foreground = runtime.foreground
        running = asyncio._get_running_loop()
        if foreground is not None and not foreground.done() and running is not None:
            current = asyncio.current_task(running)
            if current is not foreground:
                foreground.cancel()
                os.eventfd_write(runtime.wake_main, 1)
                return
        msg = "the execution was cancelled"
        raise errors.Cancelled(msg)

    def serve(self) -> None:
        """Do what the host orders until it says to leave."""
        while True:
            order = self.runtime.next_control()
            match order["t"]:
                case "execute":
                    self.execute(order)
                case "checkpoint":
                    self.checkpoint()
                case "restore":
                    self.restore(order)
                case "cancel":
                    pass
                case "shutdown":
                    os._exit(0)
                case other:
                    msg = f"an order of type {other!r}"
                    raise errors.CallError(msg)

    # -- executing -----------------------------------------------------------------

    def execute(self, order: dict[str, Any]) -> None:
        """Run a submission and say how it ended."""
        stream = order.get("code_stream")
        code = order["code"] if stream is None else self.channel.streams.take(stream).decode("utf-8", "surrogatepass")
        replay = self.channel.content(order, "replay")
        filename = order.get("filename") or f"<{order['execution']}>"
        self.runtime.cancelled = False
        self.output.begin()
        self.grants.place(order["grants"])
        self.runtime.begin(order["execution"], replay)
        self._as_script(order, filename)
        result.register_source(filename, code)
        outcome = self.executor.run(code, filename)
        self._flush()
        self._done(outcome)
        self.runtime.execution = None
        self.runtime.forget_calls()

    def _as_script(self, order: dict[str, Any], filename: str) -> None:
        sys.argv[:] = [filename if order.get("filename") else "", *order["argv"]]
        if order.get("filename"):
            self.namespace["__file__"] = os.path.join(self.config["workspace"], filename)

    def _flush(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except Exception:  # noqa: S110 - the user may have put anything there; ours is flushed below
                pass
        self.output.flush()

    def _done(self, outcome: Outcome) -> None:
        limits = self.config["limits"]
        message: dict[str, Any] = {"t": "done", "status": outcome.status, "left": self._left()}
        if outcome.has_value:
            message["repr"] = result.short_repr(outcome.value, limits["repr_characters"])
            self._flush()
            try:
                data = encode(outcome.value)
            except (NotPlain, RecursionError):
                pass
            else:
                message["has_value"] = True
                self._attach(message, data)
        if outcome.error is not None:
            message["error"] = result.describe_error(outcome.error)
            message["line"] = message["error"]["line"]
            outcome.error.__traceback__ = None
        if outcome.code is not None:
            message["code"] = outcome.code
        if self.output.cut:
            message["notes"] = [
                f"output was cut: {self.output.cut} characters beyond the limit of {limits['output_characters']}"
            ]
        self.channel.send(message, entered=True)

    def _attach(self, message: dict[str, Any], data: Any) -> None:
        import json

        raw = json.dumps(data, separators=(",", ":"))
        if len(raw) > self.config["limits"]["inline_bytes"]:
            message["value_stream"] = self.channel.send_stream(raw.encode())
        else:
            message["value"] = data

    def _left(self) -> list[str]:
        tasks = [
            f"task {task.get_name()} ({getattr(task.get_coro(), '__qualname__', '?')})"
            for task in asyncio.all_tasks(self.loop)
            if not task.done()
        ]
        threads = [
            f"thread {thread.name}"
            for thread in threading.enumerate()
            if thread is not threading.main_thread() and self.runtime.runnable_threads()
        ]
        return sorted(tasks)[:100] + sorted(threads)[:100]

    # -- checkpoints --------------------------------------------------------------------

    def checkpoint(self) -> None:
        """Send the namespace image, and what became of each name."""
        position = self.entropy.position
        dumped = checkpoint.dump(self.namespace, protected=MODULE_NAMES)
        self.entropy.position = position
        self._flush()
        data = _IMAGE.pack(_MAGIC, position) + dumped.data
        stream = self.channel.send_stream(data)
        names = [_report(name) for name in dumped.names]
        self.channel.send({"t": "checkpoint", "stream": stream, "names": names})

    def restore(self, order: dict[str, Any]) -> None:
        """Take a namespace image in."""
        data = self.channel.streams.take(order["stream"])
        magic, position = _IMAGE.unpack_from(data)
        if magic != _MAGIC:
            msg = "not an image of a guest"
            raise errors.CallError(msg)
        names = checkpoint.load(bytearray(memoryview(data)[_IMAGE.size :]), self.namespace, protected=MODULE_NAMES)
        self.entropy.position = position
        self._flush()
        self.channel.send({"t": "restored", "names": [_report(name) for name in names]})


def _report(name: Any) -> dict[str, Any]:
    return {
        key: getattr(name, key) if getattr(name, key) is not None else ""
        for key in ("name", "type", "size", "status", "why", "where")
    }


class _NoInput:
    """``sys.stdin``: there is none; ``input()`` asks."""

    encoding = "utf-8"
    closed = False

    def fileno(self) -> int:
        return 0

    def isatty(self) -> bool:
        return False

    def readable(self) -> bool:
        return False

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        msg = "there is no standard input here: input() asks whoever watches this execution"
        raise OSError(msg)

    def __iter__(self) -> Any:
        return iter(())


def _fresh_main() -> dict[str, Any]:
    """Clear ``__main__`` to what a module has when it begins, and return its dictionary."""
    namespace = vars(sys.modules["__main__"])
    namespace.clear()
    namespace.update(
        __name__="__main__",
        __builtins__=builtins,
        __doc__=None,
        __loader__=None,
        __package__=None,
        __spec__=None,
    )
    return namespace


def main() -> None:
    """Run a guest until its channel ends. What the bootstrap calls."""
    critical = Critical()
    channel = Channel(CHANNEL, critical)
    config = _start(channel)
    os.chdir(config["workspace"])
    report: dict[str, Any] = {"level": "none", "layers": []}
    guest = Guest(config, channel, critical)
    if config["isolation"] is not None:
        from . import confine

        own = [guest.output._raw[name].fd for name in ("stdout", "stderr")]
        own += [guest.runtime.wake_main, *guest.loop.descriptors()]
        report = confine.apply(config["isolation"], keep=own)
    guest.prepare()
    linecache.checkcache()
    gc.collect()
    gc.freeze()
    channel.send(
        {
            "t": "ready",
            "pid": os.getpid(),
            "python": platform.python_version(),
            "protocol": PROTOCOL,
            "isolation": report,
        }
    )
    guest.serve()


def _start(channel: Channel) -> dict[str, Any]:
    """Wait for the host's first message."""
    while True:
        for message in channel.receive():
            config: dict[str, Any] = message["config"]
            return config
