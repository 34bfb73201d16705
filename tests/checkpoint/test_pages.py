"""Watched memory is looked through again only after a fault, and nothing that is written to it is missed."""

from __future__ import annotations

import importlib
import mmap
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from .fuzz import load_guest

load_guest()
watching: Any = importlib.import_module("_perdure_guest.checkpoints.pages")

SIZE = 1 << 20


class Counting:
    """The extension, and how often memory was looked through."""

    pages_faults: Any

    def __init__(self, native: Any) -> None:
        self._native = native
        self.looks = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._native, name)

    def pages_touched(self, *args: Any) -> Any:
        self.looks += 1
        return self._native.pages_touched(*args)


class Watched:
    def __init__(self) -> None:
        self.pages = watching.Pages.open()
        if self.pages is None:
            pytest.skip("the kernel does not tell")
        self.native = self.pages._native = Counting(self.pages._native)
        self.memory = mmap.mmap(-1, SIZE)
        self.memory[:] = b"a" * SIZE
        self.address = self.pages.address(memoryview(self.memory))
        assert self.pages.arm(self.address, SIZE)

    def written(self, *, all_: bool = True) -> bool:
        found = self.pages.written([(7, *watching.whole_pages(self.address, SIZE))], all_=all_)
        assert found in (set(), {7})
        return bool(found)


@pytest.fixture
def watched() -> Iterator[Watched]:
    made = Watched()
    yield made
    for descriptor in made.pages.descriptors():
        try:
            os.close(descriptor)
        except OSError:
            pass
    made.memory.close()


def by_hand(memory: mmap.mmap) -> None:
    memory[SIZE // 2] = 1


def by_the_kernel(memory: mmap.mmap) -> None:
    source, sink = os.pipe()
    os.write(sink, b"b")
    os.readv(source, [memoryview(memory)[5000:5001]])
    os.close(source)
    os.close(sink)


def to_the_same(memory: mmap.mmap) -> None:
    memory[0] = memory[0]


@pytest.mark.parametrize("write", [by_hand, by_the_kernel, to_the_same])
def test_what_is_written_after_looks_that_found_nothing_is_seen(
    watched: Watched, write: Callable[[mmap.mmap], None]
) -> None:
    for _ in range(3):
        assert not watched.written()
    write(watched.memory)
    assert watched.written()
    assert watched.written(), "until it is stored"
    assert watched.pages.dirty(watched.address, SIZE)
    assert not watched.written()
    write(watched.memory)
    assert watched.written()


def test_without_a_fault_nothing_is_looked_through(watched: Watched) -> None:
    faults = iter([1, 1, 1, 2, 2])
    watched.pages._counts = True
    watched.native.pages_faults = lambda: next(faults)
    assert not any(watched.written() for _ in range(5))
    assert watched.native.looks == 2


def test_a_look_at_a_part_says_nothing_of_the_rest(watched: Watched) -> None:
    watched.pages._counts = True
    watched.native.pages_faults = lambda: 1
    assert not watched.written(all_=False)
    assert not watched.written(all_=False)
    assert watched.native.looks == 2


def test_where_faults_are_not_counted_it_is_looked_through_every_time(watched: Watched) -> None:
    watched.native.pages_faults = lambda: 1
    assert not watched.written()
    assert not watched.written()
    assert watched.pages._counts is False
    assert watched.native.looks == 2


def test_with_its_descriptors_gone_all_may_be_written(watched: Watched) -> None:
    assert not watched.written()
    os.close(watched.pages.descriptors()[0])
    assert watched.written()
