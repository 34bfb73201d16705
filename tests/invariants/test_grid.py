"""The short form of the grid: every scenario, and every broken variant caught by the case that is there for it.

``make grid`` plays all of it. ``PERDURE_GRID`` says how many storms the short form plays (default 11).
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from .controls import CONTROLS
from .judge import judge
from .lane import Lane, opened
from .program import Case, Order, Played, Waiting
from .programs import PROGRAMS, UNLIKE
from .progress import with_table
from .scenarios import SCENARIOS

#: Programs that are stormed in the short form: the shapes that broke others, and one of each kind.
INCIDENTS = ["dbos_688", "resonate_sdk_py_438", "vercel_workflow_3070", "langgraph_7780"]
STORMED = [
    *INCIDENTS,
    "mixed_effects",
    "as_completed_backwards",
    "a_task_group",
    "threads_side_by_side",
    "files_in_the_workspace",
    "randomness_goes_on",
    "the_clock_in_requests",
    "a_pool_of_threads",
    "output_between",
    "timeouts_that_expire",
    "async_generators",
    "asyncio_run_in_a_statement",
    "a_loop_that_never_rests",
][: int(os.environ.get("PERDURE_GRID", "11"))]

#: Kills at the first event, and then at each fifth, seventh, third: boundaries of every kind, in no order of ours.
STORM: tuple[Order, ...] = (
    ("*", 4, "guest"),
    ("*", 5, "worker"),
    ("*", 7, "guest"),
    ("*", 3, "worker"),
    ("*", 6, "guest"),
)

#: Kills of a march in the short form.
KILLS = 12

SINGLE = [
    Case("calls_in_order", "kill guest", (("1 call main.0 settled", 1, "guest"),)),
    Case("calls_in_order", "kill worker", (("1 call main.0 start recorded", 1, "worker"),)),
    Case("calls_in_order", "kill zygote", (("1 call main.1 delivering", 1, "zygote"),)),
    Case("a_large_namespace", "kill in checkpoint", (("1 imaged", 1, "worker"), ("1 stored", 1, "worker"))),
    Case("files_in_the_workspace", "kill in checkpoint", (("2 stored", 1, "guest"), ("2 s0 settled", 1, "worker"))),
    Case("gather_of_pairs", "kill in replay", (("1 call main.0 start recorded", 1, "guest"), ("*", 4, "worker"))),
    Case("calls_in_order", "kill in replay", (("1 call main.0 settled", 1, "worker"), ("1 s0 settled", 1, "worker"))),
    Case("a_long_sleep", "kill worker", (("1 cancel settled", 1, "worker"),)),
    Case("questions_and_payments", "suspended", (("1 suspending", 2, "guest"),), waiting="suspended"),
    Case("langgraph_7780", "answered while dead", (("1 suspending", 1, "worker"),), waiting="dead"),
    Case("answers_as_they_come", "backwards", (("1 output recorded", 2, "worker"),), "suspended", backwards=True),
    Case("calls_in_order", "redelivered", (("1 call main.1 answer recorded", 1, "redeliver"),)),
    Case("calls_in_order", "guest stopped", (("1 call main.1 delivering", 1, "stop guest"),)),
    Case("calls_in_order", "worker stopped", (("1 call main.0 start recorded", 1, "stop"),), workers=2, elsewhere=True),
    Case("calls_in_order", "worker stopped", (("1 call main.1 delivering", 1, "stop"),), workers=2),
    Case(
        "a_handler_past_the_lease",
        "heartbeats lost",
        (("1 call main/1.0 start recorded", 1, "silence"),),
        waiting="retaken",
    ),
    Case("questions_and_payments", "there and back", waiting="suspended", workers=2, swaps=True, elsewhere=True),
    Case("langgraph_7780", "there and back", waiting="suspended", workers=2, swaps=True),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lanes(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[bool, Lane]]:
    """One lane as it is, and one whose workers lose what they did not sync."""
    folder = tmp_path_factory.mktemp("grid")
    async with opened(folder / "lane") as lane, opened(folder / "powerless", powerless=True) as powerless:
        yield {False: lane, True: powerless}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lane(lanes: dict[bool, Lane]) -> Lane:
    await lanes[False].renew()
    return lanes[False]


@pytest.fixture(scope="module")
def calm() -> dict[str, Played]:
    return {}


async def undisturbed(lane: Lane, calm: dict[str, Played], name: str) -> Played:
    program = {**PROGRAMS, **UNLIKE}[name]
    if name not in calm:
        case = Case(name, "undisturbed")
        calm[name] = await lane.play(program, case)
        assert judge(program, None, calm[name], case) == []
    return calm[name]


async def disturbed(lane: Lane, calm: dict[str, Played], case: Case) -> Played:
    program = PROGRAMS[case.program]
    before = await undisturbed(lane, calm, case.program)
    played = await lane.play(program, case)
    assert judge(program, before, played, case) == []
    return played


@pytest.mark.slow
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", STORMED)
async def test_killed_again_and_again(lane: Lane, calm: dict[str, Played], name: str) -> None:
    played = await disturbed(lane, calm, Case(name, "storm", STORM))
    assert played.kills >= 3, f"it ended before most of the kills: {played.acts}"


@pytest.mark.slow
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("case", SINGLE, ids=lambda case: case.name)
async def test_disturbed(lane: Lane, calm: dict[str, Played], case: Case) -> None:
    played = await disturbed(lane, calm, case)
    assert len(played.acts) == len(case.orders), "a boundary was not reached: the case proved nothing"


#: How often a case that stops a worker is played until it shows what is broken.
PLAYS = 6


@pytest.mark.slow
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", list(CONTROLS))
async def test_a_broken_variant_is_caught(lanes: dict[bool, Lane], name: str) -> None:
    _, case, kinds = CONTROLS[name]
    program = {**PROGRAMS, **UNLIKE}[case.program]
    lane = lanes[case.powerless]
    await lane.renew(name)
    before = await lane.play(program, Case(case.program, "undisturbed"))
    found: set[str] = set()
    # A worker that is stopped may have the store's lock in its hand: then nobody can take over before it goes on. Where
    # replies race, only one may have come by the boundary: then no order of theirs can be wrong.
    again = program.free or any(act.startswith("stop") for _, _, act in case.orders)
    for _ in range(PLAYS if again else 1):
        played = await lane.play(program, case)
        assert len(played.acts) == len(case.orders), "a boundary was not reached: the case proved nothing"
        found |= {kind for kind, _ in judge(program, before, played, case)}
        if found & set(kinds):
            break
    assert found & set(kinds)


@pytest.mark.slow
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", ["asks_another_thing", "asks_less", "power"])
async def test_the_product_itself_passes_what_catches_a_variant(lanes: dict[bool, Lane], name: str) -> None:
    """The cases of the controls that are none of the grid's own."""
    case = next(case for _, case, _ in CONTROLS.values() if name == ("power" if case.powerless else case.program))
    program = {**PROGRAMS, **UNLIKE}[case.program]
    lane = lanes[case.powerless]
    await lane.renew()
    before = await undisturbed(lane, {}, case.program)
    played = await lane.play(program, case)
    assert played.kills == 1
    assert judge(program, before, played, case) == []


@pytest.mark.slow
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", ["mixed_effects", "a_file_written_between_calls", "langgraph_7780"])
async def test_killed_again_and_again_over_steps(lanes: dict[bool, Lane], name: str) -> None:
    lane = lanes[False]
    await lane.renew(steps=True)
    played = await disturbed(lane, {}, Case(name, "storm over steps", STORM, steps=True))
    assert any(label.startswith("1 step s1") for label in played.trace), "no step has ended: the case proved nothing"


@pytest.mark.slow
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("name", "victim", "waiting"), [("mixed_effects", "guest", "at once"), ("langgraph_7780", "any", "suspended")]
)
async def test_killed_at_each_boundary_of_one_run(
    lane: Lane, calm: dict[str, Played], name: str, victim: str, waiting: Waiting
) -> None:
    played = await disturbed(lane, calm, Case(name, "march", (("+", KILLS, victim),), waiting=waiting))
    assert played.kills == KILLS


@pytest.mark.slow
@pytest.mark.asyncio(loop_scope="module")
async def test_the_way_to_cancel_is_closed_when_nothing_can_be_cancelled(lane: Lane, calm: dict[str, Played]) -> None:
    """Closed before, and killed between, the next attempt would take it for a request to cancel."""
    orders: tuple[Order, ...] = (("1 s0 settled", 1, "worker"),)
    played = await disturbed(lane, calm, Case("a_long_sleep", "kill worker", orders))
    assert "1 cancel settling" not in played.trace[: played.trace.index("1 s0 settled")]


def test_the_corpus_and_the_controls_are_as_many_as_is_said() -> None:
    assert len(PROGRAMS) >= 60
    assert len(CONTROLS) >= 12
    assert set(INCIDENTS) < set(PROGRAMS)


def test_the_page_says_what_is_here() -> None:
    page = (Path(__file__).parents[2] / "docs" / "guarantees.md").read_text()
    named = [*INCIDENTS, *CONTROLS, *SCENARIOS]
    assert [name for name in named if name not in page] == []
    assert with_table(page, "") != page
