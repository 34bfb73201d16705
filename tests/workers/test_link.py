"""The host's end of the channel against a guest that says anything at all."""

import asyncio
import json
import socket
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.engine.refs import dumped
from perdure.workers import frames
from perdure.workers import link as link_module
from perdure.workers.frames import COUNTED, HEADER, MAX_FRAME, MAX_STREAM, MAX_STREAMS, Frames
from perdure.workers.link import Link, LinkClosed
from perdure.workers.messages import Call, Output, ProtocolViolation, Written
from perdure.workers.requests import request_of

WRITE = {"t": "output", "stream": "stdout", "text": "hello"}


def frame(kind: int, payload: bytes, length: int | None = None, number: int = 0) -> bytes:
    """A frame; the number is put in by ``numbered``."""
    return struct.pack(">IBIQ", len(payload) + COUNTED if length is None else length, kind, number, 5) + payload


def message(**fields: object) -> bytes:
    return frame(0, json.dumps(fields).encode())


def chunk(stream: int, data: bytes) -> bytes:
    return frame(1, struct.pack(">I", stream) + data)


def text(data: bytes, stream: int = 1) -> bytes:
    return frame(2, bytes([stream]) + data)


def numbered(said: bytes) -> bytes:
    """Number whole frames as their sender would; what is no frame stays what it is."""
    out, at, number = bytearray(said), 0, 0
    while at + HEADER.size <= len(out):
        number += 1
        struct.pack_into(">I", out, at + 5, number)
        at += 4 + struct.unpack_from(">I", out, at)[0]
    return bytes(out)


async def hear(said: bytes, *, cut: bool = False) -> object:
    """Return the first message the host hears from a guest that says this (and, with ``cut``, then closes)."""
    ours, theirs = socket.socketpair()
    link = await Link.over(ours)
    theirs.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_sendall(theirs, numbered(said))
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
        pytest.param(frame(0, b"", COUNTED - 1), id="a length below its own head"),
        pytest.param(text(b""), id="a write of nothing"),
        pytest.param(frame(2, b""), id="a write to nowhere"),
        pytest.param(text(b"x", 3), id="a write to a stream nobody knows"),
        pytest.param(text(b"\xff"), id="a write that is no UTF-8"),
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
        pytest.param(
            b"".join(message(t="stream", id=n, size=MAX_STREAM // 2) for n in range(1, 4)), id="too much in all streams"
        ),
        pytest.param(message(t="stream", id=1, size=1) + chunk(1, b"") * 2, id="a chunk without content"),
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


ODD = {
    "a number of 5,000 digits": b"9" * 5000,
    "a float of 400 digits": b"9" * 400 + b".0",
    "not a number": b"NaN",
    "a number beyond all": b"1e999",
    "half a character": b'"\\ud800"',
    "no UTF-8": b'"\xff"',
    "a zero byte": b'"\\u0000"',
    "one name twice": b'1, "what": 2',
    "a tag around nonsense": b'{"$int": {"a": [1]}}',
    "deep": b"[" * 2000 + b"]" * 2000,
    "deeper": b"[" * 100_000 + b"]" * 100_000,
    "no JSON": b"x",
    "no object": b'1}, {"a": 1',
}


@pytest.mark.parametrize("way", ["in the message", "as a stream"])
@pytest.mark.parametrize("odd", ODD)
async def test_odd_arguments_are_refused_or_data_and_nothing_else_happens(odd: str, way: str) -> None:
    args = b'{"what": ' + ODD[odd] + b"}"
    if way == "as a stream":
        asks = message(t="call", path="main.0", name="look", args_stream=1)
        said = message(t="stream", id=1, size=len(args)) + chunk(1, args) + asks
    else:
        said = frame(0, b'{"t":"call","path":"main.0","name":"look","args":' + args + b"}")
    ours, theirs = socket.socketpair()
    link = await Link.over(ours)
    theirs.setblocking(False)
    sending = asyncio.create_task(asyncio.get_running_loop().sock_sendall(theirs, numbered(said)))
    try:
        heard = await link.receive()
        assert isinstance(heard, Call)
        # What is recorded of it, shown of it and compared with on a replay.
        request = request_of(heard, link, 0)
        assert (len(request.print), str(request)[:5], dumped(request.data)[:1]) == (32, "look(", b"{")
        # A float that JSON does not have would reach its handler as None.
        assert b"null" not in dumped(request.data)
    except ProtocolViolation:
        pass
    finally:
        await sending
        theirs.close()
        link.close()


@pytest.mark.parametrize("said", [b"", b"\0\0", frame(0, b"{", 100)])
async def test_an_end_in_the_middle_is_an_end(said: bytes) -> None:
    with pytest.raises(LinkClosed):
        await hear(said, cut=True)


async def test_a_stream_that_is_not_whole_cannot_be_taken() -> None:
    ours, theirs = socket.socketpair()
    link = await Link.over(ours)
    theirs.sendall(numbered(message(t="stream", id=1, size=4) + chunk(1, b"ab") + message(**WRITE)))
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


async def over_pair() -> tuple[Link, socket.socket]:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    return await Link.over(ours), theirs


async def drip(theirs: socket.socket, data: bytes) -> None:
    for byte in data:
        theirs.send(bytes([byte]))
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("dripping", [False, True], ids=["half a frame and silence", "a byte at a time"])
async def test_a_frame_has_its_time(monkeypatch: pytest.MonkeyPatch, dripping: bool) -> None:
    monkeypatch.setattr(link_module, "FRAME_TIMEOUT", 0.2)
    link, theirs = await over_pair()
    said = numbered(message(**WRITE))
    theirs.send(said[: len(said) // 2])
    slowly = asyncio.create_task(drip(theirs, said[len(said) // 2 :] if dripping else b""))
    with pytest.raises(ProtocolViolation, match="not finished"):
        await link.receive()
    slowly.cancel()
    await asyncio.gather(slowly, return_exceptions=True)
    theirs.close()
    link.close()


async def test_a_guest_that_is_stopped_in_the_middle_of_a_frame_has_all_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(link_module, "FRAME_TIMEOUT", 0.02)
    link, theirs = await over_pair()
    link.frozen = True
    said = numbered(message(**WRITE))
    theirs.send(said[:9])
    receiving = asyncio.create_task(link.receive())
    await asyncio.sleep(0.2)
    theirs.send(said[9:])
    assert isinstance(await receiving, Output)
    theirs.close()
    link.close()


async def test_a_message_is_not_lost_when_its_reader_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "TURN", 2)
    link, theirs = await over_pair()
    said = numbered(b"".join(message(t="output", stream="stdout", text=str(number)) for number in range(20)))
    heard: list[str] = []
    for at in range(0, len(said), 7):
        theirs.send(said[at : at + 7])
        receiving = asyncio.create_task(link.receive())
        for _ in range(at % 4):
            await asyncio.sleep(0)
        receiving.cancel()
        (got,) = await asyncio.gather(receiving, return_exceptions=True)
        heard += [got.text] if isinstance(got, Output) else []
    while len(heard) < 20:
        got = await link.receive()
        assert isinstance(got, Output)
        heard.append(got.text)
    assert heard == [str(number) for number in range(20)]
    theirs.close()
    link.close()


def test_a_flood_of_frames_ends_whoever_makes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MAX_FRAMES", 50)
    flood = Frames()
    flood.feed(numbered(message(**WRITE) * 200))
    for _ in range(50):
        assert flood.next(100.0) is not None
    with pytest.raises(ProtocolViolation, match="frames within"):
        flood.next(100.0)
    patient = Frames()
    patient.feed(numbered(message(**WRITE) * 200))
    assert all(patient.next(number * 1.0) is not None for number in range(200))


def test_a_frame_that_is_lost_or_comes_twice_ends_it() -> None:
    said = numbered(message(**WRITE) * 3)
    size = len(said) // 3
    for wrong in (said[size:], said[:size] * 2, said[:size] + said[2 * size :]):
        parser = Frames()
        parser.feed(wrong)
        with pytest.raises(ProtocolViolation, match="after frame"):
            _all_of(parser)


def _all_of(parser: Frames) -> None:
    while parser.next(0.0) is not None:
        pass


def test_writes_come_in_batches_each_by_itself_and_at_their_time() -> None:
    parser = Frames()
    parser.feed(numbered(text(b"a\n") + text(b"b") + text("\u00e9\n".encode(), 2) + message(**WRITE)))
    first, second, third = (parser.next(0.0) for _ in range(3))
    assert first == Written("stdout", ["a\n", "b"])
    assert second == Written("stderr", ["\u00e9\n"])
    assert isinstance(third, Output)
    assert (parser.taken, parser.sent_at) == (4, 5)


def test_a_batch_of_writes_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "TEXTS_MAX", 10)
    parser = Frames()
    parser.feed(numbered(text(b"four") * 9))
    heard = [parser.next(0.0) for _ in range(4)]
    assert [len(each.texts) for each in heard if isinstance(each, Written)] == [2, 2, 2, 2]


async def test_others_have_their_turn_beside_a_flood() -> None:
    link, theirs = await over_pair()
    theirs.setblocking(True)
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    theirs.sendall(numbered(message(**WRITE) * 1000))
    beside = asyncio.create_task(other())
    for _ in range(1000):
        await link.receive()
    beside.cancel()
    assert turns >= 10
    theirs.close()
    link.close()


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                *(message(**WRITE), message(t="stream", id=1, size=6), chunk(1, b"abc"), b"\0"),
                *(text(b"one\n"), text(b"two\n"), text(b"err\n", 2), text(b"\xff"), text(b"")),
            ]
        )
    ),
    st.data(),
)
def test_what_is_said_does_not_depend_on_where_it_is_cut(said: list[bytes], data: st.DataObject) -> None:
    whole = numbered(b"".join(said))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)))))
    pieces = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    assert outcome([whole]) == outcome(pieces)


def outcome(pieces: list[bytes]) -> list[str]:
    """What is heard in pieces, and how it ends."""
    heard: list[str] = []
    parser = Frames()
    try:
        for piece in pieces:
            parser.feed(piece)
            while (got := parser.next(0.0)) is not None:
                # How many writes are handed on at once depends on what is there; the writes do not.
                heard += [got.stream + each for each in got.texts] if isinstance(got, Written) else [repr(got)]
    except ProtocolViolation as problem:
        heard.append(str(problem))
    return heard


async def test_what_is_sent_to_a_guest_that_reads_slowly_comes_whole_and_in_order() -> None:
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    link = await Link.over(ours)
    theirs.setblocking(False)
    texts = [dumped({"t": "reply", "path": f"main.{n}", "value": "x" * (n * 37 % 5000)}) for n in range(200)]
    idle = [link.idle]
    for each in texts:
        link.send_text_now(each)
    idle.append(link.idle)
    heard = b""
    async with asyncio.timeout(10):
        while len(heard) < sum(HEADER.size + len(each) for each in texts):
            heard += await asyncio.get_running_loop().sock_recv(theirs, 1000)
    for number, each in enumerate(texts, 1):
        length, kind, counted, _ = HEADER.unpack_from(heard)
        assert (length, kind, counted) == (COUNTED + len(each), 0, number)
        assert heard[HEADER.size : 4 + length] == each
        heard = heard[4 + length :]
    assert not heard
    assert [*idle, link.idle] == [True, False, True], "the socket was to be full in between"
    theirs.close()
    with pytest.raises(LinkClosed):
        link.send_text_now(texts[0])
    link.close()
