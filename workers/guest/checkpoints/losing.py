"""What of each name was not kept as it is: found by where it hangs, and said once for each name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import report
from .lost import Lost, describe
from .recompute import REMADE
from .units import Loss, Unit, closure

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .known import Known, Pass
    from .pickler import Finding
    from .stream import Written

__all__ = ["find_losses"]


type Losses = dict[str, list[str]]
"""By name: [status, why, where]."""


def find_losses(known: Known, run: Pass, live: Mapping[str, object]) -> tuple[Losses, Losses]:
    """Return what is lost or was remade, and what is stored and could not be loaded here.

    Units are told what they lost.
    """
    wanted: dict[int, Finding] = {}
    numbers: dict[int, tuple[Unit, int]] = {}
    failed = news = False
    for unit, written in _of_note(known, run):
        unit.places = {}
        before, unit.losses = (
            unit.losses,
            [Loss(each.status, each.what, each.why, _opaque(each), each.stored) for each in written.findings],
        )
        unit.losses += [Loss("lost", "", why, opaque=True) for why in written.failures.values()]
        wanted.update((id(finding.thing), finding) for finding in written.findings)
        numbers.update((id(finding.thing), (unit, at)) for at, finding in enumerate(written.findings))
        failed = failed or bool(written.failures)
        news = news or before != unit.losses
    if not wanted and not failed and not known.losses and not known.absent:
        return {}, {}
    search = _Search(known, run, wanted, numbers, {id(thing) for thing in live.values()})
    losses = {name: loss for name, loss in known.losses.items() if name in known.roots}
    absent = {name: loss for name, loss in known.absent.items() if name in known.roots}
    for name, root in known.roots.items():
        bound = name in run.changed
        if not (news or bound or known.unit_of[root] in run.written):
            continue
        reached = closure([known.unit_of[root]], known.follow)
        if not bound and reached.isdisjoint(run.written):
            continue
        for table, loss in zip((losses, absent), search.losses_of(name, root, reached), strict=True):
            table.pop(name, None)
            if loss is not None:
                table[name] = loss
    for name, lost in known.unloaded.items():
        if run.values.get(name) is lost:
            absent[name] = ["lost", describe(lost)[1], ""]
    return losses, absent


def _of_note(known: Known, run: Pass) -> list[tuple[Unit, Written]]:
    """Return the units that were pickled and lost something, then or now."""
    made = [(known.units[number], written) for number, written in run.written.items()]
    return [(unit, now) for unit, now in made if now.findings or now.failures or unit.losses or unit.places]


class _Search:
    def __init__(
        self,
        known: Known,
        run: Pass,
        wanted: dict[int, Finding],
        numbers: dict[int, tuple[Unit, int]],
        lived: set[int],
    ) -> None:
        self._known = known
        self._run = run
        self._wanted = wanted
        self._numbers = numbers
        self._lived = lived
        # By what stands for it.
        self._absent = {
            id(lost): Loss("lost", *describe(lost)[:2], stored=True)
            for unit in known.units.values()
            for lost in unit.unloaded
        }

    def losses_of(self, name: str, root: int, reached: set[int]) -> tuple[list[str] | None, list[str] | None]:
        """Return what is said of a name whose value leads to these units: what was not kept, what was not loaded."""
        units, written = self._known.units, self._run.written
        unit = units[self._known.unit_of[root]]
        which = next(at for at, other in enumerate(unit.roots) if other.number == root)
        made = written.get(unit.number)
        if made is not None and which in made.failures:
            return ["lost", made.failures[which], ""], None
        if not any(units[number].losses for number in reached):
            return None, None
        wanted, absent = self._wanted, self._absent
        looked_for = wanted.keys() | absent.keys()
        paths = report.find(name, self._run.values[name], looked_for, self._lived) if looked_for else {}
        for thing in paths.keys() & wanted.keys():
            home, at = self._numbers[thing]
            home.places.setdefault(str(at), paths[thing])
        found = [(absent[thing] if thing in absent else _loss(wanted[thing]), path) for thing, path in paths.items()]
        if made is not None:
            first = made.found_in[which - 1] if which else 0
            own = made.findings[first : made.found_in[which]]
            found += [(_loss(each), "") for each in own if id(each.thing) not in paths]
        told = {id(absent[thing]) for thing in paths.keys() & absent.keys()}
        unwritten = [loss for number in sorted(reached - written.keys()) for loss in units[number].losses]
        found += [(loss, "") for loss in unwritten if id(loss) not in told]
        return (
            _worst(name, [each for each in found if not each[0].stored]),
            _worst(name, [each for each in found if each[0].stored]),
        )


def _loss(finding: Finding) -> Loss:
    return Loss(finding.status, finding.what, finding.why, stored=finding.stored)


def _worst(name: str, found: list[tuple[Loss, str]]) -> list[str] | None:
    for status in ("lost", "rebuilt"):
        for loss, path in found:
            if loss.status == status:
                where: Any = "" if path == name else path
                return [status, loss.why if path == name or not loss.what else f"{loss.what}: {loss.why}", where]
    return None


def _opaque(found: Finding) -> bool:
    """Whether it may hold anything: it is lost, or would be."""
    return found.why == REMADE or (found.status == "lost" and type(found.thing) is not Lost)
