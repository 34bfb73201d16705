"""A library that is another one at the restore: what it has no more is lost by name, and everything else lives."""

from __future__ import annotations

from pathlib import Path

from .kit import Session

FIRST = """
class Kept:
    def __init__(self): self.x = 1
class Gone:
    def __init__(self): self.x = 2
class Stricter:
    def __init__(self): self.x = 3
def helper(): return 'first'
def only(): return 'only'
"""
SECOND = """
class Kept:
    def __init__(self): self.x = 1
    def more(self): return self.x + 10
class Stricter:
    def __setstate__(self, state): raise TypeError('it needs y since version 2')
def helper(): return 'second'
"""
MAKE = """
import sys; sys.path.insert(0, {folder!r})
import library
from library import helper, only
a = [library.Kept()]; b = [library.Gone(), 5]; c = library.Stricter(); d = {{'plain': a}}; e = library.Kept
def uses(): return library.helper()
fine = [b'fine']; two = fine
"""


def made(session: Session, folder: Path) -> None:
    folder.mkdir()
    (folder / "library.py").write_text(FIRST)
    report = session.run(MAKE.format(folder=str(folder))).dumped
    assert {entry["status"] for entry in report.values()} == {"kept"}, report


def change(folder: Path, text: str | None) -> None:
    for cached in folder.glob("__pycache__/*"):
        cached.unlink()
    (folder / "library.py").unlink()
    if text is not None:
        (folder / "library.py").write_text(text)


def test_a_library_that_changed_costs_what_it_has_no_more(session: Session, tmp_path: Path) -> None:
    made(session, tmp_path / "libraries")
    change(tmp_path / "libraries", SECOND)
    report = session.run(
        "assert a[0].more() == 11 and d['plain'] is a and e is library.Kept and uses() == helper() == 'second'\n"
        "assert b[1] == 5 and repr(b[0]).startswith('<lost') and repr(c).startswith('<lost')\n"
        "try: b[0].x\nexcept RuntimeError as error: assert 'Gone' in str(error) and 'b[0]' in str(error), error\n"
        "else: assert False"
    ).loaded
    lost = {name: entry["why"] for name, entry in report.items() if entry["status"] == "lost"}
    assert lost.keys() == {"b", "c", "only"}, report
    assert "Gone" in lost["b"]
    assert "it needs y since version 2" in lost["c"]
    assert "only" in lost["only"]


def test_a_library_that_is_missing_costs_what_needs_it_and_says_its_name(session: Session, tmp_path: Path) -> None:
    made(session, tmp_path / "libraries")
    change(tmp_path / "libraries", None)
    report = session.run(
        "assert repr(a[0]).startswith('<lost') and d['plain'] is a and fine == [b'fine'] and two is fine"
    ).loaded
    lost = {name: entry["why"] for name, entry in report.items() if entry["status"] == "lost"}
    assert lost.keys() == {"a", "b", "c", "d", "e", "helper", "library", "only"}, report
    assert (report["b"]["where"], report["d"]["where"]) == ("b[0]", "d['plain'][0]"), report
    assert all("library" in why for why in lost.values()), lost
    again = session.run("assert repr(a[0]).startswith('<lost') and two is fine")
    assert again.loaded["a"]["status"] == "lost"


def test_what_a_library_keeps_under_the_name_that_it_says_is_that_and_a_copy_is_not(
    session: Session, tmp_path: Path
) -> None:
    folder = tmp_path / "libraries"
    folder.mkdir()
    (folder / "library.py").write_text(
        "import queue\n"
        "class Callable:\n"
        "    def __init__(self, name, part): self.__name__ = name; self.part = part\n"
        "    def __call__(self): return 7\n"
        "known = Callable('known', queue.SimpleQueue())\n"
    )
    report = session.run(
        f"import sys; sys.path.insert(0, {str(folder)!r})\n"
        "import library; f = [library.known]; other = library.Callable('known', 5); g = {'f': f[0]}"
    ).dumped
    assert {entry["status"] for entry in report.values()} == {"kept"}, report
    session.run(
        "assert f[0] is library.known is g['f'] and f[0]() == 7\nassert other is not library.known and other.part == 5"
    )
