"""Declaring a capability, binding a call, recording a reply."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from perdure.capabilities import CallContext, Capability, capability
from perdure.capabilities.errors import BadAnswer, BadArguments, BadCapability, BadReply
from perdure.capabilities.values import decode, encode

_CONTEXT = CallContext(session="s", execution="s@1", call="s@1:s0.0", attempt=2, retry=1, deadline=5.0)


class Money(BaseModel):
    cents: int
    currency: Literal["EUR", "USD"] = "EUR"


@dataclass
class Receipt:
    number: int
    lines: list[str]


@capability("orders.refund", effect="unknown")
async def refund(
    order: int, amount: Money, *, note: Annotated[str, Field(max_length=5)] = "", key: str, ctx: CallContext
) -> Receipt:
    """Give money back."""
    await asyncio.sleep(0)
    return Receipt(order, [f"{amount.cents} {amount.currency}", note, key, ctx.call])


async def test_a_call_from_arguments_to_recorded_reply() -> None:
    bound = refund.bind([7], {"amount": {"cents": 120}, "note": "hi"})
    assert bound.given == {"order": 7, "amount": {"cents": 120}, "note": "hi"}
    assert bound.arguments["amount"] == Money(cents=120)
    assert refund.handler is not None
    reply = await refund.handler(**bound.injected(key="k", ctx=_CONTEXT))
    assert decode(refund.reply(reply)) == {"number": 7, "lines": ["120 EUR", "hi", "k", "s@1:s0.0"]}
    assert refund.check_reply(decode(refund.reply(reply))) == reply


def test_what_the_guest_is_told() -> None:
    described = refund.describe()
    assert decode(encode(described)) == described
    assert described["name"] == "orders.refund"
    assert described["doc"] == "Give money back."
    assert "key" not in described["signature"]
    assert "ctx" not in described["signature"]
    assert described["params"] == [
        {"name": "order", "keyword_only": False, "required": True},
        {"name": "amount", "keyword_only": False, "required": True},
        {"name": "note", "keyword_only": True, "required": False},
    ]


@pytest.mark.parametrize(
    "args, kwargs, says",
    [
        ([], {}, "missing a required argument: 'order'"),
        ([1, {"cents": 1}, "x"], {}, "too many positional"),
        ([1, {"cents": 1}], {"order": 2}, "multiple values"),
        ([1, {"cents": 1}], {"key": "mine"}, "unexpected keyword argument 'key'"),
        ([1, {"cents": 1}], {"ctx": {}}, "unexpected keyword argument 'ctx'"),
        (["x", {"cents": 1}], {}, "order: Input should be a valid integer"),
        ([1, {"cents": 1, "currency": "DM"}], {}, "amount.currency: Input should be 'EUR' or 'USD'"),
        ([1, {"cents": 1}], {"note": "longer"}, "note: String should have at most 5"),
        ([1, {"cents": 1}], {1: 2}, "keywords must be strings"),
        (5, {}, "orders.refund"),
        ([1], 5, "orders.refund"),
    ],
)
def test_arguments_that_do_not_fit(args: Any, kwargs: Any, says: str) -> None:
    with pytest.raises(BadArguments, match=says) as caught:
        refund.bind(args, kwargs)
    assert "orders.refund" in str(caught.value)


def test_names_that_pydantic_uses_are_free() -> None:
    @capability("free.names", effect="repeat")
    def names(json: int, schema: int, copy: int, model_config: int, _under: int, self: int) -> None: ...

    assert names.bind([1, 2, 3, 4, 5, 6], {}).arguments == {
        "json": 1,
        "schema": 2,
        "copy": 3,
        "model_config": 4,
        "_under": 5,
        "self": 6,
    }


def test_an_ordinary_parameter_named_key_is_an_argument() -> None:
    @capability("kv.get", effect="repeat")
    def get(key: str) -> Any: ...

    assert get.injects == ()
    assert get.bind(["a"], {}).injected(key="host", ctx=_CONTEXT) == {"key": "a"}


@pytest.mark.parametrize("value", [object(), {"a": [open]}, Receipt])
def test_a_reply_that_is_not_plain_is_named(value: Any) -> None:
    @capability("any.reply", effect="repeat")
    def call() -> Any: ...

    with pytest.raises(BadReply, match=r"the reply of any\.reply cannot be recorded"):
        call.reply(value)


def test_a_handler_is_a_coroutine_function_or_runs_in_a_thread() -> None:
    @capability("plain.one", effect="repeat")
    def plain() -> None: ...

    assert refund.is_async
    assert not plain.is_async
    assert plain.timeout == 60


# --- declarations


def _declare(function: Callable[..., Any], name: str = "a.b", **options: Any) -> Capability:
    return capability(name, **{"effect": "repeat", **options})(function)


def _good(x: int, *, key: str) -> int:
    return x


def _untyped(x) -> int:  # type: ignore[no-untyped-def] # noqa: ANN001 - what is tested
    return 1


def _no_reply(x: int):  # type: ignore[no-untyped-def] # noqa: ANN202 - likewise
    return 1


def _many(*xs: int) -> int:
    return 1


def _named(**xs: int) -> int:
    return 1


def _positional(x: int, /) -> int:
    return x


def _unknown_type(x: Nowhere) -> int:  # type: ignore[name-defined] # noqa: F821 - likewise
    return 1


def _no_schema(x: Callable[..., Any], y: asyncio.Task[Any]) -> int:
    return 1


@pytest.mark.parametrize(
    "function, options, says",
    [
        (_untyped, {}, "parameter x has no type"),
        (_no_reply, {}, "the reply has no type"),
        (_many, {}, "must be an ordinary"),
        (_named, {}, "must be an ordinary"),
        (_positional, {}, "must be an ordinary"),
        (_unknown_type, {}, "annotations cannot be read"),
        (_no_schema, {}, "a.b: "),
        (_good, {"name": "Bad.Name"}, "cannot name a capability"),
        (_good, {"name": "a..b"}, "cannot name a capability"),
        (_good, {"effect": "once"}, "effect is 'once'"),
        (_good, {"effect": "reconcile"}, "belong together"),
        (_good, {"probe": _good}, "belong together"),
        (_good, {"effect": "reconcile", "probe": _positional}, "must be an ordinary"),
        (_good, {"effect": "reconcile", "probe": functools.partial(_good)}, None),
        (_good, {"effect": "reconcile", "probe": lambda x: x}, "has no type"),
        (_good, {"version": 0}, "versions count from 1"),
        (_good, {"timeout": 0}, "seconds above 0"),
        (_good, {"timeout": None}, "without a timeout"),
        (_good, {"max_retries": -1}, "0 means never"),
    ],
)
def test_declarations_that_are_refused(function: Callable[..., Any], options: dict[str, Any], says: str | None) -> None:
    if says is None:
        _declare(function, **options)
        return
    with pytest.raises(BadCapability, match=says):
        _declare(function, **options)


def test_a_probe_takes_what_its_handler_takes() -> None:
    def probe(x: int) -> int:
        return x

    with pytest.raises(BadCapability, match="must take the parameters that the handler takes"):
        _declare(_good, effect="reconcile", probe=probe)


# --- answered from outside


def test_an_external_capability_checks_its_answers() -> None:
    @capability("approve", external=True)
    def approve(order: int) -> bool:
        raise NotImplementedError

    assert approve.external
    assert approve.handler is None
    assert approve.timeout is None
    assert approve.answer is not None
    assert approve.answer({"order": 1}, True) is True
    with pytest.raises(BadAnswer, match="does not fit approve"):
        approve.answer({"order": 1}, "perhaps")
