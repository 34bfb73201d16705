"""Runs the corpus: values made and dumped in one process, loaded and checked in another, the outcome as a table."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

START, END = "<!-- corpus: generated -->", "<!-- end of corpus -->"

VALUES = Path(__file__).with_name("values.txt")


@dataclass(frozen=True, slots=True)
class Case:
    """One value: how it is made, how its meaning is checked, and what is expected of it."""

    group: str
    name: str
    expected: str
    make: str
    check: str

    @property
    def outcome(self) -> str:
        """The expected outcome in one word."""
        return self.expected.split()[0].rstrip(":")


def cases() -> list[Case]:
    """Return the corpus in order."""
    found = []
    for part in re.split(r"^## ", VALUES.read_text(), flags=re.MULTILINE)[1:]:
        title, _, body = part.partition("\n")
        heading, _, expected = title.partition(" = ")
        group, _, name = heading.partition(": ")
        make, _, check = body.partition("--\n")
        found.append(Case(group, name, expected or "exact", make, check))
    return found


def make(checkpoint: Any, folder: Path) -> dict[str, Any]:
    """Make and dump every value; returns what was reported of each."""
    answers: dict[str, Any] = {}
    for number, case in enumerate(cases()):
        namespace: dict[str, Any] = {"__name__": "__main__"}
        filename = f"<case {number}>"
        sys.modules["linecache"].__dict__["cache"][filename] = (1, None, case.make.splitlines(keepends=True), filename)
        try:
            exec(compile(case.make, filename, "exec", dont_inherit=True), namespace)
            dumped = checkpoint.dump(namespace, protected=frozenset({"__name__"}))
        except BaseException:  # noqa: BLE001 - it is the answer
            answers[case.name] = {"outcome": "failed", "why": traceback.format_exc()}
            continue
        (folder / f"{number}.image").write_bytes(dumped.data)
        answers[case.name] = _verdict([entry.as_data() for entry in dumped.names])
    return answers


def check(checkpoint: Any, folder: Path) -> dict[str, Any]:
    """Load and check every value; returns what was found."""
    answers: dict[str, Any] = {}
    for number, case in enumerate(cases()):
        namespace: dict[str, Any] = {"__name__": "__main__"}
        image = folder / f"{number}.image"
        if not image.exists():
            continue
        reports = checkpoint.load(bytearray(image.read_bytes()), namespace, protected=frozenset({"__name__"}))
        answers[case.name] = _verdict([entry.as_data() for entry in reports])
        try:
            exec(compile(case.check, f"<check of {case.name}>", "exec", dont_inherit=True), namespace)
        except BaseException:  # noqa: BLE001 - it is the answer
            answers[case.name] = {"outcome": "wrong", "why": traceback.format_exc()}
    return answers


def _verdict(reports: list[dict[str, Any]]) -> dict[str, Any]:
    for status in ("lost", "rebuilt"):
        for entry in reports:
            if entry["status"] == status:
                return {"outcome": status, "why": entry["why"], "where": entry["where"] or entry["name"]}
    return {"outcome": "exact", "why": ""}


def write(document: Path, found: dict[str, Any]) -> None:
    """Put the table into the document, between its marks."""
    before, start, rest = document.read_text().partition(START)
    _, end, after = rest.partition(END)
    document.write_text(f"{before}{start}\n{table(found)}\n{end}{after}")


def table(found: dict[str, Any]) -> str:
    """Return the published table."""
    lines = ["| group | value | outcome | |", "|---|---|---|---|"]
    for case in cases():
        outcome = found[case.name]
        note = case.expected.partition(": ")[2] or outcome["why"].replace("|", "\\|")
        lines.append(
            f"| {case.group} | {case.name} | {case.outcome if ':' in case.expected else outcome['outcome']} | {note} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run one half as `run.py make|check GUEST FOLDER` and print the answers as JSON."""
    what, guest, folder = sys.argv[1:4]
    spec = importlib.util.spec_from_file_location(
        "_perdure_guest", f"{guest}/__init__.py", submodule_search_locations=[guest]
    )
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules["_perdure_guest"] = package
    spec.loader.exec_module(package)
    checkpoint = importlib.import_module("_perdure_guest.checkpoint")
    os.chdir(folder)
    answers = (make if what == "make" else check)(checkpoint, Path(folder))
    Path(folder, f"{what}.json").write_text(json.dumps(answers))


if __name__ == "__main__":
    main()
