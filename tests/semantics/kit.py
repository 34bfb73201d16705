"""One worker and one session for many tests, so that a row of what code means costs milliseconds."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perdure.engine import Client, Execution, Result

__all__ = ["Talk"]

#: Seconds within which anything here has ended.
PATIENCE = 40


class Talk:
    """A session, and what is said in it."""

    def __init__(self, client: Client, name: str) -> None:
        self.client = client
        self.name = name

    async def submit(self, code: str, **more: Any) -> Execution:
        """Hand in code."""
        session = await self.client.session(self.name)
        return await session.submit(code, wait=True, **more)

    async def run(self, code: str, **more: Any) -> Result:
        """Run code to its end."""
        execution = await self.submit(code, **more)
        async with asyncio.timeout(PATIENCE):
            return await execution.result()

    async def value(self, code: str, **more: Any) -> Any:
        """Run code that must succeed; return its value."""
        result = await self.run(code, **more)
        assert result.error is None, result.error.traceback or result.error.message
        return result.value

    async def error(self, code: str, **more: Any) -> Any:
        """Run code that must fail; return the error."""
        result = await self.run(code, **more)
        assert result.error is not None, result
        return result.error

    async def output(self, execution: str, stream: str | None = None) -> str:
        """Return what an execution printed."""
        events = self.client.execution(execution).events(follow=False)
        return "".join([e.text async for e in events if e.type == "output" and (stream is None or e.stream == stream)])

    async def printed(self, code: str, stream: str | None = None) -> str:
        """Run code; return what it printed."""
        return await self.output((await self.run(code)).execution, stream)

    async def until(self, execution: Execution, kind: str) -> Any:
        """Return the execution's first event of that type."""
        async with asyncio.timeout(PATIENCE):
            async for event in execution.events():
                if event.type == kind:
                    return event
        raise AssertionError(f"{execution.id} ended without {kind}")

    async def answers(self) -> None:
        """Whatever went before, the session works."""
        assert await self.value("1+1") == 2
