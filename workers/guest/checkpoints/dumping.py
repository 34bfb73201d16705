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
        self._names = known.names_of_roots()
        #: What a glance gave at units that are pickled.
        self._glances: dict[int, Any] = {}

    def all(self) -> None:
        known, run = self._known, self._run
        waiting = sorted(self._others(), key=self._rank)
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

    def _others(self) -> list[int]:
        """Return the units that may not be what is stored of them."""
        units, names = self._known.units, self._names
        looked_at = [units[number] for number in self._run.dirty]
        plain = [
            (unit.number, tuple([names[root.number] for root in unit.roots]), unit.glance)
            for unit in looked_at
            if unit.glance is not None
        ]
        # Taken before any is pickled: what a hook changes meanwhile is seen at the next checkpoint.
        self._glances = self._table.differing(plain, self._run.values)
        return [*self._glances, *(unit.number for unit in looked_at if unit.glance is None and self._is_loaded(unit))]

    def _is_loaded(self, unit: Unit) -> bool:
        """Whether a unit has anything new to be stored; else what is stored stays as it is, with its large buffers."""
        if not unit.unloaded or unit.number in self._run.loosened:
            return True
        return not all(value is lost for value, lost in zip(self._values(unit), unit.unloaded, strict=True))

    def _glance(self, unit: Unit, values: list[Any]) -> Any:
        if unit.number in self._glances:
            return self._glances.pop(unit.number)
        return self._table.glance(tuple(values)) if unit.stream is None or unit.small else None

    def _unit(self, unit: Unit) -> set[int]:
        """Pickle one unit; returns the units it refers to now and did not before."""
        known, names = self._known, self._names
        hits = self._table.begin(unit.number)
        values = self._values(unit)
        glance = self._glance(unit, values)
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
