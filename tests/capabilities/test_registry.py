"""What a grant names, and what is said when it names nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from perdure.capabilities import Capability, Registry, capability, standard
from perdure.capabilities.errors import BadCapability, UnknownCapability, UnknownGrant
from perdure.capabilities.registry import intersect


def _make(name: str) -> Capability:
    @capability(name, effect="repeat")
    def call() -> None: ...

    return call


@pytest.fixture
def registry() -> Registry:
    return Registry([_make(name) for name in ("orders", "orders.list", "orders.refund", "order_book.read", "ask")])


def _names(found: list[Capability]) -> list[str]:
    return [each.name for each in found]


def test_a_name_grants_what_is_under_it_and_nothing_beside_it(registry: Registry) -> None:
    assert _names(registry.resolve("orders")) == ["orders", "orders.list", "orders.refund"]
    assert _names(registry.resolve("orders.list")) == ["orders.list"]
    assert _names(registry.resolve("order_book")) == ["order_book.read"]
    assert list(registry.resolve_all(["ask", "orders.list"])) == ["ask", "orders.list"]


def test_the_standard_set() -> None:
    registry = Registry(standard())
    methods = ["delete", "get", "head", "options", "patch", "post", "post_idempotent", "put", "request"]
    assert registry.names() == ["ask", *(f"http.{name}" for name in methods), "input"]
    assert _names(registry.resolve("http")) == [f"http.{name}" for name in methods]


@pytest.mark.parametrize(
    "grant, says",
    [
        ("order", "did you mean 'orders'"),
        ("orders.refunds", "did you mean 'orders.refund'"),
        ("zzz", "there is: ask, order_book.read, orders, orders.list, orders.refund"),
        ("", "no capability is named ''"),
        ("orders.", "no capability"),
    ],
)
def test_a_name_that_is_not_there_says_what_is(registry: Registry, grant: str, says: str) -> None:
    with pytest.raises(UnknownGrant) as caught:
        registry.resolve(grant)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_getting_a_name(registry: Registry) -> None:
    assert registry.get("ask").name == "ask"
    with pytest.raises(UnknownCapability, match="did you mean 'ask'"):
        registry.get("ask_")


def test_two_of_one_name_are_refused(registry: Registry) -> None:
    ask = registry.get("ask")
    assert registry.add(ask) is ask
    with pytest.raises(BadCapability, match="two capabilities are named ask"):
        registry.add(_make("ask"))


_MODULE = """
from perdure.capabilities import Registry, capability

@capability("shop.buy", effect="repeat")
def buy(item: str) -> str:
    return item

@capability("shop.sell", effect="unknown")
def sell(item: str) -> str:
    return item

@capability("ask", effect="repeat")
def another_ask() -> None: ...

several = [buy, sell]
mine = Registry(several)
number = 5
nothing = None
"""


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(str(tmp_path))
    names = {"granted_shop": _MODULE, "granted_bad": "1 / 0", "granted_exit": "raise SystemExit('two\\nlines')"}
    for name, text in names.items():
        (tmp_path / f"{name}.py").write_text(text)
    yield tmp_path
    for name in names:
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("modules")
def test_an_attribute_of_a_module_is_one_several_or_a_registry(registry: Registry) -> None:
    assert _names(registry.resolve("granted_shop:buy")) == ["shop.buy"]
    assert _names(registry.resolve("granted_shop:several")) == ["shop.buy", "shop.sell"]
    assert _names(registry.resolve("granted_shop:mine")) == ["shop.buy", "shop.sell"]
    assert registry.get("shop.sell").effect == "unknown"
    assert _names(registry.resolve("shop")) == ["shop.buy", "shop.sell"]


@pytest.mark.usefixtures("modules")
@pytest.mark.parametrize(
    "grant, says",
    [
        ("granted_shop:nowhere", "nowhere does not exist; granted_shop has: buy, sell, another_ask"),
        ("granted_shop:number", "number is a int, not a capability"),
        ("granted_shop:nothing", "nothing is a NoneType, not a capability"),
        ("granted_shop:", "a name after the colon does not exist"),
        ("granted_shop:another_ask", "two capabilities are named ask"),
        ("granted_bad:x", "importing granted_bad failed: ZeroDivisionError"),
        ("granted_exit:x", "importing granted_exit failed: SystemExit: two lines"),
        ("granted_missing:x", "importing granted_missing failed: ModuleNotFoundError"),
        (":x", "importing nothing failed: ValueError"),
        ("a b:x", "failed: ModuleNotFoundError"),
    ],
)
def test_a_module_that_cannot_be_granted_says_why_in_one_line(registry: Registry, grant: str, says: str) -> None:
    with pytest.raises(UnknownGrant) as caught:
        registry.resolve(grant)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_object_is_a_grant(registry: Registry) -> None:
    own = _make("own")
    assert registry.resolve(own) == [own]
    assert registry.get("own") is own


@pytest.mark.parametrize(
    "own, session, both",
    [
        (["http"], ["http"], ["http"]),
        (["http.get"], ["http"], ["http.get"]),
        (["http"], ["http.get", "ask"], ["http.get"]),
        (["http", "ask"], ["input"], []),
        (["https"], ["http"], []),
        (["shop:buy"], ["shop:buy"], ["shop:buy"]),
        (["shop:buy"], ["shop"], []),
        (["shop.x:buy"], ["shop"], []),
        (["http", "http.get"], ["http"], ["http", "http.get"]),
        ([], ["http"], []),
    ],
)
def test_an_execution_has_what_its_session_has_too(own: list[str], session: list[str], both: list[str]) -> None:
    assert intersect(own, session) == both
    assert intersect(session, own) == both
