"""The second half of a checkpoint: units are pickled until no two of them share anything that can change."""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Any

from . import recipes, report
from .lost import Lost
from .units import Root, Unit, groups

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .known import Known, Pass
    from .stream import Writer

__all__ = ["dump"]


def dump(known: Known, run: Pass, table: Any, writer: Writer, live: Mapping[str, object]) -> None:
    """Pickle what is looked at; units that share something become one."""
    _Dump(known, run, table, writer, live).all()


class _Dump:
    def __init__(self, known: Known, run: Pass, table: Any, writer: Writer, live: Mapping[str, object]) -> None:
        self._known = known
        self._run = run
        self._table = table
        self._writer = writer
        self._live = live
        self._names = {root: name for name, root in reversed(known.roots.items())}

    def all(self) -> None:
        known, run = self._known, self._run
        waiting = sorted((number for number in run.dirty if self._is_other(known.units[number])), key=self._rank)
        while waiting:
            found: set[int] = set()
            for number in waiting:
                found |= self._unit(known.units[number])
            waiting = []
            for members in groups(list(run.written), self._table.pairs, known.follow):
                waiting.append(self._merge(members))
            self._table.pairs.clear()
            waiting += sorted(number for number in found if number in known.units and number not in run.written)

    def _rank(self, number: int) -> tuple[bool, int]:
        value = self._run.values[self._names[self._known.units[number].roots[0].number]]
        return not issubclass(type(value), types.FunctionType | type), number

    def _values(self, unit: Unit) -> list[Any]:
        return [self._run.values[self._names[root.number]] for root in unit.roots]

    def _is_other(self, unit: Unit) -> bool:
        """Whether a unit may not be what is stored of it."""
        if unit.unloaded and unit.number not in self._run.loosened:
            # What is stored of it stays as it is, with its large buffers.
            return not all(value is lost for value, lost in zip(self._values(unit), unit.unloaded, strict=True))
        return not self._same(unit)

    def _same(self, unit: Unit) -> bool:
        """Whether a glance tells that the unit did not change."""
        if unit.glance is None:
            return False
        self._table.begin(unit.number)
        return bool(self._table.glance(self._values(unit)) == unit.glance)

    def _unit(self, unit: Unit) -> set[int]:
        """Pickle one unit; returns the units it refers to now and did not before."""
        known, names = self._known, self._names
        hits = self._table.begin(unit.number)
        values = self._values(unit)
        # Taken first: what a hook changes meanwhile is seen at the next checkpoint.
        glance = self._table.glance(values) if unit.stream is None or unit.small else None
        for root, value in zip(unit.roots, values, strict=True):
            root.type = report.type_name(value)

        def stand_in(which: int, why: str) -> Lost:
            return Lost(recipes.name_kind(values[which]), why, names[unit.roots[which].number])

        unit.unloaded, unit.salvaged = (), False
        self._run.written[unit.number] = written = self._writer.write(values, stand_in)
        unit.glance = None if written.findings or written.failures or written.buffers else glance
        new = {known.unit_of[ref] for ref in hits - unit.refs if ref in known.unit_of}
        unit.refs = set(hits)
        return {number for number in new if not known.units[number].small} - self._run.written.keys()

    def _merge(self, members: list[int]) -> int:
        known, run = self._known, self._run
        roots = [Root(root.number) for number in members for root in known.units[number].roots]
        old = [known.units[number] for number in members]
        for unit in old:
            known.drop(run, unit)
            run.written.pop(unit.number, None)
        made = known.new_unit(roots)
        for unit in old:
            self._table.join(unit.number, made.number)
        owned = {root.number for root in roots}
        lived = {id(thing) for thing in self._live.values()}
        for name, root in known.roots.items():
            if root in owned and id(run.values[name]) not in lived:
                self._table.root(run.values[name], root, made.number)
        return made.number
