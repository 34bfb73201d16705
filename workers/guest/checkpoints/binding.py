"""The first half of a checkpoint: what each name is bound to now, and which units are to be looked at again.

1. It costs by the names that changed; each of the others costs one comparison of an address.
2. A unit is looked at if something in it may have changed. All small ones are besides: what no name tells costs little
   there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import ambient, atoms
from .identity import changed_names, plain_names
from .known import AMBIENT, Known, Pass
from .standing import Standing
from .units import Root, closure

if TYPE_CHECKING:
    from .touched import CodeKey, Touched

__all__ = ["begin", "bind"]


def begin(
    known: Known, namespace: dict[str, Any], protected: frozenset[str], touched: Touched | None, *, strict: bool
) -> Pass:
    """Return what the names are bound to, and which of them changed."""
    full = touched is None or touched.everything or (touched.resumed and _suspended(known))
    full = full or (touched is not None and touched.adrift(lambda key: _has_code(known, key)))
    # First, so that a new variable is the last name.
    standing, early = known.standing, known.early
    lasts = not (full or strict) and standing is not None and standing.lasts()
    if standing is None or not lasts:
        standing, early = Standing(), ambient.capture_early()
    late = ambient.capture_late(None if full or strict else known.peeks, standing if lasts else None)
    states = {AMBIENT + key: value for key, value in late.items()}
    values = states | plain_names(namespace)
    for name in protected:
        values.pop(name, None)
    changed = set(changed_names(values, known.ids))
    steady: set[int] = set()
    addresses: dict[str, int] = {}
    for name, value in states.items():
        _compare_state(known, name, value, changed, steady, addresses)
    new = len(changed - known.ids.keys())
    gone = set(known.ids.keys() - values.keys()) if len(values) - new != len(known.ids) else set()
    return Pass(values, changed, gone, full, addresses, steady, early, standing)


def _compare_state(
    known: Known, name: str, value: Any, changed: set[str], steady: set[int], addresses: dict[str, int]
) -> None:
    """Say whether a state of the process changed: libraries hand it out as a new object each time."""
    root = known.roots.get(name)
    key = name.removeprefix(AMBIENT)
    if value is ambient.UNREAD and root is not None:
        addresses[name] = -root
        steady.add(known.unit_of[root])
        changed.discard(name)
        return
    known.peeks[key] = ambient.peek(key)
    mark = ambient.mark(key, value, known.marks.get(name))
    if mark is None:
        # Forgotten: a state that becomes again what it was is not what was stored in between.
        known.marks.pop(name, None)
        return
    same = root is not None and known.marks.get(name) == mark
    known.marks[name] = mark
    if root is not None:
        # No address: the object of the last time is gone, and a variable's value may lie where it was.
        addresses[name] = -root
    if same and root is not None:
        steady.add(known.unit_of[root])
        if known.ids.get(name) == -root:
            changed.discard(name)


def _suspended(known: Known) -> bool:
    """Whether something that runs is kept in a variable: where it goes on, it touches what no name tells."""
    return any(loss.opaque for unit in known.units.values() for loss in unit.losses)


def _has_code(known: Known, key: CodeKey) -> bool:
    """Whether a variable leads to a function that runs this."""
    return any(key in unit.code for unit in known.units.values())


def bind(known: Known, run: Pass, touched: Touched | None) -> None:
    """Give every name an atom or a root, and note the units that may have changed."""
    dirty = _touched_units(known, run, touched)
    previous = {name: known.roots.pop(name) for name in run.changed | run.gone if name in known.roots}
    for name in run.gone:
        known.atoms.pop(name, None)
    if run.full:
        run.touched_atoms = run.values.keys() - known.roots.keys()
    else:
        run.touched_atoms = run.changed | (
            (touched.names & run.values.keys()) - known.roots.keys() if touched else set()
        )
    _bind_names(known, run, previous)
    rebound = set(previous.values())
    loose = rebound | {known.roots[name] for name in run.changed if name in known.roots}
    if loose:
        run.loosened = {number for number, unit in known.units.items() if not unit.refs.isdisjoint(loose)}
        dirty |= run.loosened
    alone = _bury(known, run, rebound - set(known.roots.values())) if rebound else set()
    dirty -= run.replaced.keys()
    for root in sorted(alone | {known.roots[name] for name in run.changed if name in known.roots}):
        number = known.unit_of.get(root)
        dirty.add(known.new_unit([Root(root)]).number if number is None else number)
    run.expected = dirty & known.units.keys()


def _touched_units(known: Known, run: Pass, touched: Touched | None) -> set[int]:
    """Return the units that may hold something that changed, as they were connected at the last checkpoint."""
    if run.full or touched is None:
        return set(known.units)
    names = (touched.names | run.changed | run.gone) & known.roots.keys()
    starts = {known.unit_of[known.roots[name]] for name in names}
    if touched.code:
        starts |= {number for number, unit in known.units.items() if not unit.code.isdisjoint(touched.code)}
    found = closure(starts, known.follow)
    if any(loss.opaque for number in found for loss in known.units[number].losses):
        # A thread pool, a socket, a generator: what it holds is not known.
        return set(known.units)
    return found


def _bind_names(known: Known, run: Pass, previous: dict[str, int]) -> None:
    values, waiting = run.values, []
    for name in filter(run.touched_atoms.__contains__, values) if run.full else sorted(run.touched_atoms):
        if name in known.unloaded and known.unloaded[name] is values[name]:
            continue
        atom = atoms.encode(values[name])
        if atom is atoms.MISSING:
            known.atoms.pop(name, None)
            waiting.append(name)
        else:
            known.atoms[name] = atom
    if previous or waiting:
        known.named = None
    if not waiting:
        return
    kept = {id(values[name]): root for name, root in known.roots.items() if name not in run.addresses}
    alive = set(known.roots.values())
    for name in waiting:
        address = run.addresses.get(name, id(values[name]))
        root = kept.get(address)
        if root is None:
            # The number of the value that the name had is free if no other name has that value.
            root = previous.get(name)
            if root is None or root in alive:
                root = known.number()
            kept[address] = root
            alive.add(root)
        known.roots[name] = root


def _bury(known: Known, run: Pass, dead: set[int]) -> set[int]:
    """Take apart the units of roots that no name has any more; returns the roots that are left without a unit."""
    left: set[int] = set()
    for root in dead:
        number = known.unit_of.get(root)
        unit = known.units.get(number) if number is not None else None
        if unit is not None:
            left.update(other.number for other in unit.roots)
            known.drop(run, unit)
    return left - dead
