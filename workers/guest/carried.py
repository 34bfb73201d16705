"""What the runtime itself carries over a checkpoint, beside the namespace: as JSON data.

1. Whoever goes on from a checkpoint, this process or another, finds the same: names, numbers, texts, positions.
2. None of it is read after the hooks of a checkpoint have run: what they use up of it is put back.
"""

from __future__ import annotations

import ast
import concurrent.futures.thread as pools
import importlib
import itertools
import sys
import threading
import warnings
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from . import births, entropy
from .checkpoints.identity import globals_named
from .values import decode, encode

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .executor import Executor
    from .hub import Hub
    from .lineage import Family
    from .namespace import Namespace, Sources

__all__ = ["Carried"]

#: Parts of an entry of a registry of warnings: text, category, line.
_ENTRY = 3
#: Names of the module ``__main__`` that code reads and sets; they are no variables, and carried if they are texts.
_MODULE_TEXTS = ("__name__", "__doc__", "__package__", "__file__")


class Carried:
    """The parts of the runtime that have such state."""

    def __init__(self, executor: Executor, hub: Hub, family: Family, namespace: Namespace, sources: Sources) -> None:
        self._executor = executor
        self._hub = hub
        self._family = family
        self._namespace = namespace
        self._sources = sources
        #: Which texts were looked through, and what those import that import what is inside packages.
        self._looked_through: set[str] = set()
        self._dotted: dict[str, set[str]] = {}

    def state(self) -> dict[str, Any]:
        """Return all of it."""
        names = self._namespace.dict
        return {
            "entropy": entropy.get_state(),
            "futures": self._executor.flags,
            "births": births.state(),
            "threads": _thread_numbers(),
            "clock": self._hub.clock.state(),
            # Encoded: a docstring may hold a lone surrogate, which no record of a checkpoint can.
            "module": {
                name: encode(names[name]) for name in _MODULE_TEXTS if isinstance(names.get(name, 0), str | None)
            },
            "argv": encode(list(filter(_is_text, sys.argv))),
            "result_is_ours": self._namespace.owns_result(),
            "imports": self._imported(),
            "tempfile": _temporary_names(),
            "warned": _shown_warnings(),
        }

    def before_load(self, state: dict[str, Any]) -> None:
        """Put back what the loading of values may need."""
        for name in state.get("imports", ()):
            # Gone, or failing now: the code meets that where it uses the module, as after any restart.
            with suppress(Exception):
                importlib.import_module(name)

    def set_state(self, state: dict[str, Any], texts: dict[str, str]) -> None:
        """Go on where a checkpoint was; the values are there. ``texts`` are the sources of its code."""
        for filename, code in texts.items():
            self._sources.add(filename, code)
        self._executor.flags = state["futures"]
        births.set_state(*state["births"])
        _set_thread_numbers(state.get("threads", (1, 0)))
        self._hub.clock.set_state(state["clock"])
        names = self._namespace.dict
        module = state.get("module", {})
        for name in _MODULE_TEXTS:
            names.pop(name, None)
            if name in module:
                names[name] = decode(module[name])
        sys.argv[:] = decode(state.get("argv", sys.argv))
        self._namespace.restored(ours=state.get("result_is_ours", True))
        _set_temporary_names(state.get("tempfile"))
        _set_shown_warnings(names, state.get("warned", {}))
        # Last: what is made again above draws for itself.
        entropy.set_state(state["entropy"])

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Run the body, and put back what it used up: hooks of a checkpoint leave no trace in the session's numbers."""
        main = self._family.main
        counters, drawn, born, threads = main.counters(), entropy.get_state(), births.state(), _thread_numbers()
        try:
            yield
        finally:
            _set_thread_numbers(threads)
            main.set_counters(counters)
            entropy.set_state(drawn)
            births.set_state(*born)

    def _imported(self) -> list[str]:
        """Return the modules inside packages that code imported without giving them a name: ``import a.b``.

        The namespace only knows the package; without them ``a.b`` would be missing after a restore.
        """
        now = set(self._sources.texts().values())
        for code in now - self._looked_through:
            dotted = _dotted_imports(code)
            if dotted:
                self._dotted[code] = dotted
        self._looked_through = now
        self._dotted = {code: dotted for code, dotted in self._dotted.items() if code in now}
        return sorted({name for dotted in self._dotted.values() for name in dotted if name in sys.modules})


def _dotted_imports(code: str) -> set[str]:
    if "import" not in code:
        return set()
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set()
    return {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
        if "." in alias.name and alias.asname is None
    }


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _thread_numbers() -> tuple[int, int]:
    """Return the numbers that the next thread and the next pool take for their names."""
    return _peek(threading._counter), _peek(pools.ThreadPoolExecutor._counter)  # type: ignore[attr-defined]


def _set_thread_numbers(numbers: Sequence[int]) -> None:
    thread, pool = numbers
    threading._counter = itertools.count(thread).__next__  # type: ignore[attr-defined]
    pools.ThreadPoolExecutor._counter = itertools.count(pool).__next__  # type: ignore[attr-defined]


def _peek(counter: Any) -> int:
    """Return the next number of an ``itertools.count`` by its bound ``__next__``, without taking it."""
    return int(repr(counter.__self__).removeprefix("count(").removesuffix(")"))


def _temporary_names() -> Any:
    """Return the state of the generator behind the names of temporary files, once it is in use."""
    tempfile = sys.modules.get("tempfile")
    sequence = getattr(tempfile, "_name_sequence", None)
    return None if sequence is None else [*sequence.rng.getstate()]


def _set_temporary_names(state: Any) -> None:
    if state is not None:
        tempfile = importlib.import_module("tempfile")
        version, numbers, gauss = state
        tempfile._get_candidate_names().rng.setstate((version, tuple(numbers), gauss))


def _shown_warnings() -> dict[str, list[Any]]:
    """Return which warnings were shown for lines of libraries; those of the code's own lines are in its namespace."""
    shown: dict[str, list[Any]] = {}
    for name, registry in globals_named(sys.modules, "__warningregistry__"):
        if name != "__main__" and type(registry) is dict:
            entries = [each for each in registry if isinstance(each, tuple) and len(each) == _ENTRY]
            shown[name] = [[text, kind.__module__, kind.__qualname__, line] for text, kind, line in entries]
    return shown


def _set_shown_warnings(names: dict[str, Any], shown: dict[str, list[Any]]) -> None:
    """Let them hold under this process's own count of how often the filters changed."""
    version = _filters_version()
    own = names.get("__warningregistry__")
    if isinstance(own, dict) and "version" in own:
        own["version"] = version
    for name, entries in shown.items():
        module = sys.modules.get(name)
        if module is None:
            continue
        registry = vars(module).setdefault("__warningregistry__", {})
        registry["version"] = version
        for text, home, qualname, line in entries:
            kind = getattr(sys.modules.get(home), qualname, None)
            if kind is not None:
                registry[text, kind, line] = True


def _filters_version() -> int:
    scratch: dict[Any, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda *_args, **_more: None
        warnings.warn_explicit("", UserWarning, "", 1, registry=scratch)
    # Leaving the block counted once more.
    return int(scratch.get("version", 0)) + 1
