"""One thing after another: plain code, functions, classes, errors, and every kind of effect."""

from __future__ import annotations

from ..program import Program

PROGRAMS = [
    Program("one_call", ('sure("a")',)),
    Program("no_call", ("total = sum(range(1000))\nprint(total)\ntotal",)),
    Program(
        "calls_in_order",
        (
            """
print("begin")
first = sure("a")
print("one", first)
second = look("b")
third = book("c")
print("end", second, third)
[first, second, third]
""",
        ),
    ),
    Program("loop_of_calls", ("seen = []\nfor i in range(8):\n    seen.append(look(i))\n    print(i, end=' ')\nseen",)),
    Program(
        "nested_functions",
        (
            """
def outer(n):
    def inner(m):
        return look(f"{n}.{m}")
    return [inner(m) for m in range(n)]
[outer(n) for n in range(4)]
""",
        ),
    ),
    Program(
        "recursion",
        ("def down(n):\n    return [look(n)] + down(n - 1) if n else [sure('bottom')]\nresult = down(4)\nresult",),
    ),
    Program(
        "methods_and_properties",
        (
            """
class Account:
    def __init__(self, name):
        self.name, self.log = name, []
    def pay(self, what):
        self.log.append(sure(f"{self.name} {what}"))
        return self
    @property
    def state(self):
        return look(self.name)
account = Account("ada").pay("rent").pay("tax")
print(account.state)
account.log, account.state
""",
        ),
    ),
    Program(
        "retries_by_the_code",
        (
            """
import perdure
tries = []
for attempt in range(4):
    try:
        refuse("never")
    except perdure.CallFailed as exc:
        tries.append((attempt, str(exc).splitlines()[0]))
instead = look("instead")
tries, instead
""",
        ),
    ),
    Program("retries_by_the_host", ("a = flaky('x')\nb = flaky('y')\nprint(a, b)\n(a, b)",)),
    Program(
        "an_error_after_calls",
        ("kept = look('a')\nprint('before')\nsure('b')\nraise KeyError('c')\nprint('never')",),
    ),
    Program("an_error_of_a_call", ("kept = look('a')\nrefuse('b')\nnever = 1",)),
    Program(
        "exceptions_with_causes",
        (
            """
import perdure
def act():
    try:
        refuse("x")
    except perdure.CallFailed as exc:
        raise RuntimeError(look("told")) from exc
    finally:
        look("cleaned")
try:
    act()
except RuntimeError as exc:
    said = [str(exc), type(exc.__cause__).__name__]
said
""",
        ),
    ),
    Program("exit_with_a_code", ("import sys\nx = look('a')\nprint('bye')\nsys.exit(3)",)),
    Program(
        "context_managers",
        (
            """
import contextlib
@contextlib.contextmanager
def booked(what):
    book(what)
    try:
        yield what
    finally:
        look(f"release {what}")
with booked("room") as room, booked("car") as car:
    got = sure(room + car)
got
""",
        ),
    ),
    Program(
        "generators",
        (
            """
def pages():
    for n in range(3):
        yield look(f"page {n}")
def firsts(pages):
    for page in pages:
        yield page.upper(), sure(page)
result = list(firsts(pages()))
result
""",
        ),
    ),
    Program(
        "comprehensions",
        ("a = [look(x) for x in 'abc']\nb = {look(x): sure(x) for x in 'de'}\nc = {look(x) for x in 'fg'}\n(a, b, c)",),
    ),
    Program("booked_once", ("a = book('a')\nb = [book(x) for x in 'bcd']\nprint(a, b)\n(a, b)",)),
    Program(
        "mixed_effects",
        ("r = []\nfor i in range(3):\n    r += [sure(f'p{i}'), look(f'l{i}'), book(f'b{i}'), flaky(f'f{i}')]\nr",),
    ),
    Program("a_handler_in_a_thread", ("a = plain('x')\nb = plain('y')\na + b",)),
    Program("a_large_reply", ("text = large('abc', 400_000)\nmore = large('de', 10)\n(len(text), text[-3:], more)",)),
    Program("a_large_argument", ("big = 'x' * 300_000\ngot = look(big)\nprint(len(got))\nlen(got) == len(big)",)),
    Program(
        "values_of_every_kind",
        (
            """
import datetime, decimal, math, uuid
sent = [None, True, 1, -2**70, 1.5, math.inf, "naïve", b"\\x00\\xff", (1, (2,)), {1: "a", "$x": [1]}, {3, 4},
    datetime.datetime(2026, 1, 2, 3, 4, 5, 6), datetime.timedelta(days=1), decimal.Decimal("1.10"), uuid.UUID(int=7)]
got = [look(each) for each in sent]
got == sent, [type(each).__name__ for each in got]
""",
        ),
    ),
    Program(
        "what_is_refused",
        (
            """
import perdure
said = []
for act in (lambda: perdure.call("nothing"), lambda: look(), lambda: look(object()), lambda: pay(1, 2, 3)):
    try:
        act()
    except perdure.CallError as exc:
        said.append(type(exc).__name__)
        print(said[-1])
said.append(look("after"))
said
""",
        ),
    ),
    Program(
        "output_between",
        (
            """
import sys
for i in range(5):
    print("line", i)
    print("err", i, file=sys.stderr)
    print("part ", end="")
    look(i)
    sys.stdout.write("raw")
    print("\\r100%", flush=True)
print("x" * 5000)
""",
        ),
    ),
    Program(
        "output_alone",
        ("for i in range(300):\n    print(i, 'some text that makes the line longer')\nsure('end')",),
    ),
    Program(
        "output_of_descriptors",
        (
            """
import os
os.write(1, b"raw one\\n")
a = look("a")
os.write(1, b"raw two\\n")
os.write(2, b"err\\n")
a
""",
        ),
    ),
]
