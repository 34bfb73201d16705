"""Code whose time is over in the middle of a statement: what it had done by then is what its checkpoint holds."""

from __future__ import annotations

from pathlib import Path

from .kit import opened, outcome

CODE = """
before = 1
class Box:
    held = [0]
box = Box(); alias = box.held
def work():
    global inside
    with open('file', 'w') as file:
        for n in range(10**12):
            inside = n
            if n < 5: box.held.append(n); file.write(str(n)); file.flush()
work()
after = 1
"""


async def test_what_a_statement_had_done_when_its_time_was_over_is_kept(tmp_path: Path) -> None:
    state = tmp_path / "state"
    async with opened(state) as client:
        result = await outcome(client, "s", CODE, seconds=1.5)
        assert (result.status, result.error and result.error.type) == ("timeout", "ExecutionTimeout"), result
        assert result.checkpoint is not None
        look = "before, box.held, alias is box.held, inside >= 5, 'after' in globals(), open('file').read()"
        there = (await outcome(client, "s", look)).value
        assert there == (1, [0, 0, 1, 2, 3, 4], True, True, False, "01234")
        at = (await outcome(client, "s", "inside")).value
    async with opened(state) as client:
        assert (await outcome(client, "s", look)).value == there
        assert (await outcome(client, "s", "inside")).value == at
