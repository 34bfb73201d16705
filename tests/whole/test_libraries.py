"""A library that is missing at a restore: what needs it is lost to this run, and comes back with the library."""

from __future__ import annotations

from pathlib import Path

import pytest

from perdure.engine import WorkerSettings

from .kit import opened, outcome

MAKE = """
library = 'class Kept:\\n    def __init__(self, n): self.n = n\\ndef helper(): return 7\\n'
with open('shelf.py', 'w') as file: file.write(library)
import shelf
from shelf import helper
small, large = shelf.Kept(5), [shelf.Kept(n) for n in range(3000)]
both, other = [small], 1
"""


@pytest.mark.parametrize("used", ["", "\nfor name in (small, large, helper, shelf): repr(name)"])
async def test_what_could_not_be_loaded_stays_stored(tmp_path: Path, used: str) -> None:
    async with opened(tmp_path / "state", settings=WorkerSettings(kept_guests=0)) as client:
        assert (await outcome(client, "s", MAKE)).ok
        assert (await outcome(client, "s", "import os; os.rename('shelf.py', 'gone')")).ok
        lost = await outcome(client, "s", f"other += 1; [repr(n)[:5] for n in (small, large[0], shelf, helper)]{used}")
        assert lost.ok, lost.error
        again = await outcome(client, "s", "both.append(other); len(both), repr(both[0])[:5]")
        assert again.value == (2, "<lost"), again.error
        assert (await outcome(client, "s", "os.rename('gone', 'shelf.py')")).ok
        back = await outcome(client, "s", "small.n, large[-1].n, helper(), shelf.Kept(1).n, both[0] is small, other")
        assert back.value == (5, 2999, 7, 1, True, 2), back.error


async def test_a_name_that_is_bound_anew_is_what_it_is_bound_to(tmp_path: Path) -> None:
    async with opened(tmp_path / "state", settings=WorkerSettings(kept_guests=0)) as client:
        assert (await outcome(client, "s", MAKE)).ok
        assert (await outcome(client, "s", "import os; os.rename('shelf.py', 'gone')")).ok
        assert (await outcome(client, "s", "small, helper = [1], 2; del large")).ok
        assert (await outcome(client, "s", "os.rename('gone', 'shelf.py')")).ok
        seen = await outcome(client, "s", "small, helper, 'large' in dir(), both[0].n")
        assert seen.value == ([1], 2, False, 5), seen.error
