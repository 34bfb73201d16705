"""Opens what a command is about: a state folder, or the store of a fleet where the environment names one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..client import Client

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from perdure.capabilities.registry import Grant

__all__ = ["BLOBS", "GROUP", "KEY", "URL", "client_of"]

#: What `perdure worker` takes as options, for every command.
URL, BLOBS, GROUP, KEY = "PERDURE_URL", "PERDURE_BLOBS", "PERDURE_GROUP", "PERDURE_KEY"


def client_of(state: Path, *, worker: bool = False, create: bool = False, capabilities: Iterable[Grant] = ()) -> Client:
    """Return a client of the fleet that PERDURE_URL names, else of the state folder, with a worker of its own or not.

    A fleet has its workers; ``state`` is then only where this process keeps what it has shown. Raises StateUnusable,
    and on entering what Client.open and Client.connect say.
    """
    url = os.environ.get(URL)
    if not url:
        return Client.open(state, worker=worker, create=create, capabilities=capabilities)
    return Client.connect(
        url,
        folder=state,
        blobs=os.environ.get(BLOBS),
        group=os.environ.get(GROUP) or "default",
        key=os.environ.get(KEY),
        capabilities=capabilities,
    )
