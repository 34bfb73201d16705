"""The commands and their options; what each does is in the modules beside this one, loaded when it is asked for.

1. Exit code 0 only if what was asked for succeeded; the code that ran counts.
2. What went wrong is one line on stderr that says what to do; a traceback means a fault of ours.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Coroutine

__all__ = ["app", "main"]

#: Exit codes: the code failed; what was asked cannot be done (sysexits: EX_USAGE is the shell's own 2); a fault of
#: ours (EX_SOFTWARE); it waits, and can be resumed (EX_TEMPFAIL); interrupted, as shells say it.
FAILED, REFUSED, FAULT, WAITS, INTERRUPTED = 1, 2, 70, 75, 130

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Run Python code so that nothing can make it lose its place.",
)

State = Annotated[
    Path, typer.Option("--state", envvar="PERDURE_STATE", help="The folder where everything durable lives.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]
Grants = Annotated[list[str] | None, typer.Option("--grant", help="A capability: NAME, or module:attr of your own.")]
Isolation = Annotated[
    str | None, typer.Option("--isolation", help="strict (default), or process: no security boundary.")
]
Namespaces = Annotated[str | None, typer.Option("--namespaces", help="A second wall: auto (default), require, or off.")]
Python = Annotated[Path | None, typer.Option("--python", help="The interpreter of a virtual environment for it.")]
Limit = Annotated[
    list[str] | None,
    typer.Option("--limit", help="A limit of the session, NAME=VALUE: wall_seconds=60, memory_bytes=..."),
]
Timeout = Annotated[float | None, typer.Option("--timeout", help="Seconds it may run; then it is stopped.")]
DEFAULT_STATE = Path(".perdure")
HORIZON_DAYS = 30.0  # upkeep's own; named here so that --help need not load it


def _do(*works: Coroutine[Any, Any, int | None] | None) -> None:
    """Run a command, or several; the worst of their return values is the exit code."""
    import uvloop

    from .failing import hear_background

    hear_background()
    code = max(asyncio.run(work, loop_factory=uvloop.new_event_loop) or 0 for work in works if work)
    if code:
        raise typer.Exit(code)


@app.command("run", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def run_file(  # noqa: PLR0913 - one parameter an option
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="The script; what follows it are its arguments.")],
    session: Annotated[str | None, typer.Option("--session", help="Use this session, and what it holds.")] = None,
    grant: Grants = None,
    bring: Annotated[list[Path] | None, typer.Option("--with", help="A file or folder for the workspace.")] = None,
    state: State = DEFAULT_STATE,
    isolation: Isolation = None,
    *,
    namespaces: Namespaces = None,
    python: Python = None,
    limit: Limit = None,
    timeout: Timeout = None,
    json: Json = False,
    new: Annotated[bool, typer.Option("--new", help="Start anew although a run is unfinished.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Finish the unfinished run of an older FILE.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Leave (exit 75) when it waits for an answer.")] = False,
    ask: Annotated[bool, typer.Option("--ask/--no-ask", help="Ask its questions in this terminal.")] = True,
) -> None:
    """Run a script durably; the same command again after a crash goes on where it was."""
    from .choosing import read_limits
    from .running import Choices, run_script

    choices = Choices(
        session,
        grant,
        bring or [],
        isolation,
        namespaces,
        python,
        read_limits(limit),
        seconds=timeout,
        new=new,
        resume=resume,
        detach=detach,
        ask=ask,
        json=json,
    )
    _do(run_script(state, file, list(context.args), choices))


@app.command("exec")
def execute(  # noqa: PLR0913 - one parameter an option
    code: Annotated[str, typer.Argument(help="The code, or - for standard input.")],
    session: Annotated[str, typer.Option("--session", "-s", help="The session it runs in.")],
    grant: Grants = None,
    bring: Annotated[list[Path] | None, typer.Option("--with", help="A file or folder for the workspace.")] = None,
    state: State = DEFAULT_STATE,
    isolation: Isolation = None,
    *,
    namespaces: Namespaces = None,
    python: Python = None,
    limit: Limit = None,
    timeout: Timeout = None,
    atomic: Annotated[bool, typer.Option("--atomic", help="If it fails, the session is as it was before.")] = False,
    json: Json = False,
    detach: Annotated[bool, typer.Option("--detach", help="Leave (exit 75) when it waits for an answer.")] = False,
    ask: Annotated[bool, typer.Option("--ask/--no-ask", help="Ask its questions in this terminal.")] = True,
) -> None:
    """Run code in a session, and print its value as a REPL does."""
    from .choosing import read_limits
    from .running import Choices, run_code

    text = sys.stdin.read() if code == "-" else code
    choices = Choices(
        session,
        grant,
        bring or [],
        isolation,
        namespaces,
        python,
        read_limits(limit),
        atomic=atomic,
        seconds=timeout,
        detach=detach,
        ask=ask and code != "-",
        json=json,
    )
    _do(run_code(state, session, text, choices))


@app.command()
def repl(
    session: Annotated[str, typer.Argument(help="The session; it remembers everything.")],
    grant: Grants = None,
    bring: Annotated[list[Path] | None, typer.Option("--with", help="A file or folder for the workspace.")] = None,
    state: State = DEFAULT_STATE,
    isolation: Isolation = None,
    *,
    namespaces: Namespaces = None,
    python: Python = None,
    limit: Limit = None,
) -> None:
    """Talk to a session: each statement is durable, and leaving loses nothing. Ctrl-C stops what runs."""
    from .choosing import Choices, read_limits
    from .failing import hear_background
    from .repl import run_repl

    choices = Choices(session, grant, bring or [], isolation, namespaces, python, read_limits(limit))
    hear_background()
    code = run_repl(state, session, choices)
    if code:
        raise typer.Exit(code)


@app.command()
def ps(
    session: Annotated[str | None, typer.Argument()] = None, state: State = DEFAULT_STATE, *, json: Json = False
) -> None:
    """List executions, the newest first."""
    from . import looking

    _do(looking.list_executions(state, session, json=json))


@app.command()
def sessions(state: State = DEFAULT_STATE, *, json: Json = False) -> None:
    """List sessions."""
    from . import looking

    _do(looking.list_sessions(state, json=json))


@app.command()
def show(execution: str, state: State = DEFAULT_STATE, *, json: Json = False) -> None:
    """Show an execution's promises as a tree."""
    from . import looking

    _do(looking.show_tree(state, execution, json=json))


@app.command()
def output(
    execution: str,
    state: State = DEFAULT_STATE,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until it has ended.")] = False,
    offset: Annotated[int, typer.Option("--from", help="Characters to leave out at the beginning.")] = 0,
    json: Json = False,
) -> None:
    """Print what an execution has printed."""
    from . import looking

    _do(looking.show_output(state, execution, offset, follow=follow, json=json))


@app.command()
def pending(
    execution: Annotated[str | None, typer.Argument()] = None, state: State = DEFAULT_STATE, *, json: Json = False
) -> None:
    """List the calls that wait for somebody: all, or those of an execution."""
    from . import looking

    _do(looking.list_pending(state, execution, json=json))


@app.command()
def answer(
    call: str,
    value: str,
    state: State = DEFAULT_STATE,
    *,
    as_json: Annotated[bool, typer.Option("--json-value", help="VALUE is JSON, not a text.")] = False,
) -> None:
    """Answer a call that waits; the code goes on with it."""
    from . import looking

    _do(looking.answer(state, call, value, as_json=as_json))


@app.command()
def fork(
    call: Annotated[str, typer.Argument(help="The call where it leaves, as 'perdure show' names it.")],
    name: Annotated[str, typer.Argument(help="The name of the new session.")],
    value: Annotated[str | None, typer.Argument(help="Its answer there; without one, it is asked anew.")] = None,
    state: State = DEFAULT_STATE,
    *,
    as_json: Annotated[bool, typer.Option("--json-value", help="VALUE is JSON, not a text.")] = False,
    json: Json = False,
    detach: Annotated[bool, typer.Option("--detach", help="Leave (exit 75) when it waits for an answer.")] = False,
    ask: Annotated[bool, typer.Option("--ask/--no-ask", help="Ask its questions in this terminal.")] = True,
) -> None:
    """Go on from a call with another answer, in a session of its own; all before it stays as it was."""
    from .running import Choices, run_fork

    choices = Choices(detach=detach, ask=ask, json=json)
    _do(run_fork(state, call, name, value, choices, as_json=as_json))


@app.command()
def fail(call: str, message: str, state: State = DEFAULT_STATE) -> None:
    """Fail a call that waits; the code gets CallFailed with this message."""
    from . import looking

    _do(looking.fail(state, call, message))


@app.command()
def cancel(execution: str, state: State = DEFAULT_STATE) -> None:
    """Ask for an execution to be stopped; it says in its result how it stopped."""
    from . import looking

    _do(looking.cancel(state, execution))


@app.command("vars")
def variables(session: str, state: State = DEFAULT_STATE, *, json: Json = False) -> None:
    """List a session's variables: kept, rebuilt or lost, and why."""
    from . import looking

    _do(looking.list_variables(state, session, json=json))


@app.command()
def worker(  # noqa: PLR0913 - one parameter an option
    grant: Grants = None,
    state: State = DEFAULT_STATE,
    url: Annotated[
        str | None,
        typer.Option(envvar="PERDURE_URL", help="A Resonate server or Postgres instead of the folder's store."),
    ] = None,
    blobs: Annotated[
        str | None,
        typer.Option(
            envvar="PERDURE_BLOBS", help="Where the fleet keeps large values: a shared folder, s3://, gs:// or az://."
        ),
    ] = None,
    group: Annotated[
        str, typer.Option(envvar="PERDURE_GROUP", help="The group whose executions it takes.")
    ] = "default",
    key: Annotated[
        Path | None,
        typer.Option(envvar="PERDURE_KEY", help="The file of the fleet's key that seals checkpoints: 32 random bytes."),
    ] = None,
    preload: Annotated[
        list[str] | None, typer.Option(help="A package that guests find imported, such as numpy; more than one may be.")
    ] = None,
    *,
    kept_guests: Annotated[
        int | None,
        typer.Option(min=0, help="Guests kept alive between executions and while they wait; 16 if not said."),
    ] = None,
    kept_bytes: Annotated[
        int | None, typer.Option(min=0, help="Bytes they may hold together; a quarter of the memory if not said.")
    ] = None,
) -> None:
    """Run a worker until it is told to stop; --grant makes capabilities of your own known to it."""
    from .running import run_worker

    kept = {"kept_guests": kept_guests, "kept_bytes": kept_bytes}
    _do(run_worker(state, grant or [], url, blobs, group, key, tuple(preload or ()), **kept))


@app.command()
def doctor(
    state: Annotated[
        Path | None, typer.Option(envvar="PERDURE_STATE", help="Also read this whole state, and say what is damaged.")
    ] = None,
    *,
    json: Json = False,
) -> None:
    """Try every layer of isolation on this machine, and say what to do about what is missing."""
    from . import keeping, looking

    _do(looking.doctor(json=json), keeping.check_state(state, json=json) if state else None)


@app.command()
def gc(
    state: State = DEFAULT_STATE,
    days: Annotated[float, typer.Option(min=1 / 24, help="Keep what ended within so many days.")] = HORIZON_DAYS,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    json: Json = False,
) -> None:
    """Remove old executions, and blobs that nothing names; sessions keep what they go on from."""
    from . import keeping

    _do(keeping.gc(state, days, dry_run=dry_run, json=json))


@app.command()
def backup(
    target: Annotated[Path, typer.Argument(help="A folder that does not exist yet.")],
    state: State = DEFAULT_STATE,
    *,
    json: Json = False,
) -> None:
    """Copy a state while it is used; opening the copy restores it."""
    from . import keeping

    _do(keeping.backup(state, target.absolute(), json=json))


@app.command()
def demo(folder: Annotated[Path | None, typer.Option(help="Keep everything here, to look at.")] = None) -> None:
    """Kill a real script twice, and show that nothing is lost and nothing done twice."""
    from ..demo import run_demo

    raise typer.Exit(run_demo(folder))


@app.command()
def bench(
    what: Annotated[str, typer.Argument(help="Which benchmark; 'list' names them.")] = "list",
    *,
    json: Json = False,
    page: Annotated[Path | None, typer.Option(help="Write the rows to this file too, as a page of Markdown.")] = None,
) -> None:
    """Measure, as ratios against a yardstick of the same run."""
    from ..bench import run_bench

    raise typer.Exit(run_bench(what, as_json=json, page=page))


def main() -> None:
    """Run the command line; every expected failure is one line."""
    from .failing import is_expected, say_once

    try:
        app()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(FAILED)
    except Exception as exc:  # noqa: BLE001 - the last word on whatever went wrong
        line = is_expected(exc)
        if line is None:
            sys.stderr.write("perdure: this is a fault of perdure, not of your code:\n")
            sys.excepthook(type(exc), exc, exc.__traceback__)
            sys.exit(FAULT)
        say_once(line)
        sys.exit(REFUSED)
