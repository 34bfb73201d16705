"""What a restore could not load: said by the result, the variables and the tree, to whoever asks, until it can."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from perdure.engine import Client, Result, WorkerSettings
from perdure.engine.cli.app import app
from perdure.engine.records import NameReport

from .kit import opened, outcome
from .test_libraries import MAKE

ALONE = WorkerSettings(kept_guests=0)

HOOKED = """
import os
class Hooked:
    def __getstate__(self): return {'n': self.n}
    def __setstate__(self, state):
        if os.path.exists('fails'): raise ValueError('not today')
        self.n = state['n']
hooked = Hooked(); hooked.n = 3
holder, plain = {'deep': [hooked]}, 'x'
"""


async def fates(state: Path, session: str = "s") -> dict[str, NameReport]:
    """What another client, which runs nothing, sees."""
    async with Client.open(state, worker=False, create=False) as other:
        return {each.name: each for each in await (await other.session(session, create=False)).variables()}


def told(result: Result) -> dict[str, tuple[str, str]]:
    return {each.name: (each.why, each.where) for each in result.not_restored}


async def test_a_library_that_is_missing_where_the_session_goes_on(tmp_path: Path) -> None:
    state = tmp_path / "state"
    async with opened(state, settings=ALONE) as client:
        assert (await outcome(client, "s", MAKE + "del file")).ok
        assert (await outcome(client, "s", "import os; os.rename('shelf.py', 'gone')")).ok
    assert {each.status for each in (await fates(state)).values()} == {"kept"}
    async with opened(state, settings=ALONE) as client:
        result = await outcome(client, "s", "other += 1; both.append(other)")
        assert result.ok
        assert (result.lost, result.not_restored != ()) == ((), True)
        assert told(result).keys() == {"small", "large", "helper", "shelf", "both"}
        assert "No module named 'shelf'" in told(result)["small"][0]
        assert told(result)["both"][1] == "both[0]"
        seen = await fates(state)
        assert {name: (each.status, each.stored) for name, each in seen.items()} == {
            **dict.fromkeys(told(result), ("lost", True)),
            **dict.fromkeys(["library", "os", "other"], ("kept", False)),
        }
        assert (seen["both"].where, "shelf" in seen["large"].why) == ("both[0]", True)
        # Bound anew, it is there; a copy of the reference is as lost as what it refers to.
        result = await outcome(client, "s", "helper = 3; copied = {'in': small}")
        assert "helper" in told(result)
        seen = await fates(state)
        assert (seen["helper"].status, seen["copied"].status, seen["copied"].where) == ("kept", "lost", "copied['in']")
        assert (await outcome(client, "s", "os.rename('gone', 'shelf.py')")).ok
        back = await outcome(client, "s", "copied['in'].n")
        assert (back.value, back.not_restored) == (5, ())
    assert {each.status for each in (await fates(state)).values()} == {"kept"}


async def test_a_hook_that_fails_when_it_is_loaded(tmp_path: Path) -> None:
    state = tmp_path / "state"
    async with opened(state) as client:
        assert (await outcome(client, "s", HOOKED)).ok
        assert (await outcome(client, "s", "open('fails', 'w').close()")).not_restored == ()
    async with opened(state) as client:
        result = await outcome(client, "s", "plain += 'y'")
        assert told(result) == {
            "hooked": ("it could not be restored: ValueError: not today", ""),
            "holder": (
                "an object of type Hooked: it could not be restored: ValueError: not today", "holder['deep'][0]",
            ),
        }  # fmt: skip
        # Its guest is kept: the next execution finds as little, and is told so.
        assert told(await outcome(client, "s", "plain += 'z'")) == told(result)
        seen = await fates(state)
        assert (seen["hooked"].status, seen["holder"].where) == ("lost", "holder['deep'][0]")
        assert seen["plain"].status == "kept"
        # What is stored is none the worse for going back.
        assert (await outcome(client, "s", "1 / 0", atomic=True)).rolled_back
        assert (await fates(state))["hooked"].status == "lost"
        assert (await outcome(client, "s", "os.remove('fails')")).ok
    async with opened(state) as client:
        assert (await outcome(client, "s", "hooked.n, holder['deep'][0] is hooked")).value == (3, True)
    assert (await fates(state))["hooked"].status == "kept"


async def test_what_dies_before_its_end_says_it_too(tmp_path: Path) -> None:
    state = tmp_path / "state"
    async with opened(state) as client:
        assert (await outcome(client, "s", HOOKED)).ok
        assert (await outcome(client, "s", "open('fails', 'w').close()")).ok
    settings = WorkerSettings(poison_deaths=1)
    async with opened(state, settings=settings) as client:
        result = await outcome(client, "s", "os.kill(os.getpid(), 9)")
        assert (result.status, {*told(result)}) == ("crashed", {"hooked", "holder"})
        tree = await client.execution(result.execution).tree()
        assert "not restored: hooked, holder" in tree.children[0].label


def test_the_table_of_variables(tmp_path: Path) -> None:
    state = str(tmp_path / "state")
    run = CliRunner()
    for code in (HOOKED, "open('fails', 'w').close()"):
        assert run.invoke(app, ["exec", code, "--session", "s", "--state", state]).exit_code == 0
    told = run.invoke(app, ["exec", "plain", "--session", "s", "--state", state])
    assert "could not be restored here, and stays stored: hooked (it could not be restored: ValueError" in told.output
    table = run.invoke(app, ["vars", "s", "--state", state])
    (line,) = [line for line in table.output.splitlines() if line.startswith("holder")]
    assert "holder['deep'][0]: an object of type Hooked: it could not be restored" in line
    assert "the next restore tries again" in line
    rows = [json.loads(line) for line in run.invoke(app, ["vars", "s", "--state", state, "--json"]).output.splitlines()]
    assert {row["name"] for row in rows if row["stored"]} == {"hooked", "holder"}


@pytest.mark.parametrize("then", ["held = small", "small = held"])
async def test_a_name_bound_to_another_value_is_what_that_is(tmp_path: Path, then: str) -> None:
    async with opened(tmp_path / "state") as client:
        code = "held = [1]; small = [(n for n in 'ab')]; next(small[0])\n"
        assert [each.name for each in (await outcome(client, "s", code)).lost] == ["small"]
        lost = (await outcome(client, "s", then)).lost
    assert [each.name for each in lost] == (["held", "small"] if then == "held = small" else [])
