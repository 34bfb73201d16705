"""What an image calls when it is loaded.

1. These names are durable data: images written years ago call them. A function here is never renamed or given
   another meaning; a change gets a new name, and the old one stays.
2. Nothing here runs code of the session that restoring does not need: no metaclass, no `__init_subclass__` of
   the session's own classes, no decorator.
"""

from __future__ import annotations

import abc
import collections
import dataclasses
import importlib
import importlib.util
import sys
import types
import typing
import weakref
from contextlib import contextmanager
from typing import Any

from . import sources
from .lost import Lost

if typing.TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_registry = types.ModuleType(sources.REBUILD, "Functions that namespace images call.")

# Of the unit being loaded: where each lost object hung, and the stand-ins made so far.
places: dict[int, str] = {}
stand_ins: list[Lost] = []

# Files, lines and names of the code objects made so far.
codes: set[tuple[str, int, str]] = set()

# Classes that came out of an image. Their `__init_subclass__` already ran, in the session's past.
_rebuilt_classes: weakref.WeakSet[type] = weakref.WeakSet()


@contextmanager
def loading(known_places: dict[int, str]) -> Iterator[None]:
    """Load one unit: `known_places` says where the objects that were left behind hung."""
    places.update(known_places)
    try:
        yield
    finally:
        places.clear()
        stand_ins.clear()
        codes.clear()


def install() -> None:
    """Make the registry importable under the name that images use."""
    sys.modules[sources.REBUILD] = _registry


def rebuilder[F: Callable[..., Any]](function: F) -> F:
    """Register `function` under its own name for use in images."""
    function.__module__ = sources.REBUILD
    setattr(_registry, function.__name__, function)
    return function


@rebuilder
def lost(what: str, why: str, where: str | int) -> Lost:
    """Make a stand-in; a number names its place in the header of the image being loaded."""
    made = Lost(what, why, where if isinstance(where, str) else places.get(where, ""))
    stand_ins.append(made)
    return made


@rebuilder
def again(make: Any, arguments: tuple[Any, ...]) -> Any:
    """Make what once could not be made."""
    return make(*arguments)


@rebuilder
def found(module_name: str, qualname: str) -> Any:
    """Find what once was not there."""
    return find(module_name, qualname)


def find(module_name: str, qualname: str) -> Any:
    """Return a definition of a library, also where this version keeps it in the public module above."""
    parent, _, private = module_name.rpartition(".")
    for name in (module_name, parent if private.startswith("_") else ""):
        if name:
            try:
                thing: Any = importlib.import_module(name)
                for part in qualname.split("."):
                    thing = getattr(thing, part)
            except (ImportError, AttributeError):
                if name == parent or not private.startswith("_"):
                    raise
                continue
            return thing
    raise ImportError(module_name)


@rebuilder
def add_elements(made: set[Any], elements: list[Any]) -> None:
    made.update(elements)


# --- functions -------------------------------------------------------------------------------------------


@rebuilder
def code(magic: str, fields: tuple[Any, ...], origin: sources.Origin | None) -> types.CodeType:
    """Make a code object; where the bytecode is another Python's, from the stored source instead."""
    codes.add((fields[10], fields[13], fields[12]))
    if magic == importlib.util.MAGIC_NUMBER.hex():
        return types.CodeType(*fields)
    return sources.recompile(magic, fields, origin)


@rebuilder
def function(
    code_: types.CodeType, globals_: dict[str, Any], name: str, closure: tuple[types.CellType, ...] | None
) -> types.FunctionType:
    if closure is not None and len(closure) != len(code_.co_freevars):
        closure = tuple(types.CellType() for _ in code_.co_freevars)
    return types.FunctionType(code_, globals_, name, None, closure)


@rebuilder
def function_state(
    made: types.FunctionType,
    state: tuple[dict[str, Any], dict[str, Any], list[tuple[types.CellType, Any]]],
) -> None:
    attributes, slots, cells = state
    made.__dict__.update(attributes)
    for name, value in slots.items():
        try:
            setattr(made, name, value)
        except (AttributeError, TypeError):
            # A slot this Python does not have (`__annotate__` before 3.14): the function works without it.
            continue
    for cell, value in cells:
        cell.cell_contents = value


@rebuilder
def module_globals(name: str) -> dict[str, Any]:
    return vars(importlib.import_module(name))


@rebuilder
def cell() -> types.CellType:
    return types.CellType()


@rebuilder
def cell_state(made: types.CellType, state: tuple[Any]) -> None:
    made.cell_contents = state[0]


@rebuilder
def module(name: str) -> types.ModuleType:
    return importlib.import_module(name)


@rebuilder
def new_module(name: str, doc: str | None) -> types.ModuleType:
    return types.ModuleType(name, doc)


@rebuilder
def module_state(made: types.ModuleType, state: dict[str, Any]) -> None:
    vars(made).update(state)


# --- classes ---------------------------------------------------------------------------------------------


@rebuilder
def type_of(value: Any) -> type:
    return type(value)


@rebuilder
def types_member(name: str) -> type:
    return getattr(types, name)  # type: ignore[no-any-return]


@rebuilder
def new_class(metaclass: type[type], name: str, bases: tuple[type, ...], body: dict[str, Any]) -> type:
    """Make an empty class: below every Python `__new__` of its metaclass, past the session's own hooks."""
    hooks = _take_away_hooks(bases)
    try:
        if metaclass.__module__ == "_ctypes":
            # Written in C, and it makes half of the class in its `__init__`.
            made = metaclass(name, bases, dict(body))
        else:
            made = _constructor(metaclass)(metaclass, name, bases, dict(body))
    finally:
        for base, hook in hooks:
            type.__setattr__(base, "__init_subclass__", hook)
    _rebuilt_classes.add(made)
    return made


def rebuilt_classes() -> list[type]:
    """Return the classes of the session that a restore has made."""
    return list(_rebuilt_classes)


def _constructor(metaclass: type[type]) -> Callable[..., type]:
    if issubclass(metaclass, abc.ABCMeta):
        return abc.ABCMeta.__new__
    for base in typing.cast("type", metaclass).__mro__:
        new = vars(base).get("__new__")
        if new is not None and not isinstance(new, staticmethod | types.FunctionType):
            return typing.cast("Callable[..., type]", base.__new__)
    return type.__new__


def _take_away_hooks(bases: tuple[type, ...]) -> list[tuple[type, Any]]:
    taken = []
    ancestors: set[type] = set()
    for base in bases:
        ancestors.update(base.__mro__)
    for base in ancestors:
        if base in _rebuilt_classes and "__init_subclass__" in vars(base):
            taken.append((base, vars(base)["__init_subclass__"]))
            type.__delattr__(base, "__init_subclass__")
    return taken


@rebuilder
def class_state(made: type, state: tuple[dict[str, Any], list[type]]) -> None:
    attributes, registered = state
    for name in set(vars(made)) - set(attributes) - _KEPT:
        if not isinstance(vars(made)[name], types.MemberDescriptorType | types.GetSetDescriptorType):
            type.__delattr__(made, name)
    # A metaclass written in Python may refuse or react to assignment (Enum does); a C one may need to see it.
    own = type(made).__setattr__
    assign = type.__setattr__ if isinstance(own, types.FunctionType) else own
    for name, value in attributes.items():
        assign(made, name, value)
    for subclass in registered:
        abc.ABCMeta.register(typing.cast("abc.ABCMeta", made), subclass)
    if "__dataclass_params__" in attributes and "__replace__" not in attributes and sys.version_info >= (3, 13):
        assign(made, "__replace__", vars(dataclasses)["_replace"])
    if any(sources.is_stand_in(value) for value in attributes.values()):
        _generate_again(made)
    if "__firstlineno__" in attributes:
        # Assigning `__module__` deletes it.
        assign(made, "__firstlineno__", attributes["__firstlineno__"])


def _generate_again(made: type) -> None:
    """Let the library write the methods again that it once wrote for `made` under another Python."""
    parameters = vars(made).get("__dataclass_params__")
    if parameters is not None:
        for name, value in list(vars(made).items()):
            if sources.is_stand_in(value) and value.__code__.co_qualname.startswith("__create_fn__"):
                type.__delattr__(made, name)
        own = getattr(made, "__annotations__", {})
        slots = {name: value for name, value in vars(made).items() if isinstance(value, types.MemberDescriptorType)}
        for name, described in vars(made)["__dataclass_fields__"].items():
            if name in own:
                type.__setattr__(made, name, described)
        wanted = {name: getattr(parameters, name) for name in _DATACLASS if hasattr(parameters, name)}
        dataclasses.dataclass(**wanted)(made)
        for name, slot in slots.items():
            type.__setattr__(made, name, slot)
    fields = vars(made).get("_fields")
    if fields is not None and sources.is_stand_in(vars(made).get("__new__")):
        defaults = [made._field_defaults[name] for name in fields if name in made._field_defaults]  # type: ignore[attr-defined]
        twin = collections.namedtuple(made.__name__, fields, defaults=defaults)  # type: ignore[misc]  # noqa: PYI024
        for name in ("__new__", "_make", "_replace", "__replace__", "__repr__", "_asdict", "__getnewargs__"):
            if name in vars(twin):
                type.__setattr__(made, name, vars(twin)[name])


# What decides which methods are written; slots were made with the class.
_DATACLASS = ("init", "repr", "eq", "order", "unsafe_hash", "frozen", "match_args", "kw_only")


# What making a class puts into it, which no state lists.
_KEPT = frozenset({"__module__", "__qualname__", "__doc__", "__dict__", "__weakref__", "__slots__", "_abc_impl"})


@rebuilder
def new_object(base: type, cls: type, *args: Any) -> Any:
    """Make an instance with `base.__new__`, below whatever `cls` does in its own."""
    return base.__new__(cls, *args)


@rebuilder
def set_attributes(made: Any, state: dict[str, Any]) -> None:
    made.__dict__.update(state)


# --- typing ----------------------------------------------------------------------------------------------


@rebuilder
def type_var(kind: str, name: str, arguments: dict[str, Any], constraints: tuple[Any, ...] = ()) -> Any:
    return getattr(typing, kind)(name, *constraints, **arguments)


@rebuilder
def type_alias(name: str, value: Any, parameters: tuple[Any, ...]) -> Any:
    return getattr(typing, "TypeAliasType")(name, value, type_params=parameters)  # noqa: B009 - checkers want an assignment


@rebuilder
def new_type(name: str, supertype: Any) -> Any:
    return getattr(typing, "NewType")(name, supertype)  # noqa: B009 - checkers want an assignment


@rebuilder
def array_type(kind: Any, length: int) -> Any:
    return kind * length


# --- small things ----------------------------------------------------------------------------------------


@rebuilder
def wrapped(kind: type, content: Any) -> Any:
    return kind(content)


@rebuilder
def method(function_: Callable[..., Any], owner: Any) -> types.MethodType:
    return types.MethodType(function_, owner)


@rebuilder
def property_(kind: type, getter: Any, setter: Any, deleter: Any, doc: str | None) -> Any:
    return kind(getter, setter, deleter, doc)


@rebuilder
def attribute(owner: Any, name: str) -> Any:
    return getattr(owner, name)


@rebuilder
def enum_member(kind: Any, name: str) -> Any:
    return kind._member_map_[name]


@rebuilder
def mapping_proxy(mapping: Mapping[Any, Any]) -> types.MappingProxyType[Any, Any]:
    return types.MappingProxyType(mapping)


@rebuilder
def dict_view(owner: dict[Any, Any], how: str) -> Any:
    return getattr(owner, how)()


@rebuilder
def field_kind(name: str) -> Any:
    return getattr(dataclasses, name)


@rebuilder
def set_state(made: Any, state: Any) -> None:
    fields, slots = state if type(state) is tuple else (state, None)
    if fields:
        made.__dict__.update({sys.intern(name) if type(name) is str else name: each for name, each in fields.items()})
    for name, each in (slots or {}).items():
        setattr(made, name, each)


class _Gone:
    def __init__(self, hashed: int = 0) -> None:
        self._hashed = hashed

    def __hash__(self) -> int:
        return self._hashed


@rebuilder
def dead_reference(hashed: int | None = None) -> weakref.ref[Any]:
    gone = _Gone(hashed or 0)
    reference = weakref.ref(gone)
    if hashed is not None:
        # It keeps this, and is found by it where it is a key.
        hash(reference)
    return reference


@rebuilder
def dead_proxy() -> Any:
    return weakref.proxy(_Gone())


@rebuilder
def weak_set(items: list[Any]) -> weakref.WeakSet[Any]:
    return weakref.WeakSet(items)
