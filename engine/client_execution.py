"""An execution as a client has it: what it printed, how it ended, and how it is stopped."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from .durable import now_ms
from .errors import AlreadySettled, ExecutionNotFound, StateUnusable
from .following import follow as follow_events
from .following import result_of, state_of
from .ids import cancel_id
from .inspection import submitted, tree_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from .client import Client
    from .durable import Promise
    from .records import Event, ExecutionInfo, Result, TreeNode

__all__ = ["Execution"]

#: Seconds within which somebody has stopped what was cancelled, if somebody is there: the usual grace, and some more.
CANCEL_WAIT = 7.0


class Execution:
    """A handle on one execution."""

    def __init__(self, client: Client, id: str) -> None:
        self._client = client
        self.id = id

    def __repr__(self) -> str:
        return f"Execution({self.id!r})"

    async def info(self) -> ExecutionInfo:
        """Return its state now. Raises ExecutionNotFound."""
        return await state_of(self._client.substrate, self.id)

    def events(self, from_offset: int = 0, *, follow: bool = True) -> AsyncIterator[Event]:
        """Yield what was recorded and, unless ``follow`` is False, what comes, until it is settled.

        Output starts at ``from_offset`` (in characters). Raises ExecutionNotFound.
        """
        return follow_events(self._client.substrate, self.id, from_offset, on=follow)

    async def result(self) -> Result:
        """Wait until it is settled, and return how. Raises ExecutionNotFound."""
        return await result_of(self._client.substrate, self.id)

    async def tree(self) -> TreeNode:
        """Return its promises. Raises ExecutionNotFound."""
        return await tree_of(self._client.substrate, self.id)

    async def submission(self) -> dict[str, Any]:
        """Return what was handed in: code, filename, argv, grants, files. Raises ExecutionNotFound."""
        root = await self._root()
        return submitted(root)

    async def cancel(self, *, wait: float = CANCEL_WAIT) -> Result | None:
        """Ask, durably, for it to be stopped; return its result, whose ``stop`` says how it did.

        None if nobody has stopped it within ``wait`` seconds, or no worker is there that could: the request stands, and
        the next worker comes to it first.
        Raises ExecutionNotFound, AlreadySettled; StateUnusable if the store has taken the request and answers no more.
        """
        root = await self._root()
        if root.settled:
            msg = f"{self.id} has ended already"
            raise AlreadySettled(msg)
        promises = self._client.substrate.promises
        id = cancel_id(self.id)
        await promises.create(id, "cancel", {"at": now_ms()}, timeout_at=root.timeout_at, external=True)
        await promises.settle(id, {"at": now_ms()})
        if await self._client.attended() is False:
            return None
        patience = asyncio.timeout(wait)
        try:
            async with patience:
                return await self.result()
        except TimeoutError as problem:
            if patience.expired():
                return None
            # The store's own: whether somebody has stopped it is not known, which is not that nobody has.
            msg = f"{self.id} is to be stopped, which is recorded; what became of it cannot be read now: {problem}"
            raise StateUnusable(msg) from problem

    async def _root(self) -> Promise:
        root = await self._client.substrate.promises.get(self.id)
        if root is None:
            msg = f"there is no execution {self.id}: 'perdure ps' lists those there are"
            raise ExecutionNotFound(msg)
        return root
