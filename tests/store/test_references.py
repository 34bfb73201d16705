"""This store beside its judges: random histories, and the order of refusals.

Resonate on Postgres is asked where `PERDURE_TEST_PG` names a database (a libpq connection string) into which
`resonate.sql` was loaded; a Resonate server in debug mode, where `RESONATE_URL` names one.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import pytest

from perdure.engine.store import promises
from perdure.engine.store.cron import InvalidCron, next_run

from .conftest import Machine
from .guards import GUARDS, Guard, schedule_s, world, wrong
from .histories import history
from .references import Postgres, Server

HISTORIES = int(os.environ.get("PERDURE_HISTORIES", "40"))
EACH_JUDGE = pytest.mark.parametrize(
    "judge",
    [
        pytest.param((Postgres, "PERDURE_TEST_PG"), marks=pytest.mark.postgres, id="postgres"),
        pytest.param((Server, "RESONATE_URL"), marks=pytest.mark.server, id="server"),
    ],
    indirect=True,
)


@pytest.fixture
def judge(request: pytest.FixtureRequest) -> Iterator[Postgres | Server]:
    kind, variable = request.param
    judge: Postgres | Server = kind(os.environ[variable])
    yield judge
    judge.close()


@EACH_JUDGE
@pytest.mark.timeout(60 + 10 * HISTORIES)
def test_histories_end_as_they_do_there(
    tmp_path: Path, judge: Postgres | Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(promises, "RETRY", judge.retry)
    done = 0
    for seed in range(HISTORIES):
        judge.empty()
        machine = Machine(tmp_path / f"{seed}.db")
        done += history(machine, judge, seed, 150)
        machine.close()
    assert done > HISTORIES * 30


@EACH_JUDGE
@pytest.mark.timeout(300)
def test_what_is_wrong_is_refused_in_the_same_order_there(judge: Postgres | Server) -> None:
    for kind, (base, guards) in GUARDS.items():
        if judge.name == Postgres.name and kind.endswith("search"):
            continue  # it has none
        assert answer(judge, kind, base) == 200, kind
        known = [guard for guard in guards if judge.name not in guard.unlike]
        pairs = [pair for pair in combinations(known, 2) if pair[0].beside(pair[1])]
        for wrongs in [*((guard,) for guard in known), *pairs]:
            assert answer(judge, kind, base, *wrongs) == wrongs[0].status, (kind, wrongs)


def answer(judge: Postgres | Server, kind: str, base: dict[str, object], *guards: Guard) -> int:
    """The status of a request with all of this wrong, in a world made anew."""
    judge.empty()
    world(judge)
    schedule_s(judge)
    for guard in guards:
        if guard.before is not None:
            guard.before(judge)
    now = max((guard.now for guard in guards), default=10)
    request = wrong(base, {path: to for guard in guards for path, to in guard.changes.items()})
    status, data = judge.apply(now, kind, **request)
    inner = data["action"]["head"]["status"] if kind == "task.fence" and status == 200 else status
    return int(inner)


def random_cron(chance: random.Random) -> str:
    def field(low: int, high: int) -> str:
        first = chance.randint(low, high)
        last = chance.randint(first, high)
        step = chance.randint(1, 20)
        return chance.choice(
            ("*", "*", str(first), f"{first}-{last}", f"*/{step}", f"{first}-{last}/{step}", f"{first},{last}")
        )

    return " ".join(field(low, high) for low, high in ((0, 59), (0, 23), (1, 31), (1, 12), (0, 6)))


@pytest.mark.postgres
def test_schedules_fire_when_they_do_on_postgres() -> None:
    reference, chance = Postgres(os.environ["PERDURE_TEST_PG"]), random.Random(1)
    for _ in range(300):
        cron, after = random_cron(chance), chance.randint(0, 2**42)
        try:
            ours = next_run(cron, after)
        except InvalidCron:
            continue
        row = reference.connection.execute("SELECT _next_cron(%s, %s)", (cron, after)).fetchone()
        assert row == (ours,), (cron, after)
    reference.close()
