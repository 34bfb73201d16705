"""Durable execution of Python code: the client, and what it returns and raises."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .client import Client, Execution, Session
    from .errors import PerdureError
    from .records import Result
    from .settings import Limits, WorkerSettings
else:
    from .exports import on_demand

    __getattr__ = on_demand(
        __name__,
        {
            "client": ["Client", "Execution", "Session"],
            "errors": ["PerdureError"],
            "records": ["Result"],
            "settings": ["Limits", "WorkerSettings"],
        },
    )

__all__ = ["Client", "Execution", "Limits", "PerdureError", "Result", "Session", "WorkerSettings"]
