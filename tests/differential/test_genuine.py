"""What the other tests hold a guest against is what ``python FILE`` does: a new process for each program shows it."""

from __future__ import annotations

import pytest

from .corpus import PROGRAMS
from .running import Warm, genuine, outside

#: Those that ``python FILE`` can run.
FILES = [name for name, program in PROGRAMS.items() if not program.awaits]
#: A part of them in every full run.
SOME = FILES[:: len(FILES) // 10]


#: Where the warm interpreter is not quite a new one. What a guest shows there, known.py says, or is as it shows it.
DIFFERENT = {
    "functions/extract-stack": "the warm interpreter's own frames lie below the module's, as a guest's do",
    "functions/frame-of-module-has-no-caller": "its own frames",
    "functions/stack-depth": "its own frames",
    "exceptions/repeated-lines-collapsed": "its own frames count towards the recursion limit",
    "exceptions/keyboard-interrupt-raised": "Python ends itself by the signal",
    "execution/exec-named-traceback": "what prints the last traceback takes a line of the program for one of a file "
    "that is not there",
    "syntax/try-alone": "what prints the last traceback leaves out a mark behind the end of the line",
}


def _compare(name: str, interpreter: Warm) -> None:
    warm, new = outside(interpreter, PROGRAMS[name]), genuine(PROGRAMS[name])
    same = (new.stdout, new.stderr, new.code) == (warm.stdout, warm.stderr, warm.code)
    # Newer versions of Python print some of these otherwise: only what is not in the table has to agree.
    assert same or name in DIFFERENT, (new, warm)


@pytest.mark.parametrize("name", SOME)
def test_some_programs(name: str, interpreter: Warm) -> None:
    _compare(name, interpreter)


@pytest.mark.python
@pytest.mark.parametrize("name", [name for name in FILES if name not in SOME])
def test_every_program(name: str, interpreter: Warm) -> None:
    _compare(name, interpreter)
