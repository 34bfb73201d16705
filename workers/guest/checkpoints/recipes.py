"""Values that pickle cannot store, or would store wrongly: remade by a recipe, or refused with a reason.

1. A recipe is used only where what comes back means the same; in what it differs is said in the report.
2. Nothing alive is ever brought back as a dead object of the same class: a thread without a thread behind it is
   worse than an error that says so.
"""

from __future__ import annotations

import enum
import sys
import threading
import types
import weakref
from typing import TYPE_CHECKING, Any

from . import arrays, caches, databases, definitions, ended, handles, live, readers, rebuild, suspended, tracebacks
from .lost import Lost, describe, kept_of
from .salvage import reduced

if TYPE_CHECKING:
    from collections.abc import Callable

    from .pickler import Reducers

    Recipe = Callable[[Reducers, Any], Any]


def name_kind(thing: Any) -> str:
    """Say in words what kind of thing `thing` is."""
    kind = type(thing)
    if issubclass(kind, types.GeneratorType | types.CoroutineType | types.AsyncGeneratorType):
        return f"{_WORDS[kind]} of {thing.__qualname__}()"
    if issubclass(kind, threading.Thread):
        return f"thread {thing.name!r}"
    word = _WORDS.get(kind)
    if word is not None:
        return word
    module = "" if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}."
    return f"an object of {module}{kind.__qualname__}"


_WORDS: dict[type, str] = {
    types.GeneratorType: "the generator",
    types.CoroutineType: "the coroutine",
    types.AsyncGeneratorType: "the asynchronous generator",
    types.FrameType: "a stack frame",
    types.TracebackType: "a traceback",
    types.FunctionType: "a function",
}


def reduce_lost(reducers: Reducers, thing: Lost) -> Any:
    what, why, where = describe(thing)
    kept = kept_of(thing)
    return reducers.lose(thing, why, what, where) if kept is None else reducers.leave(thing, why, what, reduced(kept))


def refuse(why: str) -> Recipe:
    """Return a recipe that leaves the value behind because of `why`."""

    def reduce_refused(reducers: Reducers, thing: Any) -> Any:
        return reducers.lose(thing, why)

    return reduce_refused


def reduce_weak_reference(reducers: Reducers, reference: weakref.ref[Any]) -> Any:
    target = reference()
    if target is None:
        try:
            return rebuild.dead_reference, (hash(reference),)
        except TypeError:
            return rebuild.dead_reference, ()
    if reference.__callback__ is not None:
        reducers.rebuilt(reference, "nothing is called any more when what it refers to goes")
    return rebuild.wrapped, (weakref.ref, target)


def reduce_weak_proxy(_reducers: Reducers, proxy: Any) -> Any:
    try:
        # A proxy passes everything on but the method's owner, which is what it stands for.
        target = proxy.__reduce_ex__.__self__
    except ReferenceError:
        return rebuild.dead_proxy, ()
    return rebuild.wrapped, (weakref.proxy, target)


def reduce_weak_set(_reducers: Reducers, items: weakref.WeakSet[Any]) -> Any:
    return rebuild.weak_set, (list(items),)


REDUCERS: dict[type, Recipe] = {
    **live.REDUCERS,
    **caches.REDUCERS,
    **suspended.REDUCERS,
    **readers.REDUCERS,
    Lost: reduce_lost,
    arrays.Detached: arrays.reduce_detached,
    types.FrameType: refuse("stack frames do not survive a restore"),
    types.TracebackType: tracebacks.reduce_traceback,
    weakref.ref: reduce_weak_reference,
    weakref.ProxyType: reduce_weak_proxy,
    weakref.CallableProxyType: reduce_weak_proxy,
    weakref.WeakSet: reduce_weak_set,
}

# Asked in order for a type that has no entry of its own.
_BY_BASE: list[tuple[type, Recipe]] = [
    *live.BY_BASE,
    (enum.Enum, definitions.reduce_enum_member),
    *ended.BY_BASE,
]

_REMAKE = "or make it by perdure.recompute(function)"
INSTEAD = f"make it where it is used, {_REMAKE}"
_MIDDLE = "it cannot be stored in the middle; make it, use it and let go of it (del) in one function or statement"

_DIGEST = "it cannot be stored in the middle; keep h.hexdigest(), and let go of it (del h)"
_TREE = "keep etree.tostring(it), and parse that again"

# What no recipe brings back, by the full name of its type, with what to do: Python only says that it cannot be pickled.
_INSTEAD: dict[str, str] = {
    **dict.fromkeys(("_hashlib.HASH", "_hashlib.HASHXOF", "_hashlib.HMAC"), _DIGEST),
    **dict.fromkeys(("_blake2.blake2b", "_blake2.blake2s"), _DIGEST),
    **dict.fromkeys(("zlib.Compress", "zlib.Decompress", "_bz2.BZ2Compressor", "_lzma.LZMACompressor"), _MIDDLE),
    **dict.fromkeys(("_pickle.Pickler", "_pickle.Unpickler"), _MIDDLE),
    **dict.fromkeys(("lxml.etree._Element", "lxml.etree._ElementTree"), _TREE),
    "_contextvars.Token": "it belongs to this process; keep token.old_value, and set that again",
    "_sre.SRE_Scanner": "what it has not found yet cannot be seen; keep the matches in a list",
    "_struct.unpack_iterator": "it cannot be stored in the middle; keep its results in a list",
    "cProfile.Profile": "keep pstats.Stats(profile) or its text, and let go of it (del)",
    "itertools.batched": "it cannot be stored in the middle; keep its results in a list",
    "itertools.pairwise": "it cannot be stored in the middle; keep its results in a list",
    "mmap.mmap": f"close it, and map the file again where it is used, {_REMAKE}",
    "numpy.flatiter": "keep the array, and take array.flat where it is used",
    "numpy.nditer": f"it cannot be stored in the middle; make it where it is used, {_REMAKE}",
    "random.SystemRandom": f"it has no state; {INSTEAD}",
    "ssl.SSLContext": f"settings of connections do not survive a restore; make it where it is used, {_REMAKE}",
}

# The same, for libraries that are looked up only once the session has imported them.
_BY_LIBRARY: list[tuple[str, str, Recipe]] = [
    ("numpy", "ndarray", arrays.reduce_array),
    ("pandas._libs.internals", "Block", arrays.reduce_holder),
    ("pandas._libs.arrays", "NDArrayBacked", arrays.reduce_holder),
    ("asyncio.mixins", "_LoopBoundMixin", live.reduce_loop_bound),
    ("sqlite3", "Connection", databases.reduce_connection),
    ("sqlite3", "Cursor", databases.reduce_cursor),
    ("sqlite3", "Row", databases.reduce_row),
    ("logging", "Logger", live.reduce_logger),
    *ended.BY_LIBRARY,
    *readers.BY_LIBRARY,
    *handles.BY_LIBRARY,
    ("concurrent.futures._base", "Executor", refuse("its workers do not survive a restore; make it again")),
    ("asyncio", "AbstractEventLoop", refuse("event loops do not survive a restore; make a new one")),
    ("socket", "socket", refuse("connections do not survive a restore; connect again")),
    ("subprocess", "Popen", refuse("processes do not survive a restore; start it again")),
    ("multiprocessing.process", "BaseProcess", refuse("processes do not survive a restore; start it again")),
]


def by_base(kind: type) -> Recipe | None:
    """Return the recipe of the first base of `kind` that has one."""
    for base, recipe in _BY_BASE:
        if issubclass(kind, base):
            return recipe
    for module, name, recipe in _BY_LIBRARY:
        library = sys.modules.get(module)
        found = getattr(library, name, None)
        if isinstance(found, type) and issubclass(kind, found):
            return recipe
    name = f"{kind.__module__}.{kind.__qualname__}"
    return handles.BY_NAME.get(name) or (refuse(_INSTEAD[name]) if name in _INSTEAD else None)
