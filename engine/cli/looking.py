"""Commands that look at a state, or settle something in it; none of them runs code."""

from __future__ import annotations

import importlib
import json as json_text
import sys
import time
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from ..errors import BadSubmission
from .opening import client_of
from .plain import plain

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic import BaseModel

    from ..client import Client
    from ..records import ExecutionInfo, NameReport, TreeNode

__all__ = [
    "answer",
    "answered",
    "cancel",
    "doctor",
    "fail",
    "list_executions",
    "list_pending",
    "list_sessions",
    "list_variables",
    "show_output",
    "show_tree",
    "why_of",
]

#: Steps of an execution that are drawn: the first, and the last; what lies between is counted.
STEPS_FIRST, STEPS_LAST = 2, 5
#: Seconds from which on it is said that a guest says nothing.
QUIET = 5.0
#: Columns where no terminal cuts the lines.
UNCUT = 10_000

_STYLES = {
    "pending": "yellow",
    "waiting": "yellow",
    "running": "cyan",
    "rejected": "red",
    "lost": "red",
    "rebuilt": "yellow",
    "error": "red",
    "crashed": "red",
    "diverged": "red",
    "damaged": "red",
}


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _looking(state: Path) -> Client:
    return client_of(state)


def _print_json(model: BaseModel) -> None:
    typer.echo(model.model_dump_json())


def _console() -> Console:
    """Return a console that fits a terminal, and cuts nothing where there is none."""
    return Console() if sys.stdout.isatty() else Console(width=UNCUT)


def _table(headers: list[str], rows: list[list[str]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for header in headers:
        table.add_column(header, overflow="fold")
    for row in rows:
        table.add_row(*(Text(plain(cell), style=_STYLES.get(cell, "")) for cell in row))
    _console().print(table)


def ago(then: int | None, now: float | None = None) -> str:
    """Show a time (ms since 1970) as how long ago it was."""
    return "" if then is None else duration(max(0.0, (now or time.time()) - then / 1000)) + " ago"


def duration(seconds: float) -> str:
    """Show seconds as people say them."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.1f} s"


async def list_executions(state: Path, session: str | None, *, json: bool) -> None:
    """Print executions, newest first."""
    async with _looking(state) as client:
        infos = await client.executions(session)
        running = any(info.state == "running" for info in infos)
        deserted = running and await client.attended() is False
    if json:
        for info in infos:
            _print_json(info)
        return
    rows = [
        [
            *(info.id, info.status or info.state, info.filename or "", ago(info.created_at)),
            f"damaged: {info.damaged}" if info.damaged else ", ".join(info.pending) or _doing(info, deserted=deserted),
        ]
        for info in infos
    ]
    _table(["EXECUTION", "STATE", "FILE", "STARTED", "WAITS FOR, OR DOES"], rows)


def _doing(info: ExecutionInfo, *, deserted: bool) -> str:
    """Show what a guest was seen doing a moment ago."""
    if info.state == "running" and deserted:
        return "no worker is there: 'perdure worker' goes on with it"
    beat = info.beat
    if beat is None:
        return ""
    quiet = f", said nothing for {duration(beat.quiet_seconds)}" if beat.quiet_seconds >= QUIET else ""
    return f"{beat.doing}, {beat.cpu_seconds:.0f} s CPU, {beat.memory_bytes / 1e6:.0f} MB{quiet}"


async def list_sessions(state: Path, *, json: bool) -> None:
    """Print sessions."""
    async with _looking(state) as client:
        infos = await client.sessions()
    if json:
        for info in infos:
            _print_json(info)
        return
    rows = [
        [info.name, "damaged", "?", "?", "?", info.damaged]
        if info.damaged
        else [
            *(info.name, info.state, str(info.last), ", ".join(info.grants) or "none", info.isolation),
            ago(info.created_at),
        ]
        for info in infos
    ]
    _table(["SESSION", "STATE", "EXECUTIONS", "GRANTS", "ISOLATION", "MADE"], rows)


async def list_pending(state: Path, execution: str | None, *, json: bool) -> None:
    """Print the calls that wait for somebody."""
    async with _looking(state) as client:
        calls = await client.pending(execution)
    if json:
        for call in calls:
            _print_json(call)
        return
    if not calls:
        typer.echo("nothing waits for an answer")
        return
    _table(["CALL", "ASKS", "PROMPT", "SINCE"], [[c.id, c.name, c.prompt, ago(c.asked_at)] for c in calls])
    typer.echo(f"\nanswer with: perdure answer {calls[0].id} VALUE")


async def list_variables(state: Path, session: str, *, json: bool) -> None:
    """Print the variables of a session's last checkpoint."""
    async with _looking(state) as client:
        reports = await (await client.session(session, create=False)).variables()
    if json:
        for report in reports:
            _print_json(report)
        return
    rows = [[report.name, report.type, str(report.size), report.status, why_of(report)] for report in reports]
    _table(["NAME", "TYPE", "BYTES", "STATUS", "WHY"], rows)


def why_of(report: NameReport) -> str:
    """Show what became of a variable, of which part of it, and whether it can come back."""
    where = f"{report.where}: " if report.where else ""
    stays = "; it is stored, and the next restore tries again" if report.stored else ""
    return f"{where}{report.why}{stays}"


async def show_output(state: Path, execution: str, offset: int, *, follow: bool, json: bool) -> int:
    """Print recorded output; 1 if some of it is lost."""
    lost = 0
    async with _looking(state) as client:
        async for event in client.execution(execution).events(offset, follow=follow):
            if event.type not in ("output", "display"):
                continue
            if event.type == "display" and event.lost:
                lost = 1
                sys.stderr.write(f"perdure: a display is lost: {plain(event.lost)}\n")
            if json:
                typer.echo(event.model_dump_json())
            elif event.type == "display":
                shown = ", ".join(event.data) or ("a display that is lost" if event.lost else "an empty display")
                _say(event.data.get("text/plain", f"[{shown}]"))
            elif event.type == "output":
                stream = sys.stderr if event.stream == "stderr" else sys.stdout
                stream.write(event.text)
                stream.flush()
    return lost


def answered(value: str, *, as_json: bool) -> Any:
    """Return an answer as it was meant. Raises BadSubmission."""
    if not as_json:
        return value
    try:
        return json_text.loads(value)
    except ValueError as exc:
        msg = f"the value is not JSON ({exc}); leave out --json-value to answer with a text"
        raise BadSubmission(msg) from None


async def answer(state: Path, call: str, value: str, *, as_json: bool) -> None:
    """Answer a call."""
    data = answered(value, as_json=as_json)
    async with _looking(state) as client:
        await client.answer(call, data)
    typer.echo(f"answered {call}")


async def fail(state: Path, call: str, message: str) -> None:
    """Fail a call."""
    async with _looking(state) as client:
        await client.fail(call, message)
    typer.echo(f"failed {call}")


async def cancel(state: Path, execution: str) -> None:
    """Ask for an execution to be stopped."""
    from .showing import HOW_STOPPED

    async with _looking(state) as client:
        result = await client.execution(execution).cancel()
        attended = result is not None or await client.attended()
    if attended is False:
        typer.echo(f"asked for {execution} to be stopped; no worker is there now: the next one does ('perdure worker')")
    elif result is None:
        typer.echo(f"asked for {execution} to be stopped, and nobody has yet: the next worker will ('perdure worker')")
    elif result.stop is None:
        typer.echo(f"{execution} ended before it could be stopped: {result.status}")
    else:
        typer.echo(HOW_STOPPED[result.stop].format(execution))


async def show_tree(state: Path, execution: str, *, json: bool) -> None:
    """Print an execution's promises."""
    async with _looking(state) as client:
        tree = await client.execution(execution).tree()
    if json:
        _print_json(tree)
        return
    _console().print(_drawn(tree))


def _drawn(node: TreeNode) -> Tree:
    drawn = Tree(_line(node))
    steps = [child for child in node.children if child.kind == "step"]
    passed = steps[STEPS_FIRST:-STEPS_LAST] if len(steps) > STEPS_FIRST + STEPS_LAST + 1 else []
    for child in node.children:
        if child in passed:
            if child is passed[0]:
                drawn.children.append(Tree(_of_steps(passed)))
            continue
        if child.kind == "cancel" and not _was_cancelled(node, child):
            continue
        drawn.children.append(_drawn(child))
    return drawn


def _of_steps(steps: list[TreeNode]) -> Text:
    """Return one line for steps that are over: they never run again, and there may be thousands."""
    calls = sum(record.kind == "call" for step in steps for record in step.children)
    text = f"{len(steps)} more steps, {steps[0].id.rpartition(':')[2]} to {steps[-1].id.rpartition(':')[2]}"
    return Text(f"{text}, with {calls} calls (all of them with --json)", style="dim")


def _was_cancelled(execution: TreeNode, cancel: TreeNode) -> bool:
    """Every execution may have a promise to ask it to stop, settled with it: it tells something only if it was used."""
    status = execution.value.get("status") if isinstance(execution.value, dict) else None
    return cancel.state == "resolved" and status in (None, "cancelled")


def _line(node: TreeNode) -> Text:
    line = Text(f"{node.id}  ")
    line.append(f"{node.kind}  ", style="dim")
    line.append(plain(node.label))
    if node.path:
        line.append(f"  {node.path}", style="dim")
    if node.kind not in ("output", "death"):
        line.append(f"  {node.state}", style=_STYLES.get(node.state, "green"))
        since = node.created_at / 1000
        until = node.settled_at / 1000 if node.settled_at else time.time()
        if node.kind != "cancel":
            line.append(f"  {duration(max(0.0, until - since))}", style="dim")
    return line


async def doctor(*, json: bool) -> int:
    """Probe this machine; 0 only if sessions of the default level can run on it."""
    found = await importlib.import_module("perdure.workers.doctor").examine()
    if json:
        typer.echo(json_text.dumps(found.to_json()))
    else:
        for layer in found.all:
            mark = "ok     " if layer.available else "missing"
            version = f" (ABI {layer.version})" if layer.version else ""
            typer.echo(f"{mark} {layer.layer}{version}" + (f": {layer.reason}" if layer.reason else ""))
            if not layer.available:
                for way in layer.ways_out:
                    typer.echo(f"        - {way}")
        for note in found.notes:
            typer.echo(f"note    {note}")
    usable = {finding.layer: finding.available for finding in found.all}
    return 0 if usable["seccomp"] and usable["landlock"] and usable["guest"] else 1
