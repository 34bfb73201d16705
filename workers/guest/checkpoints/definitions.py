"""How code becomes data: functions, classes, modules and what they are made of.

1. A definition that can be imported is named; one of the session is stored by value.
2. A function of the session keeps the session's live globals, never a copy of them.
3. A class of the session is stored without running anything of it when it comes back.
"""

from __future__ import annotations

import abc
import dataclasses
import enum
import gc
import importlib.util
import sys
import types
import typing
from typing import TYPE_CHECKING, Any

from . import rebuild, sources

if TYPE_CHECKING:
    from .pickler import Reducers

_MAGIC = importlib.util.MAGIC_NUMBER.hex()

# Class attributes that Python makes by itself and that cannot be assigned.
_MADE = frozenset({"__dict__", "__weakref__", "_abc_impl", "__annotate_func__", "__annotations_cache__"})

# What a class must have from birth, because it shapes the class or cannot be assigned later.
_BORN_WITH = ("__module__", "__qualname__", "__slots__", "__doc__")


def importable(thing: Any) -> bool:
    """Say whether `thing` is what its module and qualified name lead to, in a module other than the session's."""
    module_name = getattr(thing, "__module__", None)
    if not isinstance(module_name, str) or module_name in ("__main__", "__mp_main__"):
        return False
    found: Any = sys.modules.get(module_name)
    if found is None:
        return False
    try:
        for part in thing.__qualname__.split("."):
            found = getattr(found, part)
    except AttributeError:
        return False
    return found is thing


# --- functions -------------------------------------------------------------------------------------------


def reduce_function(reducers: Reducers, function: types.FunctionType) -> Any:
    if importable(function):
        return NotImplemented
    cells = []
    for cell in function.__closure__ or ():
        reducers.own_cell(cell)
        try:
            cells.append((cell, cell.cell_contents))
        except ValueError:
            continue
    slots = {
        "__qualname__": function.__qualname__,
        "__module__": function.__module__,
        "__doc__": function.__doc__,
        "__defaults__": function.__defaults__,
        "__kwdefaults__": function.__kwdefaults__,
    }
    slots.update(_annotations(function))
    if function.__type_params__:
        slots["__type_params__"] = function.__type_params__
    globals_ = _globals(function, reducers.namespace)
    return (
        rebuild.function,
        (function.__code__, globals_, function.__name__, function.__closure__),
        (dict(function.__dict__), slots, cells),
        None,
        None,
        rebuild.function_state,
    )


def _annotations(function: types.FunctionType) -> dict[str, Any]:
    annotate = getattr(function, "__annotate__", None)
    if annotate is not None:
        return {"__annotate__": annotate}
    return {"__annotations__": function.__annotations__} if function.__annotations__ else {}


class _ModuleGlobals:
    """Stands for the globals of an imported module: the live ones of wherever the image is loaded."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


def _globals(function: types.FunctionType, namespace: dict[str, Any]) -> Any:
    globals_ = function.__globals__
    name = globals_.get("__name__")
    if globals_ is namespace or not isinstance(name, str):
        return globals_
    module = sys.modules.get(name)
    if module is not None and getattr(module, "__dict__", None) is globals_:
        return _ModuleGlobals(name)
    return globals_


def reduce_module_globals(_reducers: Reducers, globals_: _ModuleGlobals) -> Any:
    return rebuild.module_globals, (globals_.name,)


def reduce_code(reducers: Reducers, code: types.CodeType) -> Any:
    foreign = sources.foreign(code)
    if foreign is not None:
        return rebuild.code, (foreign.magic, foreign.fields, foreign.place)
    fields = tuple(getattr(code, name) for name in sources.FIELDS)
    return rebuild.code, (_MAGIC, fields, reducers.origin(code))


def reduce_cell(reducers: Reducers, cell: types.CellType) -> Any:
    if reducers.owns_cell(cell):
        return rebuild.cell, ()
    try:
        return rebuild.cell, (), (cell.cell_contents,), None, None, rebuild.cell_state
    except ValueError:
        return rebuild.cell, ()


def reduce_method(_reducers: Reducers, method: types.MethodType) -> Any:
    return rebuild.method, (method.__func__, method.__self__)


def reduce_wrapped(_reducers: Reducers, wrapper: Any) -> Any:
    return rebuild.wrapped, (type(wrapper), wrapper.__func__)


def reduce_property(_reducers: Reducers, made: property) -> Any:
    return rebuild.property_, (type(made), made.fget, made.fset, made.fdel, made.__doc__)


def reduce_descriptor(_reducers: Reducers, descriptor: Any) -> Any:
    return rebuild.attribute, (descriptor.__objclass__, descriptor.__name__)


# --- modules ---------------------------------------------------------------------------------------------


_OF_THE_IMPORT = ("__builtins__", "__loader__", "__spec__")


def reduce_module(_reducers: Reducers, module: types.ModuleType) -> Any:
    if sys.modules.get(module.__name__) is module:
        return rebuild.module, (module.__name__,)
    state = {name: value for name, value in vars(module).items() if name not in _OF_THE_IMPORT}
    return rebuild.new_module, (module.__name__, module.__doc__), state, None, None, rebuild.module_state


# --- classes ---------------------------------------------------------------------------------------------


def reduce_class(_reducers: Reducers, cls: type) -> Any:
    if cls in (type(None), type(Ellipsis), type(NotImplemented)):
        return NotImplemented
    if importable(cls):
        return NotImplemented
    if type(cls).__name__ == "PyCArrayType":
        return rebuild.array_type, (vars(cls)["_type_"], vars(cls)["_length_"])
    if issubclass(cls, type) and cls.__module__ == "_ctypes":
        return rebuild.type_of, (_of_metaclass(cls),)
    if cls.__module__ == "builtins" and not int(type.__flags__.__get__(cls)) & _HEAP_TYPE:
        return rebuild.types_member, (_types_name(cls),)
    body: dict[str, Any] = {name: vars(cls)[name] for name in _BORN_WITH if name in vars(cls)}
    # No class keeps it in its dict; without it a class within a class is another one, which pickle refuses.
    body["__qualname__"] = cls.__qualname__
    if "__orig_bases__" in vars(cls):
        # Generic's own hook wants to see that the bases were subscripted; the state brings the real ones.
        body["__orig_bases__"] = ()
    arguments = (type(cls), cls.__name__, cls.__bases__, body)
    return rebuild.new_class, arguments, _class_state(cls), None, None, rebuild.class_state


def _of_metaclass(metaclass: type) -> type:
    """Return a class of ctypes that has `metaclass`, which itself has no name to import it by."""
    for value in vars(sys.modules["_ctypes"]).values():
        if isinstance(value, type) and type(value) is metaclass:
            return value
    message = f"{metaclass.__name__} has no name it can be imported by"
    raise TypeError(message)


_HEAP_TYPE = 1 << 9


def _types_name(cls: type) -> str:
    for name, value in vars(types).items():
        if value is cls:
            return name
    message = f"the built-in type {cls.__name__!r} has no name it can be imported by"
    raise TypeError(message)


def _class_state(cls: type) -> tuple[dict[str, Any], list[type]]:
    attributes: dict[str, Any] = {}
    for name, value in vars(cls).items():
        if name in _MADE or name == "__slots__" or _is_own_descriptor(cls, value):
            continue
        if name == "__replace__" and value is getattr(dataclasses, "_replace", None):
            # A function of the library that other versions do not have; a load adds it where it exists.
            continue
        attributes[name] = value
    annotate = vars(cls).get("__annotate_func__")
    if annotate is not None:
        attributes["__annotate__"] = annotate
    return attributes, _registered(cls)


def _is_own_descriptor(cls: type, value: Any) -> bool:
    kind = type(value)
    if kind is types.MemberDescriptorType or kind is types.GetSetDescriptorType:
        return bool(value.__objclass__ is cls)
    return kind.__module__ == "_ctypes" and kind.__name__ == "CField"


def _registered(cls: type) -> list[type]:
    if not isinstance(cls, abc.ABCMeta):
        return []
    registry = abc._get_dump(cls)[0]  # type: ignore[attr-defined]
    return [subclass for reference in registry if (subclass := reference()) is not None]


def reduce_enum_member(reducers: Reducers, member: enum.Enum) -> Any:
    """Store a member by its class, or as the plain object it is where the class is only being made."""
    kind = type(member)
    if reducers.elsewhere(kind) is not None:
        if kind._member_map_.get(member._name_) is member:
            return rebuild.enum_member, (kind, member._name_)
        return rebuild.wrapped, (kind, member.value)
    if importable(kind):
        return rebuild.wrapped, (kind, member.value)
    reduced: tuple[Any, ...] = typing.cast("tuple[Any, ...]", object.__reduce_ex__(member, 4))
    new, arguments, state = reduced[:3]
    if new.__name__ != "__newobj__":
        message = f"the members of {type(member).__name__} have a reduction of their own"
        raise TypeError(message)
    base = type(member)._member_type_  # type: ignore[attr-defined]
    return rebuild.new_object, (base, *arguments), state, None, None, rebuild.set_attributes


# --- typing ----------------------------------------------------------------------------------------------


def reduce_type_variable(_reducers: Reducers, variable: Any) -> Any:
    name = variable.__name__
    module = sys.modules.get(variable.__module__ or "")
    if module is not None and module.__name__ != "__main__" and getattr(module, name, None) is variable:
        return rebuild.attribute, (module, name)
    arguments: dict[str, Any] = {}
    kind = type(variable).__name__
    if kind == "TypeVarTuple":
        return rebuild.type_var, (kind, name, arguments)
    for flag in ("covariant", "contravariant", "infer_variance"):
        if getattr(variable, f"__{flag}__", False):
            arguments[flag] = True
    if variable.__bound__ is not None:
        arguments["bound"] = variable.__bound__
    constraints = tuple(getattr(variable, "__constraints__", ()))
    return rebuild.type_var, (kind, name, arguments, constraints)


def reduce_type_alias(_reducers: Reducers, alias: Any) -> Any:
    if _names(alias.__value__, alias, set()):
        raise TypeError("a type alias that refers to itself cannot be stored")
    return rebuild.type_alias, (alias.__name__, alias.__value__, alias.__type_params__)


def _names(value: Any, alias: Any, seen: set[int]) -> bool:
    """Say whether a type is made with `alias`, which would have to be there before itself."""
    if value is alias:
        return True
    if id(value) in seen:
        return False
    seen.add(id(value))
    inside = [getattr(value, "__origin__", None), *getattr(value, "__args__", ())]
    if isinstance(value, typing.TypeAliasType):
        inside.append(value.__value__)
    return any(_names(each, alias, seen) for each in inside if each is not None)


def reduce_new_type(_reducers: Reducers, made: Any) -> Any:
    if importable(made):
        return made.__qualname__
    return rebuild.new_type, (made.__name__, made.__supertype__), dict(vars(made)), None, None, rebuild.set_attributes


# --- small things ----------------------------------------------------------------------------------------


def reduce_mapping_proxy(_reducers: Reducers, proxy: types.MappingProxyType[Any, Any]) -> Any:
    mapping = gc.get_referents(proxy)[0]
    of_class = getattr(mapping.get("__dict__"), "__objclass__", None) if type(mapping) is dict else None
    if of_class is not None and gc.get_referents(vars(of_class))[0] is mapping:
        return rebuild.attribute, (of_class, "__dict__")
    return rebuild.mapping_proxy, (mapping,)


def reduce_dict_view(_reducers: Reducers, view: Any) -> Any:
    how = type(view).__name__.rpartition("_")[2]
    return rebuild.dict_view, (gc.get_referents(view)[0], how)


def reduce_field_kind(_reducers: Reducers, kind: Any) -> Any:
    return rebuild.field_kind, (kind.name,)


REDUCERS: dict[type, Any] = {
    types.FunctionType: reduce_function,
    _ModuleGlobals: reduce_module_globals,
    types.CodeType: reduce_code,
    types.CellType: reduce_cell,
    types.MethodType: reduce_method,
    types.ModuleType: reduce_module,
    classmethod: reduce_wrapped,
    staticmethod: reduce_wrapped,
    abc.abstractclassmethod: reduce_wrapped,
    abc.abstractstaticmethod: reduce_wrapped,
    property: reduce_property,
    abc.abstractproperty: reduce_property,
    types.GetSetDescriptorType: reduce_descriptor,
    types.MemberDescriptorType: reduce_descriptor,
    types.MappingProxyType: reduce_mapping_proxy,
    type({}.keys()): reduce_dict_view,
    type({}.values()): reduce_dict_view,
    type({}.items()): reduce_dict_view,
    type(dataclasses._FIELD): reduce_field_kind,  # type: ignore[attr-defined]
    typing.TypeVar: reduce_type_variable,
    typing.ParamSpec: reduce_type_variable,
    typing.TypeVarTuple: reduce_type_variable,
    typing.TypeAliasType: reduce_type_alias,
    typing.NewType: reduce_new_type,
}
