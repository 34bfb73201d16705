"""Pure-Python work of the usual kinds. The text of this file runs in a guest and outside.

``PROGRAMS`` maps names to functions of one argument, how often to repeat, which return the same whenever they are run.
"""

from __future__ import annotations

import asyncio
import json
import pickle
import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

__all__ = ["PROGRAMS"]


def nbody(rounds: int) -> float:
    """Bodies that attract each other: floats in lists."""
    bodies = [[float(n), n * 0.5, n * 0.25, 0.01 * n, 0.02, 0.03 * n, 1.0 / (n + 1)] for n in range(5)]
    for _ in range(rounds * 60):
        for i, a in enumerate(bodies):
            for b in bodies[i + 1 :]:
                dx, dy, dz = a[0] - b[0], a[1] - b[1], a[2] - b[2]
                force = 0.001 / (dx * dx + dy * dy + dz * dz + 0.01) ** 1.5
                a[3] -= dx * b[6] * force
                b[3] += dx * a[6] * force
                a[4] -= dy * b[6] * force
                b[4] += dy * a[6] * force
                a[5] -= dz * b[6] * force
                b[5] += dz * a[6] * force
        for body in bodies:
            body[0] += 0.001 * body[3]
            body[1] += 0.001 * body[4]
            body[2] += 0.001 * body[5]
    return sum(body[0] for body in bodies)


class Task:
    """A worker of the scheduler below."""

    __slots__ = ("done", "kind", "queue")

    def __init__(self, kind: int) -> None:
        self.kind = kind
        self.queue: list[int] = []
        self.done = 0

    def step(self) -> int | None:
        """Work on one packet, and say to whom it goes."""
        if not self.queue:
            return None
        packet = self.queue.pop()
        self.done += 1
        return (packet * 7 + self.kind) % 11 if packet > 0 else None


class Scheduler:
    """Tasks that hand packets round."""

    def __init__(self) -> None:
        self.tasks = [Task(kind) for kind in range(11)]

    def run(self, packets: int) -> int:
        """Run until nothing is queued."""
        for packet in range(packets):
            self.tasks[packet % 11].queue.append(packet % 40)
        steps, busy = 0, True
        while busy:
            busy = False
            for task in self.tasks:
                goal = task.step()
                steps += 1
                if goal is not None:
                    self.tasks[goal].queue.append(steps % 13)
                    busy = steps < packets * 20
        return steps


def scheduler(rounds: int) -> int:
    """Methods, attributes, lists: objects that call each other."""
    return sum(Scheduler().run(120) for _ in range(rounds))


def json_text(rounds: int) -> int:
    """JSON there and back."""
    data = {f"key{n}": [n, n * 0.5, str(n), {"deep": [None, True, "x" * n]}] for n in range(60)}
    return sum(len(json.dumps(json.loads(json.dumps(data)))) for _ in range(rounds * 3))


def regexes(rounds: int) -> int:
    """Searches and replacements in a text."""
    text = "on 2024-05-%02d the price of item-%d rose to %d.50 EUR; " * 30 % tuple(range(90))
    patterns = [
        r"(\d{4})-(\d\d)-(\d\d)",
        r"item-(\d+)",
        r"(?P<euro>\d+)\.(\d\d) EUR",
        r"\b[a-z]+\b",
        r"(a|e|i|o|u)+[^;]",
    ]
    return sum(
        len(re.sub(pattern, r"<\1>" if "(" in pattern else "", text)) for _ in range(rounds) for pattern in patterns
    )


@dataclass
class Record:
    """What is pickled."""

    name: str
    values: list[float]
    more: dict[str, Any]


def pickles(rounds: int) -> int:
    """Objects pickled and back."""
    records = [Record(f"r{n}", [n * 0.1] * 5, {"n": n, "t": (n, str(n))}) for n in range(40)]
    return sum(len(pickle.loads(pickle.dumps(records))) for _ in range(rounds * 3))  # noqa: S301 - made a line above


def constraints(rounds: int) -> int:
    """A chain of constraints propagated through objects and dicts."""
    cells: list[dict[str, Any]] = [{"value": 0, "weight": n % 3 + 1, "next": None} for n in range(200)]
    for before, after in pairwise(cells):
        before["next"] = after
    for n in range(rounds * 12):
        cells[0]["value"] = n
        cell: Any = cells[0]
        while cell["next"] is not None:
            cell["next"]["value"] = (cell["value"] * cell["weight"] + 1) % 10007
            cell = cell["next"]
    value: int = cells[-1]["value"]
    return value


def generators(rounds: int) -> int:
    """Generators within generators."""

    def tree(depth: int) -> Any:
        if depth:
            yield from tree(depth - 1)
            yield depth
            yield from tree(depth - 1)

    return sum(sum(x * x for x in tree(10) if x % 2) for _ in range(rounds))


def tasks(rounds: int) -> int:
    """A tree of asyncio tasks."""

    async def node(depth: int) -> int:
        if not depth:
            await asyncio.sleep(0)
            return 1
        return sum(await asyncio.gather(*(node(depth - 1) for _ in range(4))))

    return sum(asyncio.run(node(4)) for _ in range(rounds))


def floats(rounds: int) -> float:
    """Arithmetic on floats in a loop."""
    total = 0.0
    for n in range(rounds * 4000):
        total = (total + n * 1.0001) / 1.5 - n / 3.7
    return total


def strings(rounds: int) -> int:
    """Strings built, split, joined, counted."""
    size = 0
    for n in range(rounds * 6):
        words = [f"{n}-{k}:{k * 3:05d}" for k in range(150)]
        text = ",".join(words)
        size += len(text.upper().replace(":", "=").split(",")) + text.count("1")
        for word in words:
            text = text[:40] + word
    return size


PROGRAMS = {
    "nbody": nbody,
    "scheduler": scheduler,
    "json": json_text,
    "regex": regexes,
    "pickle": pickles,
    "constraints": constraints,
    "generators": generators,
    "asyncio tree": tasks,
    "floats": floats,
    "strings": strings,
}
