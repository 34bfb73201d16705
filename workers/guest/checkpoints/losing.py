"""What of each name was not kept as it is: found by where it hangs, and said once for each name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import report
from .lost import Lost
from .recompute import REMADE
from .units import Loss, Unit, closure

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .known import Known, Pass
    from .pickler import Finding

__all__ = ["find_losses"]


def find_losses(known: Known, run: Pass, live: Mapping[str, object]) -> dict[str, list[str]]:
    """Return, by name, what is lost or was remade: [status, why, where]; units are told what they lost."""
    wanted: dict[int, Finding] = {}
    numbers: dict[int, tuple[Unit, int]] = {}
    failed = news = False
    for number, written in run.written.items():
        unit = known.units[number]
        unit.places = {}
        before, unit.losses = (
            unit.losses,
            [Loss(each.status, each.what, each.why, _opaque(each)) for each in written.findings],
        )
        unit.losses += [Loss("lost", "", why, opaque=True) for why in written.failures.values()]
        wanted.update((id(finding.thing), finding) for finding in written.findings)
        numbers.update((id(finding.thing), (unit, at)) for at, finding in enumerate(written.findings))
        failed = failed or bool(written.failures)
        news = news or before != unit.losses
    if not wanted and not failed and not known.losses:
        return {}
    search = _Search(known, run, wanted, numbers, {id(thing) for thing in live.values()})
    losses = {name: loss for name, loss in known.losses.items() if name in known.roots}
    for name, root in known.roots.items():
        if not news and known.unit_of[root] not in run.written:
            continue
        reached = closure([known.unit_of[root]], known.follow)
        if reached.isdisjoint(run.written):
            continue
        losses.pop(name, None)
        loss = search.loss_of(name, root, reached)
        if loss is not None:
            losses[name] = loss
    return losses


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

    def loss_of(self, name: str, root: int, reached: set[int]) -> list[str] | None:
        """Return what is said of a name whose value leads to these units."""
        units, written = self._known.units, self._run.written
        unit = units[self._known.unit_of[root]]
        which = next(at for at, other in enumerate(unit.roots) if other.number == root)
        made = written.get(unit.number)
        if made is not None and which in made.failures:
            return ["lost", made.failures[which], ""]
        if not any(units[number].losses for number in reached):
            return None
        wanted = self._wanted
        paths = report.find(name, self._run.values[name], set(wanted), self._lived) if wanted else {}
        for thing, path in paths.items():
            home, at = self._numbers[thing]
            home.places.setdefault(str(at), path)
        found = [(_loss(wanted[thing]), path) for thing, path in paths.items()]
        if made is not None:
            first = made.found_in[which - 1] if which else 0
            own = made.findings[first : made.found_in[which]]
            found += [(_loss(each), "") for each in own if id(each.thing) not in paths]
        found += [(loss, "") for number in sorted(reached - written.keys()) for loss in units[number].losses]
        return _worst(name, found)


def _loss(finding: Finding) -> Loss:
    return Loss(finding.status, finding.what, finding.why)


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
