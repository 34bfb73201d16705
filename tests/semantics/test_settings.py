"""What a session is set to, as its guest has it: the same bounds on both sides, each of which bites."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pydantic import ValidationError

from perdure.engine.settings import DEFAULT_LIMITS, Limits
from perdure.workers.guest import finish
from perdure.workers.orders import Config, Start

from .kit import Talk

if TYPE_CHECKING:
    from perdure.engine import Client

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONFIG: dict[str, Any] = {
    "session": "s",
    "incarnation": "i",
    "seed": 1,
    "grants": [],
    "limits": Limits(),
    "isolation": {},
    "workspace": "/w",
}


async def limited(client: Client, name: str, **limits: Any) -> Talk:
    await client.session(name, limits=limits)
    return Talk(client, name)


async def test_how_long_a_repr_may_be_is_a_setting(client: Client) -> None:
    short = await limited(client, "brief", repr_characters=200)
    result = await short.run("'x' * 5000")
    assert result.value == "x" * 5000
    assert result.repr is not None
    assert 150 < len(result.repr) < 300
    assert "more characters" in result.repr


async def test_how_long_a_repr_may_take_is_a_setting(client: Client) -> None:
    hasty = await limited(client, "hasty", repr_seconds=0.1)
    result = await hasty.run("class Slow:\n    def __repr__(self):\n        while True: pass\nSlow()")
    assert result.status == "ok"
    assert "takes more than 0.1 s" in (result.repr or "")


async def test_what_a_value_may_take_of_its_record_is_a_setting(client: Client) -> None:
    lean = await limited(client, "lean", inline_bytes=1024)
    for talk, by_reference in ((lean, True), (await limited(client, "ample"), False)):
        result = await talk.run("'x' * 5000")
        assert result.value == "x" * 5000
        root = await client.execution(result.execution).tree()
        assert ("$ref" in root.value["data"]) is by_reference


async def test_the_guests_defaults_are_the_hosts() -> None:
    given, left_out = finish.Limits(DEFAULT_LIMITS.model_dump(mode="json")), finish.Limits({})
    # These two are bounds of the kernel and of the watchdog: the guest only names them.
    left_out.memory, left_out.file = given.memory, given.file
    assert vars(given) == vars(left_out)


@pytest.mark.parametrize(
    "change",
    [
        *({"seed": "one"}, {"session": ""}, {"workspace": "relative"}),
        *({"limits": {"history": 0}}, {"limits": {"nonsense": 1}}, {"more": 1}),
    ],
)
async def test_c1_what_a_guest_is_told_of_its_session_is_checked(change: dict[str, Any]) -> None:
    assert Start(config=Config(**CONFIG)).to_wire()["config"]["limits"] == Limits().model_dump(mode="json")
    with pytest.raises(ValidationError):
        Config(**CONFIG | change)
