"""Resonate on Postgres: its own connection, which drives the timers again once the database is back.

Left to itself it stops for good at the first failure. Without ``pg_cron`` nobody else may drive them: then no sleep
ends any more, and no lease of a worker that died.
"""

from __future__ import annotations

import logging

from psycopg import errors
from resonate_pg import PostgresConnection
from resonate_pg.connection import PROCESS_TIMEOUTS_SQL

__all__ = ["TimedPostgres"]

log = logging.getLogger(__name__)


class TimedPostgres(PostgresConnection):
    """A connection that leaves the timers to ``pg_cron`` only where it may not drive them."""

    async def _fire_timers(self) -> None:
        if not self._drive_timers:
            return
        try:
            async with self._sessions.session() as connection:
                await connection.execute(PROCESS_TIMEOUTS_SQL)
        except (errors.InsufficientPrivilege, errors.UndefinedFunction) as exc:
            self._drive_timers = False
            log.warning("the timers are left to pg_cron: %s", exc)
        except Exception as exc:  # noqa: BLE001 - whatever it is, messages are taken all the same
            log.warning("the timers could not be driven, and are with the next tick: %s", exc)
