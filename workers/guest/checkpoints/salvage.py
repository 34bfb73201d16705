"""Loading what can be loaded of a segment that fails: a stand-in takes the place of the deepest object that failed.

1. It is slow, and used only for a segment that the C unpickler could not load. Nothing of that attempt is used.
2. No object is left half made: where something else refers to one that then fails, the segment is loaded once more,
   with the stand-in in its place from the start.
3. A stand-in keeps what its object is made of. It is stored with it, so that a restore where the object can be made
   makes it, with everything that it shares with others.
"""

from __future__ import annotations

import copyreg
import io
import pickle
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from . import rebuild, report
from .lost import Kept, Lost, describe, kept_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["NotSalvaged", "reduced", "salvage"]

#: How often a segment is loaded at most; each time fewer of its objects fail late.
PASSES = 16

_Unpickler: Any = vars(pickle)["_Unpickler"]
_new_object: Any = vars(copyreg)["__newobj__"]
_new_object_ex: Any = vars(copyreg)["__newobj_ex__"]


class NotSalvaged(Exception):
    """A segment of which nothing can be loaded."""


@dataclass(slots=True)
class _Made:
    """An object that was made in this pass, and of what."""

    thing: Any
    position: int
    kept: Kept
    entry: int = -1
    """Its number in the memo."""
    used: bool = False
    """Whether something else refers to it by now."""


@dataclass(slots=True)
class _State:
    """What is known of a segment from one pass to the next."""

    reasons: dict[int, str] = field(default_factory=dict)
    """Why what is made at a position of the stream is a stand-in from the start."""
    again: bool = False


def salvage(
    segment: bytes,
    buffers: Sequence[Any],
    memo: Sequence[Any],
    find_class: Callable[[str, str], Any],
    look_up: Callable[[Any], Any],
    guard: Callable[..., Any],
) -> tuple[list[Any], list[Any]]:
    """Return the list that a segment holds, and the memo after it.

    `memo` is the memo before it, `guard` calls what may be code of the session. Raises NotSalvaged.
    """
    state = _State()
    before = len(rebuild.stand_ins)
    for _ in range(PASSES):
        del rebuild.stand_ins[before:]
        state.again = False
        reader = _Salvaging(segment, buffers, memo, state)
        reader.find_class, reader.persistent_load, reader.guard = find_class, look_up, guard
        try:
            box = reader.load()
        except BaseException as error:
            del rebuild.stand_ins[before:]
            raise NotSalvaged(str(error)) from error
        if not state.again:
            return box, [reader.memo[entry] for entry in range(len(reader.memo))]
    del rebuild.stand_ins[before:]
    raise NotSalvaged


class _Salvaging(_Unpickler):  # type: ignore[misc] # its methods are known to no type checker
    """Reads one segment, and puts stand-ins where an object cannot be made."""

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(_Unpickler.dispatch)
    memo: dict[int, Any]
    stack: list[Any]
    guard: Callable[..., Any]

    def __init__(self, segment: bytes, buffers: Sequence[Any], memo: Sequence[Any], state: _State) -> None:
        self._file = io.BytesIO(segment)
        super().__init__(self._file, buffers=iter(buffers))
        self._segment = segment
        self._of_buffers = {id(buffer) for buffer in buffers}
        self.memo = dict(enumerate(memo))
        self._state = state
        self._made: dict[int, _Made] = {}

    # -- stand-ins ------------------------------------------------------------------------------------------------

    def _lost(self, kept: Kept, why: str) -> Lost:
        cause = kept.cause()
        if cause is not None:
            why = describe(cause)[1]
        kept.args = tuple(map(self._outside, kept.args))
        kept.state = self._outside(kept.state)
        made = Lost(_name(kept), why, kept=kept)
        rebuild.stand_ins.append(made)
        return made

    def _outside(self, thing: Any) -> Any:
        """Return `thing` with the buffers in it as what is stored beside the stream."""
        if id(thing) in self._of_buffers:
            return pickle.PickleBuffer(thing)
        return tuple(map(self._outside, thing)) if type(thing) is tuple else thing

    def _make(self, make: Any, args: tuple[Any, ...]) -> Any:
        """Return what `make` makes, or what stands for it."""
        position = self._file.tell()
        if make is rebuild.again:
            make, args = args
        kept = Kept(make, args)
        why = self._state.reasons.get(position)
        if why is None and kept.cause() is None:
            try:
                made = self.guard(make, *args)
            except BaseException as error:
                why = _say(error)
            else:
                self._note(made, position, kept)
                return made
        return self._lost(kept, why or "")

    def _note(self, made: Any, position: int, kept: Kept) -> None:
        self._made[id(made)] = _Made(made, position, kept)

    def _fail(self, place: int, error: BaseException) -> None:
        """Put a stand-in in the place of an object on the stack, whose making failed after it was there."""
        made = self._made.get(id(self.stack[place]))
        if made is None or made.thing is not self.stack[place]:
            raise error
        if made.used:
            self._state.again = True
            self._state.reasons[made.position] = _say(error)
        lost = self._lost(made.kept, _say(error))
        self.stack[place] = lost
        if made.entry >= 0:
            self.memo[made.entry] = lost

    # -- opcodes --------------------------------------------------------------------------------------------------

    def load_stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        try:
            found = self.find_class(module, name)
        except BaseException as error:
            found = self._lost(Kept(rebuild.found, (module, name)), _say(error))
        self.stack.append(found)

    def load_reduce(self) -> None:
        args = self.stack.pop()
        make = self.stack[-1]
        if self._next() != pickle.POP or len(args) != len(("thing", "state")):
            self.stack[-1] = self._make(make, args)
            return
        # It sets the state of what was made before it, and what it returns is thrown away.
        thing, state = args
        kept = kept_of(thing) if type(thing) is Lost else self._kept(thing)
        if kept is not None:
            kept.setter, kept.state = make, state
        if type(thing) is Lost and kept is not None:
            kept.state = self._outside(state)
            return
        try:
            self.guard(make, thing, state)
        except BaseException as error:
            self._fail(-2, error)

    def load_newobj(self) -> None:
        args = self.stack.pop()
        self.stack.append(self._make(_new_object, (self.stack.pop(), *args)))

    def load_newobj_ex(self) -> None:
        named, args, kind = self.stack.pop(), self.stack.pop(), self.stack.pop()
        self.stack.append(self._make(_new_object_ex, (kind, args, named)))

    def load_build(self) -> None:
        depth = len(self.stack) - 1
        thing, state = self.stack[-2:]
        kept = kept_of(thing) if type(thing) is Lost else self._kept(thing)
        if kept is not None:
            kept.state = state
        if type(thing) is Lost:
            if kept is not None:
                kept.state = self._outside(state)
            self.stack.pop()
            return
        try:
            self.guard(super().load_build)
        except BaseException as error:
            del self.stack[depth:]
            self._fail(-1, error)

    def load_appends(self) -> None:
        items: list[Any] = self.pop_mark()
        self._fill(items, "items", super().load_appends)

    def load_append(self) -> None:
        self._fill([self.stack.pop()], "items", super().load_appends)

    def load_setitems(self) -> None:
        items: list[Any] = self.pop_mark()
        self._fill(items, "pairs", super().load_setitems)

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._fill([key, value], "pairs", super().load_setitems)

    def load_additems(self) -> None:
        items: list[Any] = self.pop_mark()
        self._fill(items, "elements", super().load_additems)

    def _fill(self, items: list[Any], what: str, fill: Callable[[], None]) -> None:
        thing = self.stack[-1]
        kept = kept_of(thing) if type(thing) is Lost else self._kept(thing)
        if kept is not None:
            getattr(kept, what).extend(items)
        if type(thing) is Lost:
            return
        depth = len(self.stack)
        self.metastack.append(self.stack)
        self.stack = list(items)
        self.append = self.stack.append
        try:
            self.guard(fill)
        except BaseException as error:
            del self.stack[depth:]
            self._fail(-1, error)

    def load_frozenset(self) -> None:
        items: list[Any] = self.pop_mark()
        self.stack.append(self._make(frozenset, (items,)))

    def load_empty_set(self) -> None:
        self.stack.append(self._make(set, ()))

    def load_empty_dictionary(self) -> None:
        self.stack.append(self._make(dict, ()))

    def load_memoize(self) -> None:
        made = self._made.get(id(self.stack[-1]))
        if made is not None and made.thing is self.stack[-1] and made.entry < 0:
            made.entry = len(self.memo)
        super().load_memoize()

    def load_binget(self) -> None:
        super().load_binget()
        self._use()

    def load_long_binget(self) -> None:
        super().load_long_binget()
        self._use()

    def _use(self) -> None:
        made = self._made.get(id(self.stack[-1]))
        if made is not None:
            made.used = True

    def _kept(self, thing: Any) -> Kept | None:
        made = self._made.get(id(thing))
        return made.kept if made is not None else None

    def _next(self) -> bytes:
        at = self._file.tell()
        return self._segment[at : at + 1]


for _opcode, _load in (
    (pickle.STACK_GLOBAL, _Salvaging.load_stack_global),
    (pickle.REDUCE, _Salvaging.load_reduce),
    (pickle.NEWOBJ, _Salvaging.load_newobj),
    (pickle.NEWOBJ_EX, _Salvaging.load_newobj_ex),
    (pickle.BUILD, _Salvaging.load_build),
    (pickle.APPENDS, _Salvaging.load_appends),
    (pickle.APPEND, _Salvaging.load_append),
    (pickle.SETITEMS, _Salvaging.load_setitems),
    (pickle.SETITEM, _Salvaging.load_setitem),
    (pickle.ADDITEMS, _Salvaging.load_additems),
    (pickle.FROZENSET, _Salvaging.load_frozenset),
    (pickle.EMPTY_SET, _Salvaging.load_empty_set),
    (pickle.EMPTY_DICT, _Salvaging.load_empty_dictionary),
    (pickle.MEMOIZE, _Salvaging.load_memoize),
    (pickle.BINGET, _Salvaging.load_binget),
    (pickle.LONG_BINGET, _Salvaging.load_long_binget),
):
    _Salvaging.dispatch[_opcode[0]] = _load


def _say(error: BaseException) -> str:
    return f"it could not be restored: {type(error).__name__}: {error}"


# -- what a stand-in is called, and how it is stored ----------------------------------------------------------------


def reduced(kept: Kept) -> tuple[Any, ...]:
    """Return how a stand-in is stored that keeps what its object is made of."""
    state, setter = kept.state, kept.setter
    if kept.elements:
        state, setter = kept.elements, rebuild.add_elements
    items = iter(kept.items) if kept.items else None
    pairs = iter(list(zip(kept.pairs[::2], kept.pairs[1::2], strict=True))) if kept.pairs else None
    made = rebuild.again, (kept.make, kept.args), state, items, pairs
    return (*made, setter) if setter is not None else made


def _name(kept: Kept) -> str:
    make, args = kept.make, kept.args
    if make is rebuild.found:
        return ".".join(map(str, args))
    if make is rebuild.new_class:
        return f"the class {args[1]}"
    if make is rebuild.function:
        return f"the function {args[2]}"
    if any(make is each for each in (set, frozenset, dict)):
        return f"a {make.__name__}"
    kind: Any = make if issubclass(type(make), type) else args[0] if args else None
    if type(kind) is Lost:
        return f"an object of type {describe(kind)[0].removeprefix('the class ')}"
    if issubclass(type(kind), type):
        return f"an object of type {report.class_name(kind)}"
    if type(make) is Lost:
        return f"what {describe(make)[0]} makes"
    return "a value"
