"""Many calls at once, and large replies: none holds up what it does not concern."""

import asyncio
from pathlib import Path

from perdure.capabilities import Capability, capability
from perdure.engine import Client, Result
from perdure.engine.settings import Limits

from .kit import FAST, bury_guests

MEGABYTE = 1 << 20
#: Replies that no buffer holds come while the code writes more than is kept unrecorded, and reads nothing.
LOUD = f"""
import asyncio
async def one(n):
    return await large(n)
tasks = [asyncio.create_task(one(n)) for n in range(2)]
await asyncio.sleep(0)
for number in range(40):
    print("x" * {MEGABYTE // 20})
[len(reply) for reply in await asyncio.gather(*tasks)]
"""
MANY = """
import asyncio, perdure
async def one(n):
    try:
        return await wait(n)
    except perdure.TooManyCalls as error:
        return str(error)
found = await asyncio.gather(*(one(n) for n in range({calls})))
found.append(await wait(-1))
refused = [each for each in found if isinstance(each, str)]
[len(found) - len(refused), len(refused), refused[0] if refused else ""]
"""


def capabilities() -> list[Capability]:
    @capability("large", effect="repeat")
    async def large(n: int) -> str:
        return "y" * (2 * MEGABYTE)

    @capability("wait", effect="unknown")
    async def wait(n: int) -> int:
        await asyncio.sleep(0.2 if n >= 0 else 0)
        return n

    return [large, wait]


async def ran(client: Client, code: str, limits: Limits | None = None) -> Result:
    session = await client.session("s", grants=["large", "wait"], limits=limits)
    execution = await session.submit(code, wait=True)
    async with asyncio.timeout(60):
        return await execution.result()


async def test_replies_that_come_while_the_code_writes_hold_up_neither(tmp_path: Path) -> None:
    async with Client.open(tmp_path / "state", capabilities=capabilities(), settings=FAST) as client:
        result = await ran(client, LOUD)
        assert result.value == [2 * MEGABYTE] * 2, result.error


async def test_whoever_has_too_many_calls_open_is_refused_more_and_told_the_limit(tmp_path: Path) -> None:
    async with Client.open(tmp_path / "state", capabilities=capabilities(), settings=FAST) as client:
        result = await ran(client, MANY.format(calls=8), Limits(open_calls=5))
        assert result.value[:2] == [6, 3], result.error
        assert result.value[2] == "more than 5 calls are open (the limit open_calls of the session can be raised)"
        await bury_guests()
        assert (await ran(client, "len(refused)")).value == 3


async def test_a_flood_of_calls_is_slowed_and_answered_each(tmp_path: Path) -> None:
    async with Client.open(tmp_path / "state", capabilities=capabilities(), settings=FAST) as client:
        result = await ran(client, MANY.format(calls=1100), Limits(open_calls=100))
        kept, refused, _ = result.value
        assert kept + refused == 1101, result.error
        assert kept >= 101
