"""Run the attack list against hosts of every identity and level this machine allows, and put it in a table."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import landlock_alone
from .attacks import ATTACKS, FAKED, LONELY, REFUSED, SUCCEEDS, VARIES, Attack

HERE = Path(__file__).parent
DOCUMENT = HERE.parent.parent / "docs" / "security.md"
BEGIN, END = "<!-- table: generated from a run -->", "<!-- end of table -->"
BEGIN_LANDLOCK = "<!-- table of Landlock: generated from a run -->"

EVERY: dict[str, Attack] = {**ATTACKS, **LONELY}
MARKER = "marker-of-a-secret-that-no-guest-may-see"

# Nobody's; it owns nothing but what a test gives it.
ORDINARY_UID = 54321

# A run takes about 15 s alone; five at once on a busy machine, many times that.
PATIENCE = 240.0


@dataclass(frozen=True)
class Battle:
    """One host: who it runs as, and the level its guests are held at."""

    identity: str
    level: str
    #: The version of Landlock that the kernel is made to have; 0: its own.
    abi: int = 0

    def __str__(self) -> str:
        return f"{self.identity}-{self.level}" + (f"-landlock-{self.abi}" if self.abi else "")


def battles() -> list[Battle]:
    """What can be run: as root both identities, else the ordinary user alone.

    Root at level `process` is left out: it would harm the machine of whoever runs the tests.
    """
    ordinary = [Battle("ordinary", level) for level in ("process", "core", "full")]
    root = [Battle("root", level) for level in ("core", "full")]
    return [*ordinary, *root] if os.getuid() == 0 else ordinary


def older() -> list[Battle]:
    """Hosts whose kernel has an older Landlock than this one, each version there is."""
    return [Battle("ordinary", "core", abi) for abi in list(landlock_alone.versions())[:-1]]


def fight(folder: Path) -> dict[Battle, dict[str, Any]]:
    """Run all of them at once, each in a process of its own, and return what each found."""
    found = {}
    with contextlib.ExitStack() as stack:
        running = {battle: _start(folder / str(battle), battle) for battle in (*battles(), *older())}
        for host in running.values():
            stack.enter_context(host)
            stack.callback(host.kill)
        for battle, host in running.items():
            output, errors = host.communicate(timeout=PATIENCE)
            assert host.returncode == 0, f"{battle}: {errors.decode()}"
            found[battle] = json.loads(output.splitlines()[-1])
    return found


def _start(folder: Path, battle: Battle) -> subprocess.Popen[bytes]:
    folder.mkdir(mode=0o755)
    identity: list[str] = []
    if battle.identity == "ordinary" and os.getuid() == 0:
        os.chown(folder, ORDINARY_UID, ORDINARY_UID)
        needed = {Path(sys.base_prefix).resolve(), Path(sys.prefix).resolve(), HERE.parent.parent, folder}
        identity = [str(ORDINARY_UID), *map(str, sorted(needed))]
    return subprocess.Popen(
        [sys.executable, str(HERE / "victim.py"), str(folder), battle.level, str(battle.abi), *identity],
        env={**os.environ, "PERDURE_TEST_SECRET": MARKER},
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def expected(attack: Attack, level: str) -> str:
    """What is to come of it."""
    return {"process": attack.process, "core": attack.core, "full": attack.full}[level]


def verdict(attack: Attack, level: str, outcome: str) -> str:
    """What came of it, in the words of the table; an effect that was faked counts as none, which others check."""
    wanted = expected(attack, level)
    if wanted == VARIES:
        return "depends on the machine"
    if wanted == FAKED:
        return "no effect"
    return SUCCEEDS if outcome == SUCCEEDS else REFUSED


def table(found: dict[Battle, dict[str, Any]]) -> str:
    """The attack list with what came of each, as the ordinary user."""
    lines = [
        "| kind | attempt | `process` | `strict` | the same, Landlock 1 to 6 | `strict` with namespaces |",
        "|---|---|---|---|---|---|",
    ]
    for name, attack in EVERY.items():
        process, core, full = (
            verdict(attack, level, found[Battle("ordinary", level)]["outcomes"][name])
            for level in ("process", "core", "full")
        )
        cells = [process, core, _at_older(name, found), full]
        words = name.replace("_s_", "'s ").replace("_", " ")
        shown = [f"**{cell}**" if cell == SUCCEEDS else cell for cell in cells]
        lines.append(f"| {attack.kind} | {words} | {' | '.join(shown)} |")
    return "\n".join(lines)


def _at_older(name: str, found: dict[Battle, dict[str, Any]]) -> str:
    """What came of it under each older Landlock: one word, or one for each version."""
    if name in LONELY:
        return ""
    attack = ATTACKS[name]
    cells = {host.abi: verdict(attack, host.level, found[host]["outcomes"][name]) for host in older()}
    alike = set(cells.values())
    return alike.pop() if len(alike) == 1 else ", ".join(f"{abi}: {cell}" for abi, cell in cells.items())


def documented(begin: str = BEGIN) -> str:
    """A table as the document has it."""
    return DOCUMENT.read_text().partition(begin)[2].partition(END)[0].strip()


def document(made: str, begin: str = BEGIN) -> None:
    """Put a table into the document."""
    before, _, rest = DOCUMENT.read_text().partition(begin)
    _, _, after = rest.partition(END)
    DOCUMENT.write_text(f"{before}{begin}\n{made}\n{END}{after}")


def main() -> None:
    """Run everything, and put both tables into the document."""
    with tempfile.TemporaryDirectory(prefix="perdure-battles-") as folder:
        Path(folder).chmod(0o755)
        document(table(fight(Path(folder).resolve())))
    document(landlock_alone.table(landlock_alone.expected()), BEGIN_LANDLOCK)


if __name__ == "__main__":
    main()
