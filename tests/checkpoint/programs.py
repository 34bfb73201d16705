"""Random programs: one statement after another that makes, shares, changes, hides and drops values."""

from __future__ import annotations

import random
from collections.abc import Callable

PRELUDE = """
import collections, functools, sys
import numpy
class Node:
    kind = []
    def __init__(self, *parts): self.parts = list(parts); self.next = None
    def grow(self, part): self.parts.append(part); return self
class Slim:
    __slots__ = ('left', 'right')
def change(thing, part):
    if isinstance(thing, list): thing.append(part)
    elif isinstance(thing, dict): thing[len(thing)] = part
    elif isinstance(thing, Node): thing.next = part
    elif isinstance(thing, numpy.ndarray) and thing.flags.writeable and thing.size: thing.flat[0] += 1
def counter():
    count = [0]
    def up():
        count.append(len(count)); return count
    def see(): return count
    return up, see
def bump():
    global total
    total += 1
total = 0
"""

NAMES = [f"v{number}" for number in range(12)]


class Program:
    """Writes statements; the same seed writes the same program."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._bound: list[str] = []
        self._count = 0

    def statement(self) -> str:
        """Return the next one; it may raise, which changes nothing that matters."""
        self._count += 1
        statement: Callable[[Program], str] = self._random.choice(_STATEMENTS)
        return statement(self)

    def old(self) -> str:
        """Return a name that is bound, or a part of what it is bound to."""
        if not self._bound:
            return "total"
        name = self._random.choice(self._bound)
        roll = self._random.random()
        if roll < 0.65:
            return name
        if roll < 0.8:
            return f"{name}[0]"
        return f"{name}.parts" if roll < 0.9 else f"{name}.next"

    def new(self) -> str:
        """Return a name to bind."""
        name = self._random.choice(NAMES)
        if name not in self._bound:
            self._bound.append(name)
        return name

    def drop(self) -> str:
        """Return a name to delete."""
        if not self._bound:
            return "missing"
        return self._bound.pop(self._random.randrange(len(self._bound)))

    def value(self) -> str:
        """Return an expression that makes something, perhaps of what is there."""
        makers: list[Callable[[], str]] = [
            *(lambda: str(self._count), lambda: repr("text" * self._random.randrange(4)), lambda: "None"),
            *(lambda: f"[{self.old()}, {self.old()}]", lambda: f"{{'k': {self.old()}, 1: {self._count}}}"),
            *(lambda: f"Node({self.old()})", lambda: f"({self.old()}, {self._count})", lambda: "[]"),
            *(lambda: f"list(range({self._random.randrange(3000)}))", lambda: f"collections.deque([{self.old()}])"),
            *(lambda: f"functools.partial(change, {self.old()})", lambda: f"Node({self.old()}).grow"),
            *(lambda: f"numpy.arange({self._random.randrange(1, 12000)})", lambda: f"{self.old()}[1:]"),
            *(lambda: f"{self.old()}[::-1]", lambda: f"{{{self._count}, 'x'}}", lambda: f"list({self.old()})"),
            *(lambda: "bytearray(b'abc' * 20)", lambda: f"lambda x={self.old()}: (x, {self._random.choice(NAMES)})"),
            *(lambda: f"type('Made{self._count}', (Node,), {{'own': {self.old()}}})", lambda: "Slim()"),
            *(lambda: f"[[{self._count}] * 3 for _ in range({self._random.randrange(400)})]",),
            lambda: f"set(map(str, range({self._random.randrange(80)})))",
            lambda: f"{{n * 64 for n in range({self._random.randrange(1, 40)})}} | {{{self.old()}}}",
            lambda: f"frozenset({self.old()})",
            *(lambda: f"numpy.array([{self.old()}, None], dtype=object)", lambda: f"{self.old()} + {self.old()}"),
        ]
        return self._random.choice(makers)()


def _bind(program: Program) -> str:
    value = program.value()
    return f"{program.new()} = {value}"


def _pair(program: Program) -> str:
    value = program.value()
    return f"{program.new()} = {program.new()} = {value}"


def _swap(program: Program) -> str:
    one, other = program.new(), program.new()
    return f"{one}, {other} = {other}, {one}"


def _define(program: Program) -> str:
    value, name = program.value(), program.new()
    return f"def {name}(x={value}):\n    global total\n    total += 1\n    change({program.old()}, x)\n    return x"


_STATEMENTS: list[Callable[[Program], str]] = [
    *[_bind] * 6,
    _pair,
    _swap,
    _define,
    lambda p: f"{p.new()}, {p.new()} = counter()",
    lambda p: f"{p.old()}.append({p.value()})",
    lambda p: f"{p.old()}[0] = {p.value()}",
    lambda p: f"{p.old()}.next = {p.value()}",
    lambda p: f"{p.old()}.left = {p.value()}",
    lambda p: f"change({p.old()}, {p.value()})",
    lambda p: f"change({p.old()}, {p.old()})",
    lambda p: f"{p.old()}()",
    lambda p: f"{p.old()}({p.old()})",
    lambda p: f"{p.old()}.clear()",
    lambda p: f"{p.old()}.add({p.value()})",
    lambda p: f"for n in range({p.old()}.__len__()): {p.old()}.discard(str(n * 3))",
    lambda p: f"{p.old()}.difference_update([n * 64 for n in range(9)])",
    lambda p: f"{p.old()}.pop()",
    lambda p: f"{p.old()} += {p.old()}",
    lambda p: f"del {p.drop()}",
    lambda p: f"del {p.old()}[0]",
    lambda p: f"globals()[{p.new()!r}] = {p.value()}",
    lambda p: f"vars({p.old()})['extra'] = {p.value()}",
    lambda p: f"Node.kind.append({p.value()})",
    lambda p: f"exec({f'{p.old()}.append({p.value()})'!r})",
    lambda _: "bump()",
    lambda p: f"for each in [{p.old()}, {p.old()}]: change(each, {p.value()})",
    lambda p: f"if 'each' in globals(): del each\n{p.new()} = {p.value()}",
    lambda p: f"{p.old()}.reverse()",
    lambda p: f"{p.old()}.view('u1')[:3] = 7",
    lambda p: f"change({p.old()}, {p.value()}); raise KeyError",
]
