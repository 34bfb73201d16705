"""A process that serves capabilities with plain resonate-sdk: ``python -m tests.whole.host FOLDER [plain]``.

It acts by a line in ``FOLDER/effects``, and stands still before or after that while there is a file of that name.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from resonate.resonate import Resonate

from perdure.capabilities import Capability, NotPerformed, capability
from perdure.engine.store import SqliteConnection
from perdure.workers.serving import serve

__all__ = ["GROUP", "capabilities"]

GROUP = "warehouse"


def capabilities(folder: Path) -> list[Capability]:
    """Return what is served: the asking side declares the same."""

    async def act(what: str) -> None:
        await _still(folder / "before")
        fd = os.open(folder / "effects", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(fd, f"{what}\n".encode())
        os.fsync(fd)
        os.close(fd)
        await _still(folder / "after")

    @capability("stock.take", effect="unknown", remote=GROUP, served=True, timeout=60.0)
    async def take(sku: str, *, key: str) -> str:
        """Take one, which may not be repeated."""
        await act(f"take {sku} {key}")
        return f"took {sku}"

    async def looked_up(sku: str) -> str:
        if f"book {sku}" not in (folder / "effects").read_text().splitlines():
            raise NotPerformed("it is not in the book")
        return f"found {sku}"

    @capability("stock.book", effect="reconcile", probe=looked_up, remote=GROUP, served=True, timeout=60.0)
    async def book(sku: str) -> str:
        """Book one, which can be looked up."""
        await act(f"book {sku}")
        return f"booked {sku}"

    @capability("stock.count", effect="repeat", remote=GROUP, served=True, timeout=60.0)
    async def count(sku: str, *, key: str) -> tuple[str, float]:
        """Count them, which may be repeated; replies with what JSON has no word for."""
        await act(f"count {sku} {key}")
        return sku, float("inf")

    return [take, book, count]


async def _still(sign: Path) -> None:
    while sign.exists():
        sign.with_suffix(".reached").touch()
        await asyncio.sleep(0.02)


async def main(folder: Path, *, plain: bool) -> None:
    network = SqliteConnection(folder / "state" / "perdure.db", group=GROUP)
    resonate = Resonate(network=network, group=GROUP)
    served = capabilities(folder)
    if plain:
        for each in served:
            assert each.handler is not None
            resonate.register(each.handler, name=each.name)
    else:
        serve(resonate, *served)
    resonate.start()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), plain="plain" in sys.argv))
