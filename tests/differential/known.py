"""Where a session differs from ``python FILE``, and why. Every entry is asserted to still differ, so the list is true.

``docs/python.md`` shows the reasons; a test holds it to this table.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

__all__ = ["KNOWN", "NOT_RESTORED", "REASONS", "RESTORED", "Known"]

#: By name, what differs and why, as the documentation has it.
REASONS = {
    "constants": (
        "Statements are compiled one by one: equal constants of different statements may be different objects."
    ),
    "underscore": "The value of a submission's last expression lives on in `_` and `Out`, so its `__del__` runs later.",
    "docstring": (
        "A string at the beginning of a submission is the module's docstring; split up, every string statement is."
    ),
    "no file": (
        "A submission without a file name has no `__file__`, and its `sys.argv` is `['']`, as at Python's prompt."
    ),
    "frames": (
        "The runtime's frames lie below the module's: whoever walks the stack to its end sees them, and they count "
        "towards the recursion limit."
    ),
    "tracing": "Each statement is a call of `<module>` to a trace function that was set by an earlier one.",
    "frozen": "What existed before the code started is hidden from the garbage collector's queries, `globals()` too.",
    "loop": "The session's event loop lives on: tasks that are left are not cancelled at the end.",
    "running": "A statement without `await` runs while no event loop runs, so that `asyncio.run` works in it.",
    "context": "All statements share one context; `asyncio.run` runs a coroutine in a copy.",
    "annotations": "The module's `__annotations__` appears with its first annotated statement, not at the beginning.",
    "atexit": "A session does not end with the program: what is registered with `atexit` does not run.",
}


class Known(NamedTuple):
    """One difference: the program, the forms it shows in, and the key of its reason."""

    program: str
    forms: tuple[str, ...]
    reason: str


BOTH = ("whole", "split")

KNOWN = (
    Known("data/identity-of-constants", BOTH, "constants"),
    Known("data/identity-of-tuples", BOTH, "constants"),
    Known("data/identity-of-strings", BOTH, "constants"),
    Known("execution/del-unassigned-temporary", ("split",), "underscore"),
    Known("exceptions/unraisablehook", ("split",), "underscore"),
    Known("expressions/string-statement", ("split",), "docstring"),
    Known("execution/main-module", ("split",), "no file"),
    Known("execution/argv-and-path", ("split",), "no file"),
    Known("execution/dunder-file", ("split",), "no file"),
    Known("execution/doctest-failure", ("split",), "no file"),
    Known("execution/trace-module", ("split",), "no file"),
    Known("execution/inspect-source-class", ("split",), "no file"),
    Known("functions/frame-of-module-has-no-caller", BOTH, "frames"),
    Known("functions/stack-depth", BOTH, "frames"),
    Known("functions/extract-stack", BOTH, "frames"),
    Known("exceptions/repeated-lines-collapsed", BOTH, "frames"),
    Known("execution/settrace-module-level", BOTH, "tracing"),
    Known("execution/gc-referrers", BOTH, "frozen"),
    Known("asynchronous/top-queue-between", BOTH, "loop"),
    Known("asynchronous/top-running-loop", BOTH, "running"),
    Known("asynchronous/top-context", BOTH, "context"),
    Known("typing/annotations-early", BOTH, "annotations"),
    Known("execution/atexit", BOTH, "atexit"),
)

if sys.version_info < (3, 13):
    REASONS |= {
        "lines": "On 3.12 the interpreter's own traceback reads lines from files only; a session shows those it knows.",
        "columns": "On 3.12 a syntax error up to the end of a line is marked a column further than in a file.",
    }
    KNOWN += (
        Known("execution/exec-linecache", BOTH, "lines"),
        Known("syntax/except-order", BOTH, "columns"),
    )

#: Why a program differs when every statement begins in a new process, though nothing was named as lost.
RESTORED = {
    "process": (
        "What code changes in the process and not in its namespace does not come back: signal handlers, trace "
        "functions, hooks of `sys` and `warnings`, import hooks, names put into `builtins`, sources in `linecache`."
    ),
    "finalizers": "An object that came back from a checkpoint is not finalized at once when its last name goes.",
    "tracebacks": "An exception that was kept comes back with its traceback as text.",
    "interned": (
        "Equal strings that were one object are two when they were stored by different names, or one of them is a "
        "constant of a module (`argparse.SUPPRESS`, asked for by identity)."
    ),
    "order": "In the `__dict__` of a class, what a library put there after the class was made comes first.",
    "references": "How many references there are to an object, and how much memory was traced, is another process's.",
}

#: By program, the key of its reason.
NOT_RESTORED = {
    "classes/del-method": "finalizers",
    "classes/typed-dict-protocol": "order",
    "data/identity-small": "interned",
    "exceptions/context-across-statements": "tracebacks",
    "exceptions/error-in-del": "finalizers",
    "exceptions/error-in-weakref-callback": "finalizers",
    "exceptions/raise-stored": "tracebacks",
    "exceptions/with-traceback": "tracebacks",
    "execution/builtins-module": "process",
    "execution/del-order": "finalizers",
    "execution/exec-linecache": "process",
    "execution/import-hooks": "process",
    "execution/refcounts": "references",
    "execution/settrace": "process",
    "execution/signals": "process",
    "execution/signals-alarm": "process",
    "execution/tracemalloc": "references",
    "execution/unittest": "order",
    "execution/unittest-main": "order",
    "execution/warnings-showwarning": "process",
    "execution/weakref": "finalizers",
    "files/argparse": "interned",
    "files/stdout-closed": "process",
    "files/stdout-replaced": "process",
    "statements/reraise": "tracebacks",
}
