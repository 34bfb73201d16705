"""Durable execution of Python code: the client, and what it returns and raises."""

from .client import Client, Execution, Session
from .errors import PerdureError
from .records import Result
from .settings import Limits, WorkerSettings

__all__ = ["Client", "Execution", "Limits", "PerdureError", "Result", "Session", "WorkerSettings"]
