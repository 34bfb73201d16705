"""Every program as one submission does what it does as ``python FILE``."""

from __future__ import annotations

import pytest

from tests.guest.harness import Host

from .corpus import PROGRAMS
from .judging import judge
from .running import SEED, Warm, inside, outside


@pytest.mark.parametrize("name", PROGRAMS)
def test_as_a_file(name: str, interpreter: Warm, guests: Warm) -> None:
    program = PROGRAMS[name]
    expected = outside(interpreter, program)
    with Host("d", SEED, spawn=guests.spawn) as host:
        judge(program, "whole", expected, inside(host, [program.code]))
