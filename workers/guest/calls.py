"""Capability calls as code sees them: ``http.get(url)``, ``await ask("Pay?")``, ``input()``, ``perdure.call(...)``.

1. A call is sent when it is made, whoever awaits it later: ``gather`` of calls runs them concurrently.
2. In a running coroutine a call is an awaitable; elsewhere it blocks this thread alone and returns the reply.
3. It is named by who asks and how often he asked before (lineage), never by what is asked.
"""

from __future__ import annotations

import asyncio
import builtins
import inspect
import sys
import types
import warnings
from typing import TYPE_CHECKING, Any

from . import errors
from .births import Future
from .checkpoints.lost import LostObjectError
from .checkpoints.recompute import recompute
from .loop import GuestLoop
from .parties import Asked
from .values import NotPlain, decode, encode
from .wire import as_json, message_payload, with_json

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

    from .hub import Hub
    from .lineage import Family

__all__ = ["Call", "Calls", "Proxy"]

#: Errors that say nobody will answer.
_UNANSWERED = ("CallFailed", "CallCancelled", "CallTimeout")
#: Bytes of encoded arguments that travel inside the message.
INLINE_ARGS = 256 << 10


class Call(Future):  # type: ignore[type-arg]
    """A call that was sent: a future that can be awaited, gathered, and made a task of like a coroutine."""

    def __init__(self, calls: Calls, name: str, path: str, line: int, filename: str, loop: GuestLoop) -> None:
        super().__init__(loop=loop)
        self._perdure_calls = calls
        self._perdure_name = name
        self._perdure_path = path
        self._perdure_line = line
        self._perdure_file = filename
        self.perdure_awaited = False

    def perdure_deliver(self, outcome: dict[str, Any]) -> None:
        """Take the outcome."""
        if self.done():
            return
        if "error" in outcome:
            self.set_exception(failure(outcome["error"]))
        else:
            self.set_result(decode(outcome.get("value")))

    def cancel(self, msg: Any = None) -> bool:
        loop = self.get_loop()
        if isinstance(loop, GuestLoop):
            loop.abandon(self._perdure_path)
        return super().cancel(msg)

    def __await__(self) -> Generator[Any, None, Any]:
        self.perdure_awaited = True
        return super().__await__()

    __iter__ = __await__

    def add_done_callback(self, fn: Any, /, **options: Any) -> None:
        self.perdure_awaited = True
        super().add_done_callback(fn, **options)

    async def perdure_coroutine(self) -> Any:
        """Return the reply: what the loop makes a task of, as ``create_task`` takes coroutines only."""
        return await self

    def __del__(self) -> None:
        if not self.perdure_awaited and not self.cancelled():
            text = f"the call of {self._perdure_name} in line {self._perdure_line} was never awaited"
            warnings.warn_explicit(text, RuntimeWarning, self._perdure_file, self._perdure_line)
            if self.done():
                self.exception()
        super().__del__()


Call.__module__ = "perdure"


class Proxy:
    """A granted capability, or a group of them (``http`` of ``http.get``)."""

    def __init__(self, calls: Calls, name: str) -> None:
        self._perdure_calls = calls
        self._perdure_name = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._perdure_calls.call(self._perdure_name, args, kwargs)

    def __getattr__(self, name: str) -> Proxy:
        if not name.startswith("_") and self._perdure_calls.knows(f"{self._perdure_name}.{name}"):
            return self._perdure_calls.proxy(f"{self._perdure_name}.{name}")
        msg = f"no capability {self._perdure_name}.{name} is granted"
        raise AttributeError(msg)

    def __dir__(self) -> Iterable[str]:
        return self._perdure_calls.members(self._perdure_name)

    def __repr__(self) -> str:
        return f"<capability {self._perdure_name}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Proxy) and other._perdure_name == self._perdure_name

    def __hash__(self) -> int:
        return hash(self._perdure_name)

    def __reduce__(self) -> tuple[Any, ...]:
        return (sys.modules["perdure"].capability, (self._perdure_name,))


Proxy.__module__, Proxy.__name__, Proxy.__qualname__ = "perdure", "Capability", "Capability"


class Calls:
    """What is granted, and how it is asked for."""

    def __init__(self, hub: Hub, family: Family, is_user_file: Callable[[str], bool]) -> None:
        self._hub = hub
        self._family = family
        self._is_user_file = is_user_file
        self._grants: dict[str, dict[str, Any]] = {}
        self._parameters: dict[str, _Parameters] = {}
        self._placed: list[str] = []
        #: Signatures of what is granted, as they were asked for: most code names a capability anew for each call.
        self._signatures: dict[str, inspect.Signature] = {}
        #: A reason why no call can be made just now: a repr is taken, a checkpoint is made.
        self.refused = ""

    # -- what code sees --------------------------------------------------------

    def grant(self, grants: Iterable[dict[str, Any]]) -> None:
        """Replace what is granted; the first part of each name becomes a builtin, unless Python has one."""
        for name in self._placed:
            builtins.__dict__.pop(name, None)
        self._grants = {each["name"]: each for each in grants}
        self._parameters = {name: _Parameters(grant) for name, grant in self._grants.items()}
        self._signatures.clear()
        tops = dict.fromkeys(name.split(".")[0] for name in self._grants)
        self._placed = [name for name in tops if not hasattr(builtins, name)]
        for name in self._placed:
            setattr(builtins, name, self.proxy(name))

    def knows(self, name: str) -> bool:
        """Whether a capability of that name, or a group, is granted."""
        return name in self._grants or any(each.startswith(name + ".") for each in self._grants)

    def members(self, group: str) -> list[str]:
        """Return the names right under a group."""
        start = len(group) + 1
        return sorted({each[start:].split(".")[0] for each in self._grants if each.startswith(group + ".")})

    def proxy(self, name: str) -> Proxy:
        """Return the object for a capability or a group; it finds out when called whether it is granted."""
        proxy = Proxy(self, name)
        grant = self._grants.get(name)
        if grant is not None:
            proxy.__doc__ = grant.get("doc") or None
            if name not in self._signatures:
                self._signatures[name] = _signature(grant)
            proxy.__signature__ = self._signatures[name]  # type: ignore[attr-defined]
        return proxy

    def module(self) -> types.ModuleType:
        """Return the module ``perdure`` of the guest."""
        module = types.ModuleType("perdure", "Capability calls by name, and what can become of them.")

        def call(name: str, /, *args: Any, **kwargs: Any) -> Any:
            """Call the capability of that name, as ``name(...)`` would."""
            return self.call(name, args, kwargs)

        def capability(name: str, /) -> Proxy:
            """Return the capability of that name, to be called later."""
            return self.proxy(name)

        for each in (call, capability, recompute):
            each.__module__ = each.__qualname__ = "perdure"
            each.__qualname__ = each.__name__
            setattr(module, each.__name__, each)
        for name, cls in errors.public().items():
            setattr(module, name, cls)
        module.Capability, module.Call = Proxy, Call  # type: ignore[attr-defined]
        module.LostObjectError = LostObjectError  # type: ignore[attr-defined]
        return module

    def input(self, *prompt: object) -> str:
        """Ask for a line of text; the prompt is shown first. Waits as long as it takes."""
        if len(prompt) > 1:
            raise TypeError(f"input expected at most 1 argument, got {len(prompt)}")
        text = str(prompt[0]) if prompt else ""
        if text:
            sys.stdout.write(text)
            sys.stdout.flush()
        asked = self._send("input", {"prompt": text}, self.where()[0], None)
        outcome = self._hub.wait_reply(asked)
        error = outcome.get("error")
        if error is not None and error.get("type") in _UNANSWERED:
            # What reads lines until there are no more looks for EOFError, and for nothing of ours.
            outcome = {"error": {**error, "type": "InputClosed"}}
        return str(self._outcome(outcome))

    # -- calling ---------------------------------------------------------------

    def call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Send a call; return the reply, or an awaitable in a running coroutine."""
        grant = self._grants.get(name)
        if grant is None:
            granted = ", ".join(sorted(self._grants)) or "none"
            msg = f"{name} is not granted to this session (granted: {granted})"
            raise errors.CapabilityNotGranted(msg)
        given = self._parameters[name].bind(args, kwargs)
        loop = _running_loop(name)
        line, filename = self.where()
        if loop is None:
            return self._outcome(self._hub.wait_reply(self._send(name, given, line, None)))
        path = self._path(name)
        call = Call(self, name, path, line, filename, loop)
        loop.expect(path, call.perdure_deliver)
        try:
            self._send(name, given, line, loop, path)
        except BaseException:
            call.cancel()
            raise
        return call

    def _path(self, name: str) -> str:
        if self.refused:
            msg = f"{name} cannot be called now: {self.refused}"
            raise errors.NoExecution(msg)
        if not self._hub.execution:
            msg = f"{name} was called while no execution of this session runs: there is nothing to record it in"
            raise errors.NoExecution(msg)
        return self._family.current().next_call(self._hub.execution)

    def _send(self, name: str, given: dict[str, Any], line: int, owner: GuestLoop | None, path: str = "") -> Asked:
        try:
            args = encode(given)
        except NotPlain as error:
            msg = f"{name}: {error}"
            raise errors.BadArguments(msg) from None
        asked = Asked(path or self._path(name), name, owner, None)
        message: dict[str, Any] = {"t": "call", "path": asked.path, "name": name, "line": line}
        text = as_json(args)
        if len(text) > INLINE_ARGS:
            message["args_stream"] = self._hub.channel.send_stream(text.encode())
            payload = message_payload(message)
        else:
            payload = with_json(message_payload(message), "args", text)
        self._hub.ask(asked, payload)
        return asked

    @staticmethod
    def _outcome(outcome: dict[str, Any]) -> Any:
        if "error" in outcome:
            raise failure(outcome["error"])
        return decode(outcome.get("value"))

    def where(self) -> tuple[int, str]:
        """Return the line and file of the innermost frame of submitted code, else of whoever calls us."""
        outside = sys._getframe(1)
        ours = outside.f_code.co_filename
        frame: types.FrameType | None = outside
        while frame is not None:
            if self._is_user_file(frame.f_code.co_filename):
                return frame.f_lineno, frame.f_code.co_filename
            if outside.f_code.co_filename == ours:
                outside = frame
            frame = frame.f_back
        return outside.f_lineno, outside.f_code.co_filename


def failure(error: dict[str, Any]) -> errors.CallError:
    """Return the exception for an error of a reply."""
    return errors.from_data(error, decode(error.get("data")))


def _running_loop(name: str) -> GuestLoop | None:
    loop = asyncio._get_running_loop()
    if isinstance(loop, GuestLoop):
        return loop
    if loop is not None:
        foreign = f"{type(loop).__module__}.{type(loop).__qualname__}"
    elif getattr(getattr(sys.modules.get("sniffio"), "thread_local", None), "name", None) not in (None, "asyncio"):
        foreign = sys.modules["sniffio"].thread_local.name
    else:
        return None
    msg = f"{name} was called on the event loop {foreign}: only asyncio's own loop can be replayed"
    raise errors.ForeignLoop(msg)


class _Parameters:
    """What a capability takes, as it is looked up for every call of it."""

    def __init__(self, grant: dict[str, Any]) -> None:
        params = grant.get("params", [])
        self._what = f"{grant['name']}{grant.get('signature', '()')}"
        self._names = [each["name"] for each in params]
        self._positional = [each["name"] for each in params if not each.get("keyword_only")]
        self._required = frozenset(each["name"] for each in params if each.get("required"))

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return arguments by parameter, as Python would bind them."""
        if len(args) > len(self._positional):
            msg = f"{self._what} takes {len(self._positional)} positional arguments, and {len(args)} were given"
            raise errors.BadArguments(msg)
        given = dict(zip(self._positional, args, strict=False))
        for key, value in kwargs.items():
            if key in given:
                msg = f"{self._what} got {key!r} twice"
                raise errors.BadArguments(msg)
            if key not in self._names:
                msg = f"{self._what} has no parameter {key!r}"
                raise errors.BadArguments(msg)
            given[key] = value
        if not self._required <= given.keys():
            missing = (repr(name) for name in self._names if name in self._required and name not in given)
            msg = f"{self._what} misses {', '.join(missing)}"
            raise errors.BadArguments(msg)
        return {name: given[name] for name in self._names if name in given} if kwargs else given


def _signature(grant: dict[str, Any]) -> inspect.Signature:
    kinds = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    parameters = [
        inspect.Parameter(
            each["name"],
            kinds[bool(each.get("keyword_only"))],
            default=inspect.Parameter.empty if each.get("required") else ...,
        )
        for each in grant.get("params", [])
    ]
    return inspect.Signature(parameters)
