"""What became of each name, and where in it the part sits that did not make it."""

from __future__ import annotations

import types
from collections import deque
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from .lost import Lost, describe

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from collections.abc import Set as AbstractSet

# Objects looked at to say where a lost part hangs. Past it the name is still reported, only less precisely.
MAX_VISITED = 200_000

# A path longer than this says less than its beginning does.
MAX_PATH = 200

_NUMBERS = (int, float, complex)
_TEXTS = (str, bytes, bytearray)
_LEAVES = (*_NUMBERS, *_TEXTS, type(None), types.ModuleType, types.BuiltinFunctionType, types.CodeType)


@dataclass(slots=True)
class NameReport:
    """What became of one variable: `kept`, `rebuilt` (a recipe remade it or a part of it) or `lost`.

    `where` is empty when the whole value is meant, else the part: `x.worker`, `jobs[3]`.
    """

    name: str
    type: str
    size: int
    """Bytes it added to the image; a value that an earlier name brought already adds next to nothing."""
    status: str = "kept"
    why: str = ""
    where: str = ""

    def as_data(self) -> dict[str, Any]:
        """Return the report as JSON data."""
        return asdict(self)


def type_name(value: object) -> str:
    """Return the type of `value` as a reader would write it; of a stand-in, ``lost: `` and what it stands for."""
    kind = type(value)
    if type(value) is Lost:
        return f"lost: {describe(value)[0]}"
    return class_name(kind)


def class_name(kind: type) -> str:
    """Return a class as a reader would write it."""
    module = "" if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}."
    return f"{module}{kind.__qualname__}"


def find(name: str, value: object, wanted: set[int], skip: AbstractSet[int] = frozenset()) -> dict[int, str]:
    """Return the paths from `name` to the objects of `wanted` (by identity) that its value leads to.

    The objects of `skip` (live ones, which are not stored) are not entered.
    """
    found: dict[int, str] = {}
    if id(value) in skip:
        return found
    seen = {id(value), *skip}
    queue: deque[tuple[object, str]] = deque([(value, name)])
    keep: list[object] = []
    while queue and len(seen) < MAX_VISITED and len(found) < len(wanted):
        thing, path = queue.popleft()
        if id(thing) in wanted:
            found[id(thing)] = path
            continue
        for child, step in _children(thing):
            if id(child) not in seen and not issubclass(type(child), _LEAVES):
                seen.add(id(child))
                keep.append(child)
                queue.append((child, path if len(path) > MAX_PATH else path + step))
    return found


def _children(thing: Any) -> Iterator[tuple[Any, str]]:
    kind = type(thing)
    if kind is Lost:
        return
    if issubclass(kind, dict | list | tuple | set | frozenset):
        yield from _items(thing, kind)
        if kind in (dict, list, tuple, set, frozenset):
            return
    elif kind is types.FunctionType:
        yield from _children_of_function(thing)
    elif kind is types.MethodType:
        yield thing.__self__, ".__self__"
        yield thing.__func__, ".__func__"
    if issubclass(kind, type):
        if thing.__module__ == "__main__":
            yield from _of_dict(type.__getattribute__(thing, "__dict__"))
    else:
        yield from _attributes(thing)
        yield from _slots(thing, kind)


def _items(thing: Any, kind: type) -> Iterator[tuple[Any, str]]:
    """Walk a container below whatever its class does to iteration."""
    if issubclass(kind, dict):
        for key, value in list(dict.items(thing)):
            yield value, f"[{_short(key)}]"
            yield key, "[...]"
        return
    for base in (list, tuple):
        if issubclass(kind, base):
            for place, value in enumerate(base.__iter__(thing)):
                yield value, f"[{place}]"
    for unordered in (set, frozenset):
        if issubclass(kind, unordered):
            for value in unordered.__iter__(thing):
                yield value, "{...}"


def _children_of_function(function: types.FunctionType) -> Iterator[tuple[Any, str]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield cell.cell_contents, f".<{name}>"
        except ValueError:
            continue
    for place, value in enumerate(function.__defaults__ or ()):
        yield value, f".__defaults__[{place}]"
    for name, value in (function.__kwdefaults__ or {}).items():
        yield value, f".__kwdefaults__[{name!r}]"


def _attributes(thing: Any) -> Iterator[tuple[Any, str]]:
    try:
        attributes = object.__getattribute__(thing, "__dict__")
    except AttributeError:
        return
    if type(attributes) is dict:
        yield from _of_dict(attributes)


def _of_dict(attributes: Mapping[str, Any]) -> Iterator[tuple[Any, str]]:
    for name, value in list(attributes.items()):
        yield value, f".{name}"


def _slots(thing: Any, kind: type) -> Iterator[tuple[Any, str]]:
    for base in kind.__mro__:
        for name, slot in vars(base).items():
            if type(slot) is types.MemberDescriptorType and base.__module__ != "builtins":
                try:
                    yield slot.__get__(thing, kind), f".{name}"
                except (AttributeError, TypeError):
                    continue


def _short(key: object) -> str:
    return repr(key)[:60] if type(key) in (str, int, float, bool, bytes, type(None)) else "..."
