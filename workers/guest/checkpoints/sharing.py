"""Which things two units may share without becoming one: what never changes, and what is found again by name."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import fractions
import ipaddress
import numbers
import pathlib
import re
import sys
import types
import typing
import uuid
import weakref
from typing import Any

from .arrays import Detached
from .definitions import importable
from .identity import ASK, COUNT, SKIP

__all__ = ["judge_object", "judge_type"]

_UNCHANGING: tuple[type, ...] = (
    *(complex, range, slice, type(Ellipsis), type(NotImplemented), property, staticmethod, classmethod),
    *(
        types.CodeType,
        types.BuiltinFunctionType,
        types.MethodType,
        types.MethodWrapperType,
        types.WrapperDescriptorType,
    ),
    *(types.MethodDescriptorType, types.ClassMethodDescriptorType, types.GetSetDescriptorType),
    *(types.MemberDescriptorType, types.MappingProxyType, types.GenericAlias, types.UnionType),
    *(type({}.keys()), type({}.values()), type({}.items()), re.Pattern, weakref.ref, Detached),
)

#: Unchanging also in a subclass, as long as the subclass is a library's.
_UNCHANGING_BASES: tuple[type, ...] = (
    *(dt.date, dt.time, dt.timedelta, dt.tzinfo, decimal.Decimal, fractions.Fraction),
    *(pathlib.PurePath, uuid.UUID, ipaddress.IPv4Address, ipaddress.IPv6Address, enum.Enum),
)

_LIBRARY_BASES = (("numpy", "generic"), ("numpy", "dtype"), ("numpy", "ufunc"), ("logging", "Logger"))

_ASKED: tuple[type, ...] = (
    *(types.FunctionType, types.ModuleType, object),
    *(typing.TypeVar, typing.ParamSpec, typing.TypeVarTuple),
)


def judge_type(kind: type) -> int:
    """Say whether instances of `kind` count as shared: always, never, or as `judge_object` says of each."""
    # By identity: to compare a class may be to run its metaclass.
    if any(kind is each for each in _UNCHANGING):
        return SKIP
    if any(kind is each for each in _ASKED) or issubclass(kind, type):
        return ASK
    if not importable(kind):
        return ASK if issubclass(kind, enum.Enum) else COUNT
    if issubclass(kind, _UNCHANGING_BASES) or (issubclass(kind, numbers.Number) and kind.__module__ == "builtins"):
        return SKIP
    for module, name in _LIBRARY_BASES:
        base = getattr(sys.modules.get(module), name, None)
        if base is not None and issubclass(kind, base):
            return SKIP
    if kind.__module__ == "typing" or kind.__name__ == "cython_function_or_method":
        return SKIP
    return ASK if _kept_by_module(kind) else COUNT


def _kept_by_module(kind: type) -> bool:
    """Whether the module of a class keeps an instance of it under a name, as libraries keep their sentinels."""
    module = sys.modules.get(kind.__module__)
    return any(type(value) is kind for value in list(vars(module).values())) if module is not None else False


def judge_object(thing: Any) -> bool:
    """Say whether `thing` counts as shared when two units have it."""
    if issubclass(type(thing), type | types.FunctionType):
        return not importable(thing)
    if issubclass(type(thing), types.ModuleType):
        return sys.modules.get(thing.__name__) is not thing
    kind = type(thing)
    if issubclass(type(thing), enum.Enum):
        # Found again by name in its class, which is what is shared.
        return False
    if kind is object:
        modules: list[Any] = list(sys.modules.values())
        return not any(
            value is thing
            for module in modules
            if isinstance(module, types.ModuleType) and module.__name__ != "__main__"
            for value in list(vars(module).values())
        )
    home = sys.modules.get(getattr(thing, "__module__", None) or kind.__module__) or sys.modules.get(kind.__module__)
    if home is None or home.__name__ == "__main__":
        return True
    return not any(value is thing for value in list(vars(home).values()))
