"""What a capability is, and how a function becomes one.

1. A capability says beforehand what may be done with a call whose outcome was lost: its effect.
2. Arguments and replies are typed and checked on the host's side of the wall, whatever the guest sent.
3. Whatever the host hands a handler (key, ctx) is never an argument of the code that asks.
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NotRequired, Required, TypedDict, get_args

from pydantic import (
    ConfigDict,
    PydanticSchemaGenerationError,
    PydanticUserError,
    TypeAdapter,
    ValidationError,
    with_config,
)

from .errors import BadAnswer, BadArguments, BadCapability, BadReply
from .values import NotPlain, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["BoundCall", "CallContext", "Capability", "Effect", "capability"]

#: What may be done with a call that started and left no outcome: do it again, ask the probe, or say it is in doubt.
Effect = Literal["repeat", "reconcile", "unknown"]

#: Seconds. Services give up on a request after 30 to 60; and a worker that takes over from one that may still live
#: waits this long before it repeats a call, so it is not longer than it must be.
DEFAULT_TIMEOUT = 60.0

_NAME = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*")
_INJECTED = ("key", "ctx")
_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallContext:
    """Who asks: handed to a handler that has a keyword-only parameter ``ctx``.

    ``call`` is the record's id, ``attempt`` the task version of the worker's tenure, ``retry`` counts from 0,
    ``deadline`` is on the clock of ``time.monotonic()`` in this process.
    """

    session: str
    execution: str
    call: str
    attempt: int
    retry: int = 0
    deadline: float | None = None


@dataclass(frozen=True, slots=True)
class BoundCall:
    """A call whose arguments fit: ``given`` as they came, by parameter; ``arguments`` as the handler gets them."""

    capability: Capability
    given: Mapping[str, Any]
    arguments: Mapping[str, Any]

    def injected(self, *, key: str, ctx: CallContext) -> dict[str, Any]:
        """Return everything to call the handler with: the arguments, and what it asked of the host."""
        extra = {"key": key, "ctx": ctx}
        return {**self.arguments, **{name: extra[name] for name in self.capability.injects}}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Capability:
    """A named host function that code may be granted; made by ``@capability``.

    ``handler`` is None when it is answered from outside. ``probe`` is for the effect ``reconcile``: it takes what the
    handler takes and returns the reply or raises NotPerformed. ``max_retries`` None leaves it to the policy. ``answer``
    is set for external ones: it checks an answer, given the arguments, and returns what is to be recorded.
    """

    name: str
    effect: Effect
    signature: inspect.Signature
    handler: Callable[..., Any] | None
    version: int = 1
    timeout: float | None = DEFAULT_TIMEOUT
    max_retries: int | None = None
    probe: Callable[..., Any] | None = None
    answer: Callable[[Mapping[str, Any], Any], Any] | None = None
    doc: str = ""
    injects: tuple[str, ...] = ()
    #: The Resonate group whose workers have the function, if it is not this worker's.
    remote: str | None = None
    #: Whether those keep its effect's policy (``perdure.workers.serving``).
    served: bool = False
    _arguments: TypeAdapter[Any] = field(repr=False)
    _reply: TypeAdapter[Any] = field(repr=False)

    @property
    def external(self) -> bool:
        """True if it is answered from outside: by a person, or by another host."""
        return self.handler is None

    @property
    def is_async(self) -> bool:
        """True if the handler is a coroutine function; a plain one is to be run in a thread."""
        return inspect.iscoroutinefunction(self.handler)

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> BoundCall:
        """Check decoded arguments against the signature; raise BadArguments that says which one and why."""
        given = None if args else self._named(kwargs)
        if given is None:
            try:
                given = self.signature.bind(*args, **kwargs).arguments
            except TypeError as error:
                raise BadArguments(f"{self.name}{self.signature_text}: {error}") from None
        try:
            arguments = self._arguments.validate_python(given)
        except ValidationError as error:
            raise BadArguments(f"{self.name}: {_explain(error)}") from None
        return BoundCall(self, given, arguments)

    def _named(self, kwargs: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return arguments that fit by their names, as those of guests do; a signature takes its time to bind them."""
        given: dict[str, Any] = {}
        for name, parameter in self.signature.parameters.items():
            if parameter.kind not in _BY_NAME:
                return None
            if name in kwargs:
                given[name] = kwargs[name]
            elif parameter.default is parameter.empty:
                return None
        return given if len(given) == len(kwargs) else None

    def reply(self, value: Any) -> Any:
        """Return what a handler returned as encoded data; models and dataclasses become dictionaries."""
        try:
            return encode(value)
        except NotPlain as error:
            first = error
        try:
            return encode(self._reply.dump_python(value, warnings="error"))
        except (NotPlain, ValueError, TypeError):
            raise BadReply(f"the reply of {self.name} cannot be recorded: {first}") from None

    def check_reply(self, value: Any) -> Any:
        """Return a reply as the declared type has it; raise pydantic's ValidationError where it does not fit."""
        return self._reply.validate_python(value)

    @property
    def signature_text(self) -> str:
        """The parameters that code sees, as text."""
        return str(self.signature.replace(return_annotation=inspect.Signature.empty))

    def describe(self) -> dict[str, Any]:
        """Return what a guest is told of it, as plain data."""
        return {
            "name": self.name,
            "version": self.version,
            "effect": self.effect,
            "external": self.external,
            "doc": self.doc,
            "signature": self.signature_text,
            "params": [
                {
                    "name": each.name,
                    "keyword_only": each.kind is each.KEYWORD_ONLY,
                    "required": each.default is each.empty,
                }
                for each in self.signature.parameters.values()
            ],
        }


def capability(  # noqa: PLR0913 - one keyword a choice, each with its default
    name: str,
    *,
    effect: Effect = "unknown",
    version: int = 1,
    timeout: float | None = DEFAULT_TIMEOUT,
    max_retries: int | None = None,
    probe: Callable[..., Any] | None = None,
    external: bool = False,
    answer: Callable[[Mapping[str, Any], Any], Any] | None = None,
    remote: str | None = None,
    served: bool = False,
) -> Callable[[Callable[..., Any]], Capability]:
    """Make a capability of an annotated function; raise BadCapability if it cannot be one.

    A keyword-only parameter ``key: str`` or ``ctx: CallContext`` is filled in by the host. The body of an external
    capability never runs; ``answer(arguments, value)`` checks what is answered and returns it, or raises BadAnswer.
    Nor does the body of a ``remote`` one run here: any Resonate worker of that group serves it, by a function of this
    name, if it may be repeated; with ``served`` one that registered it with ``perdure.workers.serving.serve``.
    """

    def make(function: Callable[..., Any]) -> Capability:
        _check(name, effect, version, timeout, max_retries, probe=probe, external=external)
        signature, injects = _visible(name, function)
        if probe is not None and _visible(name, probe)[0].parameters.keys() | set(_visible(name, probe)[1]) != (
            signature.parameters.keys() | set(injects)
        ):
            raise BadCapability(f"{name}: its probe must take the parameters that the handler takes, key and ctx too")
        if remote is not None or served:
            _check_remote(name, effect, injects, remote=remote, external=external, served=served)
        reply = _adapter(name, signature.return_annotation)
        return Capability(
            name=name,
            effect=effect,
            version=version,
            signature=signature,
            handler=None if external else function,
            timeout=None if external and timeout == DEFAULT_TIMEOUT else timeout,
            max_retries=max_retries,
            probe=probe,
            answer=_answers(name, reply, answer) if external else None,
            doc=inspect.getdoc(function) or "",
            injects=injects,
            remote=remote,
            served=served,
            _arguments=_adapter(name, _arguments_type(signature)),
            _reply=reply,
        )

    return make


def _answers(
    name: str, reply: TypeAdapter[Any], hook: Callable[[Mapping[str, Any], Any], Any] | None
) -> Callable[[Mapping[str, Any], Any], Any]:
    def answer(arguments: Mapping[str, Any], value: Any) -> Any:
        try:
            reply.validate_python(value)
        except ValidationError as error:
            raise BadAnswer(f"the answer does not fit {name}: {_explain(error)}") from None
        return value if hook is None else hook(arguments, value)

    return answer


def _check(
    name: str,
    effect: str,
    version: int,
    timeout: float | None,
    max_retries: int | None,
    *,
    probe: Callable[..., Any] | None,
    external: bool,
) -> None:
    if not _NAME.fullmatch(name):
        msg = f"{name!r} cannot name a capability: use small letters, digits and '_', in parts joined by '.'"
    elif effect not in get_args(Effect):
        msg = f"{name}: effect is {effect!r}; it must be one of {', '.join(map(repr, get_args(Effect)))}"
    elif (effect == "reconcile") != (probe is not None):
        msg = f"{name}: the effect 'reconcile' and a probe belong together"
    elif version < 1:
        msg = f"{name}: version is {version}; versions count from 1"
    elif timeout is not None and timeout <= 0:
        msg = f"{name}: timeout is {timeout}; it must be seconds above 0"
    elif timeout is None and not external:
        msg = f"{name}: only what is answered from outside may wait without a timeout"
    elif max_retries is not None and max_retries < 0:
        msg = f"{name}: max_retries is {max_retries}; 0 means never"
    else:
        return
    raise BadCapability(msg)


def _check_remote(
    name: str, effect: str, injects: tuple[str, ...], *, remote: str | None, external: bool, served: bool
) -> None:
    if remote is None:
        msg = f"{name}: who serves it is not said: remote= names the group"
    elif external:
        msg = f"{name}: what another worker serves is not answered by a person: leave out external or remote"
    elif effect != "repeat" and not served:
        msg = (
            f"{name}: its effect is {effect!r}, and a worker elsewhere does its work again after a crash without "
            "asking us: only what may be repeated can be remote, or what is served=True by perdure.workers.serving"
        )
    elif injects and not served:
        msg = f"{name}: {injects[0]} is handed to handlers of this worker; the id of the remote promise is as stable"
    else:
        return
    raise BadCapability(msg)


def _visible(name: str, function: Callable[..., Any]) -> tuple[inspect.Signature, tuple[str, ...]]:
    """Return the signature without what the host fills in, and what that is."""
    try:
        signature = inspect.signature(function, eval_str=True)
    except (NameError, SyntaxError, AttributeError, TypeError, ValueError) as error:
        msg = f"{name}: its annotations cannot be read ({error}); import them for real, at the top of the module"
        raise BadCapability(msg) from None
    visible = []
    for each in signature.parameters.values():
        if each.kind in {each.VAR_POSITIONAL, each.VAR_KEYWORD, each.POSITIONAL_ONLY}:
            msg = f"{name}: parameter {each} must be an ordinary or a keyword-only one, so that it has a name"
            raise BadCapability(msg)
        if each.annotation is each.empty:
            msg = f"{name}: parameter {each.name} has no type; annotate it (Any if it may be anything)"
            raise BadCapability(msg)
        if not (each.kind is each.KEYWORD_ONLY and each.name in _INJECTED):
            visible.append(each)
    if signature.return_annotation is signature.empty:
        msg = f"{name}: the reply has no type; annotate it (None if there is none)"
        raise BadCapability(msg)
    injects = tuple(
        each for each in signature.parameters if each in _INJECTED and each not in {v.name for v in visible}
    )
    return signature.replace(parameters=visible), injects


def _arguments_type(signature: inspect.Signature) -> Any:
    fields = {
        each.name: Required[each.annotation] if each.default is each.empty else NotRequired[each.annotation]
        for each in signature.parameters.values()
    }
    kind = TypedDict("Arguments", fields)  # type: ignore[misc]  # made of data
    return with_config(ConfigDict(extra="forbid"))(kind)


def _adapter(name: str, annotation: Any) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(annotation)
    except (PydanticSchemaGenerationError, PydanticUserError, TypeError) as error:
        first = str(error).splitlines()[0]
        msg = f"{name}: {first}"
        raise BadCapability(msg) from None


def _explain(error: ValidationError) -> str:
    parts = []
    for each in error.errors(include_url=False, include_context=False, include_input=False):
        where = ".".join(map(str, each["loc"]))
        parts.append(f"{where}: {each['msg']}" if where else each["msg"])
    return "; ".join(parts)
