"""State of the process that belongs to the session: environment, folder, search path, generators, contexts.

What the guest was born with belongs to the machine; what the code changed since belongs to the session. So the
changes are stored, and put on top of whatever the next guest is born with.
"""

from __future__ import annotations

import copy
import importlib
import os
import sys
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def _folder() -> str:
    try:
        return os.getcwd()
    except OSError:
        return "/"


class Birth:
    """What this process had before any code of the session ran."""

    def __init__(self) -> None:
        self.environ = dict(os.environ)
        self.encoded = dict(getattr(os.environ, "_data", {}))
        self.path = list(sys.path)
        self.cwd = _folder()
        self.filters = list(warnings.filters)
        self.recursion = sys.getrecursionlimit()
        self.loggers = _loggers()


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


class _Options:
    """The options of pandas that code changed, as JSON data; what is no plain value stays out."""

    def __init__(self) -> None:
        self._seen: dict[str, Any] | None = None
        self._found: dict[str, Any] = {}

    def changed(self) -> dict[str, Any]:
        config: Any = sys.modules.get("pandas._config.config")
        everything = getattr(config, "_global_config", None)
        # Nobody gives two answers to one question: it is looked at in full only when something in it changed.
        if everything is None or everything == self._seen:
            return self._found
        self._seen = copy.deepcopy(everything)
        self._found = {}
        for key, option in config._registered_options.items():
            found: Any = everything
            for part in key.split("."):
                found = found[part]
            if type(found) in (int, float, str, bool, type(None)) and found != option.defval:
                self._found[key] = found
        return self._found


_options = _Options()

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
    if _folder() != birth.cwd:
        early["cwd"] = _folder()
    if sys.getrecursionlimit() != birth.recursion:
        early["recursion"] = sys.getrecursionlimit()
    loggers = _loggers()
    if loggers != birth.loggers:
        early["loggers"] = loggers
    options = _options.changed()
    if options:
        early["pandas"] = options
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
    os.environ.clear()
    os.environ.update(birth.environ)
    os.environ.update(early.get("environ", {}))
    for name in early.get("removed", []):
        os.environ.pop(name, None)
    path = early.get("path")
    if path is None:
        sys.path[:] = birth.path
    else:
        sys.path[:] = [entry if isinstance(entry, str) else birth.path[entry] for entry in path if _known(entry)]
    sys.setrecursionlimit(early.get("recursion", birth.recursion))
    folder = early.get("cwd", birth.cwd)
    try:
        if folder != _folder():
            os.chdir(folder)
    except OSError as error:
        return [f"the current folder {folder!r} is not there: {error.strerror}"]
    return []


def _known(entry: str | int) -> bool:
    return isinstance(entry, str) or entry < len(birth.path)


def capture_late() -> dict[str, Any]:
    """Return the state that is put back after everything else, as values to pickle."""
    late: dict[str, Any] = {}
    if "random" in sys.modules:
        late["random"] = sys.modules["random"].getstate()
    if "decimal" in sys.modules:
        late["decimal"] = sys.modules["decimal"].getcontext().copy()
    if "logging" in sys.modules:
        late["logging"] = sys.modules["logging"].getLogger()
    if "numpy.random" in sys.modules:
        late["numpy"] = sys.modules["numpy.random"].get_state(legacy=False)
    if list(warnings.filters) != birth.filters:
        late["warnings"] = list(warnings.filters)
    return late


def mark(key: str, value: Any) -> Any:
    """Return what is equal as long as a part of `capture_late` is; None where only a look at all of it tells."""
    if key == "random":
        return value
    if key == "numpy":
        state = value["state"]
        return repr({**value, "state": None}), {
            name: bytes(part) if name == "key" else part for name, part in state.items()
        }
    if key == "decimal":
        return repr(value)
    return None


def apply_late(late: dict[str, Any], early: Mapping[str, Any]) -> None:
    """Put back what `capture_late` returned, and what of `capture_early` needs libraries."""
    _set_loggers(early.get("loggers", birth.loggers))
    if "pandas" in early:
        _set_options(early["pandas"])
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


def _set_options(options: Mapping[str, Any]) -> None:
    try:
        pandas = importlib.import_module("pandas")
    except ImportError:
        return  # what the session has of it says so itself
    for key, value in options.items():
        try:
            pandas.set_option(key, value)
        except Exception:  # noqa: S110 - of another version: it has other options
            pass
