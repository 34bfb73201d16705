"""The judges of the store, each asked as the store is: Resonate on Postgres, and a Resonate server.

A server must run in debug mode (`RESONATE_DEBUG=true`), in which the clock is in the caller's hand.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

from .guards import POSTGRES, SERVER


class Postgres:
    """Resonate on Postgres, emptied when it is opened."""

    name = POSTGRES
    retry = 5_000  # ms until an offer is repeated

    def __init__(self, conninfo: str) -> None:
        import psycopg

        self.connection = psycopg.connect(conninfo, autocommit=True)
        self.connection.execute("SET search_path TO resonate, public")
        self.empty()

    def empty(self) -> None:
        for table in ("promises", "tasks", "task_resumes", "callbacks", "listeners", "schedules", "outbox"):
            self.connection.execute(f"DELETE FROM {table}")  # noqa: S608 - TRUNCATE takes many times as long

    def close(self) -> None:
        self.connection.close()

    def apply(self, now: int, kind: str, /, **data: Any) -> tuple[int, Any]:
        head = {"corrId": "c", "version": "1", "resonate:debug_time": now}
        envelope = json.dumps({"kind": kind, "head": head, "data": data})
        row = self.connection.execute("SELECT resonate_rpc(%s::jsonb)", (envelope,)).fetchone()
        assert row is not None
        return row[0]["head"]["status"], row[0]["data"]

    def tick(self, now: int) -> None:
        self.connection.execute("SELECT process_timeouts(%s)", (now,))

    def messages(self) -> set[tuple[str, str]]:
        """What has been sent since this was asked last: kind, and task or promise."""
        rows = self.connection.execute(
            "DELETE FROM outbox RETURNING kind, coalesce(task_id, promise->>'id')"
        ).fetchall()
        return set(rows)


class Server:
    """A Resonate server in debug mode, emptied when it is opened."""

    name = SERVER
    retry = 30_000

    def __init__(self, url: str) -> None:
        place = urlsplit(url)
        self.connection = HTTPConnection(place.hostname or "", place.port or 80, timeout=30)
        self.separator = ":"
        self.empty()
        probe = {"id": "probe:1", "timeoutAt": 10, "tags": {"resonate:origin": "probe"}}
        if self.apply(0, "promise.create", **probe)[0] == 400:
            self.separator = "."  # what ends the origin of an id: a server of either kind will do
        self.empty()

    def empty(self) -> None:
        self.apply(0, "debug.reset")

    def close(self) -> None:
        self.connection.close()

    def apply(self, now: int, kind: str, /, **data: Any) -> tuple[int, Any]:
        head = {"corrId": "c", "version": "1", "resonate:debug_time": now}
        there = each_id(data, lambda id: id.replace(":", self.separator))
        body = json.dumps({"kind": kind, "head": head, "data": there})
        self.connection.request("POST", "/", body, {"content-type": "application/json"})
        answer = json.loads(self.connection.getresponse().read())
        if kind.startswith("debug."):
            assert answer["head"]["status"] == 200, f"the server does not let its clock be set: {answer}"
        return answer["head"]["status"], each_id(answer["data"], lambda id: id.replace(self.separator, ":"))

    def tick(self, now: int) -> None:
        self.apply(now, "debug.tick", time=now)

    def snapshot(self, now: int) -> dict[str, Any]:
        """Everything it holds."""
        snapshot: dict[str, Any] = self.apply(now, "debug.snap")[1]
        return snapshot


IDS = ("id", "awaited", "awaiter", "promiseId", "resonate:origin", "resonate:branch", "resonate:parent")


def each_id(data: Any, change: Callable[[str], str], key: str = "") -> Any:
    """The same data, with the ids in it changed."""
    if isinstance(data, dict):
        return {name: each_id(value, change, name) for name, value in data.items()}
    if isinstance(data, list):
        return [each_id(item, change) for item in data]
    return change(data) if isinstance(data, str) and key in IDS else data
