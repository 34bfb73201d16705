"""The pure parts: frames, recorded deliveries, compilation."""

from __future__ import annotations

import json
import os
import select
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.workers.guest.channel import Channel
from perdure.workers.guest.compiler import Cache, compile_source
from perdure.workers.guest.replay import Deliveries
from perdure.workers.guest.signals import Critical
from perdure.workers.guest.wire import (
    CHUNK,
    MAX_FRAME,
    MESSAGE,
    TEXT,
    Chunk,
    Decoder,
    Framer,
    Streams,
    WireError,
    chunk_payloads,
    message_payload,
)

messages = st.dictionaries(st.text(), st.none() | st.integers() | st.text(), max_size=4).map(lambda d: {**d, "t": "x"})
frames = messages | st.builds(Chunk, st.integers(0, 2**32 - 1), st.binary(min_size=1, max_size=300))


@given(st.lists(frames, max_size=8), st.lists(st.integers(1, 50), min_size=1))
def test_frames_survive_any_cuts(items: list[dict[str, object] | Chunk], cuts: list[int]) -> None:
    framer = Framer()
    data = b"".join(
        b"".join(framer.frame(CHUNK, piece) for piece in chunk_payloads(each.stream, each.data))
        if isinstance(each, Chunk)
        else framer.frame(MESSAGE, message_payload(each))
        for each in items
    )
    decoder, got, start, turn = Decoder(), [], 0, 0
    while start < len(data):
        size = cuts[turn % len(cuts)]
        got += decoder.feed(data[start : start + size])
        start, turn = start + size, turn + 1
    assert got == items
    assert decoder.pending() == 0


@pytest.mark.parametrize(
    "data",
    [
        (MAX_FRAME + 1).to_bytes(4) + bytes(13),
        bytes(17),
        pytest.param(Framer().frame(MESSAGE, b"{}"), id="no type"),
        pytest.param(Framer().frame(MESSAGE, b"[]"), id="no object"),
        pytest.param(Framer().frame(MESSAGE, b"{"), id="no JSON"),
        pytest.param(Framer().frame(7, b"x"), id="an unknown kind"),
        pytest.param(Framer().frame(CHUNK, b"x"), id="a short chunk"),
        pytest.param(Framer().frame(TEXT, b"x"), id="a write to nowhere"),
        b"\xff\xff\xff\xff" + bytes(13),
        b"\0\0\0\x0c" + bytes(13),
        pytest.param(Framer().frame(MESSAGE, b'{"t":"cancel"}') * 2, id="a frame that comes twice"),
    ],
)
def test_what_is_not_a_frame_is_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        Decoder().feed(data)


@given(st.binary(max_size=200))
def test_noise_is_refused_or_waits(data: bytes) -> None:
    decoder = Decoder()
    try:
        decoder.feed(data)
    except WireError:
        return
    assert decoder.pending() <= len(data)


def test_streams_are_bounded_by_what_was_announced() -> None:
    streams = Streams()
    streams.announce(1, 3)
    with pytest.raises(WireError):
        streams.announce(1, 3)
    with pytest.raises(WireError):
        streams.add(Chunk(2, b"x"))
    streams.add(Chunk(1, b"ab"))
    with pytest.raises(WireError):
        streams.add(Chunk(1, b"cd"))
    streams.announce(3, 2)
    streams.add(Chunk(3, b"ok"))
    assert streams.take(3) == b"ok"
    with pytest.raises(WireError):
        streams.take(3)


@given(
    contents=st.lists(st.binary(max_size=400), max_size=4),
    pieces=st.lists(st.integers(1, 90), min_size=1),
    cuts=st.lists(st.integers(1, 120), min_size=1),
)
def test_streams_come_whole_through_a_channel_whatever_the_cuts(
    contents: list[bytes], pieces: list[int], cuts: list[int]
) -> None:
    framer, turn = Framer(), 0
    frames = [
        (MESSAGE, json.dumps({"t": "stream", "id": n, "size": len(each)}).encode()) for n, each in enumerate(contents)
    ]
    # Their chunks in turns, with messages between.
    left = dict(enumerate(contents))
    while left := {stream: data for stream, data in left.items() if data}:
        for stream, data in left.items():
            size = pieces[turn % len(pieces)]
            turn += 1
            frames.append((CHUNK, stream.to_bytes(4) + data[:size]))
            left[stream] = data[size:]
        frames.append((MESSAGE, b'{"t": "cancel"}'))
    sent = b"".join(framer.frame(*frame) for frame in frames)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        channel, start, turn = Channel(theirs.fileno(), Critical()), 0, 0
        messages: list[dict[str, object]] = []
        poll = select.poll()
        poll.register(theirs, select.POLLIN)
        while start < len(sent):
            size = cuts[turn % len(cuts)]
            assert os.write(ours.fileno(), sent[start : start + size])
            start, turn = start + size, turn + 1
            while poll.poll(0):
                messages += channel.receive()
        assert messages == [{"t": "cancel"}] * sum(frame == (MESSAGE, b'{"t": "cancel"}') for frame in frames)
        assert [channel.streams.take(stream) for stream in range(len(contents))] == contents
        assert not channel.streams.unfinished


def test_a_chunk_of_a_stream_nobody_announced_is_refused_before_all_of_it_is_here() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        channel, frame = Channel(theirs.fileno(), Critical()), Framer().frame(CHUNK, (7).to_bytes(4) + bytes(1000))
        os.write(ours.fileno(), frame[:100])
        with pytest.raises(WireError):
            list(channel.receive())


def test_deliveries_are_numbered_on_from_the_recorded() -> None:
    deliveries = Deliveries({"deliveries": [["r", "main.0", 0, {"value": 1}], ["t", "main~0", 64]], "consumed": 7})
    assert (deliveries.consumed, deliveries.left) == (5, 2)
    assert deliveries.wants("r", "main.0")
    assert deliveries.replayed().outcome == {"value": 1}
    assert deliveries.replayed().turns == 64
    deliveries.entered("r", "main.1", 0)
    assert deliveries.report() == {"at": 7, "items": [["r", "main.1", 0]]}
    assert deliveries.report() is None
    deliveries.entered("t", "main~1", 0)
    assert deliveries.report() == {"at": 8, "items": [["t", "main~1", 0]]}


@pytest.mark.parametrize(
    ("code", "awaits"),
    [
        ("await x", True),
        ("y = await x", True),
        ("f(a, *[await x])", True),
        ("[await x for x in y]", True),
        ("[x async for x in y]", True),
        ("{1: await x}", True),
        ("1 if await x else 2", True),
        ("for i in await x: pass", True),
        ("async for i in x: pass", True),
        ("async with x: pass", True),
        ("with x:\n    await y", True),
        ("f'{await x}'", True),
        ("async def f():\n    await x", False),
        ("lambda: (yield)", False),
        ("class A:\n    async def f(self): await x", False),
        ("x = 1", False),
    ],
)
def test_only_awaits_of_the_module_itself_count(code: str, awaits: bool) -> None:
    assert compile_source(code, "<t>").units[-1].awaits is awaits


def test_programs_are_cached_and_failures_are_not() -> None:
    cache = Cache(size=2)
    for code in ("1", "1", "2", "3", "1"):
        cache.get(code, "<t>", 0)
    assert (cache.hits, cache.misses) == (1, 4)
    with pytest.raises(SyntaxError):
        cache.get("(", "<t>", 0)
    assert cache.misses == 5


def test_a_late_future_statement_and_a_late_global_are_errors_of_the_whole() -> None:
    for code in ("x = 1\nfrom __future__ import annotations", "x = 1\nglobal x"):
        with pytest.raises(SyntaxError):
            compile_source(code, "<t>")


def test_docstrings_are_of_the_first_statement_only() -> None:
    assert compile_source("'doc'\nx = 1", "<t>").doc == "doc"
    assert compile_source("x = 1\n'no'\nx", "<t>").doc is None


def test_code_too_deep_for_a_tree_still_compiles() -> None:
    assert compile_source("x = 1" + "+1" * 500, "<t>").units


def test_messages_are_plain_json() -> None:
    assert json.loads(message_payload({"t": "x", "text": "é\ud800"})) == {"t": "x", "text": "é\ud800"}
    with pytest.raises(WireError):
        message_payload({"t": "x", "text": "y" * MAX_FRAME})
