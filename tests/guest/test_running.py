"""Code runs as under CPython: values, namespace, await, tracebacks, histories."""

from __future__ import annotations

import sys

import pytest

from .harness import Host


def test_a_trailing_value_is_the_result_even_when_falsy() -> None:
    with Host() as host:
        for code, value in [("0", 0), ("''", ""), ("x = 3\nx", 3), ("x = 3", None), ("None", None), ("[]", [])]:
            done = host.run(code)
            assert (done.status, done.result) == ("ok", value)
        assert host.run("log = []\nlog.append(1)\nlog.append(2) or len(log)").result == 2


def test_one_namespace_lives_over_executions() -> None:
    with Host() as host:
        host.run("def area():\n    return side * side\nside = 3")
        assert host.run("area()").result == 9
        assert host.run("side = 4\narea()").result == 16
        assert host.run("__name__, [n for n in dir() if 'perdure' in n.lower()]").result == ("__main__", [])
        assert host.run("import sys; sys.modules['__main__'].__dict__ is globals()").result is True


def test_await_at_the_top_and_background_tasks() -> None:
    with Host() as host:
        host.run(
            "import asyncio\n"
            "log = []\n"
            "async def tick():\n"
            "    for i in range(3):\n"
            "        await asyncio.sleep(0)\n"
            "        log.append(i)"
        )
        host.run("task = asyncio.create_task(tick())")
        assert host.run("log").result == []
        assert host.run("await task\nlog").result == [0, 1, 2]
        assert host.run("asyncio.run(asyncio.sleep(0, 'run'))").result == "run"
        left = host.run(
            "forever = asyncio.create_task(asyncio.sleep(1000), name='forever')\nawait asyncio.sleep(0)"
        ).left
        assert left == ["forever"]


def test_context_variables_are_shared_by_all_statements() -> None:
    with Host() as host:
        host.run("import contextvars, asyncio\nv = contextvars.ContextVar('v')\nv.set(1)")
        host.run("await asyncio.sleep(0)\nv.set(v.get() + 1)\nawait asyncio.sleep(0, v.set(v.get() + 1))")
        assert host.run("v.get()").result == 3


def test_a_syntax_error_runs_nothing() -> None:
    with Host() as host:
        done = host.run("x = 1\nprint('no')\ndef (")
        assert done.error["type"] == "SyntaxError"
        assert done.error["line"] == 3
        assert done.stdout == ""
        assert host.run("'x' in globals()").result is False
        assert host.run("x = 1\nreturn x").error["type"] == "SyntaxError"
        assert host.run("%magic").error["type"] == "SyntaxError"


def test_future_statements_hold_from_then_on() -> None:
    with Host() as host:
        assert host.run("def f(a: int): pass\nf.__annotations__['a'] is int").result is True
        host.run("from __future__ import annotations")
        assert host.run("def f(a: int): pass\nf.__annotations__['a']").result == "int"


def test_a_traceback_shows_the_users_frames_with_carets() -> None:
    with Host() as host:
        host.run("def divide(a, b):\n    return a / b")
        error = host.run("def outer():\n    return divide(1, 0)\n\nouter()").error
        assert (error["type"], error["module"], error["line"]) == ("ZeroDivisionError", "builtins", 2)
        expected = [
            "Traceback (most recent call last):",
            '  File "<analysis@2>", line 4, in <module>',
            "    outer()",
            # Pythons differ in which calls they mark.
            *(["    ~~~~~^^"] if sys.version_info >= (3, 13) else []),
            '  File "<analysis@2>", line 2, in outer',
            "    return divide(1, 0)",
            *(["           ^^^^^^^^^^^^"] if sys.version_info < (3, 13) else []),
            '  File "<analysis@1>", line 2, in divide',
            "    return a / b",
            "           ~~^~~",
            "ZeroDivisionError: division by zero",
        ]
        shown = error["traceback"].splitlines()
        if sys.version_info < (3, 13):  # early 3.12 puts some marks a column further to the right
            expected, shown = [line.strip() for line in expected], [line.strip() for line in shown]
        assert shown == expected
        awaited = host.run("async def f():\n    raise KeyError('k')\nawait f()").error["traceback"]
        assert "_perdure" not in awaited
        assert "asyncio" not in awaited
        assert "line 3, in <module>\n    await f()" in awaited


def test_chained_and_grouped_exceptions_come_whole() -> None:
    with Host() as host:
        code = (
            "try:\n"
            "    1/0\n"
            "except ZeroDivisionError as e:\n"
            "    raise ExceptionGroup('g', [ValueError('v'), KeyError('k')]) from e"
        )
        text = host.run(code).error["traceback"]
        for part in ("ZeroDivisionError", "direct cause", "ValueError: v", "KeyError: 'k'", "ExceptionGroup: g"):
            assert part in text
        noted = host.run("e = ValueError('v')\ne.add_note('think')\nraise e").error
        assert noted["notes"] == ["think"]


def test_what_ran_before_an_error_stays() -> None:
    with Host() as host:
        host.run("kept = 1\n1/0\nkept = 2")
        assert host.run("kept").result == 1


def test_histories_move_for_values_only() -> None:
    with Host() as host:
        host.run("41")
        host.run("x = 1")
        host.run("42")
        assert host.run("_, __, Out[1], In[2]").result == (42, 41, 41, "x = 1")
        host.run("_ = 'mine'")
        host.run("7")
        assert host.run("_, Out[6]").result == ("mine", 7)


def test_exit_is_an_outcome() -> None:
    with Host() as host:
        assert (done := host.run("import sys\nsys.exit(3)\n1")).status == "exit"
        assert done.code == 3
        assert host.run("exit()").code == 0
        assert (done := host.run("sys.exit('bad')")).code == 1
        assert done.stderr == "bad\n"
        assert host.run("1+1").result == 2


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("raise ValueError", "its repr raised ValueError"),
        ("raise SystemExit", "its repr raised SystemExit"),
        ("\n        while True: pass", "takes more than"),
        ("return 3", "its repr raised TypeError"),
    ],
)
def test_a_hostile_repr_is_contained(body: str, says: str) -> None:
    with Host() as host:
        done = host.run(f"class Bad:\n    def __repr__(self):\n        {body.strip()}\nBad()")
        assert done.status == "ok"
        assert says in done.repr
        assert host.run("1+1").result == 2


def test_a_repr_and_a_value_are_bounded() -> None:
    with Host(limits={"repr_characters": 200, "inline_bytes": 2000}) as host:
        done = host.run("'x' * 1_000_000")
        assert len(done.repr) < 300
        assert done.result == "x" * 1_000_000
        assert len(host.run("list(range(1000))").repr) < 300
        assert host.run("object()").has_value is None


def test_a_file_sees_what_a_script_sees() -> None:
    with Host() as host:
        path = str(host.workspace / "job.py")
        done = host.run("import sys\n(__file__, sys.argv, sys.path[0])", filename="job.py", argv=["job.py", "-v"])
        assert done.result == (path, ["job.py", "-v"], str(host.workspace))


def test_modules_written_to_the_workspace_can_be_imported() -> None:
    with Host() as host:
        done = host.run("open('mine.py', 'w').write('v = 5')\nimport mine\nmine.v")
        assert done.result == 5


def test_classes_of_the_session_pickle() -> None:
    with Host() as host:
        code = "import pickle\nclass A:\n    x = 1\nisinstance(pickle.loads(pickle.dumps(A())), A)"
        assert host.run(code).result is True


def test_randomness_comes_from_the_seed() -> None:
    code = (
        "import random, os, secrets, uuid\n"
        "(random.random(), os.urandom(4), secrets.token_hex(4), str(uuid.uuid4()), random.Random().random(), hash('a'))"
    )
    with Host(seed=1) as one, Host(seed=1) as same, Host(seed=2) as other:
        first = one.run(code).result
        assert same.run(code).result == first
        assert other.run(code).result != first
        assert one.run(code).result != first
