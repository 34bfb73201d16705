"""From one Python to the next: definitions come back from their source, never as foreign bytecode."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

from .kit import Session


def other_pythons() -> list[str]:
    """One interpreter of every other supported minor version on this machine, on the path or beside this one."""
    found = []
    for minor in (12, 13, 14):
        if minor == sys.version_info.minor:
            continue
        name = f"python3.{minor}"
        beside = sorted(Path(sys.base_prefix).parent.glob(f"*/bin/{name}"))
        for path in [shutil.which(name), *map(str, beside)]:
            if path is not None and subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode == 0:
                found.append(path)
                break
    return found


DEFINITIONS = """
import functools, dataclasses, enum
def plain(a, b=2, *args, c=3, **kw): return a + b + c
def make(n):
    def inner(x): return x * n
    return inner
triple = make(3)
first, second = lambda: 'first', lambda: 'second'
class Base:
    def who(self): return 'base'
class Sub(Base):
    def who(self): return 'sub of ' + super().who()
    @property
    def twice(self): return [x for x in (1, 2)]
@dataclasses.dataclass
class Data:
    x: int
    y: list = dataclasses.field(default_factory=list)
class Color(enum.Enum):
    RED = 1
    def shout(self): return self.name + '!'
@functools.wraps(plain)
def wrapped(*a): return plain(*a)
def generic[T](x: T) -> T: return x
async def later(): return 5
data = [Data(1), Sub(), Color.RED]
exec("def unknown(): return 1")
"""

CHECK = """
assert plain(1) == 6 and plain(1, c=0) == 3 and triple(5) == 15 and (first(), second()) == ('first', 'second')
assert data[1].who() == 'sub of base' and data[1].twice == [1, 2] and data[0] == Data(1) and Data(2).y == []
assert data[2] is Color.RED and Color.RED.shout() == 'RED!' and wrapped(1) == 6 and generic(3) == 3
try: later().send(None)
except StopIteration as stop: assert stop.value == 5
"""

FOREIGN = """
try: unknown()
except RuntimeError as error: assert "its source is not known" in str(error), error
else: assert False
"""


def test_definitions_are_the_same_under_the_same_python(session: Session) -> None:
    session.run(DEFINITIONS)
    session.run(CHECK + "assert unknown() == 1\nimport inspect\nassert 'return x * n' in inspect.getsource(triple)")


def test_definitions_come_back_under_another_python_and_return(session: Session) -> None:
    session.run(DEFINITIONS)
    for python in other_pythons():
        session.run(CHECK + FOREIGN, python=python)
        session.run(CHECK)


def forge(session: Session) -> None:
    """Make the image say that another Python compiled its functions."""
    magic = importlib.util.MAGIC_NUMBER.hex().encode()
    session.image.write_bytes(session.image.read_bytes().replace(magic, b"00000000"))


def test_a_foreign_code_object_is_compiled_from_its_source_or_refused(session: Session) -> None:
    session.run(DEFINITIONS)
    forge(session)
    session.run(CHECK + FOREIGN)


def test_a_file_that_was_edited_is_not_taken_for_the_source(session: Session) -> None:
    session.run(
        "import linecache\ndef f(): return 'old'\nlinecache.cache['<cell 1>'] = (1, None, "
        "['import linecache\\n', \"def f(): return 'new'\\n\"], '<cell 1>')"
    )
    forge(session)
    session.run("try: f()\nexcept RuntimeError as error: assert 'not known' in str(error)\nelse: assert False")
