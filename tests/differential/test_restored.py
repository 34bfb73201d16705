"""Every program, each statement in a new process that begins with a restore: the same, or what is lost is named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from perdure.engine import Client, WorkerSettings
from perdure.engine.errors import BadSubmission
from perdure.engine.submitting import check_code

from .corpus import PROGRAMS, pieces
from .judging import judge
from .known import NOT_RESTORED, RESTORED
from .running import Warm, outside, restored

#: No guest is kept: whatever follows begins in a new one.
KILLED_EACH_TIME = WorkerSettings(kept_guests=0)
#: A part of the corpus in every full run.
SOME = (
    "classes/nested-classes",
    "data/random-seeded",
    "execution/pickle-dataclass-enum-namedtuple",
    "functions/closures",
)


def compiles(name: str) -> bool:
    """Whether a client takes the program: what does not compile is refused before anything of it is recorded."""
    try:
        check_code(PROGRAMS[name].code, None)
    except BadSubmission:
        return False
    return True


async def _compare(folder: Path, name: str, interpreter: Warm) -> None:
    program = PROGRAMS[name]
    expected = outside(interpreter, program)
    async with Client.open(folder / "state", settings=KILLED_EACH_TIME) as client:
        seen = await restored(client, "d-" + re.sub(r"\W", "-", name), pieces(program.code))
    if seen.lost:
        return  # named in a result, as it has to be
    if name in NOT_RESTORED:
        assert expected.differences(seen), f"{name} is the same now: take it out ({RESTORED[NOT_RESTORED[name]]})"
        return
    judge(program, "restored", expected, seen)


@pytest.mark.parametrize("name", SOME)
async def test_some_programs(tmp_path: Path, name: str, interpreter: Warm) -> None:
    await _compare(tmp_path, name, interpreter)


@pytest.mark.python
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", [name for name in PROGRAMS if name not in SOME and compiles(name)])
async def test_every_program(tmp_path: Path, name: str, interpreter: Warm) -> None:
    await _compare(tmp_path, name, interpreter)


def test_the_table_names_programs_and_reasons() -> None:
    assert NOT_RESTORED.keys() <= PROGRAMS.keys()
    assert set(NOT_RESTORED.values()) == set(RESTORED)
