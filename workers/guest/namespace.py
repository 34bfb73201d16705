"""The namespace of the session: the dict of ``__main__``, one for life, and the histories kept in it.

1. It is filled and cleared in place, never replaced: functions keep it as their globals.
2. What the user binds is his; a history moves only while its names are still ours.
"""

from __future__ import annotations

import builtins
import linecache
import sys
import types
from collections import OrderedDict
from typing import Any

__all__ = ["ENGINE_INTERNALS", "INPUTS", "MODULE_NAMES", "RESULTS", "RESULTS_SEEN", "Namespace", "Sources"]

#: Names that belong to the module ``__main__``, not to the code.
MODULE_NAMES = frozenset({"__name__", "__builtins__", "__doc__", "__loader__", "__package__", "__spec__", "__file__"})

ENGINE_INTERNALS = frozenset({
    "_", "__", "___", "_i", "_ii", "_iii", "In", "Out", "_ih", "_oh", "_exit_code", "_exception",
})  # fmt: skip
#: Names of the inputs: the runtime adds to them, and no code says so.
INPUTS = ("In", "_ih")
#: Names of the results, likewise; and bytes of them, pickled, up to which they are looked at for every new one: larger
#: ones would make each checkpoint cost what was shown long ago.
RESULTS, RESULTS_SEEN = ("Out", "_oh"), 256 << 10
#: Results and inputs kept in ``Out`` and ``In``: enough to look back, few enough that they hold no memory for ever.
HISTORY = 1000
#: Sources kept for tracebacks, in characters: functions of early executions still show their lines.
SOURCES_KEPT = 32 << 20


class Namespace:
    """``__main__`` and its histories."""

    def __init__(self, history: int = HISTORY) -> None:
        #: How many results and inputs are kept.
        self.history = history
        self.module = types.ModuleType("__main__")
        running = sys.modules.get("__main__")
        if isinstance(running, types.ModuleType):
            self.module = running
        self.dict: dict[str, Any] = vars(self.module)
        self._last: Any = ""
        #: The number of the execution whose result was kept last.
        self.kept = -1

    def set_up(self) -> None:
        """Make the module what a fresh one is, and put the histories in."""
        self.dict.clear()
        self.dict.update(
            __name__="__main__", __doc__=None, __package__=None, __loader__=None, __spec__=None, __builtins__=builtins
        )
        self.ensure()

    def ensure(self) -> None:
        """Put in what is missing of the internals: after a restore, or after ``globals().clear()``."""
        names = self.dict
        names.setdefault("__name__", "__main__")
        names.setdefault("__builtins__", builtins)
        names["_oh"] = names.get("_oh") if isinstance(names.get("_oh"), dict) else {}
        names["_ih"] = names.get("_ih") if isinstance(names.get("_ih"), list) else [""]
        names.setdefault("Out", names["_oh"])
        names.setdefault("In", names["_ih"])
        if "_" not in names:
            # Whoever deletes his own `_` has the history back.
            names["_"] = self._last = ""
        for name in ("__", "___", "_i", "_ii", "_iii"):
            names.setdefault(name, "")
        names.setdefault("_exit_code", None)
        names.setdefault("_exception", None)

    def count(self) -> int:
        """Return how many names are the code's."""
        return len(self.dict.keys() - ENGINE_INTERNALS - MODULE_NAMES)

    def owns_result(self) -> bool:
        """Whether ``_`` is still ours: what the user binds to it himself stops it."""
        return self.dict.get("_") is self._last

    def restored(self, *, ours: bool = True) -> None:
        """Take over the histories that a checkpoint brought; ``ours`` as ``owns_result`` said then."""
        self.ensure()
        self._last = self.dict["_"] if ours else object()

    def keep_input(self, number: int, code: str) -> None:
        """Add a submission to the inputs; while it runs, ``_i`` is the one before it."""
        self.ensure()
        names, inputs = self.dict, self.dict["_ih"]
        before = next((text for text in reversed(inputs[:number]) if text), "")
        inputs.extend([""] * (number - len(inputs)))
        inputs[number:] = [code]
        if number >= self.history:
            inputs[number - self.history] = ""
        names["_iii"], names["_ii"], names["_i"] = names["_ii"], names["_i"], before

    def keep_result(self, number: int, value: Any) -> None:
        """Move the results on, for a value that is not None."""
        if value is None:
            return
        self.ensure()
        names = self.dict
        if names["_"] is self._last:
            names["___"], names["__"], names["_"] = names["__"], names["_"], value
            self._last = value
        self.kept = number
        results = names["_oh"]
        results[number] = value
        while len(results) > self.history:
            del results[next(iter(results))]


class Sources:
    """Submitted sources, for tracebacks and ``inspect``."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, str] = OrderedDict()
        self._size = 0
        #: Sources that were let go of; tracebacks through them show no lines.
        self.dropped = 0
        # What `python -c` started: code that is compiled as "<string>" would be shown with these lines.
        linecache.cache.pop("<string>", None)

    def add(self, filename: str, code: str) -> None:
        """Register a source; the oldest go when there is too much."""
        self._size += len(code) - len(self._kept.pop(filename, ""))
        self._kept[filename] = code
        while self._size > SOURCES_KEPT and len(self._kept) > 1:
            name, old = self._kept.popitem(last=False)
            self._size -= len(old)
            self.dropped += 1
            linecache.cache.pop(name, None)
        self.register(filename)

    def register(self, filename: str, path: str = "") -> None:
        """Make sure ``linecache`` knows a source, whatever code did to it; under its path too, if it is a file."""
        code = self._kept[filename]
        for name in {filename, path or filename}:
            linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)

    def register_all(self) -> None:
        """Do that for all of them."""
        for filename in self._kept:
            if filename not in linecache.cache:
                self.register(filename)

    def texts(self) -> dict[str, str]:
        """Return what a checkpoint keeps, in order."""
        return dict(self._kept)

    def __contains__(self, filename: object) -> bool:
        return filename in self._kept
