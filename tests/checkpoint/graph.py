"""The graph of objects behind a namespace, written down: two namespaces of one meaning have one text.

Every object that can change is numbered where it is met first, and named by its number wherever it is met again.
"""

from __future__ import annotations

import collections
import functools
import types
from typing import Any

ATOMS = frozenset({int, float, complex, bool, str, bytes, type(None), types.ModuleType, types.BuiltinFunctionType})
#: What most long lists are of: written down at once.
NUMBERS = ({int}, {float})


def _hashes_alike(value: Any) -> bool:
    if isinstance(value, (tuple, frozenset)):
        return all(map(_hashes_alike, value))
    return isinstance(value, (int, float, str, bytes, type(None))) or type(value).__module__ == "numpy"


class Drawing:
    """Writes one graph down."""

    def __init__(self, namespace: dict[str, Any]) -> None:
        self._namespace = namespace
        self._numbers: dict[int, int] = {id(namespace): 0}
        self._keep: list[Any] = []
        self._parts: list[str] = []
        self._waiting: collections.deque[Any] = collections.deque()

    def text(self) -> str:
        """Return the text of every name that is not Python's own."""
        for name, value in self._namespace.items():
            if not name.startswith("__"):
                self._say(f"\n{name}=", self._of(value))
        while self._waiting:
            self._draw(self._waiting.popleft())
        return "".join(self._parts)

    def _say(self, *parts: str) -> None:
        self._parts += parts

    def _of(self, value: Any) -> str:
        """Return an atom's text, or the number of what is drawn later."""
        kind = type(value)
        if kind in ATOMS:
            return f"{kind.__name__}:{value!r}" if kind is not types.ModuleType else str(value.__name__)
        if kind.__module__ == "numpy" and hasattr(value, "dtype") and kind.__name__ != "ndarray":
            # Numbers that cannot change.
            return f"{kind.__name__}:{value!r}"
        if kind in (tuple, frozenset):
            return f"{kind.__name__}({','.join(map(self._of, value) if kind is tuple else self._ordered(value))})"
        if kind is type and value.__module__ != "__main__":
            return str(value.__qualname__)
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self._numbers)
            self._keep.append(value)
            self._waiting.append(value)
        return f"#{self._numbers[id(value)]}"

    def _ordered(self, value: Any) -> list[str]:
        """Return the elements of a set in its order; sorted, if one hashes by its address."""
        parts = list(map(self._of, value))
        return parts if all(_hashes_alike(each) for each in value) else sorted(parts)

    def _draw(self, value: Any) -> None:  # noqa: C901 - one branch a kind
        kind = type(value)
        self._say(f"\n#{self._numbers[id(value)]} {kind.__qualname__} ")
        if isinstance(value, type):
            self._fields({name: part for name, part in vars(value).items() if not name.startswith("__")})
            self._say(value.__name__, *map(self._of, value.__bases__))
        elif isinstance(value, dict):
            for key, part in value.items():
                self._say(self._of(key), ":", self._of(part), ",")
        elif isinstance(value, (list, collections.deque)):
            kinds = set(map(type, value))
            many = [f"{kinds.pop().__name__}s:{[*value]!r}"] if kinds in NUMBERS else map(self._of, value)
            self._say(",".join(many))
        elif isinstance(value, (set, bytearray)):
            self._say(",".join(self._ordered(value)))
        elif kind is types.FunctionType:
            self._function(value)
        elif kind is types.CellType:
            self._say(self._of(value.cell_contents))
        elif kind is types.MethodType:
            self._say(self._of(value.__self__), self._of(value.__func__))
        elif kind is functools.partial:
            self._say(self._of(value.func), self._of(value.args), self._of(value.keywords))
        elif kind.__module__ == "numpy":
            self._array(value)
        if hasattr(value, "__dict__") and not isinstance(value, (type, types.FunctionType)):
            self._fields(vars(value))
        for name in getattr(kind, "__slots__", ()):
            self._say(name, "=", self._of(getattr(value, name, None)))

    def _fields(self, fields: dict[str, Any]) -> None:
        for name, part in fields.items():
            self._say(name, "=", self._of(part), ";")

    def _function(self, function: types.FunctionType) -> None:
        code = function.__code__
        self._say(function.__qualname__, code.co_code.hex(), repr(code.co_names), repr(code.co_varnames))
        self._say(str(function.__globals__ is self._namespace), self._of(function.__defaults__))
        for cell in function.__closure__ or ():
            self._say(self._of(cell))
        self._fields(function.__dict__)

    def _array(self, array: Any) -> None:
        self._say(str(array.dtype), repr(array.shape), str(array.flags.writeable))
        self._say(repr(array.tolist()) if not array.dtype.hasobject else ",".join(map(self._of, array.ravel())))
        owner = array
        while type(owner.base) is type(array):
            owner = owner.base
        if owner is not array and array.size:
            start = owner.__array_interface__["data"][0]
            self._say("view of ", self._of(owner), str(array.__array_interface__["data"][0] - start))


def draw(namespace: dict[str, Any]) -> str:
    """Return the text of a namespace's graph."""
    return Drawing(namespace).text()
