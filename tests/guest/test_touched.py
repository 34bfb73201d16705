"""What a checkpoint looks at again: what the session's code named, and nothing that only the runtime did."""

from __future__ import annotations

import json
import struct
from typing import Any

from .harness import Host

LENGTH = struct.Struct(">I")
#: Names that the runtime's own classes use for their fields, and values too large to be looked at every time.
BIG = "data = values = list(range(5000)); size = [*data]; name = {'k': data}"


def checkpoint(host: Host, since: int) -> dict[str, Any]:
    host.send({"t": "checkpoint", "since": since})
    content = bytes(host.streams.take(host.receive()["stream"]))
    (length,) = LENGTH.unpack_from(content)
    data: dict[str, Any] = json.loads(content[LENGTH.size : LENGTH.size + length])
    return data


def test_what_the_runtime_does_touches_no_variable() -> None:
    """A library keeps a list, and changes it behind its name: what is found by that was looked at without a reason."""
    with Host() as host:
        host.run(f"import collections; {BIG}; collections.kept = data")
        since = checkpoint(host, 0)["generation"]
        for code in ("collections.kept.append(1)", "x = 1; [x] * 3", "y = {'a': (x, 2.5)}; y"):
            host.run(code)
            data = checkpoint(host, since)
            since = data["generation"]
            big = [unit for unit in data.get("units", {}).values() if unit["roots"][0][4] > 4096]
            assert not big, code
        host.run("data.append(2)")
        data = checkpoint(host, since)
        assert [unit for unit in data["units"].values() if unit["roots"][0][4] > 4096]


def test_inputs_are_in_every_checkpoint_however_many_there_are() -> None:
    """The runtime adds to them, and what is large is looked at only where somebody says that it was touched."""
    with Host() as host:
        host.number = 9000
        host.run("x = 1")
        since = checkpoint(host, 0)["generation"]
        host.run("y = 2")
        data = checkpoint(host, since)
        assert any(unit["roots"][0][4] > 4096 for unit in data["units"].values()), data["units"]


def test_results_are_in_every_checkpoint_unless_they_are_huge() -> None:
    with Host() as host:
        for number in range(30):
            host.run(f"'a result' * {40 + number}")
        since = checkpoint(host, 0)["generation"]
        host.run("'another'")
        data = checkpoint(host, since)
        assert any(unit["roots"][0][4] > 4096 for unit in data["units"].values()), data["units"]
        since = data["generation"]
        host.run("[[n] for n in range(200_000)]")
        for _ in range(4):  # until no other name has it
            since = checkpoint(host, since)["generation"]
            host.run("1")
        data = checkpoint(host, since)
        assert not [unit for unit in data["units"].values() if unit["roots"][0][4] > 300_000]
