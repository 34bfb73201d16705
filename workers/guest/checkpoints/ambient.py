"""State of the process that belongs to the session: environment, folder, search path, generators, contexts.

What the guest was born with belongs to the machine; what the code changed since belongs to the session. So the
changes are stored, and put on top of whatever the next guest is born with.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from typing import Any


def _folder() -> str:
    try:
        return os.getcwd()
    except OSError:
        return "/"


class Birth:
    """What this process had before any code of the session ran."""

    def __init__(self) -> None:
        self.environ = dict(os.environ)
        self.encoded = dict(getattr(os.environ, "_data", {}))
        self.path = list(sys.path)
        self.cwd = _folder()
        self.filters = list(warnings.filters)
        self.recursion = sys.getrecursionlimit()


birth = Birth()


def reborn() -> None:
    """Take what the process has now as what it was born with: call it once, before the first code runs."""
    global birth  # noqa: PLW0603 - one guest, one birth
    birth = Birth()


def capture_early() -> dict[str, Any]:
    """Return the changes that must be in place before anything is imported or opened, as JSON data."""
    changed, removed = _environment()
    early: dict[str, Any] = {}
    if changed:
        early["environ"] = changed
    if removed:
        early["removed"] = removed
    if sys.path != birth.path:
        places = {entry: place for place, entry in reversed(list(enumerate(birth.path)))}
        early["path"] = [places.get(entry, entry) for entry in sys.path]
    if _folder() != birth.cwd:
        early["cwd"] = _folder()
    if sys.getrecursionlimit() != birth.recursion:
        early["recursion"] = sys.getrecursionlimit()
    return early


def _environment() -> tuple[dict[str, str], list[str]]:
    # The encoded form is compared first: to decode it takes longer than the rest of a small checkpoint.
    encoded = getattr(os.environ, "_data", None)
    if encoded is not None and encoded == birth.encoded:
        return {}, []
    changed = {name: value for name, value in os.environ.items() if birth.environ.get(name) != value}
    return changed, [name for name in birth.environ if name not in os.environ]


def apply_early(early: dict[str, Any]) -> list[str]:
    """Make the process as `early` says; return what could not be done, in words."""
    os.environ.clear()
    os.environ.update(birth.environ)
    os.environ.update(early.get("environ", {}))
    for name in early.get("removed", []):
        os.environ.pop(name, None)
    path = early.get("path")
    if path is None:
        sys.path[:] = birth.path
    else:
        sys.path[:] = [entry if isinstance(entry, str) else birth.path[entry] for entry in path if _known(entry)]
    sys.setrecursionlimit(early.get("recursion", birth.recursion))
    folder = early.get("cwd", birth.cwd)
    try:
        if folder != _folder():
            os.chdir(folder)
    except OSError as error:
        return [f"the current folder {folder!r} is not there: {error.strerror}"]
    return []


def _known(entry: str | int) -> bool:
    return isinstance(entry, str) or entry < len(birth.path)


def capture_late() -> dict[str, Any]:
    """Return the state that is put back after everything else, as values to pickle."""
    late: dict[str, Any] = {}
    if "random" in sys.modules:
        late["random"] = sys.modules["random"].getstate()
    if "decimal" in sys.modules:
        late["decimal"] = sys.modules["decimal"].getcontext().copy()
    if "logging" in sys.modules:
        late["logging"] = sys.modules["logging"].getLogger()
    if "numpy.random" in sys.modules:
        late["numpy"] = sys.modules["numpy.random"].get_state(legacy=False)
    if list(warnings.filters) != birth.filters:
        late["warnings"] = list(warnings.filters)
    return late


def mark(key: str, value: Any) -> Any:
    """Return what is equal as long as a part of `capture_late` is; None where only a look at all of it tells."""
    if key == "random":
        return value
    if key == "numpy":
        state = value["state"]
        return repr({**value, "state": None}), {
            name: bytes(part) if name == "key" else part for name, part in state.items()
        }
    if key == "decimal":
        return repr(value)
    return None


def apply_late(late: dict[str, Any]) -> None:
    """Put back what `capture_late` returned."""
    if "random" in late:
        importlib.import_module("random").setstate(late["random"])
    if "decimal" in late:
        importlib.import_module("decimal").setcontext(late["decimal"])
    if "numpy" in late:
        importlib.import_module("numpy.random").set_state(late["numpy"])
    warnings.filters[:] = late.get("warnings", birth.filters)  # type: ignore[index]
    # The only public way to make the module notice that its filters changed.
    with warnings.catch_warnings():
        pass
