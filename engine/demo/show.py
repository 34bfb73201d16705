"""Runs the example script undisturbed and disturbed, with real processes and real SIGKILLs, and compares."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from ..client import Client
from .service import account

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Story", "run_demo"]

_EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
#: Seconds any part of the demonstration may take before it is given up.
PATIENCE = 60.0
#: The kills come after so many claims were filed: in the part that goes one by one, and among concurrent calls.
KILL_GUEST_AT, KILL_WORKER_AT = 3, 10


@dataclass(frozen=True, slots=True)
class Story:
    """What one run of the script left: what it printed, its report, and the service's own account."""

    output: str
    report: str
    account: dict[str, int]
    starts: int


def run_demo(folder: Path | None = None) -> int:
    """Show it; returns the exit code: 0 if nothing was lost and nothing done twice."""
    if not (_EXAMPLES / "report.py").exists():
        sys.stderr.write("perdure: the demonstration's files are in the source repository: run 'make demo' there\n")
        return 2
    with contextlib.ExitStack() as stack:
        place = folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="perdure-demo-")))
        place.mkdir(parents=True, exist_ok=True)
        _say("1. undisturbed: docs/examples/report.py over 6,101 real flights, a claim for each airline")
        calm = _Run(place / "calm").play()
        _say(f"   {calm.account['filed']} claims filed, approved, report written\n")
        _say("2. the same again, disturbed")
        rough = _Run(place / "rough", disturbed=True).play()
        return _compare(calm, rough)


def _compare(calm: Story, rough: Story) -> int:
    checks = {
        "the report is identical to the undisturbed run's": calm.report == rough.report,
        "what was printed, over all starts, is identical": calm.output == rough.output,
        f"the service filed {rough.account['filed']} claims, {calm.account['filed']} undisturbed": (
            rough.account["filed"] == calm.account["filed"]
        ),
    }
    _say("\n3. compared")
    for text, holds in checks.items():
        _say(f"   {'yes' if holds else 'NO '}  {text}")
    _say(
        f"   the service's own account: {rough.account['requests']} requests, {rough.account['filed']} claims; "
        f"{rough.account['repeated']} arrived again under the same Idempotency-Key and filed nothing"
    )
    _say("\n" + rough.report)
    return 0 if all(checks.values()) else 1


class _Run:
    """One run of the script, with a service of its own."""

    def __init__(self, folder: Path, *, disturbed: bool = False) -> None:
        self._state = folder / "state"
        self._claims = folder / "service"
        self._printed = folder / "printed"
        self._claims.mkdir(parents=True, exist_ok=True)
        self._printed.touch()
        self._disturbed = disturbed
        self._starts = 0

    def play(self) -> Story:
        with self._service() as url:
            process = self._start(url)
            if self._disturbed:
                self._after(KILL_GUEST_AT, process)
                for guest in _children(process.pid):
                    os.kill(guest, signal.SIGKILL)
                    _say(f"   SIGKILL to the guest (process {guest}) while claim {KILL_GUEST_AT + 1} is being filed")
                self._after(KILL_WORKER_AT, process)
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
                _say(f"   SIGKILL to the worker (process {process.pid}) with claims in flight; the same command again:")
                process = self._start(url)
            question = asyncio.run(self._answer(process))
            _say(f"   it asks: {question}  answered: yes")
            code = process.wait(PATIENCE)
            if code:
                self._give_up(f"the script ended with exit code {code}")
        report = next(self._state.glob("workspaces/*/report.txt")).read_text()
        return Story(self._printed.read_text(), report, account(self._claims), self._starts)

    @contextlib.contextmanager
    def _service(self) -> Iterator[str]:
        command = [sys.executable, "-c", "from perdure.engine.demo.service import main; main()", str(self._claims)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as service:
            assert service.stdout is not None  # noqa: S101 - asked for above
            port = service.stdout.readline().strip()
            try:
                yield f"http://127.0.0.1:{port}"
            finally:
                service.kill()

    def _start(self, url: str) -> subprocess.Popen[bytes]:
        self._starts += 1
        command = [sys.executable, "-c", "from perdure.engine.cli import main; main()", "run"]
        command += ["--state", str(self._state), "--with", str(_EXAMPLES / "flights.csv"), "--no-ask"]
        command += ["--grant", "http", "--grant", "ask", str(_EXAMPLES / "report.py"), url]
        with self._printed.open("ab") as printed, (self._state.parent / "stderr").open("ab") as errors:
            return subprocess.Popen(command, stdout=printed, stderr=errors, stdin=subprocess.DEVNULL)

    def _after(self, claims: int, process: subprocess.Popen[bytes]) -> None:
        """Wait until the service has filed so many claims, and has not replied to the last one yet."""
        give_up = time.monotonic() + PATIENCE
        while account(self._claims)["filed"] <= claims:
            if time.monotonic() > give_up or process.poll() is not None:
                self._give_up("the script did not get that far")
            time.sleep(0.005)

    def _give_up(self, why: str) -> NoReturn:
        sys.stderr.write(self._printed.read_text() + (self._state.parent / "stderr").read_text())
        raise SystemExit(why)

    async def _answer(self, process: subprocess.Popen[bytes]) -> str:
        """Answer the one question, as somebody in another process would."""
        async with asyncio.timeout(PATIENCE):
            while not (self._state / "perdure.db").exists():
                if process.poll() is not None:
                    self._give_up("the script ended before it began")
                await asyncio.sleep(0.05)
            async with Client.open(self._state, worker=False) as client:
                while not (pending := await client.pending()):
                    if process.poll() is not None:
                        self._give_up("the script ended before it asked its question")
                    await client.substrate.changed(0.5)
                await client.answer(pending[0].id, "yes")
                return pending[0].prompt


def _children(pid: int) -> list[int]:
    """Return the processes that a process started: its guests."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found += [int(child) for child in (task / "children").read_text().split()]
    return found


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
