"""How every object of a namespace is stored.

1. The C pickler does the walking; Python is asked only about what is not a plain container or number.
2. A failure costs the deepest object that failed: a `Lost` stands in its place, and the rest lives.
"""

from __future__ import annotations

import copyreg
import pickle
import sys
import types
from typing import TYPE_CHECKING, Any

from . import definitions, rebuild, recipes, recompute, sources
from .definitions import importable
from .hooks import HookTimeout, Watch

if TYPE_CHECKING:
    from collections.abc import Callable

    Reducer = Callable[["Reducers", Any], Any]

PROTOCOL = 5

# What the pure Python pickler hands to its reducer and the C one does not.
_PLAIN = frozenset({int, float, complex, bool, type(None), str, bytes, bytearray, list, dict, tuple, set, frozenset})

# Iterators over exact built-in containers: no code of the user's runs while the pickler drains them.
_SAFE_ITERATORS: frozenset[type] = frozenset({type(iter([])), type(iter({}.items()))})

# A reduction has two to six parts: function, arguments, state, list items, dict items, state setter.
_PARTS = range(2, 7)


# By what a class of the session can have a say in how its instances are stored; the last two, where it is a container.
_HOOKS = frozenset({
    *("__reduce__", "__reduce_ex__", "__getstate__", "__getnewargs__", "__getnewargs_ex__"),
    *("__getattribute__", "__getattr__", "__class__", "__iter__", "items"),
})  # fmt: skip


# How instances of library classes are stored, by the identity of the class: it lives as long as the process.
_of_libraries: dict[int, tuple[type, Reducer]] = {}

# Containers that are attributes of library classes: instances in every unit lead to them, and none owns them.
library_values: list[Any] = []


# What Python says of a type that has no way to be pickled.
_NO_PICKLE = "cannot pickle "


class Finding:
    """One object that could not be kept, or that a recipe will remake."""

    __slots__ = ("status", "stored", "thing", "what", "why")

    def __init__(self, thing: object, status: str, what: str, why: str, *, stored: bool = False) -> None:
        self.stored = stored
        self.thing = thing
        self.status = status
        self.what = what
        self.why = why


class Reducers:
    """Decides how every object that is not a plain container is stored; shared by both picklers."""

    namespace: dict[str, Any]

    def begin(self, namespace: dict[str, Any], watch: Watch, table: Any) -> None:
        """Set up for one checkpoint of `namespace`."""
        self.namespace = namespace
        self.watch = watch
        self.elsewhere: Any = table
        """Returns a persistent id for what is stored in another unit."""
        self.deep = False
        self.hooks_run = True
        """Whether hooks of the session's own are called; else what has one is left out, and `hooked` says so."""
        self.begin_unit()
        self._sentinels: dict[int, tuple[types.ModuleType, str]] | None = None
        # By identity: the hash of a type is its metaclass's business.
        self._by_type: dict[int, tuple[type, Reducer]] = {}

    def begin_unit(self) -> None:
        """Set up for the next unit."""
        self.findings: list[Finding] = []
        self.used_sources: set[str] = set()
        self.remakes = False
        self.hooked = False
        self.code: set[tuple[str, int, str]] = set()
        self._cells: dict[int, types.CellType] = {}

    def reducer_override(self, thing: Any) -> Any:
        """Return how to store `thing`; `NotImplemented` leaves it to the pickler."""
        kind = type(thing)
        known = _of_libraries.get(id(kind)) or self._by_type.get(id(kind)) or self._learn(kind)
        try:
            return known[1](self, thing)
        except (RecursionError, MemoryError) as error:
            if not self.deep:
                raise
            return self.lose(thing, _say(error))
        except HookTimeout:
            return self.lose(thing, f"its pickling hook ran for more than {self.watch.seconds:g} seconds")
        except BaseException as error:
            why = _say(error)
            return self.lose(thing, f"{why}; {recipes.INSTEAD}" if _NO_PICKLE in why else why)

    def _learn(self, kind: type) -> tuple[type, Reducer]:
        known = kind, _choose(kind)
        if not importable(kind):
            self._by_type[id(kind)] = known
            return known
        _of_libraries[id(kind)] = known
        for base in kind.__mro__:
            if importable(base):
                for value in list(vars(base).values()):
                    if type(value) in (list, dict, set):
                        library_values.append(value)
                        self.elsewhere.never(value)
        return known

    def lose(self, thing: Any, why: str, what: str | None = None, where: str = "") -> Any:
        """Leave `thing` behind: what is stored says what it was and why it is gone."""
        what = what or recipes.name_kind(thing)
        make = recompute.maker_of(thing)
        if make is not None:
            self.remakes = True
            self.findings.append(Finding(thing, "rebuilt", what, recompute.REMADE))
            return recompute.make_again, (make, what, why)
        self.findings.append(Finding(thing, "lost", what, why))
        return rebuild.lost, (what, why, where or len(self.findings) - 1)

    def leave(self, thing: Any, why: str, what: str, how: Any) -> Any:
        """Store `thing` in the way `how` although it is lost here: elsewhere it may not be."""
        self.findings.append(Finding(thing, "lost", what, why, stored=True))
        return how

    def rebuilt(self, thing: Any, why: str) -> None:
        """Note that `thing` comes back as another object of the same meaning, and in what it differs."""
        self.findings.append(Finding(thing, "rebuilt", recipes.name_kind(thing), why))

    def sentinel(self, thing: Any) -> tuple[types.ModuleType, str] | None:
        """Return the module and name under which a library keeps the very object `thing`, if one does."""
        kind = type(thing)
        if kind is not object:
            return _name_in(sys.modules.get(kind.__module__), thing)
        if self._sentinels is None:
            modules: list[Any] = list(sys.modules.values())
            self._sentinels = {
                id(value): (module, name)
                for module in modules
                if isinstance(module, types.ModuleType) and module.__name__ != "__main__"
                for name, value in list(vars(module).items())
                if type(value) is object
            }
        return self._sentinels.get(id(thing))

    def origin(self, code: types.CodeType) -> sources.Origin | None:
        """Return where `code` is defined, and keep that source in the checkpoint."""
        self.code.add((code.co_filename, code.co_firstlineno, code.co_qualname))
        origin = sources.origin(code)
        if origin is not None:
            self.used_sources.add(origin[0])
        return origin

    def own_cell(self, cell: types.CellType) -> None:
        """Note that the function being stored brings the contents of `cell` itself."""
        self._cells[id(cell)] = cell

    def owns_cell(self, cell: types.CellType) -> bool:
        """Say whether a function brings the contents of `cell`."""
        return id(cell) in self._cells


def _name_in(module: types.ModuleType | None, thing: object) -> tuple[types.ModuleType, str] | None:
    if module is None or module.__name__ == "__main__":
        return None
    for name, value in list(vars(module).items()):
        if value is thing:
            return module, name
    return None


class CPickler(Reducers, pickle.Pickler):
    pass


class PyPickler(Reducers, pickle._Pickler):
    """The same in Python, whose depth only memory bounds: for what is nested too deeply for the C pickler."""

    memo: dict[int, tuple[int, Any]]

    def save(self, thing: Any, save_persistent_id: bool = True) -> None:  # noqa: FBT001, FBT002 - the base's signature
        """Store `thing`; as the base does, but with calls that Python makes without the C stack, which is bounded."""
        base: Any = super()
        if type(thing) not in _PLAIN and id(thing) not in self.memo and self.persistent_id(thing) is None:
            reduced = self.reducer_override(thing)
            if isinstance(reduced, tuple):
                make, arguments, state, items, pairs, setter = (*reduced, None, None, None, None)[:6]
                base.save_reduce(make, arguments, state, items, pairs, setter, obj=thing)
                return
        base.save(thing, save_persistent_id)

    def reducer_override(self, thing: Any) -> Any:
        if type(thing) in _PLAIN:
            return NotImplemented
        return super().reducer_override(thing)


def _choose(kind: type) -> Reducer:
    exact = definitions.REDUCERS.get(kind) or recipes.REDUCERS.get(kind)
    if exact is not None:
        return exact
    if issubclass(kind, type):
        return definitions.reduce_class
    reducer = recipes.by_base(kind)
    if reducer is None and _reduces_itself(kind):
        return reduce_in_c
    if reducer is not None:
        return reducer
    hooked = reduce_by_own_hook if _has_own_hook(kind) else reduce_by_hook
    return _unasked(hooked) if _answers_for_state(kind) else hooked


def _answers_for_state(kind: type) -> bool:
    """Whether an instance that has nothing yet would be asked, by its own `__getattr__`, for a `__setstate__`."""
    own = [vars(each) for each in kind.__mro__]
    return any("__getattr__" in each for each in own) and not any("__setstate__" in each for each in own)


def _unasked(reduce: Reducer) -> Reducer:
    """Have the state of instances set without such a question: `__getattr__` may need just that state to answer."""

    def reduce_unasked(reducers: Reducers, thing: Any) -> Any:
        reduced = reduce(reducers, thing)
        if type(reduced) is not tuple or len(reduced) <= _STATE:
            return reduced
        make, arguments, state, *rest = reduced
        parts = state if type(state) is tuple and len(state) == _BOTH else (state,)
        if (
            state is None
            or not all(part is None or type(part) is dict for part in parts)
            or rest[2:] not in ([], [None])
        ):
            return reduced
        return make, arguments, state, *(*rest, None, None)[:2], rebuild.set_state

    return reduce_unasked


#: A state may be that of the dict and that of the slots.
_BOTH = 2


def _reduces_itself(kind: Any) -> bool:
    """Whether it is one of numpy's that are reduced in C: no code runs that could draw, print or take its time."""
    named = kind.__module__ in _NUMPY and importable(kind) and kind.__reduce_ex__ is object.__reduce_ex__
    return named and type(kind.__reduce__) is types.MethodDescriptorType


_NUMPY = frozenset({"numpy", "numpy.dtypes"})


def reduce_in_c(reducers: Reducers, thing: Any) -> Any:
    """Store a type or a number of numpy's: what a hook would be guarded against takes far longer than all of it."""
    if type(thing) in copyreg.dispatch_table:
        return reduce_by_hook(reducers, thing)
    return checked(reducers, thing, thing.__reduce_ex__(PROTOCOL))


def _has_own_hook(kind: type) -> bool:
    """Whether code of the session says how instances are stored."""
    if importable(kind):
        return False
    own = [vars(each) for each in kind.__mro__ if not importable(each)]
    return type(kind) is not type or not all(map(_HOOKS.isdisjoint, own))


def reduce_by_own_hook(reducers: Reducers, thing: Any) -> Any:
    """Store `thing` the way code of the session says, unless that code is not to run now."""
    reducers.hooked = True
    if not reducers.hooks_run:
        return rebuild.lost, ("", "", "")
    return reduce_by_hook(reducers, thing)


def reduce_by_hook(reducers: Reducers, thing: Any) -> Any:
    """Store `thing` the way its own class says, checked so that the pickler cannot fail on it later."""
    kind = type(thing)
    registered = copyreg.dispatch_table.get(kind)
    if registered is not None:
        if not importable(registered):
            reducers.hooked = True
            if not reducers.hooks_run:
                return rebuild.lost, ("", "", "")
        reduced = reducers.watch.call(registered, thing)
    else:
        reduced = reducers.watch.call(thing.__reduce_ex__, PROTOCOL)
    if _is_bare(reduced):
        # Nothing but its class: if a library compares with it by identity, it must be the library's own.
        named = reducers.sentinel(thing)
        if named is not None:
            return rebuild.attribute, named
    named = _global_of_library(thing, reduced)
    if named is not None:
        return rebuild.attribute, named
    return checked(reducers, thing, reduced)


def _global_of_library(thing: Any, reduced: Any) -> tuple[types.ModuleType, str] | None:
    """Return module and name of an object that its library keeps under the name that it says it has.

    As functions do: some of SciPy's are instances, with parts that no pickle can hold.
    """
    state = reduced[_STATE] if type(reduced) is tuple and len(reduced) > _STATE else None
    name = state.get("__name__") if type(state) is dict else None
    kind = type(thing)
    if type(name) is not str or not importable(kind):
        return None
    home = kind.__module__
    while home:
        module = sys.modules.get(home)
        if module is not None and vars(module).get(name) is thing:
            return module, name
        home = home.rpartition(".")[0]
    return None


#: Where a reduction has the state.
_STATE = 2


def _is_bare(reduced: Any) -> bool:
    """Whether a reduction is that of an instance without any state."""
    return (
        type(reduced) is tuple
        and reduced[0] is copyreg.__newobj__  # type: ignore[attr-defined]
        and len(reduced[1]) == 1
        and all(part is None for part in reduced[2:])
    )


def checked(reducers: Reducers, thing: Any, reduced: Any) -> Any:
    """Return `reduced` in a form that the pickler accepts, or raise what it would raise."""
    if isinstance(reduced, str):
        _check_global(thing, reduced)
        return reduced
    if not isinstance(reduced, tuple) or len(reduced) not in _PARTS:
        message = f"its reduction is {type(reduced).__name__}, not a string or a tuple of 2 to 6"
        raise pickle.PicklingError(message)
    make, arguments, *rest = reduced
    if not callable(make) or not isinstance(arguments, tuple):
        message = "its reduction does not begin with a function and a tuple of arguments"
        raise pickle.PicklingError(message)
    if make is copyreg.__newobj__ and (not arguments or arguments[0] is not thing.__class__):  # type: ignore[attr-defined]
        make, arguments = rebuild.new_object, (arguments[0], *arguments)
    for place, items in enumerate(rest[1:3], start=1):
        if items is not None and type(items) not in _SAFE_ITERATORS:
            rest[place] = iter(reducers.watch.call(list, items))
    if len(rest) == len(_PARTS) - 1 and rest[-1] is not None and not callable(rest[-1]):
        message = "the sixth part of its reduction is not a function"
        raise pickle.PicklingError(message)
    return (make, arguments, *rest)


def _check_global(thing: Any, name: str) -> None:
    module = getattr(thing, "__module__", None) or pickle.whichmodule(thing, name)  # type: ignore[attr-defined]
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is not thing:
        message = f"it says it is {module}.{name}, and is not"
        raise pickle.PicklingError(message)
    if module == "__main__":
        message = "it says it is a variable of the session, which may come back later than it"
        raise pickle.PicklingError(message)


def _say(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:300]}" if text else type(error).__name__
