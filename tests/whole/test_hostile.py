"""Code that turns on its own runtime: it ends its own execution and touches nobody else's."""

from pathlib import Path

import pytest

from .kit import HIJACK, opened, outcome

LOUD = "import os, struct\n"


@pytest.mark.parametrize(
    "attack",
    [
        pytest.param(LOUD + "os.write(3, b'\\xff' * 64)", id="garbage on the channel"),
        pytest.param(LOUD + "os.write(3, struct.pack('>IBIQ', 2**31, 0, 1, 0))", id="a frame of two gigabytes"),
        pytest.param(
            LOUD
            + 'p = b\'{"t":"done","status":"ok"}\'\nos.write(3, struct.pack(\'>IBIQ\', len(p) + 13, 0, 7777, 0) + p)',
            id="a message that is not the runtime's",
        ),
        pytest.param(
            HIJACK + "channel.send({'t': 'done', 'status': 'ok', 'more': 1})",
            id="a message with a field too many",
        ),
        pytest.param(
            HIJACK
            + "channel.send({'t': 'call', 'path': 'main.9', 'name': 'look', "
            + "'args': {'what': {'$ref': 'blake3:' + '0' * 64, 'size': 1}}})",
            id="naming a blob",
        ),
    ],
)
async def test_a_broken_protocol_ends_that_execution_only(tmp_path: Path, attack: str) -> None:
    async with opened(tmp_path / "state") as client:
        assert (await outcome(client, "other", "x = 1")).status == "ok"
        assert (await outcome(client, "bad", "kept = 5")).status == "ok"
        result = await outcome(client, "bad", attack + "\nimport time\ntime.sleep(30)")
        assert result.status == "crashed"
        assert result.error is not None
        assert result.error.type == "ProtocolViolation"
        assert (await outcome(client, "bad", "kept")).value == 5
        other = await outcome(client, "other", "x")
        assert (other.value, other.kept_guest) == (1, True)


async def test_closing_every_descriptor_ends_that_guest_only(tmp_path: Path) -> None:
    async with opened(tmp_path / "state") as client:
        assert (await outcome(client, "bad", "kept = 5")).status == "ok"
        result = await outcome(client, "bad", "import os\nos.closerange(0, 256)\nprint('still here')")
        assert result.status in ("crashed", "ok", "error")
        assert (await outcome(client, "bad", "kept")).value == 5
