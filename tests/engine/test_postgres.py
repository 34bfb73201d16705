"""The connection to Postgres, where it differs from the one it is made of."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

pytest.importorskip("resonate_pg", reason="an extra")
from psycopg import errors

from perdure.engine.postgres import TimedPostgres


class Sessions:
    """A database that fails as it is told, and counts."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.asked = 0

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Any]:
        yield self

    async def execute(self, statement: str) -> None:
        assert "process_timeouts" in statement
        self.asked += 1
        if self.failures:
            raise self.failures.pop(0)


@pytest.mark.parametrize(
    ("problem", "asked"),
    [
        pytest.param(errors.AdminShutdown("terminating connection"), 3, id="it restarts"),
        pytest.param(errors.OperationalError("server closed the connection"), 3, id="it is gone"),
        pytest.param(errors.InsufficientPrivilege("permission denied"), 1, id="it may not"),
    ],
)
async def test_timers_are_driven_again_when_the_database_is_back(problem: Exception, asked: int) -> None:
    database: Any = Sessions(problem)
    connection = TimedPostgres(sessions=database)
    for _ in range(3):
        await connection._fire_timers()
    assert database.asked == asked
