"""Keeping a state folder small, sound and copied; nothing here is needed for an answer to be right."""

from .checking import Checked, check
from .collecting import HORIZON_DAYS, Collected, collect
from .copying import Copied, back_up

__all__ = ["HORIZON_DAYS", "Checked", "Collected", "Copied", "back_up", "check", "collect"]
