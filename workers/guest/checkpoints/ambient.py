"""State of the process that belongs to the session: environment, folder, search path, generators, contexts.

What the guest was born with belongs to the machine; what the code changed since belongs to the session. So the
changes are stored, and put on top of whatever the next guest is born with.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from typing import TYPE_CHECKING, Any

from . import options
from .identity import memory
from .inside import lies_inside
from .standing import CSV_FIELD, Standing, csv_field, current_folder, is_plain_filter, loggers_set_up

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


class Birth:
    """What this process had before any code of the session ran."""

    def __init__(self) -> None:
        self.environ = dict(os.environ)
        self.encoded = dict(getattr(os.environ, "_data", {}))
        self.path = list(sys.path)
        self.cwd = current_folder()
        self.filters = list(warnings.filters)
        self.recursion = sys.getrecursionlimit()
        self.loggers = _loggers()
        self.silenced = _silenced()


def _loggers() -> dict[str, list[Any]]:
    """Return level, and whether it is disabled and hands on, of every logger but the root that was given any."""
    module = sys.modules.get("logging")
    if module is None:
        return {}
    nobody = module.PlaceHolder
    return {
        name: [logger.level, bool(logger.disabled), bool(logger.propagate)]
        for name, logger in list(module.Logger.manager.loggerDict.items())
        if type(logger) is not nobody and (logger.level or logger.disabled or not logger.propagate)
    }


def _silenced() -> Any:
    """Return up to which level all logging is disabled; 0 where it is not."""
    module = sys.modules.get("logging")
    return module.root.manager.disable if module is not None else 0


birth = Birth()


def reborn() -> None:
    """Take what the process has now as what it was born with: call it once, before the first code runs."""
    global birth  # noqa: PLW0603 - one guest, one birth
    birth = Birth()


def capture_early() -> dict[str, Any]:
    """Return the changes that must be in place before anything is imported or opened, as JSON data."""
    changed, removed = _environment()
    early: dict[str, Any] = {}
    if changed:
        early["environ"] = changed
    if removed:
        early["removed"] = removed
    if sys.path != birth.path:
        places = {entry: place for place, entry in reversed(list(enumerate(birth.path)))}
        early["path"] = [places.get(entry, entry) for entry in sys.path]
    folder = current_folder()
    if folder != birth.cwd:
        early["cwd"] = folder
    if sys.getrecursionlimit() != birth.recursion:
        early["recursion"] = sys.getrecursionlimit()
    if csv_field() != CSV_FIELD:
        early["csv_field"] = csv_field()
    loggers, silenced = _loggers(), _silenced()
    if loggers != birth.loggers:
        early["loggers"] = loggers
    if silenced != birth.silenced:
        early["silenced"] = silenced
    found = options.changed()
    if found:
        early["options"] = found
    return early


def _environment() -> tuple[dict[str, str], list[str]]:
    # The encoded form is compared first: to decode it takes longer than the rest of a small checkpoint.
    encoded = getattr(os.environ, "_data", None)
    if encoded is not None and encoded == birth.encoded:
        return {}, []
    changed = {name: value for name, value in os.environ.items() if birth.environ.get(name) != value}
    return changed, [name for name in birth.environ if name not in os.environ]


def apply_early(early: dict[str, Any]) -> list[str]:
    """Make the process as `early` says; return what could not be done, in words."""
    wanted = birth.environ | early.get("environ", {})
    for name in early.get("removed", []):
        wanted.pop(name, None)
    # Only what differs: to set a variable is a call of the system's library, and an environment has many.
    now = dict(os.environ)
    for name in now.keys() - wanted.keys():
        del os.environ[name]
    for name, value in wanted.items():
        if now.get(name) != value:
            os.environ[name] = value
    path = early.get("path")
    if path is None:
        sys.path[:] = birth.path
    else:
        sys.path[:] = [entry if isinstance(entry, str) else birth.path[entry] for entry in path if _known(entry)]
    sys.setrecursionlimit(early.get("recursion", birth.recursion))
    if "_csv" in sys.modules or "csv_field" in early:
        importlib.import_module("_csv").field_size_limit(early.get("csv_field", CSV_FIELD))
    folder = early.get("cwd", birth.cwd)
    try:
        if folder != current_folder():
            os.chdir(folder)
    except OSError as error:
        return [f"the current folder {folder!r} is not there: {error.strerror}"]
    return []


def _known(entry: str | int) -> bool:
    return isinstance(entry, str) or entry < len(birth.path)


def capture_late(seen: dict[str, Any] | None = None, standing: Standing | None = None) -> dict[str, Any]:
    """Return the state that is put back after everything else, as values to pickle.

    `seen` has what `peek` gave for parts that are known: a part that is still the same is `UNREAD`. So are the filters
    of warnings where `standing` is given, which lasts.
    """
    late: dict[str, Any] = {}
    for key, (module, read_from) in _SOURCES.items():
        if module in sys.modules:
            before = seen.get(key) if seen is not None else None
            same = before is not None and before == peek(key)
            late[key] = UNREAD if same else read_from(sys.modules[module])
    if "logging" in sys.modules and (standing is None or standing.loggers):
        loggers = loggers_set_up(sys.modules["logging"])
        if loggers:
            late["loggers"] = loggers
    if warnings.filters != birth.filters:
        late["warnings"] = list(warnings.filters) if standing is None else UNREAD
    return late


def read(key: str) -> Any:
    """Return one part of `capture_late`."""
    return capture_late()[key]


#: What to call these states; none of it is a name that a variable can have.
WORDS = {
    "random": "the generator of random",
    "decimal": "the decimal context",
    "logging": "the handlers of the root logger",
    "loggers": "the handlers of loggers",
    "numpy": "the generator of numpy.random",
    "warnings": "the filters of warnings",
}


class _Unread:
    """Stands for a state that was not read."""


UNREAD = _Unread()

_SOURCES: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "random": ("random", lambda random: random.getstate()),
    "decimal": ("decimal", lambda decimal: decimal.getcontext().copy()),
    "logging": ("logging", lambda logging: logging.getLogger()),
    "numpy": ("numpy.random", lambda random: random.get_state(legacy=False)),
}


def peek(key: str) -> Any:
    """Return what is equal as long as a generator's or context's state is; None if only reading it tells."""
    if key == "random":
        generator: Any = getattr(sys.modules["random"].getstate, "__self__", None)
        if type(generator) is sys.modules["random"].Random and lies_inside(type(generator)):
            return memory(generator), generator.gauss_next
    if key == "numpy":
        module: Any = sys.modules["numpy.random"]
        generator = getattr(module.get_state, "__self__", None)
        if type(generator) is module.RandomState and lies_inside(type(generator)):
            source = generator._bit_generator
            return (memory(generator), memory(source)) if type(source) is module.MT19937 else None
    if key == "decimal":
        decimal: Any = sys.modules["decimal"]
        context = decimal.getcontext()
        return memory(context) if type(context) is decimal.Context and lies_inside(decimal.Context) else None
    return None


def mark(key: str, value: Any, before: Any = None) -> Any:
    """Return what is equal as long as a part of `capture_late` is; None where only a look at all of it tells.

    `before` is what it was the last time.
    """
    if key == "random":
        return value
    if key == "numpy":
        state = value["state"]
        return repr({**value, "state": None}), {
            name: bytes(part) if name == "key" else part for name, part in state.items()
        }
    if key == "decimal":
        return repr(value)
    if key == "logging" and not value.handlers:
        return value.level, value.propagate, value.disabled
    if key == "warnings" and (value == before or all(map(is_plain_filter, value))):
        # Held, so that the same filters are found by identity.
        return value
    return None


def apply_late(late: dict[str, Any], early: Mapping[str, Any]) -> None:
    """Put back what `capture_late` returned, and what of `capture_early` needs libraries."""
    _set_loggers(early.get("loggers", birth.loggers))
    if _silenced() != early.get("silenced", birth.silenced):
        importlib.import_module("logging").disable(early.get("silenced", birth.silenced))
    options.apply({"pandas": early.get("pandas", {}), **early.get("options", {})})
    if "random" in late:
        importlib.import_module("random").setstate(late["random"])
    if "decimal" in late:
        importlib.import_module("decimal").setcontext(late["decimal"])
    if "numpy" in late:
        importlib.import_module("numpy.random").set_state(late["numpy"])
    warnings.filters[:] = late.get("warnings", birth.filters)  # type: ignore[index]
    # The only public way to make the module notice that its filters changed.
    with warnings.catch_warnings():
        pass


def _set_loggers(loggers: Mapping[str, Sequence[Any]]) -> None:
    if not loggers and "logging" not in sys.modules:
        return
    logging = importlib.import_module("logging")
    for name in _loggers().keys() - loggers.keys():
        logger = logging.getLogger(name)
        logger.setLevel(0)
        logger.disabled, logger.propagate = False, True
    for name, (level, disabled, propagate) in loggers.items():
        logger = logging.getLogger(name)
        logger.setLevel(level)
        logger.disabled, logger.propagate = disabled, propagate
