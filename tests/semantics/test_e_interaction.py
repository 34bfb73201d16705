"""E. Interaction: questions, calls, rich results, progress."""

from __future__ import annotations

import asyncio
from binascii import a2b_base64
from typing import TYPE_CHECKING

import pytest

from perdure.engine.records import DisplayEvent, OutputEvent
from tests.whole.kit import kill_guests

if TYPE_CHECKING:
    from .kit import Talk

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def answer_all(talk: Talk, execution: str, answers: list[str]) -> list[str]:
    """Answer one question after another; return the prompts."""
    prompts = []
    async with asyncio.timeout(30):
        for text in answers:
            while not (pending := await talk.client.pending(execution)):
                await talk.client.substrate.changed(0.2)
            prompts.append(pending[0].prompt)
            await talk.client.answer(pending[0].id, text)
    return prompts


async def test_e1_input_works_many_times_everywhere(talk: Talk) -> None:
    code = """
import asyncio, threading
def ask_name(): return input('name? ')
got = [input('first? '), ask_name()]
t = threading.Thread(target=lambda: got.append(input('thread? ')))
t.start(); t.join()
async def inside(): return input('coroutine? ')
got.append(await inside())
got
"""
    execution = await talk.submit(code)
    prompts = await answer_all(talk, execution.id, ["a", "b", "c", "d"])
    assert prompts == ["first? ", "name? ", "thread? ", "coroutine? "]
    async with asyncio.timeout(30):
        assert (await execution.result()).value == ["a", "b", "c", "d"]
    assert await talk.output(execution.id) == "".join(prompts)


async def test_e2_calls_from_sync_code_threads_and_coroutines(talk: Talk) -> None:
    code = """
import asyncio, threading
got = [look(1)]
got.append(await look(2))
t = threading.Thread(target=lambda: got.append(look(3)))
t.start(); t.join()
async def inside(): return await look(4)
got.append(await asyncio.create_task(inside()))
got += await asyncio.gather(look(5), look(6))
def plain(): return look(7)
got.append(await asyncio.to_thread(plain))
got
"""
    assert await talk.value(code) == [1, 2, 3, 4, 5, 6, 7]


async def test_e2_a_call_never_awaited_is_said_with_its_line(talk: Talk) -> None:
    shown = await talk.printed("async def forget():\n    look('x')\nawait forget()", "stderr")
    assert "look in line 2 was never awaited" in shown


async def test_e4_progress_with_carriage_returns_comes_intact(talk: Talk) -> None:
    code = "import time\nfor i in range(4):\n    print(f'\\r{i}/3', end='')\nprint('\\nnaïve ✓')"
    assert await talk.printed(code) == "\r0/3\r1/3\r2/3\r3/3\nnaïve ✓\n"


async def test_e4_tqdm_shows_its_bar_and_its_end(talk: Talk) -> None:
    code = """
from tqdm import tqdm
total = 0
for n in tqdm(range(50), desc='naïve', ncols=60, mininterval=0):
    total += n
tqdm.write('done')
total
"""
    result = await talk.run(code)
    assert result.value == 1225
    bar = await talk.output(result.execution, "stderr")
    assert bar.startswith("\rnaïve:   0%|")
    assert bar.endswith("\n")
    assert [part for part in bar.split("\r") if part][-1].startswith("naïve: 100%|█")
    assert "50/50" in bar
    assert await talk.output(result.execution, "stdout") == "done\n"
    await talk.answers()


async def test_e1_input_that_nobody_will_answer_is_the_end_of_input(talk: Talk) -> None:
    code = """
lines = []
while True:
    try:
        lines.append(input('> '))
    except EOFError:
        break
lines, 'over'
"""
    execution = await talk.submit(code)
    await answer_all(talk, execution.id, ["a"])
    while not (pending := await talk.client.pending(execution.id)):
        await talk.client.substrate.changed(0.2)
    await talk.client.fail(pending[0].id, "the terminal is closed")
    async with asyncio.timeout(30):
        assert (await execution.result()).value == (["a"], "over")
    execution = await talk.submit("input('? ')")
    waiting = await talk.until(execution, "waiting")
    await talk.client.fail(waiting.calls[0], "the terminal is closed")
    result = await execution.result()
    assert (result.error and (result.error.type, result.error.message)) == ("InputClosed", "the terminal is closed")


RICH = """
class Table:
    def __repr__(self): return 'a table'
    def _repr_html_(self): return '<b>a table</b>'
    def _repr_png_(self): return b'\\x89PNG'
    def _repr_latex_(self): return None
"""


async def test_e3_a_rich_value_comes_as_a_bundle(talk: Talk) -> None:
    result = await talk.run(RICH + "Table()")
    assert result.display == {"text/html": "<b>a table</b>", "image/png": "iVBORw==", "text/plain": "a table"}
    assert result.repr == "a table"
    result = await talk.run(
        "class M:\n    def _repr_mimebundle_(self, **k): return {'x/y': 'z', 'x/j': {'a': 1}}, {}\nM()"
    )
    assert result.display is not None
    assert (result.display["x/y"], result.display["x/j"]) == ("z", '{"a": 1}')
    assert (await talk.run("[1, 2]")).display is None
    html = await talk.run("import pandas\npandas.DataFrame({'n': [1]})")
    assert "<table" in (html.display or {})["text/html"]


async def test_e3_displays_come_among_the_output_once_and_in_order(talk: Talk) -> None:
    code = RICH + "print('before')\ndisplay(Table(), 5)\nprint('after')\nlook('x')\n"
    execution = await talk.submit(code)
    result = await execution.result()
    shown = [e async for e in execution.events(follow=False) if isinstance(e, OutputEvent | DisplayEvent)]
    assert [e.text if e.type == "output" else e.data["text/plain"] for e in shown] == [
        "before\n",
        "a table",
        "5",
        "after\n",
    ]
    assert [e.offset for e in shown] == [0, 7, 8, 9]
    assert result.characters == 15
    rest = [e.type async for e in execution.events(8, follow=False) if e.type in ("output", "display")]
    assert rest == ["display", "output"]


async def test_e3_a_large_display_is_stored_by_reference_and_replayed_once(talk: Talk) -> None:
    show = "display({'image/png': b'x' * 600_000, 'text/plain': 'big'}, raw=True)"
    code = f"print('on')\n{show}\nname = input('? ')\ndisplay(name)"
    execution = await talk.submit(code)
    await talk.until(execution, "waiting")
    kill_guests()
    await answer_all(talk, execution.id, ["Ada"])
    async with asyncio.timeout(30):
        result = await execution.result()
    assert result.error is None
    shown = [e async for e in execution.events(follow=False) if e.type == "display"]
    assert [e.data["text/plain"] for e in shown] == ["big", "'Ada'"]
    assert len(shown[0].data["image/png"]) == 800_000
    records = [r for r in (await execution.tree()).children[0].children if r.kind == "output"]
    assert any("$ref" in str(r.param["chunks"])[:2000] for r in records)
    assert not any("differed" in note for note in result.notes)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("raise SystemExit", "_repr_html_ raised SystemExit"),
        ("return 'x' * 20_000_000", "text/html was left out"),
        ("return 5j", "_repr_html_ raised TypeError"),
    ],
)
async def test_e3_a_hostile_display_is_contained_and_named(talk: Talk, body: str, says: str) -> None:
    result = await talk.run(f"class Bad:\n    def _repr_html_(self): {body}\nBad()")
    assert result.status == "ok"
    assert any(says in note for note in result.notes), result.notes
    await talk.run("del _, Bad\nOut.clear()")
    await talk.answers()


async def test_e3_the_budget_of_displays_is_named(talk: Talk) -> None:
    session = await talk.client.session("gallery", limits={"display_bytes": 1000})
    result = await (await session.submit("for _ in range(3): display({'text/html': 'x' * 600}, raw=True)")).result()
    assert any("2 displays were cut, beyond display_bytes (1000)" in note for note in result.notes)
    assert (await talk.output(result.execution)).count("display cut") == 2


FIGURES = """
import matplotlib.pyplot as plt
figure, axes = plt.subplots(figsize=(2, 1))
axes.plot([1, 2, 3])
"""


async def pictures(talk: Talk, execution: str) -> list[bytes]:
    events = talk.client.execution(execution).events(follow=False)
    return [a2b_base64(e.data["image/png"]) async for e in events if e.type == "display" and "image/png" in e.data]


@pytest.mark.python
async def test_e3_figures_of_matplotlib_come_out(talk: Talk) -> None:
    result = await talk.run(FIGURES + "print('shown')\nplt.show()\nplt.get_fignums()")
    shown = await pictures(talk, result.execution)
    assert [each[:4] for each in shown] == [b"\x89PNG"]
    assert result.value == []
    left_open = await talk.run(FIGURES)
    assert len(await pictures(talk, left_open.execution)) == 1
    untouched = await talk.run("plt.get_fignums()")
    assert (untouched.value, await pictures(talk, untouched.execution)) == ([1], [])
    drawn_on = await talk.run("axes.set_title('more')")
    assert len(await pictures(talk, drawn_on.execution)) == 1
    result = await talk.run("plt.close('all')\nfrom matplotlib.figure import Figure\nalone = Figure((2, 1))\nalone")
    assert result.display is not None
    assert a2b_base64(result.display["image/png"])[:4] == b"\x89PNG"
