"""State of libraries that code changed: attributes of their modules and classes, and what a few keep inside.

1. A module is noted when it is new, at the end of the statement that imported it; compared only when somebody asks.
2. What a library does to itself (lazy imports, caches) is made again when it is needed. What code assigned is not: so
   an attribute counts if code assigns one of that name somewhere, or if it now holds something that code defined.
"""

from __future__ import annotations

import ast
import os
import sys
import types
from typing import TYPE_CHECKING, Any

from .checkpoints import options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .namespace import Sources

__all__ = ["Libraries"]

#: Words in code through which an attribute is set whose name stands nowhere.
_DYNAMIC = frozenset({
    "setattr", "delattr", "vars", "__dict__", "__setattr__", "exec", "eval", "patch", "monkeypatch",
})  # fmt: skip
#: Attributes that the import system and the warnings machinery keep in a module.
_OWN = frozenset(
    {"__warningregistry__", "__path__", "__spec__", "__loader__", "__file__", "__cached__", "__builtins__"}
)


class Libraries:
    """What modules held when they were first seen, and what the code assigns."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        #: The session's folder: modules in it are its own.
        self.workspace = ""
        self._count = 0
        self._seen: dict[str, tuple[types.ModuleType, dict[str, Any]]] = {}
        self._inside: dict[str, Any] = {}
        self._read: dict[str, _Assigned] = {}
        #: What libraries put into ``sys.meta_path`` as they were imported; with them, it is put there again.
        self._finders: list[Any] = []

    def look(self) -> None:
        """Note the modules that are new."""
        if len(sys.modules) == self._count:
            return
        main = sys.modules.get("__main__")
        new = sys.modules.keys() - self._seen.keys()
        self._finders += [each for each in sys.meta_path if _home(each) in new and self.third_party(_home(each))]
        for name, module in list(sys.modules.items()):
            # Code puts anything under a name there, whatever its type says. The namespace is no library, under whatever
            # name: multiprocessing, when it is imported, makes it known as ``__mp_main__``, too.
            if name not in self._seen and module is not main and issubclass(type(module), types.ModuleType):
                self._seen[name] = module, dict(vars(module))
        self._count = len(sys.modules)
        for what, read in _INSIDE.items():
            if self._inside.get(what) is None:
                self._inside[what] = read()

    def finders(self) -> tuple[int, ...]:
        """Return which finders of modules are there (by identity) that no import of a library has put there."""
        own = set(map(id, self._finders))
        return tuple(id(each) for each in sys.meta_path if id(each) not in own)

    def assigns(self) -> bool:
        """Whether the code assigns attributes of anything at all."""
        assigned = self._assigned()
        return bool(assigned.names) or assigned.dynamic

    def changed(self) -> Iterator[str]:
        """Yield what code changed, in words."""
        for what, read in _INSIDE.items():
            if what in self._inside and self._inside[what] is not None and read() != self._inside[what]:
                yield f"{what} changed"
        figures = getattr(sys.modules.get("matplotlib._pylab_helpers"), "Gcf", None)
        if figures is not None and figures.figs:
            yield f"pyplot has {len(figures.figs)} open figures: plt.close('all') when they are saved"
        assigned = self._assigned()
        for name, (module, before) in self._seen.items():
            if sys.modules.get(name) is not module:
                yield f"the module {name} was replaced"
                continue
            own = self._is_own(module)
            for attribute, value in list(vars(module).items()):
                if before.get(attribute, before) is value or attribute in _OWN:
                    continue
                if own or self._by_code(attribute, value, assigned, new=attribute not in before):
                    yield f"{name}.{attribute} was changed"
        yield from self._classes(assigned)

    def _by_code(self, attribute: str, value: object, assigned: _Assigned, *, new: bool) -> bool:
        if issubclass(type(value), types.ModuleType):
            return False
        if _defined_by_code(value):
            return True
        if new and issubclass(type(value), type | types.FunctionType | types.BuiltinFunctionType):
            return False  # Imported late, by the library's own ``__getattr__``.
        return attribute in assigned.names or (assigned.dynamic and any(attribute in text for text in assigned.texts))

    def third_party(self, name: str) -> bool:
        """Whether a module by this name is neither Python's own, nor the session's, nor the code itself."""
        module = sys.modules.get(name)
        standard = name.partition(".")[0] in sys.stdlib_module_names
        return module is not None and name != "__main__" and not standard and not self._is_own(module)

    def _is_own(self, module: types.ModuleType) -> bool:
        """Whether a module is a file of the workspace: whatever changes in it, the code changed."""
        file = getattr(module, "__file__", None)
        return isinstance(file, str) and file.startswith((f"{self.workspace}/", f"{os.path.realpath(self.workspace)}/"))

    def _classes(self, assigned: _Assigned) -> Iterator[str]:
        """Yield attributes that code gave to classes of libraries: ``DataFrame.top = function``."""
        for root, path in assigned.targets:
            thing: Any = sys.modules["__main__"].__dict__.get(root)
            for part in path[:-1]:
                if not issubclass(type(thing), types.ModuleType | type):
                    break
                thing = vars(thing).get(part)
            if issubclass(type(thing), type) and thing.__module__ != "__main__" and path[-1] in vars(thing):
                value = vars(thing)[path[-1]]
                if _defined_by_code(value) or not callable(value):
                    yield f"{thing.__module__}.{thing.__qualname__}.{path[-1]} was changed"

    def _assigned(self) -> _Assigned:
        every = _Assigned()
        for filename, code in self._sources.texts().items():
            known = self._read.get(filename)
            if known is None or known.code != code:
                known = self._read[filename] = _read(code)
            every.names |= known.names
            every.targets |= known.targets
            every.texts |= known.texts
            every.dynamic = every.dynamic or known.dynamic
        return every


def _home(finder: Any) -> str:
    """Return the module that defines a finder of modules, or its class."""
    name: Any = finder.__module__ if isinstance(finder, type) else type(finder).__module__
    return name if type(name) is str else ""


class _Assigned:
    """The attributes that a source assigns: their names, and dotted targets as (root, rest)."""

    def __init__(self, code: str = "") -> None:
        self.code = code
        self.names: set[str] = set()
        self.targets: set[tuple[str, tuple[str, ...]]] = set()
        #: Whether something is assigned by other means than its name; the name is then part of one of these.
        self.dynamic = False
        self.texts: set[str] = set()


def _read(code: str) -> _Assigned:
    found = _Assigned(code)
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        found.dynamic = True
        found.texts.add(code)
        return found
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            found.dynamic = found.dynamic or node.id in _DYNAMIC
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.texts.add(node.value)
        elif isinstance(node, ast.Attribute):
            found.dynamic = found.dynamic or node.attr in _DYNAMIC
            if not isinstance(node.ctx, ast.Load):
                found.names.add(node.attr)
                target = _dotted(node)
                if target is not None:
                    found.targets.add(target)
    return found


def _dotted(node: ast.expr) -> tuple[str, tuple[str, ...]] | None:
    path: list[str] = []
    while isinstance(node, ast.Attribute):
        path.append(node.attr)
        node = node.value
    return (node.id, tuple(reversed(path))) if isinstance(node, ast.Name) else None


def _defined_by_code(value: Any) -> bool:
    if issubclass(type(value), staticmethod | classmethod | types.MethodType):
        value = value.__func__
    if issubclass(type(value), types.FunctionType):
        return value.__globals__ is sys.modules["__main__"].__dict__
    return (value.__module__ if issubclass(type(value), type) else type(value).__module__) == "__main__"


# --- what some libraries keep inside ---------------------------------------------------------------------


#: What the code may have changed and no checkpoint keeps: the rest of these options travels with it.
_INSIDE: dict[str, Callable[[], Any]] = {
    "matplotlib's rcParams": lambda: options.unkept("matplotlib"),
    "numpy's print options": lambda: options.unkept("numpy's printing"),
    "pandas' options": lambda: options.unkept("pandas"),
}
