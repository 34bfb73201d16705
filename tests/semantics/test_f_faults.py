"""F. Faults that earlier attempts at this had: each by its name, each gone."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from perdure.engine.errors import BadSubmission, SessionBusy
from tests.whole.kit import HIJACK, World, bury_guests

if TYPE_CHECKING:
    from .kit import Talk

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_the_trailing_expression_is_evaluated_once(talk: Talk) -> None:
    assert await talk.value("calls = []\ncalls.append(1) or len(calls)") == 1
    assert await talk.value("len(calls)") == 1
    assert await talk.value("import asyncio\nawait asyncio.sleep(0, calls.append(2))\ncalls") == [1, 2]


async def test_the_second_input_is_answered_as_the_first(talk: Talk) -> None:
    execution = await talk.submit("[input('a'), input('b'), input('c')]")
    async with asyncio.timeout(30):
        for text in "xyz":
            while not (pending := await talk.client.pending(execution.id)):
                await talk.client.substrate.changed(0.2)
            await talk.client.answer(pending[0].id, text)
        assert (await execution.result()).value == ["x", "y", "z"]


async def test_a_raw_write_does_not_wedge_the_session(talk: Talk) -> None:
    assert await talk.printed('import os\nos.write(1, b\'{"t": "done"}\\n\')') == '{"t": "done"}\n'
    await talk.answers()


async def test_a_result_over_the_frames_cap_comes(talk: Talk) -> None:
    assert await talk.value("b'x' * 3_000_000") == b"x" * 3_000_000
    await talk.run("del _\nOut.clear()")


async def test_a_crash_is_noticed_at_once_and_not_at_a_timeout(talk: Talk) -> None:
    result = await talk.run("import os\nos._exit(7)", seconds=3600)
    assert result.status == "crashed"
    assert "exited with code 7" in (result.error.message if result.error else "")


async def test_after_a_timeout_the_session_is_free_and_the_code_is_gone(talk: Talk) -> None:
    result = await talk.run("n = 0\nwhile True: n += 1", seconds=0.2)
    assert result.status == "timeout"
    session = await talk.client.session("talk")
    after = await (await session.submit("n")).result()
    assert after.status == "ok"
    assert (await talk.run("n")).value == after.value


async def test_two_quick_submissions_do_not_both_run(talk: Talk, world: World) -> None:
    session = await talk.client.session("talk")
    made = await asyncio.gather(*(session.submit("look('quick', 0.1)") for _ in range(5)), return_exceptions=True)
    refused = [each for each in made if isinstance(each, SessionBusy)]
    assert (len(refused), len(made)) == (4, 5)
    for each in made:
        if not isinstance(each, BaseException):
            await each.result()
    assert world.effects().count("look quick") == 1


async def test_a_cancel_does_not_wait_out_its_grace(talk: Talk) -> None:
    session = await talk.client.session("patient", limits={"grace_seconds": 1000.0})
    execution = await session.submit("print('on')\nwhile True: pass")
    await talk.until(execution, "output")
    async with asyncio.timeout(30):
        result = await execution.cancel(wait=30)
    assert result is not None
    assert (result.status, result.stop) == ("cancelled", "stopped")


async def test_a_restore_keeps_functions_classes_and_instances_or_names_what_it_lost(talk: Talk) -> None:
    made = await talk.run(
        "class Account:\n    rate = 2\n    def __init__(self, n): self.n = n\n"
        "    def total(self): return self.n * self.rate\n"
        "def double(a): return a.total() * 2\nmine = Account(4)\nlines = (i for i in range(3)); next(lines)"
    )
    assert [report.name for report in made.lost] == ["lines"]
    await bury_guests()
    after = await talk.run("double(mine), type(mine) is Account, Account(1).total()")
    assert (after.value, after.kept_guest) == ((16, True, 2), False)
    assert (await talk.error("next(lines)")).type == "LostObjectError"
    await talk.run("del lines")


@pytest.mark.parametrize("value", [0, "", False, [], 0.0, {}, b""])
async def test_falsy_results_do_not_vanish(talk: Talk, value: object) -> None:
    result = await talk.run(repr(value))
    assert result.has_value
    assert (result.value, result.repr) == (value, repr(value))


async def test_what_is_not_granted_is_refused_by_the_host_and_not_by_absence(talk: Talk, world: World) -> None:
    await talk.client.session("bare", grants=[])
    code = (
        f"{HIJACK}"
        "channel.send({'t': 'call', 'path': 'main.0', 'name': 'pay', 'args': {'what': 'x'}, 'line': 1})\n"
        "import time\ntime.sleep(0.3)"
    )
    session = await talk.client.session("bare")
    assert (await (await session.submit(code)).result()).ok
    assert "pay x" not in world.effects()


async def test_a_docstring_with_a_lone_surrogate_can_be_kept(talk: Talk) -> None:
    assert (await talk.run(r"'\ud800'")).status == "ok"
    assert await talk.value("ascii(__doc__)") == r"'\ud800'"


async def test_touching_a_file_makes_it_though_the_walls_only_pretend_to_set_times(talk: Talk) -> None:
    code = "import os, pathlib\npathlib.Path('touched').touch()\nos.path.exists('touched')"
    assert await talk.value(code) is True
    assert (await talk.error("os.utime('not there')")).type == "FileNotFoundError"
    assert (await talk.error("os.chmod('not there', 0o600)")).type == "FileNotFoundError"
    code = "import shutil, os\nshutil.copy2('touched', 'copied')\nos.utime in os.supports_follow_symlinks, os.listdir()"
    follows, names = await talk.value(code)
    assert follows
    assert {"touched", "copied"} <= set(names)


async def test_what_does_not_compile_is_shown_with_its_line_and_a_mark(talk: Talk) -> None:
    with pytest.raises(
        BadSubmission, match=r"never closed \(code, line 1\); nothing was recorded\n    x = \(1,\n +\^$"
    ):
        await talk.submit("x = (1,")


async def test_code_from_a_string_is_not_shown_with_lines_of_the_runtime(talk: Talk) -> None:
    error = await talk.error("exec(compile('\\n\\n1/0', '<string>', 'exec'))")
    assert error.traceback.endswith('File "<string>", line 3, in <module>\nZeroDivisionError: division by zero\n')
