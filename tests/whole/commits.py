"""A worker that is killed at the n-th change it makes to files while it commits: `commits.py STATE N`.

Every statement is a step, and every checkpoint is whole: the second execution commits in the middle and at its end, and
moves what is left of a blob that is mostly dead.
"""

from __future__ import annotations

import asyncio
import ctypes
import sys

from perdure.engine import Client, WorkerSettings
from perdure.workers import checkpoints

#: Blobs for an image and a file, a file that changes, one that goes, and what rides in the step itself.
FIRST = """
import os; big = b'1' * 100_000; small = 1; open('a', 'w').write('1'); open('gone', 'w').write('x')
for n in range(8): globals()[f'v{n}'] = [os.urandom(60_000)]
digest = hash(v3[0])
"""
SECOND = """
big = b'2' * 100_000; small = 2
for n in (0, 1, 2, 4, 5, 6, 7): del globals()[f'v{n}']
open('a', 'w').write('2'); open('b', 'wb').write(big); os.remove('gone')
"""


async def main(state: str, at: int) -> None:
    killer = ctypes.CDLL(None)
    checkpoints.CHAIN = 1
    async with Client.open(state, settings=WorkerSettings(step_cpu_seconds=0)) as client:
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
