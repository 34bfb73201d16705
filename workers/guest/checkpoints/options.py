"""Options that code sets in a library for the whole process: stored as JSON data, and put back.

They are compared with the library's own defaults, not with what it had here: the next guest imports it anew.
"""

from __future__ import annotations

import enum
import importlib
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["apply", "as_configured", "changed", "configured", "unkept"]

_SCALARS = (int, float, str, bool, type(None))

#: What numpy starts with; an option that is not here is left to the library.
_ERRORS = {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"}
_PRINTED = {
    "edgeitems": 3, "threshold": 1000, "floatmode": "maxprec", "precision": 8, "suppress": False, "linewidth": 75,
    "nanstr": "nan", "infstr": "inf", "sign": "-", "formatter": None, "legacy": False, "override_repr": None,
}  # fmt: skip


class _Library(NamedTuple):
    """One kind of options: the module to look at, and to import; what they are kept in; all of them; set; set back."""

    module: str
    imported: str
    kept_in: Callable[[Any], dict[Any, Any]]
    now: Callable[[Any, dict[Any, Any]], dict[str, Any]]
    default: Callable[[Any, str], Any]
    set: Callable[[Any, str, Any], Any]


def _pandas_options(config: Any, kept_in: dict[Any, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key in config._registered_options:
        value: Any = kept_in
        for part in key.split("."):
            value = value[part]
        found[key] = value
    return found


def _matplotlib_default(matplotlib: Any, key: str) -> Any:
    return dict.get(matplotlib.rcParamsOrig, key)


_LIBRARIES: dict[str, _Library] = {
    "pandas": _Library(
        "pandas._config.config",
        "pandas",
        lambda config: config._global_config,
        _pandas_options,
        lambda config, key: config._registered_options[key].defval,
        lambda pandas, key, value: pandas.set_option(key, value),
    ),
    "numpy's errors": _Library(
        "numpy",
        "numpy",
        lambda numpy: numpy.geterr(),
        lambda _numpy, kept_in: kept_in,
        lambda _numpy, key: _ERRORS.get(key),
        lambda numpy, key, value: numpy.seterr(**{key: value}),
    ),
    "numpy's printing": _Library(
        "numpy",
        "numpy",
        lambda numpy: numpy.get_printoptions(),
        lambda _numpy, kept_in: {key: value for key, value in kept_in.items() if key in _PRINTED},
        lambda _numpy, key: _PRINTED[key],
        lambda numpy, key, value: numpy.set_printoptions(**{key: value}),
    ),
    "matplotlib": _Library(
        "matplotlib",
        "matplotlib",
        lambda matplotlib: matplotlib.rcParams,
        lambda _matplotlib, kept_in: dict(dict.items(kept_in)),
        _matplotlib_default,
        lambda matplotlib, key, value: matplotlib.rcParams.__setitem__(key, _styles(matplotlib, value)),
    ),
}

#: By library: what its options are kept in as it was when they were looked at last, what of them is stored, and what
#: cannot be.
_looked_at: dict[str, tuple[dict[Any, Any], dict[str, Any], dict[str, str]]] = {}


def changed() -> dict[str, dict[str, Any]]:
    """Return the options that are not the library's own, as JSON data, by library."""
    return {library: kept for library in _LIBRARIES if (kept := _look(library)[0])}


def configured() -> list[Any]:
    """Return copies of what all of them are kept in now, for `as_configured`."""
    *dicts, errors = _kept_in()
    return [*(kept_in if kept_in is None else _copy(kept_in) for kept_in in dicts), errors]


def as_configured(before: list[Any]) -> bool:
    """Whether all of them are as `configured` found them."""
    *dicts, errors = _kept_in()
    return errors is before[-1] and all(map(_same_if_any, before, dicts))


def _kept_in() -> tuple[Any, ...]:
    """Return what options are kept in, by library, None where it is not loaded; last, what is never changed itself."""
    loaded = sys.modules.get
    config, printing = loaded("pandas._config.config"), loaded("numpy._core.printoptions")
    umath, matplotlib = loaded("numpy._core.umath"), loaded("matplotlib")
    return (
        config._global_config if config is not None else None,
        printing.format_options.get() if printing is not None else None,
        matplotlib.rcParams if matplotlib is not None else None,
        umath._extobj_contextvar.get() if umath is not None else None,
    )


def _same_if_any(before: dict[Any, Any] | None, now: dict[Any, Any] | None) -> bool:
    return before is now if before is None or now is None else _same(before, now)


def unkept(library: str) -> dict[str, str]:
    """Return the options of a library that are not its own and cannot be stored, in words."""
    return _look(library)[1]


def _look(library: str) -> tuple[dict[str, Any], dict[str, str]]:
    how = _LIBRARIES[library]
    module = sys.modules.get(how.module)
    before = _looked_at.get(library)
    try:
        kept_in = how.kept_in(module) if module is not None else {}
        if before is not None and _same(before[0], kept_in):
            return before[1], before[2]
        now = how.now(module, kept_in) if module is not None else {}
    except (AttributeError, KeyError):
        kept_in, now = {}, {}  # It is being imported, or is another version.
    kept: dict[str, Any] = {}
    rest: dict[str, str] = {}
    for key, value, default in _differing(how, module, now):
        try:
            kept[key] = _plain(value)
        except (ValueError, RecursionError):
            # An array of the library's own is no option of the code's: what cannot be compared is told by its text.
            if repr(value) != repr(default):
                rest[key] = repr(value)
    _looked_at[library] = _copy(kept_in), kept, rest
    return kept, rest


def _same(before: dict[Any, Any], now: dict[Any, Any]) -> bool:
    try:
        # Below what a class of dicts (matplotlib's) makes of it; in C, however many there are.
        return dict.__eq__(before, now) is True
    except Exception:
        return False


def _copy(options: dict[Any, Any]) -> dict[Any, Any]:
    """Return the options themselves in dicts of their own: pandas keeps them in one for each part of a name."""
    return {key: _copy(value) if type(value) is dict else value for key, value in dict.items(options)}


def _differing(how: _Library, module: Any, now: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for key, value in now.items():
        default = how.default(module, key)
        if not _equal(value, default):
            yield key, value, default


def _equal(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except Exception:
        return False


def _plain(value: Any) -> Any:
    """Return a value as JSON data. Raises ValueError for one that is none."""
    if type(value) in _SCALARS:
        return value
    if type(value) in (list, tuple):
        return [_plain(each) for each in value]
    if type(value).__name__ == "Cycler":
        return {"cycler": {str(key): _plain(list(values)) for key, values in value.by_key().items()}}
    if isinstance(value, enum.Enum) and issubclass(type(value), str):
        return str(value.value)  # CapStyle, JoinStyle: their setters take the word.
    raise ValueError


def _styles(matplotlib: Any, value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    # A colour is a tuple: a list of numbers cannot be hashed, which whoever draws does.
    styles = {key: [_tuples(each) for each in values] for key, values in value["cycler"].items()}
    return matplotlib.cycler(**styles)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(each) for each in value) if isinstance(value, list) else value


def apply(options: Mapping[str, Mapping[str, Any]]) -> None:
    """Put back what `changed` returned; a library that is not there says so itself where it is used."""
    for library, values in options.items():
        how = _LIBRARIES.get(library)
        if how is None or not values:
            continue
        try:
            module = importlib.import_module(how.imported)
        except ImportError:
            continue
        for key, value in values.items():
            try:
                how.set(module, key, value)
            except Exception:  # noqa: S110 - of another version: it has other options
                pass
