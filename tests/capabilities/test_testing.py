"""The contract checker: it passes what keeps its promises and catches each way of breaking them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from perdure.capabilities import CallFailed, Capability, NotPerformed, capability
from perdure.capabilities.base import Effect
from perdure.capabilities.http import http
from perdure.capabilities.human import ask
from perdure.capabilities.testing import ContractBroken, check_capability


@dataclass
class _Ledger:
    """An outside that counts what it does, and recognises a key."""

    done: list[tuple[str, str]] = field(default_factory=list)
    open: bool = True

    def count(self) -> int:
        return len(self.done)

    def book(self, key: str, text: str) -> str:
        if not self.open:
            raise NotPerformed("closed")
        for number, (known, _) in enumerate(self.done):
            if known == key:
                return f"n{number}"
        self.done.append((key, text))
        return f"n{len(self.done) - 1}"

    def book_blindly(self, key: str, text: str) -> str:
        self.done.append((key, text))
        if not self.open:
            raise NotPerformed("closed, it says")
        return "n0"

    def find(self, key: str) -> str:
        for number, (known, _) in enumerate(self.done):
            if known == key:
                return f"n{number}"
        raise NotPerformed("not there")

    @asynccontextmanager
    async def closed(self) -> AsyncIterator[None]:
        self.open = False
        yield
        self.open = True


def _make(
    effect: Effect, book: Callable[[str, str], Any], find: Callable[[str], Any] | None = None, reply: Any = str
) -> Capability:
    def call(text: str, *, key: str):  # type: ignore[no-untyped-def] # noqa: ANN202 - each test sets the type
        return book(key, text)

    def probe(text: str, *, key: str) -> Any:
        assert find is not None
        return find(key)

    call.__annotations__["return"] = reply
    return capability("ledger.book", effect=effect, probe=probe if find else None)(call)


async def test_what_keeps_its_promises_passes_and_says_what_was_checked() -> None:
    for effect, find in (("repeat", False), ("reconcile", True), ("unknown", False)):
        ledger = _Ledger()
        it = _make(effect, ledger.book, ledger.find if find else None)  # type: ignore[arg-type]
        checked = await check_capability(it, {"text": "a"}, count=ledger.count, unavailable=ledger.closed)
        assert checked.reply == "n0"
        assert checked.not_checked == []
        assert ledger.count() == 1
        assert len(checked.held) >= 4


async def test_what_could_not_be_checked_is_said() -> None:
    ledger = _Ledger()
    checked = await check_capability(_make("repeat", ledger.book), {"text": "a"})
    assert len(checked.not_checked) == 2
    assert "answered from outside" in (await check_capability(ask, {"prompt": "?"})).not_checked[0]


async def _broken(it: Capability, ledger: _Ledger, says: str, arguments: dict[str, Any] | None = None) -> None:
    with pytest.raises(ContractBroken, match=says):
        await check_capability(it, arguments or {"text": "a"}, count=ledger.count, unavailable=ledger.closed)


async def test_each_broken_promise_is_caught() -> None:
    ledger = _Ledger()

    def doubled(key: str, text: str) -> str:
        ledger.book(key + "1", text)
        return ledger.book(key + "2", text)

    def forgetful(key: str, text: str) -> str:
        return ledger.book(f"{key}{ledger.count()}", text)

    def deaf(key: str, text: str) -> str:
        return "n0"

    def failing(key: str, text: str) -> str:
        raise CallFailed("always")

    def odd(key: str, text: str) -> Any:
        ledger.book(key, text)
        return {"unexpected": object()}

    def number(key: str, text: str) -> Any:
        ledger.book(key, text)
        return 5

    await _broken(_make("unknown", doubled), ledger, "had 2 effects")
    await _broken(_make("repeat", forgetful), ledger, "its effect happened again")
    await _broken(_make("repeat", ledger.book_blindly), ledger, "NotPerformed although its effect happened")
    await _broken(_make("repeat", deaf), ledger, "returned although the outside could not be reached")
    with pytest.raises(ContractBroken, match="failed: CallFailed: always"):
        await check_capability(_make("repeat", failing), {"text": "a"})
    await _broken(_make("repeat", odd), ledger, "returned what its declaration does not allow")
    await _broken(_make("repeat", number), ledger, "returned what its declaration does not allow")
    await _broken(_make("repeat", ledger.book), ledger, "code cannot send", {"text": object()})


async def test_each_broken_probe_is_caught() -> None:
    ledger = _Ledger()

    def nothing(key: str) -> str:
        raise NotPerformed("never")

    def acting(key: str) -> str:
        try:
            return ledger.find(key)
        finally:
            ledger.book(key, "by the probe")

    def another(key: str) -> str:
        return ledger.find(key) + "!"

    await _broken(_make("reconcile", ledger.book, lambda _key: "n0"), ledger, "for a key that was never used")
    await _broken(_make("reconcile", ledger.book, nothing), ledger, "it would be done twice")
    await _broken(_make("reconcile", ledger.book, acting), ledger, "had an effect itself")
    await _broken(_make("reconcile", ledger.book, another), ledger, "the call itself 'n")


async def test_http_keeps_the_contract_against_a_service_that_honours_the_key() -> None:
    keys: set[str] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        keys.update(
            line.partition(b": ")[2].decode()
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"idempotency-key")
        )
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]

    @asynccontextmanager
    async def away() -> AsyncIterator[None]:
        nonlocal server
        server.close()
        await server.wait_closed()
        yield
        server = await asyncio.start_server(serve, "127.0.0.1", port)

    post = next(each for each in http("x") if each.name == "x.post_idempotent")
    arguments = {"url": f"http://127.0.0.1:{port}/"}
    checked = await check_capability(post, arguments, count=lambda: len(keys), unavailable=away)
    assert any("NotPerformed" in each for each in checked.held)
    assert len(keys) == 1
    server.close()
    await server.wait_closed()
