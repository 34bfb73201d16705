"""B. The namespace: one dict for life, histories, what stays after an error."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from perdure.engine.errors import FileRefused
from perdure.engine.files import MAX_FILES
from tests.whole.kit import bury_guests, kill_guests

if TYPE_CHECKING:
    from pathlib import Path

    from .kit import Talk

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_b1_functions_see_later_rebindings(talk: Talk) -> None:
    await talk.run("def area(): return side * side\nside = 3\nspace = globals()")
    assert await talk.value("side = 4\narea()") == 16
    assert await talk.value("import sys\nglobals() is space is sys.modules['__main__'].__dict__ is locals()") is True


async def test_b1_everything_a_module_does(talk: Talk) -> None:
    code = """
import pickle
count = 0
def bump():
    global count
    count += 1
def fact(n): return 1 if n < 2 else n * fact(n - 1)
def counter():
    n = 0
    def step():
        nonlocal n
        n += 1
        return n
    return step
class Shape:
    sides = [n for n in range(3)]
    def __init__(self): self.x = count
bump(); step = counter(); step()
gone = 1
del gone
here = __name__ == "__main__"
again = pickle.loads(pickle.dumps(Shape()))
"""
    await talk.run(code)
    assert await talk.value("count, fact(5), step(), type(again) is Shape, Shape.sides, here") == (
        1,
        120,
        2,
        True,
        [0, 1, 2],
        True,
    )
    assert (await talk.error("gone")).type == "NameError"


async def test_b2_the_internals_exist_and_survive(talk: Talk) -> None:
    names = "'_ __ ___ _i _ii _iii In Out _ih _oh _exit_code _exception __name__ __builtins__'.split()"
    missing = f"[n for n in {names} if n not in globals()]"
    assert await talk.value(missing) == []
    await talk.run("globals().clear()")
    assert await talk.value(missing) == []
    kill_guests()
    assert await talk.value(missing) == []
    assert (await talk.value("list = 5\n_ = 'mine'\nlist, _")) == (5, "mine")
    await talk.run("del list, _")


async def test_b4_histories_move_for_values_and_survive_a_restore(talk: Talk) -> None:
    await talk.run("globals().clear()")
    await talk.run("41")
    await talk.run("x = 1")
    second = await talk.run("42")
    await talk.run("None")
    number = int(second.execution.rpartition("@")[2])
    assert await talk.value(f"_, __, Out[{number}], In[{number - 1}], {number + 1} in Out") == (
        42,
        41,
        42,
        "x = 1",
        False,
    )
    await talk.run("'before the restore'")
    await bury_guests()
    result = await talk.run("_, _i, len(Out) > 2")
    assert not result.kept_guest
    assert result.value == ("before the restore", "'before the restore'", True)


async def test_b5_what_ran_before_an_error_stays(talk: Talk) -> None:
    await talk.run("kept = 1\n1/0\nkept = 2")
    assert await talk.value("kept") == 1


async def test_b7_statement_by_statement_does_not_show(talk: Talk) -> None:
    assert await talk.value("'the doc'\nx = 1\n__doc__") == "the doc"
    await talk.run("x = 1\n'no doc'\nx")
    assert await talk.value("__doc__") == "the doc"


async def test_b8_a_file_is_run_as_python_file(talk: Talk) -> None:
    result = await talk.run(
        "import sys, os\n(os.path.basename(__file__), sys.argv, sys.path[0] == os.path.dirname(__file__))",
        filename="job.py",
        argv=["-v", "x"],
    )
    assert result.value == ("job.py", ["job.py", "-v", "x"], True)


async def test_b8_the_pid_is_the_processs_own(talk: Talk) -> None:
    assert await talk.value("import os, ctypes\nos.getpid() == ctypes.CDLL(None).getpid()") is True
    await talk.run("kept = 1")
    result = await talk.run("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    assert (result.status, result.error and result.error.type) == ("crashed", "GuestDied")
    assert "SIGKILL" in (result.error.message if result.error else "")
    assert await talk.value("kept") == 1


async def test_b8_files_come_in_by_name_and_bounded(talk: Talk, tmp_path: Path) -> None:
    (tmp_path / "many").mkdir()
    (tmp_path / "table.csv").write_text("a,b")
    (tmp_path / "other.csv").write_text("not asked for")
    assert await talk.value("open('table.csv').read()", files=[tmp_path / "table.csv"]) == "a,b"
    assert await talk.value("import os\nos.path.exists('other.csv')") is False
    for number in range(MAX_FILES + 1):
        (tmp_path / "many" / str(number)).touch()
    with pytest.raises(FileRefused, match=f"more than {MAX_FILES} files: bring an archive"):
        await talk.submit("1", files=[tmp_path / "many"])
    with pytest.raises(FileRefused, match="there is no file"):
        await talk.submit("1", files=[tmp_path / "nowhere"])
    await talk.answers()


async def test_b6_threads_are_as_safe_as_the_gil_makes_them(talk: Talk) -> None:
    code = """
import threading
appended, counted, lock = [], 0, threading.Lock()
def work():
    global counted
    for n in range(1000):
        appended.append(n)
        with lock:
            counted += 1
workers = [threading.Thread(target=work) for _ in range(8)]
for each in workers: each.start()
for each in workers: each.join()
len(appended), counted
"""
    assert await talk.value(code) == (8000, 8000)
