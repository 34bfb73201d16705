"""The host's end of the channel against a guest that says anything at all."""

import asyncio
import json
import socket
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.workers.link import MAX_FRAME, MAX_STREAMS, Link, LinkClosed
from perdure.workers.messages import Output, ProtocolViolation

WRITE = {"t": "output", "stream": "stdout", "text": "hello"}


def frame(kind: int, payload: bytes, length: int | None = None) -> bytes:
    return struct.pack(">IB", len(payload) + 1 if length is None else length, kind) + payload


def message(**fields: object) -> bytes:
    return frame(0, json.dumps(fields).encode())


def chunk(stream: int, data: bytes) -> bytes:
    return frame(1, struct.pack(">I", stream) + data)


async def hear(said: bytes, *, cut: bool = False) -> object:
    """Return the first message the host hears from a guest that says this (and, with ``cut``, then closes)."""
    ours, theirs = socket.socketpair()
    link = await Link.over(ours)
    theirs.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_sendall(theirs, said)
        if cut:
            theirs.close()
        async with asyncio.timeout(5):
            return await link.receive()
    finally:
        theirs.close()
        link.close()


async def test_a_message_is_heard_however_it_is_cut() -> None:
    heard = await hear(message(**WRITE))
    assert isinstance(heard, Output)
    assert heard.text == "hello"


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(frame(0, b"", 0), id="length 0"),
        pytest.param(frame(0, b"", MAX_FRAME + 1), id="length above the cap, with nothing behind it"),
        pytest.param(frame(0, b"", 2**32 - 1), id="the largest length"),
        pytest.param(frame(7, b"{}"), id="a kind nobody knows"),
        pytest.param(frame(0, b"not json"), id="no JSON"),
        pytest.param(frame(0, b"[" * 100_000), id="deep JSON"),
        pytest.param(frame(0, b'{"t":"output","stream":"stdout","text":"\xff"}'), id="no UTF-8"),
        pytest.param(message(t="nonsense"), id="a type nobody knows"),
        pytest.param(message(t="reply", path="main.0", value=1), id="a message of the host"),
        pytest.param(message(**WRITE, more=1), id="a field too many"),
        pytest.param(message(t="output", stream="stdlog", text=""), id="a stream of output nobody knows"),
        pytest.param(message(t="output", stream="stdout"), id="a field too few"),
        pytest.param(message(t="call", path="", name="x"), id="an empty path"),
        pytest.param(message(t="call", path="x" * 5000, name="x"), id="a path without end"),
        pytest.param(message(t="idle", waiting=[], timers=[["a", "soon"]], consumed=0), id="a timer without a time"),
        pytest.param(frame(1, b"\0\0"), id="a chunk too short to name its stream"),
        pytest.param(chunk(1, b"data"), id="a chunk of a stream nobody opened"),
        pytest.param(message(t="stream", id=1, size=2) + chunk(1, b"abc"), id="more than was announced"),
        pytest.param(message(t="stream", id=1, size=1) * 2, id="one stream opened twice"),
        pytest.param(message(t="stream", id=1, size=2**63), id="a stream larger than any"),
        pytest.param(
            b"".join(message(t="stream", id=n, size=1) for n in range(1, MAX_STREAMS + 2)), id="too many streams"
        ),
    ],
)
async def test_what_no_guest_says_ends_it(said: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        await hear(said)


@pytest.mark.parametrize("said", [b"", b"\0\0", frame(0, b"{", 100)])
async def test_an_end_in_the_middle_is_an_end(said: bytes) -> None:
    with pytest.raises(LinkClosed):
        await hear(said, cut=True)


async def test_a_stream_that_is_not_whole_cannot_be_taken() -> None:
    ours, theirs = socket.socketpair()
    link = await Link.over(ours)
    theirs.sendall(message(t="stream", id=1, size=4) + chunk(1, b"ab") + message(**WRITE))
    await link.receive()
    with pytest.raises(ProtocolViolation):
        link.take(1)
    with pytest.raises(ProtocolViolation):
        link.take(9)
    theirs.close()
    link.close()


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=400))
def test_arbitrary_bytes_are_heard_or_refused_and_nothing_else(said: bytes) -> None:
    async def run() -> None:
        with pytest.raises((ProtocolViolation, LinkClosed)):
            await hear(said, cut=True)

    asyncio.run(run())
