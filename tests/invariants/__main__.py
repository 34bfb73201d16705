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
from .lane import PATIENCE, SHORT_LEASE, Lane, opened
from .program import Case, Played
from .programs import PROGRAMS
from .progress import Done, Progress, table, with_table
from .scenarios import OUTLIVED, cases

#: Seconds of a lease that is not to be outlived, however busy the machine.
LONG_LEASE = 60.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.invariants", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(".grid"), help="where progress is kept")
    parser.add_argument("--lanes", type=int, default=2, help="cases played side by side")
    parser.add_argument("--kills", type=int, default=10_000)
    parser.add_argument("--minutes", type=float, default=24 * 60)
    parser.add_argument("--only", default="", help="only cases whose name holds this")
    parser.add_argument("--row", type=int, default=40, help="cases of one program in a row, in a state of their own")
    parser.add_argument("--patience", type=float, default=PATIENCE, help="seconds after which an execution is stuck")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--page", type=Path, help="a page of documentation whose table is to be made anew")
    parser.add_argument("--lane", type=int, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    progress = Progress(options.folder)
    if options.lane is not None:
        asyncio.run(play(options, progress))
        return 0
    if not options.table:
        asyncio.run(lanes(options))
    done = progress.read()
    print(table(done))
    if options.page is not None:
        options.page.write_text(with_table(options.page.read_text(), table(done)))
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
    """Play this lane's share, some cases of one program after some of another, until all are played."""
    until = time.monotonic() + options.minutes * 60
    known = progress.read()
    done = {name for name, each in known.items() if not (options.again and each.wrong)}
    todo = list(PROGRAMS.values())[options.lane :: options.lanes]
    # Another order every time: a grid that is stopped and started often comes to every program all the same.
    random.Random(len(known)).shuffle(todo)
    calm: dict[tuple[str, bool], Played] = {}
    with tempfile.TemporaryDirectory(prefix="perdure-grid-") as folder:
        async with opened(Path(folder) / "lane", patience=options.patience) as lane:
            while todo and time.monotonic() < until and _all_kills(progress) < options.kills:
                program = todo.pop(0)
                await lane.renew(lease=LONG_LEASE)
                first = await _calm(lane, program.name, calm, options, progress)
                left = [case for case in cases(program, first) if case.name not in done]
                left = _each_scenario_first([case for case in left if options.only in case.name], program.name)
                for case in sorted(left[: options.row], key=_needs):
                    done.add(case.name)
                    steps, lease = _needs(case)
                    if (lane.steps, lane.lease) != (steps, lease):
                        await lane.renew(steps=steps, lease=lease)
                    before = await _calm(lane, program.name, calm, options, progress)
                    await _case(lane, case, before, options, progress)
                    if time.monotonic() > until:
                        break
                if len(left) > options.row:
                    todo.append(program)


def _needs(case: Case) -> tuple[bool, float]:
    """Return what the workers of a case must be: new ones cost more than most cases, so alike ones come in a row."""
    return case.steps, SHORT_LEASE if case.scenario in OUTLIVED else LONG_LEASE


def _each_scenario_first(left: list[Case], program: str) -> list[Case]:
    """Return cases in a random order, but one of each scenario before the rest."""
    random.Random(program).shuffle(left)
    seen: set[str] = set()
    first = [case for case in left if not (case.scenario in seen or seen.add(case.scenario))]  # type: ignore[func-returns-value]
    names = {case.name for case in first}
    return first + [case for case in left if case.name not in names]


def _all_kills(progress: Progress) -> int:
    return sum(each.kills for each in progress.read().values())


async def _calm(
    lane: Lane,
    name: str,
    known: dict[tuple[str, bool], Played],
    options: argparse.Namespace,
    progress: Progress,
) -> Played:
    """Return the undisturbed run of a program, with ends of steps or without."""
    if (name, lane.steps) not in known:
        case = Case(name, "undisturbed", steps=lane.steps)
        known[name, lane.steps] = await _case(lane, case, None, options, progress)
    return known[name, lane.steps]


async def _case(lane: Lane, case: Case, calm: Played | None, options: argparse.Namespace, progress: Progress) -> Played:
    program = PROGRAMS[case.program]
    began = time.monotonic()
    played = await lane.play(program, case)
    wrong = judge(program, calm, played, case)
    took = round(time.monotonic() - began, 2)
    reached = len(played.acts)
    progress.note(
        options.lane, Done(case.name, case.program, case.scenario, played.kills, played.ordered, reached, took, wrong)
    )
    if wrong:
        print(f"{case.name}: {wrong[0][0]}: {wrong[0][1][:300]}", flush=True)
    return played


if __name__ == "__main__":
    sys.exit(main())
