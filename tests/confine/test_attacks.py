"""The attack list, at every level and identity, with its effects on the host looked for."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from . import battle, landlock_alone
from .attacks import ATTACKS, FAKED, SUCCEEDS, VARIES
from .battle import EVERY, Battle, battles, older

# All hosts fight before the first test.
pytestmark = pytest.mark.timeout(300)

UPDATE = "run: python -m tests.confine.battle"
# Killed by the filter, or for a limit.
KILLED = ("ended: killed by SIGSYS", "ended: it")


@pytest.fixture(scope="session")
def found() -> Iterator[dict[Battle, dict[str, Any]]]:
    # Not beneath pytest's own folder, which only its owner may enter.
    with tempfile.TemporaryDirectory(prefix="perdure-battles-") as folder:
        Path(folder).chmod(0o755)
        yield battle.fight(Path(folder).resolve())


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    return landlock_alone.found(tmp_path_factory.mktemp("landlock"))


@pytest.mark.parametrize("host", [*battles(), *older()], ids=str)
def test_every_attack_ends_as_expected(found: dict[Battle, dict[str, Any]], host: Battle) -> None:
    outcomes: dict[str, str] = found[host]["outcomes"]
    tried = ATTACKS if host.abi else EVERY
    assert outcomes.keys() == tried.keys()
    wrong = {}
    for name, attack in tried.items():
        wanted, outcome = battle.expected(attack, host.level), outcomes[name]
        if wanted == VARIES or (wanted == FAKED and outcome in {SUCCEEDS, "ENOENT", "EROFS"}):
            continue
        if (outcome == SUCCEEDS) != (wanted == SUCCEEDS) or (
            outcome.startswith("ended") and not outcome.startswith(KILLED)
        ):
            wrong[name] = (wanted, outcome)
    assert wrong == {}


@pytest.mark.parametrize("host", [*battles(), *older()], ids=str)
def test_the_guest_that_attacked_still_worked(found: dict[Battle, dict[str, Any]], host: Battle) -> None:
    assert set(found[host]["controls"].values()) == {True}


@pytest.mark.parametrize("host", [*(host for host in battles() if host.level != "process"), *older()], ids=str)
def test_nothing_was_done_to_a_strict_host(found: dict[Battle, dict[str, Any]], host: Battle) -> None:
    assert [name for name, seen in found[host]["effects"].items() if seen] == []
    assert found[host]["survivors"] == 0


@pytest.mark.parametrize("host", older(), ids=str)
def test_what_an_older_landlock_cannot_tell_apart_is_refused_in_the_workspace_too(
    found: dict[Battle, dict[str, Any]], host: Battle
) -> None:
    assert found[host]["report"]["landlock_abi"] == host.abi
    wanted = {"moved": SUCCEEDS if host.abi >= 2 else "EXDEV", "truncated": SUCCEEDS if host.abi >= 3 else "EPERM"}
    assert found[host]["own"] == wanted


def test_what_each_landlock_refuses_without_the_filter(alone: dict[str, dict[str, str]]) -> None:
    assert alone == landlock_alone.expected(landlock_alone.versions())
    assert battle.documented(battle.BEGIN_LANDLOCK) == landlock_alone.table(landlock_alone.expected()), UPDATE


def test_what_was_done_is_seen_where_nothing_prevents_it(found: dict[Battle, dict[str, Any]]) -> None:
    host = Battle("ordinary", "process")
    assert [name for name, seen in found[host]["effects"].items() if not seen] == []
    assert found[host]["survivors"] >= 2


def test_the_ordinary_user_is_one(found: dict[Battle, dict[str, Any]]) -> None:
    assert all(found[host]["report"]["uid"] != 0 for host in battles() if host.identity == "ordinary")


def test_the_document_says_what_the_run_showed(found: dict[Battle, dict[str, Any]]) -> None:
    assert battle.documented() == battle.table(found), UPDATE
