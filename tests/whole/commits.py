"""A worker that is killed at the n-th change it makes to files while it commits: `commits.py STATE N`."""

from __future__ import annotations

import asyncio
import ctypes
import sys

from perdure.engine import Client

#: Blobs for an image and a file, a file that changes, one that goes, and what rides in the step itself.
FIRST = "import os; big = b'1' * 100_000; small = 1; open('a', 'w').write('1'); open('gone', 'w').write('x')"
SECOND = "big = b'2' * 100_000; small = 2; open('a', 'w').write('2'); open('b', 'wb').write(big); os.remove('gone')"


async def main(state: str, at: int) -> None:
    killer = ctypes.CDLL(None)
    async with Client.open(state) as client:
        session = await client.session("s")
        result = await (await session.submit(FIRST)).result()
        assert result.status == "ok", result
        print("first", flush=True)
        execution = await session.submit(SECOND)
        killer.perdure_arm(ctypes.c_long(at))
        result = await execution.result()
        count = killer.perdure_disarm()
        assert result.status == "ok", result
        print("second", count, flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
