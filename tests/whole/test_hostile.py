"""Code that turns on its own runtime: it ends its own execution and touches nobody else's."""

from pathlib import Path

import pytest

from perdure.engine.settings import Limits

from .kit import HIJACK, World, opened, outcome

LOUD = "import os, struct\n"
SAYS = HIJACK + "def say(**message): channel.send(message)\n"
#: What it says has entered it, with a message that asks for nothing.
ENTERED = "say(t='idle', waiting=[], timers=[], consumed=1, threads=1, entered={{'at': {at}, 'items': {items}}})\n"
#: A call that no code made, by its name; ``look`` is granted.
CALL = "say(t='call', path={path!r}, name={name!r}, args={{'what': 1}})\n"

#: A message as text, which the runtime's own writer would not make: of a number that JSON does not have.
RAW = 'channel._outbox.append((0, b\'{{"t":"{t}",{more}}}\', False))\nchannel._drain()\n'
ASKS = '"path":"main.7","name":"look","args":'


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
        pytest.param(
            HIJACK + "channel.send({'t': 'display', 'data': {'$ref': 'blake3:' + '0' * 64}}, entered=True)",
            id="displaying somebody else's blob",
        ),
        pytest.param(
            HIJACK
            + "text = b'{\"$ref\": \"blake3:' + b'0' * 64 + b'\"}'\n"
            + "channel.send({'t': 'display', 'data_stream': channel.send_stream(text)}, entered=True)",
            id="displaying somebody else's blob, in a stream",
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


@pytest.mark.parametrize(
    "attack",
    [
        pytest.param(CALL.format(path="main.7", name="look") * 2, id="one name for two calls"),
        pytest.param("say(t='done', status='ok')\n" * 2, id="two results"),
        pytest.param("say(t='ready', pid=1, python='3', protocol=1, isolation={})", id="beginning again"),
        pytest.param("say(t='done', status='error', error={'type': [1]})", id="an error that is none"),
        pytest.param(RAW.format(t="done", more='"status":"ok","has_value":true,"value":NaN'), id="a value of NaN"),
        pytest.param(RAW.format(t="idle", more='"waiting":[],"timers":[["m",1e999]],"consumed":0'), id="no time"),
        pytest.param(RAW.format(t="call", more=ASKS + '{"what":NaN}'), id="NaN as an argument"),
        pytest.param("say(t='checkpoint', stream=5)", id="a checkpoint that nobody asked for"),
        pytest.param(ENTERED.format(at=7, items="[['t', 'main.0', 0]]"), id="deliveries with some left out"),
        pytest.param(ENTERED.format(at=0, items="[[]]"), id="a delivery that is none"),
        pytest.param(ENTERED.format(at=0, items="[['c', 'main', 0, 1]]"), id="half a reading of the clock"),
        pytest.param(ENTERED.format(at=0, items="[['r', 'main.7', 0]]"), id="a reply that it was not given"),
    ],
)
async def test_what_was_never_asked_cannot_be_said(tmp_path: Path, attack: str) -> None:
    world = World(tmp_path)
    async with opened(tmp_path / "state", world) as client:
        assert (await outcome(client, "bad", "kept = 5", grants=["look"])).status == "ok"
        result = await outcome(client, "bad", SAYS + attack + "\nimport time\ntime.sleep(30)")
        assert (result.status, result.error and result.error.type) == ("crashed", "ProtocolViolation"), result
        assert (await outcome(client, "bad", "kept")).value == 5


async def test_a_forged_call_gets_no_more_than_is_granted(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with opened(tmp_path / "state", world) as client:
        forged = CALL.format(path="main.7", name="pay") + CALL.format(path="other@1:main.0", name="look")
        code = SAYS + forged + "say(t='abandon', path='main.999')\nlook('own')"
        assert (await outcome(client, "bad", code, grants=["look"])).value == "own"
        assert sorted(world.effects()) == ["look 1", "look own"]


async def test_a_forged_result_is_taken_once_and_its_guest_does_not_go_on(tmp_path: Path) -> None:
    async with opened(tmp_path / "state") as client:
        await client.session("bad", limits=Limits(checkpoint_seconds=2))
        assert (await outcome(client, "bad", "kept = 5")).status == "ok"
        code = SAYS + "say(t='done', status='ok', value=1, has_value=True)\nkept = 6\nwhile True: pass"
        result = await outcome(client, "bad", code)
        assert (result.status, result.error and result.error.type) == ("crashed", "LimitExceeded"), result
        assert "the limit checkpoint_seconds " in (result.error.message if result.error else "")
        assert (await outcome(client, "bad", "kept")).value == 5


async def test_a_value_above_its_limit_is_refused_by_the_host_too(tmp_path: Path) -> None:
    lifted = HIJACK + "frame.f_locals['self'].limits.result = 1 << 30\n"
    async with opened(tmp_path / "state") as client:
        await client.session("bad", limits=Limits(result_bytes=2048))
        # The same guest keeps to it by itself, and its own limit is what the code lifts.
        assert not (await outcome(client, "bad", "kept = 5\n'x' * 2047")).has_value
        assert (await outcome(client, "bad", lifted + "'x' * 2046")).value == "x" * 2046
        for size in (2047, 300_000):
            result = await outcome(client, "bad", lifted + f"'x' * {size}")
            assert (result.status, result.error and result.error.type) == ("crashed", "ProtocolViolation"), result
            said = f"a value of {size + 2} bytes, which result_bytes (2048) does not allow"
            assert result.error is not None
            assert said in result.error.message
        assert (await outcome(client, "bad", "kept")).value == 5


async def test_whoever_keeps_the_interpreter_to_itself_is_ended_in_time(tmp_path: Path) -> None:
    async with opened(tmp_path / "state") as client:
        await client.session("bad", limits=Limits(wall_seconds=1, grace_seconds=0.5))
        assert (await outcome(client, "bad", "kept = 5")).status == "ok"
        result = await outcome(client, "bad", "import ctypes\nctypes.PyDLL(None).sleep(60)")
        assert result.status == "timeout", result
        assert (await outcome(client, "bad", "kept")).value == 5


async def test_no_name_or_depth_keeps_a_workspace_from_being_kept_and_removed(tmp_path: Path) -> None:
    code = r"""
import os
for name in (b"-rf", b"two\nlines", b"\xff\xfe", b"$(touch x)"):
    open(name, "wb").close()
os.mkdir("closed"); open("closed/inside", "w").close(); os.chmod("closed", 0)
here = os.getcwd()
for depth in range(1000):
    os.mkdir("d"); os.chdir("d")
os.chdir(here)
"""
    async with opened(tmp_path / "state") as client:
        result = await outcome(client, "bad", code)
        assert result.status == "ok", result
        assert any("deeper than" in note for note in result.notes), result.notes
        names = await outcome(client, "bad", "sorted(name for name in os.listdir(b'.') if name != b'd')")
        assert names.value == [b"$(touch x)", b"-rf", b"closed", b"two\nlines", b"\xff\xfe"], names
        again = await outcome(client, "other", "1")
        assert again.value == 1
