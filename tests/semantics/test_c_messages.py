"""C1: messages are typed on both sides; the documentation lists them all."""

from __future__ import annotations

import asyncio
import tracemalloc
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from perdure.workers.frames import CHUNK, COUNTED, HEADER, MESSAGE, STREAM, Frames
from perdure.workers.guest import main
from perdure.workers.guest.orders import ORDERS, check
from perdure.workers.guest.wire import TEXT, Decoder, Framer, WireError
from perdure.workers.guests import GuestFailed
from perdure.workers.messages import PROTOCOL, FromGuest, ProtocolViolation
from perdure.workers.orders import Order, Reply, Settled
from perdure.workers.requests import PIECE, check_text
from tests.confine.real import KINDS, Place


@pytest.mark.parametrize(
    "message",
    [
        {"t": "nonsense"},
        {"t": "execute"},
        {"t": "execute", "execution": 5},
        {"t": "reply", "path": "main.0", "extra": 1},
        {"t": "cancel", "reason": "x"},
    ],
)
def test_c1_the_guest_takes_no_message_that_is_not_in_its_table(message: dict[str, Any]) -> None:
    with pytest.raises(WireError):
        check(message)


def test_c1_a_write_that_is_no_text_is_an_error_of_the_channel() -> None:
    with pytest.raises(WireError, match="not UTF-8"):
        Decoder().feed(Framer().frame(TEXT, b"\x01\xff"))


def test_c1_every_message_of_the_documentation_is_in_a_table() -> None:
    page = (Path(__file__).parents[2] / "docs" / "design.md").read_text()
    to_guest, _, rest = page.partition("Guest to host:")
    from_guest = rest.partition("**Lineage.**")[0]
    named = {
        line.split("`")[1] for line in to_guest.partition("Host to guest:")[2].splitlines() if line.startswith("| `")
    }
    assert {*ORDERS} == (named - {"t"}) | {"stream"}
    said = {line.split("`")[1] for line in from_guest.splitlines() if line.startswith("| `")}
    known = {get_args(each.model_fields["t"].annotation)[0] for each in get_args(get_args(FromGuest)[0])}
    assert known == (said - {"t"}) | {"stream"}


def test_c1_what_the_host_sends_is_a_model_and_the_guests_table_is_the_same() -> None:
    models = {str(each.model_fields["t"].default): each for each in get_args(Order.__value__)}
    assert {*models} == {*ORDERS}
    for kind, model in models.items():
        needed, allowed = ORDERS[kind]
        fields = {name: field.is_required() for name, field in model.model_fields.items() if name != "t"}
        assert {*fields} == {*needed, *allowed}, kind
        assert {name for name, required in fields.items() if required} == {*needed}, kind


async def test_c1_a_guest_of_another_protocol_is_refused_with_both_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main.PROTOCOL == PROTOCOL
    monkeypatch.setattr("perdure.workers.guests.PROTOCOL", PROTOCOL + 1)
    place = Place(tmp_path.resolve() / "state")
    try:
        with pytest.raises(
            GuestFailed, match=f"version {PROTOCOL} of the protocol and this worker version {PROTOCOL + 1}"
        ):
            await place.start(KINDS["process"])
    finally:
        await place.close()


def test_c1_only_what_is_set_is_sent_and_nothing_else_can_be() -> None:
    assert Reply(path="main.0", value=None).to_wire() == {"t": "reply", "path": "main.0", "value": None}
    assert Reply(path="\ud800.0", error={"type": "X"}).to_wire() == {
        "t": "reply",
        "path": "\ud800.0",
        "error": {"type": "X"},
    }
    with pytest.raises(ValidationError):
        Reply(path="main.0", valeu=1)  # type: ignore[call-arg]
    with pytest.raises(ValidationError):
        Settled(ok="perhaps")  # type: ignore[arg-type]


#: What is no JSON, and what names a blob, however that is written.
REFUSED = [
    *(
        b'{"a":',
        b"nope",
        b"[1,]",
        b"[NaN]",
        b'"\\ud8"',
        b'"\\x"',
        b'"\x01"',
        b'"\xff"',
        b'"\xed\xa0\x80"',
        b"[" * 100_000,
    ),
    *(b'{"$ref":"blake3:00","size":1}', b'[{"\\u0024ref":"blake3:00","size":1}]', b'[{"$\\u0072ef" \n :1}]'),
    b'[{"a":"\\\\"},{"$ref":1}]',
]
TAKEN = [
    *(b'"x"', b"[]", b'["\\ud800"]', b'"\\\\ud800"', b'"\\ud83d\\ude00\\ud800"', '"é"'.encode()),
    *(b'{"a":"$ref"}', b'{"a\\"$ref":1}', b'{"$dict":[["$ref",1]]}', b'"\\"$ref\\": 1"'),
]


@pytest.mark.parametrize("raw", REFUSED)
async def test_c3_a_large_value_is_looked_through_before_it_is_stored(raw: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        await check_text(raw)


@pytest.mark.parametrize("raw", TAKEN)
async def test_c3_what_only_looks_like_a_reference_is_a_value(raw: bytes) -> None:
    await check_text(raw)


@pytest.mark.parametrize("before", range(64 - 30, 64 + 3))
async def test_c3_where_a_value_is_cut_to_be_looked_through_does_not_matter(
    before: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perdure.workers.requests.PIECE", 64)
    await check_text(b'"' + b"x" * before + "é\\ud800".encode() + b"y" * 100 + b'"')
    for key in (b"$ref", b"\\u0024\\u0072\\u0065\\u0066"):
        with pytest.raises(ProtocolViolation, match="reference"):
            await check_text(b'{"a":["' + b"x" * before + b'"],"' + key + b'":1}')


async def test_c3_others_have_their_turn_while_a_large_value_is_looked_through() -> None:
    size, turns = 64 << 20, 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    await check_text(bytearray(b'"' + b"x" * size + b'"'))
    task.cancel()
    assert turns >= size // PIECE


def test_c3_a_stream_is_handed_on_in_the_memory_that_it_came_in() -> None:
    frames, number = Frames(), 0
    size = 64 << 20

    def feed(kind: int, payload: bytes) -> None:
        nonlocal number
        number += 1
        frames.feed(HEADER.pack(len(payload) + COUNTED, kind, number, 0) + payload)
        frames.next(0.0)

    feed(MESSAGE, b'{"t":"stream","id":1,"size":%d}' % size)
    for _ in range(size >> 19):
        feed(CHUNK, STREAM.pack(1) + bytes(1 << 19))
    tracemalloc.start()
    try:
        assert len(frames.take(1)) == size
        assert tracemalloc.get_traced_memory()[1] < size // 2
    finally:
        tracemalloc.stop()
