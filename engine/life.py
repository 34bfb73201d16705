"""The life of a session as a table: what state it is in, what may happen there, and what it is then.

Nothing of it is stored: the state follows from promises, by the events that they stand for. Between executions a
session is ``idle`` whether or not a guest is kept for it: that is the worker's affair, and changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

__all__ = ["TABLE", "Happening", "SessionState", "after"]

#: ``waiting``: an execution is under way and no process works on it; ``stopping``: it was asked to stop.
SessionState = Literal["new", "idle", "running", "waiting", "stopping"]

#: ``submitted``: execution n exists; ``rested``: it waits for an answer or a time; ``woken``: that has come;
#: ``asked_to_stop``: somebody cancelled it; ``settled``: it has its result, whatever that is.
Happening = Literal["submitted", "rested", "woken", "asked_to_stop", "settled"]

#: What is not in the table cannot happen: a second submission while one is under way is refused (`SessionBusy`).
TABLE: dict[tuple[SessionState, Happening], SessionState] = {
    ("new", "submitted"): "running",
    ("idle", "submitted"): "running",
    ("running", "rested"): "waiting",
    ("waiting", "woken"): "running",
    ("running", "asked_to_stop"): "stopping",
    ("waiting", "asked_to_stop"): "stopping",
    ("running", "settled"): "idle",
    ("waiting", "settled"): "idle",
    ("stopping", "settled"): "idle",
}


def after(happenings: Iterable[Happening], state: SessionState = "new") -> SessionState:
    """Return the state that follows. Raises ValueError for what cannot happen."""
    for happening in happenings:
        following = TABLE.get((state, happening))
        if following is None:
            msg = f"{happening} cannot happen to a session that is {state}"
            raise ValueError(msg)
        state = following
    return state
