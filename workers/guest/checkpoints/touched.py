"""Which names the code of the session can have touched since the last checkpoint.

1. Whatever ran is known by its code object: its names, those of every definition inside it, and its closure.
2. Where names do not say what is touched (`globals()`, frames, addresses, a generator that goes on), everything is.
3. Python tells us of each code object once and then runs it at full speed (`sys.monitoring`).
4. From then on only what is the session's is asked to tell again, code object by code object. If all are, Python looks
   anew through each function of the runtime and of libraries that runs, which is a third of a small checkpoint.
"""

from __future__ import annotations

import os
import sys
import sysconfig
import types
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["Touched", "Watcher"]

#: Words that lead to variables whose names do not stand in the code.
UNKNOWABLE: Final = frozenset({
    *("globals", "vars", "locals", "__main__", "__globals__", "__builtins__", "__closure__", "__dict__", "f_globals"),
    *("f_locals", "f_back", "gi_frame", "cr_frame", "ag_frame", "tb_frame", "_getframe", "currentframe", "stack"),
    *("modules", "get_objects", "get_referrers", "get_referents", "import_module", "__import__", "ctypes"),
    *("from_address", "py_object", "memset", "memmove", "cast", "settrace", "setprofile", "monitoring"),
})  # fmt: skip

_NAME: Final = "perdure"
#: Ids that Python reserves for nobody; the first free one is taken.
_IDS: Final = (4, 3)
#: One more, for what is known to be the session's; the first is reserved for optimizers, of which there are none.
_IDS_AGAIN: Final = (5, 3, 4)
#: Where more of them ran, all are to tell again: to ask each takes two microseconds.
MANY: Final = 100

_EVENTS: Final = sys.monitoring.events.PY_START | sys.monitoring.events.PY_RESUME

type CodeKey = tuple[str, int, str]


class Touched:
    """What ran since the last checkpoint."""

    __slots__ = ("closures", "code", "everything", "inner", "names", "resumed")

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.code: set[CodeKey] = set()
        self.closures: set[CodeKey] = set()
        """Those that refer to variables of a function around them."""
        self.inner: set[CodeKey] = set()
        """What is defined inside them."""
        self.everything = False
        """Whether names do not say what was touched."""
        self.resumed = False
        """Whether something went on that had been started before."""

    def add(self, earlier: Touched) -> None:
        """Note what ran before, too."""
        for name in ("names", "code", "closures", "inner"):
            getattr(self, name).update(getattr(earlier, name))
        self.everything |= earlier.everything
        self.resumed |= earlier.resumed

    def adrift(self, known: Callable[[CodeKey], bool]) -> bool:
        """Return whether a closure ran that was made earlier, and that no variable is `known` to lead to.

        Nobody can say what it has hold of; one that is made and gone in the same code has what the code around it has.
        """
        return any(key not in self.inner and not known(key) for key in self.closures)


class Watcher:
    """Notes every code object of the session that starts or goes on."""

    def __init__(self, submitted: Callable[[str], bool]) -> None:
        """`submitted` says whether a file name is that of code that runs in the namespace itself."""
        self._submitted = submitted
        self._now = Touched()
        self._id: int | None = None
        self._id_again: int | None = None
        self._names: dict[types.CodeType, tuple[frozenset[str], bool, frozenset[CodeKey]]] = {}
        self._libraries = _libraries()
        # What the standard library generated for classes of the runtime: its file is "<string>", as that of what it
        # generates for the session. Kept, and told apart by identity: code of the session may equal it.
        self._generated: dict[int, types.CodeType] = {}
        self._looked_at: list[str] = []
        #: Code of libraries and of the runtime, by identity; held, so that no address is given to another.
        self._foreign: dict[int, types.CodeType] = {}
        #: What of the session ran since the last time, by identity: code that is only equal is told of by itself.
        self._started: dict[int, types.CodeType] = {}
        # One bound method for life: whoever took our place in the meantime is told apart by identity.
        events = sys.monitoring.events
        self._callbacks: dict[int, Any] = {events.PY_START: self._start, events.PY_RESUME: self._resume}

    @property
    def tool(self) -> int | None:
        """The id it has of `sys.monitoring`; None where others have taken every one."""
        return self._id

    def ignore(self, file: str) -> None:
        """Take the code of a file for none of the session's."""
        self._libraries += (file,)
        self._foreign = {}

    def know_runtime(self) -> None:
        """Look at the runtime's own modules: in a zygote, or each guest writes to the memory of all of them."""
        self._looked_at = _modules_of_the_runtime()
        files, generated = _of_the_runtime(self._looked_at)
        self._libraries += tuple(file for file in files if not file.startswith(self._libraries))
        self._generated = {id(code): code for code in generated}

    def begin(self) -> None:
        """Start watching, unless others have taken every id there is."""
        if self._looked_at != _modules_of_the_runtime():
            self.know_runtime()
        if self._id is None:
            self._id = self._listen(_IDS)
            if self._id is not None:
                sys.monitoring.set_events(self._id, _EVENTS)
        if self._id_again is None:
            self._id_again = self._listen(_IDS_AGAIN)
        self._next(everything=True)

    def end(self) -> None:
        """Watch no more, and give back the ids."""
        for number in (self._id, self._id_again):
            if number is not None and sys.monitoring.get_tool(number) == _NAME:
                sys.monitoring.set_events(number, 0)
                for event in self._callbacks:
                    sys.monitoring.register_callback(number, event, None)
                sys.monitoring.free_tool_id(number)
        self._id = self._id_again = None

    def _listen(self, numbers: tuple[int, ...]) -> int | None:
        """Take the first id that is free; None if none is."""
        for number in numbers:
            if sys.monitoring.get_tool(number) is None:
                sys.monitoring.use_tool_id(number, _NAME)
                for event, callback in self._callbacks.items():
                    sys.monitoring.register_callback(number, event, callback)
                return number
        return None

    def take(self) -> Touched:
        """Return what was touched since the last time, and watch on."""
        now = self._now
        mine = self._ours(self._id, _EVENTS)
        if not mine:
            self._id = None
        again = self._id_again is None or self._ours(self._id_again, 0)
        if not again:
            self._id_again = None
        # Code that can take away what watches it can do so for single functions, too.
        now.everything |= not (mine and again)
        if mine and again:
            self._next(everything=now.everything)
        else:
            self.begin()
        return now

    def touch(self, names: Iterable[str]) -> None:
        """Note names that are bound by other than code: variables from outside."""
        self._now.names.update(names)

    def _next(self, *, everything: bool) -> None:
        """Have what ran tell again when it runs again; with `everything`, whatever it is."""
        self._now = Touched()
        started, self._started = self._started, {}
        number = self._id_again
        if everything or number is None or len(started) > MANY:
            sys.monitoring.restart_events()
        if number is not None:
            local = sys.monitoring.set_local_events
            for code in started.values():
                local(number, code, 0)
                local(number, code, _EVENTS)

    def _ours(self, number: int | None, events: int) -> bool:
        """Whether nobody took the id away, or listens in our place: code of the session can do both."""
        monitoring = sys.monitoring
        if number is None or monitoring.get_tool(number) != _NAME:
            return False
        wanted = self._callbacks.items()
        replaced = [monitoring.register_callback(number, event, mine) is not mine for event, mine in wanted]
        return not any(replaced) and monitoring.get_events(number) == events

    def _start(self, code: types.CodeType, _offset: int) -> Any:
        # By identity: the hash of a code object is computed from all of it, and the runtime's own starts every time.
        if id(code) not in self._foreign:
            self._note(code)
        return sys.monitoring.DISABLE

    def _resume(self, code: types.CodeType, _offset: int) -> Any:
        started = id(code) in self._started
        if self._note(code) and not started:
            self._now.resumed = True
        return sys.monitoring.DISABLE

    def _note(self, code: types.CodeType) -> bool:
        """Take in a code object; whether it is the session's."""
        if id(code) in self._foreign:
            return False
        if code.co_filename.startswith(self._libraries) or id(code) in self._generated:
            if len(self._foreign) > 1 << 14:
                self._foreign = {}
            self._foreign[id(code)] = code
            return False
        now = self._now
        known = self._names.get(code)
        if known is None:
            names = _names_of(code)
            # A module of the session's own is no part of the namespace: what it kept earlier, it may change now.
            inside = code.co_filename.startswith("<") or self._submitted(code.co_filename)
            opaque = not inside or not names.isdisjoint(UNKNOWABLE)
            if len(self._names) > 1 << 14:
                self._names = {}
            known = self._names[code] = names, opaque, _inner(code)
        self._started[id(code)] = code
        now.names |= known[0]
        now.code.add(_key(code))
        now.everything |= known[1]
        now.inner |= known[2]
        if code.co_freevars:
            now.closures.add(_key(code))
        return True


def _key(code: types.CodeType) -> CodeKey:
    return code.co_filename, code.co_firstlineno, code.co_qualname


def _inner(code: types.CodeType) -> frozenset[CodeKey]:
    """Return the definitions directly inside."""
    return frozenset(_key(constant) for constant in code.co_consts if isinstance(constant, types.CodeType))


def _names_of(code: types.CodeType) -> frozenset[str]:
    """Return every name in `code` and in what is defined inside it, and texts that lead to the namespace."""
    names: set[str] = set()
    waiting = [code]
    while waiting:
        code = waiting.pop()
        names.update(code.co_names, code.co_freevars)
        for constant in code.co_consts:
            if isinstance(constant, types.CodeType):
                waiting.append(constant)
            elif constant == "__main__":
                names.add(constant)
    return frozenset(names)


def _modules_of_the_runtime() -> list[str]:
    package = __name__.partition(".")[0]
    return [name for name in list(sys.modules) if name == package or name.startswith(f"{package}.")]


def _of_the_runtime(names: list[str]) -> tuple[list[str], list[types.CodeType]]:
    """Return the files of the runtime's modules, and what the methods that were generated for its classes run.

    Taken for the session's, their names (`data`, `values`, `size`) would touch its variables at every checkpoint.
    """
    files: list[str] = []
    found: list[types.CodeType] = []
    for name in names:
        module = sys.modules.get(name)
        if not isinstance(module, types.ModuleType):
            continue
        files.append(module.__file__ or "<unknown>")
        for kind in list(vars(module).values()):
            for method in list(vars(kind).values()) if isinstance(kind, type) else ():
                function = getattr(method, "__func__", method)
                if isinstance(function, types.FunctionType) and function.__code__.co_filename.startswith("<"):
                    found.append(function.__code__)
    return files, found


def _libraries() -> tuple[str, ...]:
    """Return where the code lies that is not the session's: the standard library, packages, this runtime."""
    paths = sysconfig.get_paths()
    places = {paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")}
    places.add(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    places.update(path for path in sys.path if path.endswith(("site-packages", "dist-packages")))
    return (*(place + os.sep for place in sorted(places) if place), "<frozen ", "<__array_function__")
