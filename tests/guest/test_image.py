"""A checkpoint that comes without being asked for: only where nothing is left that could change what it holds."""

from __future__ import annotations

import json
import struct
from typing import Any

from .harness import Host

LENGTH = struct.Struct(">I")


def image(host: Host) -> tuple[int, dict[str, Any]]:
    message = host.receive()
    assert message["t"] == "checkpoint"
    content = bytes(host.streams.take(message["stream"]))
    (length,) = LENGTH.unpack_from(content)
    return message["since"], json.loads(content[LENGTH.size : LENGTH.size + length])


def test_it_follows_the_end() -> None:
    with Host() as host:
        assert host.run("x = 1", image=True).message["follows"]
        since, whole = image(host)
        assert (since, whole["since"]) == (0, 0)
        assert host.run("y = 2", image=True).message["follows"]
        since, more = image(host)
        assert since == more["since"] == whole["generation"]
        assert set(more["names"]) >= {"y"}
        assert "x" not in more["names"]


def test_one_that_the_host_has_not_stored_is_made_anew() -> None:
    with Host() as host:
        host.run("x = 1", image=True)
        image(host)
        host.send({"t": "checkpoint", "since": 0})
        _, whole = image(host)
        assert whole["since"] == 0
        assert set(whole["names"]) >= {"x"}


def test_it_is_waited_for_where_something_lives_on() -> None:
    """A task that a reply is due to has it before the namespace is written down."""
    code = "import asyncio\ntask = asyncio.create_task(asyncio.sleep(60))\nawait asyncio.sleep(0)"
    with Host() as host:
        assert not host.run(code, image=True).message["follows"]
    with Host() as host:
        assert not host.run("x = 1").message["follows"]
