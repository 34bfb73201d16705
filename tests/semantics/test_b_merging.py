"""B3 and B5: variables from outside, and executions that change nothing unless they succeed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from perdure.engine.errors import BadSubmission
from tests.whole.kit import kill_guests

if TYPE_CHECKING:
    from .kit import Talk

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_b3_variables_are_set_by_strategy_and_what_changed_is_returned(talk: Talk) -> None:
    session = await talk.client.session("talk")
    await talk.run("a, full, same, arr = 1, [1], (1, 2), None\nheld = same")
    done = await session.set({"a": 2, "new": {"x": b"1"}}, source="a form")
    assert (done.added, done.changed, done.kept, done.source) == (("new",), ("a",), (), "a form")
    done = await session.set({"a": 3, "b": 4}, strategy="preserve")
    assert (done.added, done.kept) == (("b",), ("a",))
    done = await session.set({"a": None, "full": [], "same": (1, 2), "b": 5}, strategy="smart")
    assert (done.changed, done.kept) == (("b",), ("a", "full", "same"))
    assert await talk.value("a, b, full, same is held, new") == (2, 5, [1], True, {"x": b"1"})
    await session.set({"a": None})
    assert await talk.value("a is None") is True
    assert await talk.value("a = 1\na = None\na is None") is True


async def test_b3_smart_compares_arrays_without_raising(talk: Talk) -> None:
    session = await talk.client.session("talk")
    await talk.run("import numpy\nrows = numpy.arange(3)")
    assert (await session.set({"rows": [1]}, strategy="smart")).changed == ("rows",)


async def test_b3_it_is_an_execution_that_replays_and_survives(talk: Talk) -> None:
    session = await talk.client.session("talk")
    big = "x" * 1_000_000
    await session.set({"big": big})
    kill_guests()
    assert await talk.value("len(big)") == len(big)
    last = await session.last()
    assert last is not None
    result = await talk.run("a + 1", variables={"a": 41})
    assert result.merged is not None
    assert (result.value, result.merged.source) == (42, "client")
    submitted = await talk.client.execution(result.execution).submission()
    assert submitted["variables"]["values"] == {"a": 41}


@pytest.mark.parametrize("name", ["not a name", "class", "1x", ""])
async def test_b3_what_is_no_name_is_refused_at_once(talk: Talk, name: str) -> None:
    session = await talk.client.session("talk")
    with pytest.raises(BadSubmission, match="nothing was recorded"):
        await session.set({name: 1})


async def test_b3_the_internals_are_kept(talk: Talk) -> None:
    session = await talk.client.session("talk")
    done = await session.set({"Out": 1, "__name__": "x", "mine": 1})
    assert done.kept == ("Out", "__name__")
    assert await talk.value("__name__, isinstance(Out, dict)") == ("__main__", True)


async def test_b5_an_atomic_execution_that_fails_changes_nothing(talk: Talk) -> None:
    await talk.run("globals().clear()")
    await talk.run("kept = [1]\nopen('file.txt', 'w').write('before')")
    result = await talk.run(
        "kept.append(2)\nadded = 1\nopen('file.txt', 'w').write('after')\n1/0", atomic=True, variables={"put": 1}
    )
    assert (result.status, result.rolled_back, result.merged) == ("error", True, None)
    assert result.error is not None
    assert result.error.type == "ZeroDivisionError"
    assert await talk.value("kept, 'added' in globals(), 'put' in globals(), open('file.txt').read()") == (
        [1],
        False,
        False,
        "before",
    )
    result = await talk.run("kept.append(2)\nkept", atomic=True)
    assert (result.value, result.rolled_back) == ([1, 2], False)
    crashed = await talk.run("kept.append(3)\nimport os\nos._exit(1)", atomic=True)
    assert (crashed.status, crashed.rolled_back) == ("crashed", True)
    assert await talk.value("kept") == [1, 2]


async def test_b5_atomic_is_refused_where_going_back_would_lose_something(talk: Talk) -> None:
    await talk.run("lines = (n for n in range(3)); next(lines)")
    result = await talk.run("1", atomic=True)
    assert (result.status, result.error and result.error.type) == ("refused", "NotAtomic")
    assert "lines" in (result.error.message if result.error else "")
    assert await talk.value("next(lines)") == 1
    await talk.run("del lines")
    assert (await talk.run("1", atomic=True)).status == "ok"


async def test_b4_history_length_is_a_setting(talk: Talk) -> None:
    session = await talk.client.session("short", limits={"history": 3})
    for _ in range(5):
        result = await (await session.submit("1", wait=True)).result()
    result = await (await session.submit("sorted(Out)", wait=True)).result()
    assert result.value == [3, 4, 5]
