"""CPython's own tests pass in a session as they do outside, but for those that need what a guest has not."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from perdure.engine import Client

from . import cpython

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("test.support") is None, reason="this Python was installed without its own tests"
)


@pytest.mark.parametrize("name", cpython.QUICK)
async def test_a_few_modules(tmp_path: Path, name: str) -> None:
    await _compare(tmp_path, name)


@pytest.mark.python
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", [name for name in cpython.MODULES if name not in cpython.QUICK])
async def test_many_modules(tmp_path: Path, name: str) -> None:
    await _compare(tmp_path, name)


async def _compare(folder: Path, name: str) -> None:
    expected = cpython.outside(folder, name)
    async with Client.open(folder / "state") as client:
        seen = await cpython.inside(client, name)
    assert expected
    wrong, agreed = [], []
    for test in sorted(expected.keys() | seen.keys()):
        if any(part in test for part in cpython.NOT_RUN):
            continue
        outside, inside = expected.get(test, "not run"), seen.get(test, "not run")
        same = outside.partition(":")[0] == inside.partition(":")[0]
        known = cpython.reason(test)
        if same and known and not _flaky(test):
            agreed.append(f"{test} is the same now: take it out of the table ({known})")
        if not same and not known and not cpython.needs_what_a_guest_has_not(inside):
            wrong.append(f"{test}\n  outside: {outside}\n  inside:  {inside}")
    assert not wrong, "\n".join(wrong)
    assert not agreed, "\n".join(agreed)


def test_every_difference_is_documented() -> None:
    page = " ".join((Path(__file__).parents[2] / "docs" / "python.md").read_text().split())
    differences = {**cpython.DIFFERENT, **cpython.NOT_RUN}
    assert [name for name, why in differences.items() if name.split(".")[-1] not in page or why not in page] == []


def _flaky(test: str) -> bool:
    """Whether a test's outcome depends on how fast the machine is, so that it may agree by chance."""
    return any(test.startswith(name.rstrip("*")) for name in cpython.BY_CHANCE)
