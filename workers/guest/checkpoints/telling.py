"""What a checkpoint says beside its units: names, their order, tables and texts, each only as far as it changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import atoms, sources
from .known import Known, Pass, escaped

if TYPE_CHECKING:
    from collections.abc import Callable

    from .pieces import Library, Record

__all__ = ["tell", "tell_names", "tell_texts"]


def tell(what: str, known: dict[str, Any], now: dict[str, Any], data: dict[str, Any]) -> None:
    """Put the entries of a table that changed into the data; None for one that is gone."""
    if known == now:
        return
    changed = {key: value for key, value in now.items() if key not in known or known[key] != value}
    changed.update(dict.fromkeys(known.keys() - now.keys()))
    data[what] = changed
    known.clear()
    known.update(now)


def tell_names(known: Known, run: Pass, data: dict[str, Any]) -> None:
    """Put what names are bound to into the data, and their order."""
    names: dict[str, Any] = {}
    order = list(run.values)
    expected = [name for name in known.order if name not in run.gone] if run.gone else known.order
    moved = order != expected + order[len(expected) :]
    for name, value in _with_aliases(known, run) if moved else _bindings(known, run):
        before = known.names.get(name, atoms.MISSING)
        if before is not value and (before != value or type(before) is not type(value)):
            names[name] = known.names[name] = value
    for name in run.gone:
        del known.names[name]
    if names:
        data["names"] = {escaped(name): value for name, value in names.items()}
    if run.gone:
        data["gone"] = [escaped(name) for name in sorted(run.gone)]
    if moved:
        data["order"] = [escaped(name) for name in order]
    known.order = order


def _bindings(known: Known, run: Pass) -> list[tuple[str, Any]]:
    """Return names that may be bound to something else, with an atom or a root each."""
    told = run.touched_atoms
    if any(map(_may_be_text, (known.names.get(name) for name in told | run.gone))) or any(
        type(run.values[name]) in (str, bytes) for name in told
    ):
        return _with_aliases(known, run)
    # In the order of the namespace: that is the order in which a reader adds new ones.
    order = filter(told.__contains__, run.values) if len(told) > 1 else told
    return [(name, [known.roots[name]] if name in known.roots else known.atoms[name]) for name in order]


def _may_be_text(value: Any) -> bool:
    return type(value) is str or type(value) is dict


def _with_aliases(known: Known, run: Pass) -> list[tuple[str, Any]]:
    """Return the bindings of all names; two of one text are found by identity: programs compare sentinels that way."""
    made: list[tuple[str, Any]] = []
    texts: dict[int, str] = {}
    for name, thing in run.values.items():
        value = [known.roots[name]] if name in known.roots else known.atoms[name]
        if type(thing) in (str, bytes) and type(value) is not list:
            first = texts.setdefault(id(thing), name)
            value = value if first is name or not thing else {"=": escaped(first)}
        made.append((name, value))
    return made


def tell_texts(known: Known, library: Library, runtime: dict[str, str], data: dict[str, Any]) -> list[Record]:
    """Store the texts that are new, and return where those were that are gone."""
    changed: dict[str, Any] = {}
    retired: list[Record] = []

    def store(key: str, size: int, number: int, text: Callable[[], str]) -> None:
        before = known.texts.get(key)
        if before is not None and before[:2] == (size, number):
            return
        record = library.stream(text().encode("utf-8", "surrogatepass"), None)
        if before is not None:
            retired.append(before[2])
        known.texts[key] = size, number, record
        changed[escaped(key)] = record.extents()

    told = known.told
    for name, text in runtime.items():
        # The very text: a session has hundreds, and one of them is new.
        if told.get(name) is not text:
            store(f"text:{name}", len(text), hash(text), lambda text=text: text)  # type: ignore[misc]
    for name in known.sources:
        store(f"source:{name}", 0, 0, lambda name=name: "\0".join(sources.text_of(name)))  # type: ignore[misc]
    known.told = runtime
    if len(known.texts) > len(runtime) + len(known.sources):
        wanted = {f"text:{name}" for name in runtime} | {f"source:{name}" for name in known.sources}
        for key in known.texts.keys() - wanted:
            retired.append(known.texts.pop(key)[2])
            changed[escaped(key)] = None
    if changed:
        data["texts"] = changed
    return retired
