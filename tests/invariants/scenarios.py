"""How a program is disturbed: every case that its undisturbed run gives rise to. Pure: no I/O.

A boundary is an event of the undisturbed run, named by its label and which of its occurrences it was.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator

from .program import Case, Order, Played, Program

__all__ = ["OUTLIVED", "SCENARIOS", "boundaries", "cases"]

#: Scenarios in which a lease is outlived. The others have a long one, so that a machine that is busy otherwise cannot
#: end it: the store sees a dead worker at once anyway.
OUTLIVED = ("worker stopped", "guest stopped", "heartbeats lost")

#: Storms of each program in the whole grid, and the kills in each.
STORMS = 8
STORM_KILLS = 8
#: How many events there are, at most, between two kills of a storm.
CALM = 9
#: Kills of a march at the most; most programs have 30 to 60 boundaries, and what a replay adds.
MARCH = 300
#: Second kills during the replay after each fourth boundary.
REPLAYS = 4
#: The process that guests are forked from is killed at each seventh boundary.
ZYGOTES = 7
#: Boundaries a lease or a message is disturbed at; each costs a lease or two in time.
STOPS = 3

SCENARIOS = (
    "undisturbed",
    "kill guest",
    "kill worker",
    "kill zygote",
    "kill in replay",
    "storm",
    "storm over steps",
    "march of guests",
    "march of workers",
    "march of all",
    "march over steps",
    "march between answers",
    "suspended",
    "answered while dead",
    "backwards",
    "redelivered",
    "worker stopped",
    "guest stopped",
    "heartbeats lost",
    "there and back",
)


def boundaries(program: Program, calm: Played) -> list[tuple[str, int]]:
    """Return the boundaries of the program itself, in their order."""
    seen: Counter[str] = Counter()
    found = []
    for label in calm.trace:
        number = int(label.partition(" ")[0])
        seen[label] += 1
        if number <= len(program.codes):
            found.append((label, seen[label]))
    return found


def cases(program: Program, calm: Played) -> Iterator[Case]:
    """Yield every case of a program."""
    name = program.name
    at = boundaries(program, calm)
    chance = random.Random(name)
    born = next((number for number, (label, _) in enumerate(at) if label.endswith("launched")), None)
    if born is None:
        return  # Not even the undisturbed run began, and the judge has said so.
    for number, (label, nth) in enumerate(at):
        yield Case(name, "kill worker", ((label, nth, "worker"),))
        if number >= born:
            yield Case(name, "kill guest", ((label, nth, "guest"),))
    for label, nth in at[born::ZYGOTES]:
        yield Case(name, "kill zygote", ((label, nth, "zygote"),))
    for number, (label, nth) in enumerate(at[born::REPLAYS]):
        for more, first, second in ((1, "guest", "worker"), (2, "worker", "guest"), (4, "guest", "guest")):
            again: Order = ("*", more + number % 3, second)
            yield Case(name, "kill in replay", ((label, nth, first), again))
    for _ in range(STORMS):
        orders = [("*", chance.randint(1, CALM), chance.choice(("guest", "worker"))) for _ in range(STORM_KILLS)]
        yield Case(name, "storm", tuple(orders))
        yield Case(name, "storm over steps", tuple(orders), steps=True)
    yield from _marches(program)
    yield from _messages(name, at, born, chance)
    if program.answers:
        yield from _questions(program, at)


def _marches(program: Program) -> Iterator[Case]:
    for scenario, victim in (("march of guests", "guest"), ("march of workers", "worker"), ("march of all", "any")):
        yield Case(program.name, scenario, (("+", MARCH, victim),))
    for victim in ("guest", "any"):
        yield Case(program.name, "march over steps", (("+", MARCH, victim),), steps=True)
        if program.answers and not program.restless:
            yield Case(program.name, "march between answers", (("+", MARCH, victim),), waiting="suspended")


def _messages(name: str, at: list[tuple[str, int]], born: int, chance: random.Random) -> Iterator[Case]:
    live = [each for each in at[born:] if not each[0].endswith((" settling", " settled", "ended", "imaged", "stored"))]
    for label, nth in chance.sample(live, min(STOPS, len(live))):
        yield Case(name, "redelivered", ((label, nth, "redeliver"),))
        yield Case(name, "guest stopped", ((label, nth, "stop guest"),))
    for number, (label, nth) in enumerate(chance.sample(at, min(STOPS, len(at)))):
        yield Case(name, "worker stopped", ((label, nth, "stop"),), workers=2, elsewhere=number % 2 == 1)


def _questions(program: Program, at: list[tuple[str, int]]) -> Iterator[Case]:
    name = program.name
    if not program.restless:
        yield Case(name, "suspended", waiting="suspended")
        asked = [(label, nth) for label, nth in at if "suspending" in label or "start recorded" in label]
        for label, nth in asked:
            yield Case(name, "suspended", ((label, nth, "guest"),), waiting="suspended")
            yield Case(name, "answered while dead", ((label, nth, "worker"),), waiting="dead")
    if len(program.answers) > 1:
        yield Case(name, "backwards", waiting="suspended", backwards=True)
        yield Case(name, "backwards", backwards=True)
        for label, nth in at[3 :: len(at) // STOPS]:
            yield Case(name, "backwards", ((label, nth, "worker"),), backwards=True)
        for elsewhere in (False, True):
            yield Case(name, "there and back", waiting="suspended", workers=2, swaps=True, elsewhere=elsewhere)
    if name == "a_handler_past_the_lease":
        yield Case(name, "heartbeats lost", (("1 call main/1.0 start recorded", 1, "silence"),), waiting="retaken")
