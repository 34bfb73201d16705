"""What the grid has done so far, in files that outlive it, a line of JSON for each case; and the table made of them.

Each line names the tree that it was played on, by the contents of what was tested and of the grid itself: what was
played on another tree says nothing of this one, and is not counted.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from blake3 import blake3

from .scenarios import SCENARIOS

__all__ = ["Done", "Progress", "digest", "table", "with_table"]

#: What decides how a case ends.
TESTED = ("capabilities", "engine", "workers", "tests/invariants")

#: Kinds of what the judge finds, by the column they are counted in.
COLUMNS = {
    "duplicate": "duplicates",
    "late effect": "duplicates",
    "divergence": "divergences",
    "missed divergence": "divergences",
}


#: Between these a page shows the table.
START, END = "<!-- grid -->\n", "\n<!-- /grid -->"

HEADS = ("cases", "guests killed", "workers", "zygotes", "not reached", "duplicates", "divergences", "wrong", "stuck")


@dataclass(frozen=True)
class Done:
    """One case that was played, and what was wrong with it."""

    case: str
    program: str
    scenario: str
    killed: dict[str, int]
    ordered: int
    reached: int
    seconds: float
    wrong: list[tuple[str, str]] = field(default_factory=list)
    tree: str = ""

    @property
    def kills(self) -> int:
        """SIGKILLs in all."""
        return sum(self.killed.values())


class Progress:
    """The files of one folder: one for each lane, so that no two write to one."""

    def __init__(self, folder: Path, tree: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.tree = tree

    def read(self) -> dict[str, Done]:
        """Return every case that is done on this tree; what was played again counts once, as it was last."""
        return {each.case: each for each in self._lines() if each.tree == self.tree}

    def others(self) -> int:
        """Return how many cases were played on other trees."""
        return sum(each.tree != self.tree for each in self._lines())

    def _lines(self) -> Iterator[Done]:
        for file in sorted(self._folder.glob("*.jsonl")):
            for line in file.read_text().splitlines():
                if line.endswith("}"):  # a line that was being written when the grid was killed is played again
                    yield Done(**json.loads(line))

    def note(self, lane: int, done: Done) -> None:
        """Add a case."""
        with (self._folder / f"lane{lane}.jsonl").open("a") as file:
            file.write(json.dumps(asdict(replace(done, tree=self.tree))) + "\n")


def digest(root: Path) -> str:
    """Return what names the tree: the contents of everything that a case depends on, and that was compiled of it."""
    found = blake3()
    for folder in TESTED:
        for file in sorted(each for end in ("py", "c", "so") for each in (root / folder).rglob(f"*.{end}")):
            found.update(f"{file.relative_to(root)}\n".encode() + blake3(file.read_bytes()).digest())
    return found.hexdigest(8)


def table(done: dict[str, Done]) -> str:
    """Return the table as documentation shows it."""
    rows: list[tuple[object, ...]] = [("scenario", *HEADS)]
    rows += [_row(name, [each for each in done.values() if each.scenario == name]) for name in SCENARIOS]
    rows.append(_row("all", list(done.values())))
    widths = [max(len(str(row[column])) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    kills = sum(each.kills for each in done.values())
    programs = len({each.program for each in done.values()})
    trees = ", ".join(sorted({each.tree for each in done.values()}))
    hours = sum(each.seconds for each in done.values()) / 3600
    said = (
        f"{kills} SIGKILLs in {len(done)} cases of {programs} programs, {hours:.1f} hours of one lane; tree `{trees}`."
    )
    return "\n".join([*lines, "", said])


def with_table(page: str, made: str) -> str:
    """Return a page with this table between its marks."""
    before, start, rest = page.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end:
        msg = f"the page has no {START} and {END}"
        raise ValueError(msg)
    return f"{before}{start}{made}{end}{after}"


def _row(name: str, cases: list[Done]) -> tuple[object, ...]:
    kinds: Counter[str] = Counter()
    for each in cases:
        # One case is one failure, whatever follows from it.
        found = {COLUMNS.get(kind, "stuck" if kind == "stuck" else "wrong") for kind, _ in each.wrong}
        kinds.update(found)
    missed = sum(max(0, each.ordered - each.reached) for each in cases)
    killed = [sum(each.killed.get(victim, 0) for each in cases) for victim in ("guest", "worker", "zygote")]
    counted = (kinds["duplicates"], kinds["divergences"], kinds["wrong"], kinds["stuck"])
    return (name, len(cases), *killed, missed, *counted)
