"""Which names the code of the session can have touched since the last checkpoint.

1. Whatever ran is known by its code object: its names, those of every definition inside it, and its closure.
2. Where names do not say what is touched (`globals()`, frames, addresses, a generator that goes on), everything is.
3. Python tells us of each code object once and then runs it at full speed (`sys.monitoring`).
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
        self._names: dict[types.CodeType, tuple[frozenset[str], bool, frozenset[CodeKey]]] = {}
        self._libraries = _libraries()
        # What the standard library generated for classes of the runtime: its file is "<string>", as that of what it
        # generates for the session. Kept, and told apart by identity: code of the session may equal it.
        self._generated: dict[int, types.CodeType] = {}
        self._looked_at: list[str] = []
        #: Code of libraries and of the runtime, by identity; held, so that no address is given to another.
        self._foreign: dict[int, types.CodeType] = {}
        self._started: set[types.CodeType] = set()
        # One bound method for life: whoever took our place in the meantime is told apart by identity.
        self._callbacks: tuple[Any, Any] = (self._start, self._resume)

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
        monitoring = sys.monitoring
        for number in _IDS:
            if monitoring.get_tool(number) is None:
                monitoring.use_tool_id(number, _NAME)
                events = monitoring.events
                monitoring.register_callback(number, events.PY_START, self._callbacks[0])
                monitoring.register_callback(number, events.PY_RESUME, self._callbacks[1])
                monitoring.set_events(number, events.PY_START | events.PY_RESUME)
                self._id = number
                break
        self._next()

    def take(self) -> Touched:
        """Return what was touched since the last time, and watch on."""
        now = self._now
        if not self._ours():
            now.everything = True
            self._id = None
            self.begin()
        else:
            self._next()
        return now

    def touch(self, names: Iterable[str]) -> None:
        """Note names that are bound by other than code: variables from outside."""
        self._now.names.update(names)

    def _next(self) -> None:
        self._now = Touched()
        self._started = set()
        sys.monitoring.restart_events()

    def _ours(self) -> bool:
        """Whether nobody took the id away, or listens in our place: code of the session can do both."""
        monitoring, number = sys.monitoring, self._id
        if number is None or monitoring.get_tool(number) != _NAME:
            return False
        events = monitoring.events
        wanted = ((events.PY_START, self._callbacks[0]), (events.PY_RESUME, self._callbacks[1]))
        replaced = [monitoring.register_callback(number, event, mine) is not mine for event, mine in wanted]
        return not any(replaced) and monitoring.get_events(number) == events.PY_START | events.PY_RESUME

    def _start(self, code: types.CodeType, _offset: int) -> Any:
        # By identity: the hash of a code object is computed from all of it, and the runtime's own starts every time.
        if id(code) not in self._foreign:
            self._note(code)
        return sys.monitoring.DISABLE

    def _resume(self, code: types.CodeType, _offset: int) -> Any:
        if self._note(code) and code not in self._started:
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
        self._started.add(code)
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
