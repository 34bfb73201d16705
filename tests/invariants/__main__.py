"""The whole grid: ``python -m tests.invariants``. It can be stopped at any moment, and goes on where it was.

``--kills N`` stops at that many SIGKILLs in all, ``--minutes N`` after that time, ``--only WORD`` plays cases whose
name holds the word, ``--again`` plays again what was wrong, ``--table`` only shows where it stands, ``--page FILE``
writes the table into a page.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from pathlib import Path

from .judge import judge
from .lane import PATIENCE, ROOT, SHORT_LEASE, Lane, opened
from .program import Case, Played, Program
from .programs import PROGRAMS
from .progress import Done, Progress, digest, table, with_table
from .scenarios import OUTLIVED, cases

#: Seconds of a lease that is not to be outlived, however busy the machine.
LONG_LEASE = 60.0

#: Whether steps end, and the lease.
Needs = tuple[bool, float]

#: How many cases of a program are played in one round, by what they need: as much time goes into each, and a round of
#: the whole corpus is over in a quarter of an hour.
ROWS: tuple[tuple[Needs, int], ...] = (((False, LONG_LEASE), 5), ((True, LONG_LEASE), 1), ((False, SHORT_LEASE), 1))

#: Cases in one state: more would measure how it grows.
STATE = 60

#: Seconds between two counts of what all lanes have done.
COUNTED_EVERY = 20.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.invariants", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(".grid"), help="where progress is kept")
    parser.add_argument("--lanes", type=int, default=2, help="cases played side by side")
    parser.add_argument("--kills", type=int, default=10_000)
    parser.add_argument("--minutes", type=float, default=24 * 60)
    parser.add_argument("--only", default="", help="only cases whose name holds this")
    parser.add_argument("--patience", type=float, default=PATIENCE, help="seconds after which an execution is stuck")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--page", type=Path, help="a page of documentation whose table is to be made anew")
    parser.add_argument("--lane", type=int, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    progress = Progress(options.folder, digest(ROOT))
    if options.lane is not None:
        asyncio.run(play(options, progress))
        return 0
    if not options.table:
        asyncio.run(lanes(options))
    done = progress.read()
    print(table(done))
    if options.page is not None:
        options.page.write_text(with_table(options.page.read_text(), table(done)))
    if others := progress.others():
        print(f"\n{others} cases that were played on other trees are in {options.folder} too, and are not counted.")
    wrong = [each for each in done.values() if each.wrong]
    for each in wrong:
        print(f"\n{each.case}")
        for kind, words in each.wrong:
            print(f"  {kind}: {words[:2000]}")
    return 1 if wrong else 0


async def lanes(options: argparse.Namespace) -> None:
    """Run every lane in a process of its own, until all have ended."""
    running = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.invariants", *sys.argv[1:], "--lane", str(lane)
        )
        for lane in range(options.lanes)
    ]
    await asyncio.gather(*(each.wait() for each in running))


async def play(options: argparse.Namespace, progress: Progress) -> None:
    """Play this lane's share in rounds, a few cases of each program in each, until all are played."""
    until = time.monotonic() + options.minutes * 60
    known = progress.read()
    done = {name for name, each in known.items() if not (options.again and each.wrong)}
    todo = list(PROGRAMS.values())[options.lane :: options.lanes]
    # Another order every time: a grid that is stopped and started often comes to every program all the same.
    random.Random(len(known)).shuffle(todo)
    with tempfile.TemporaryDirectory(prefix="perdure-grid-") as folder:
        async with opened(Path(folder) / "lane", patience=options.patience) as lane:
            share = Share(lane, options, progress, done)
            while todo:
                left: set[str] = set()
                # All of one kind of workers, then all of another: new ones cost more than most cases.
                for needs, row in ROWS:
                    for program in todo:
                        if time.monotonic() > until or share.is_enough():
                            return
                        if await share.play(program, needs, row):
                            left.add(program.name)
                todo = [program for program in todo if program.name in left]


class Share:
    """What one lane plays."""

    def __init__(self, lane: Lane, options: argparse.Namespace, progress: Progress, done: set[str]) -> None:
        self._lane = lane
        self._options = options
        self._progress = progress
        self._done = done
        self._calm: dict[tuple[str, bool], Played] = {}
        self._cases: dict[str, list[Case]] = {}
        self._since_new = STATE
        self._counted = (0.0, False)

    def is_enough(self) -> bool:
        """Whether all lanes have killed as many as are wanted, or what they test is not what it was."""
        at, enough = self._counted
        if not enough and time.monotonic() > at + COUNTED_EVERY:
            enough = sum(each.kills for each in self._progress.read().values()) >= self._options.kills
            if digest(ROOT) != self._progress.tree:
                print("the tree has changed while it was tested: begin again", flush=True)
                enough = True
            self._counted = time.monotonic(), enough
        return enough

    async def play(self, program: Program, needs: Needs, row: int) -> bool:
        """Play the next cases of a program that need such workers; return whether there are more."""
        if needs[0] and program.name not in self._cases:
            return False  # Its undisturbed run has not begun, and the judge has said so.
        await self._renew(needs)
        cases = await self._all(program)
        mine = [case for case in cases if _needs(case) == needs and case.name not in self._done]
        for case in mine[:row]:
            self._done.add(case.name)
            await self._case(case, await self._undisturbed(program.name))
        return len(mine) > row

    async def _renew(self, needs: Needs) -> None:
        """Have workers as they are needed, and a new state now and then."""
        if (self._lane.steps, self._lane.lease) != needs or self._since_new >= STATE:
            await self._lane.renew(steps=needs[0], lease=needs[1])
            self._since_new = 0

    async def _all(self, program: Program) -> list[Case]:
        """Return the cases of a program, in a random order, but one of each scenario before the rest."""
        if program.name not in self._cases:
            calm = await self._undisturbed(program.name)
            found = [case for case in cases(program, calm) if self._options.only in case.name]
            self._cases[program.name] = _each_scenario_first(found, program.name)
        return self._cases[program.name]

    async def _undisturbed(self, name: str) -> Played:
        """Return the undisturbed run of a program, with ends of steps or without."""
        steps = self._lane.steps
        if (name, steps) not in self._calm:
            self._calm[name, steps] = await self._case(Case(name, "undisturbed", steps=steps), None)
        return self._calm[name, steps]

    async def _case(self, case: Case, calm: Played | None) -> Played:
        program = PROGRAMS[case.program]
        began = time.monotonic()
        played = await self._lane.play(program, case)
        self._since_new += STATE if played.unplayed else 1
        wrong = judge(program, calm, played, case)
        took = round(time.monotonic() - began, 2)
        reached = len(played.acts)
        done = Done(case.name, case.program, case.scenario, dict(played.killed), played.ordered, reached, took, wrong)
        self._progress.note(self._options.lane, done)
        if wrong:
            print(f"{case.name}: {wrong[0][0]}: {wrong[0][1][:300]}", flush=True)
        if played.unplayed and calm is None:
            raise RuntimeError(played.unplayed)  # there is nothing to hold the others against
        return played


def _needs(case: Case) -> Needs:
    """Return what the workers of a case must be."""
    return case.steps, SHORT_LEASE if case.scenario in OUTLIVED else LONG_LEASE


def _each_scenario_first(left: list[Case], program: str) -> list[Case]:
    """Return cases in a random order, but one of each scenario before the rest."""
    random.Random(program).shuffle(left)
    seen: set[str] = set()
    first = [case for case in left if not (case.scenario in seen or seen.add(case.scenario))]  # type: ignore[func-returns-value]
    names = {case.name for case in first}
    return first + [case for case in left if case.name not in names]


if __name__ == "__main__":
    sys.exit(main())
