"""What the grid has done so far, in files that outlive it, a line of JSON for each case; and the table made of them."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .scenarios import SCENARIOS

__all__ = ["Done", "Progress", "table", "with_table"]

#: Kinds of what the judge finds, by the column they are counted in.
COLUMNS = {
    "duplicate": "duplicates",
    "late effect": "duplicates",
    "divergence": "divergences",
    "missed divergence": "divergences",
}


#: Between these a page shows the table.
START, END = "<!-- grid -->\n", "\n<!-- /grid -->"

HEADS = ("cases", "kills", "not reached", "duplicates", "divergences", "wrong", "stuck")


@dataclass(frozen=True)
class Done:
    """One case that was played, and what was wrong with it."""

    case: str
    program: str
    scenario: str
    kills: int
    ordered: int
    reached: int
    seconds: float
    wrong: list[tuple[str, str]] = field(default_factory=list)


class Progress:
    """The files of one folder: one for each lane, so that no two write to one."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder

    def read(self) -> dict[str, Done]:
        """Return every case that is done; what was played again counts once, as it was last."""
        done: dict[str, Done] = {}
        for file in sorted(self._folder.glob("*.jsonl")):
            for line in file.read_text().splitlines():
                if line.endswith("}"):  # a line that was being written when the grid was killed is played again
                    each = Done(**json.loads(line))
                    done[each.case] = each
        return done

    def note(self, lane: int, done: Done) -> None:
        """Add a case."""
        with (self._folder / f"lane{lane}.jsonl").open("a") as file:
            file.write(json.dumps(asdict(done)) + "\n")


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
    return "\n".join(lines)


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
    missed = sum(each.ordered - each.reached for each in cases)
    kills = sum(each.kills for each in cases)
    counted = (kinds["duplicates"], kinds["divergences"], kinds["wrong"], kinds["stuck"])
    return (name, len(cases), kills, missed, *counted)
