"""Every program, each of its top-level statements a submission of one session, does what it does as ``python FILE``."""

from __future__ import annotations

import pytest

from tests.guest.harness import Host

from .corpus import PROGRAMS, pieces
from .judging import judge
from .running import SEED, Warm, inside, outside


@pytest.mark.parametrize("name", PROGRAMS)
def test_statement_by_statement(name: str, interpreter: Warm, guests: Warm) -> None:
    program = PROGRAMS[name]
    expected = outside(interpreter, program)
    with Host("d", SEED, spawn=guests.spawn) as host:
        judge(program, "split", expected, inside(host, pieces(program.code), as_file=False))
