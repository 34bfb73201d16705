"""Programs as people write them: a crawler with what it was granted, and a long notebook."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from tests.whole.kit import kill_guests

from .kit import Talk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.asyncio(loop_scope="module")

#: Pages of the site: each links to two or three of the others.
PAGES = 30

CRAWLER = """
import asyncio, re
from urllib.parse import urljoin
seen, queue, edges = set(), asyncio.Queue(), []
async def visit():
    while True:
        url = await queue.get()
        try:
            page = await http.get(url)
            for href in re.findall(r'href="([^"]+)"', page["text"]):
                target = urljoin(url, href)
                edges.append((url, target))
                if target not in seen:
                    seen.add(target)
                    queue.put_nowait(target)
        finally:
            queue.task_done()
seen.add(START)
queue.put_nowait(START)
visitors = [asyncio.create_task(visit()) for _ in range(5)]
await queue.join()
for visitor in visitors:
    visitor.cancel()
await asyncio.gather(*visitors, return_exceptions=True)
len(seen), len(edges)
"""


def links(n: int) -> list[int]:
    return [m for m in (2 * n + 1, 2 * n + 2, n + 3) if m < PAGES]


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    n = int((await reader.readuntil(b"\r\n\r\n")).split()[1][1:])
    body = "".join(f'<a href="/{m}">x</a>' for m in links(n)).encode()
    writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    await writer.drain()
    writer.close()


@pytest_asyncio.fixture(loop_scope="module")
async def site() -> AsyncIterator[str]:
    server = await asyncio.start_server(_serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"


async def test_a_crawler_finds_every_page_through_http(talk: Talk, site: str) -> None:
    await talk.client.session("crawler", grants=["http"])
    crawler = Talk(talk.client, "crawler")
    result = await crawler.run(CRAWLER.replace("START", repr(site)))
    assert result.error is None, result.error
    assert result.value == (PAGES, sum(len(links(n)) for n in range(PAGES)))
    assert result.calls == PAGES
    assert not result.left


async def test_a_notebook_of_many_cells_goes_on_through_errors_and_lost_guests(talk: Talk) -> None:
    notebook = Talk(talk.client, "notebook")
    cells = [
        "from dataclasses import dataclass\nx, points = 0, []\ndef f(n): return n + x",
        "@dataclass\nclass P:\n    a: int\n    b: int = 2",
        "import asyncio\nasync def later(n):\n    await asyncio.sleep(0)\n    return n * 2",
    ]
    for code in cells:
        assert (await notebook.run(code)).ok
    for number in range(3, 60):
        if number in (20, 40):
            kill_guests()
        if number == 30:
            assert (await notebook.error("points.append(0); 1/0")).type == "ZeroDivisionError"
            assert await notebook.value("points.pop()") == 0
        code = f"x += 1\npoints.append(P({number}))\nq = await later({number})\nprint('cell', f(q))\nx, points[-1].b, q"
        result = await notebook.run(code)
        assert result.value == (number - 2, 2, number * 2), result.error
    assert await notebook.value(
        "len(points), points[0] == P(3), f(1), [p.a for p in points] == list(range(3, 60))"
    ) == (
        57,
        True,
        58,
        True,
    )
