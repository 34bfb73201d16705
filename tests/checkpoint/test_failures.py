"""What cannot be kept: it costs itself and nothing else, is named, and speaks when it is used."""

from __future__ import annotations

import textwrap

import pytest

from .kit import Session


def code(text: str) -> str:
    return textwrap.dedent(text)


def test_the_deepest_object_is_lost_and_the_rest_lives(session: Session) -> None:
    first = session.run(
        code("""
        class Job: pass
        job = Job(); job.name = 'n'; job.parts = [1, (i for i in 'ab')]; next(job.parts[1])
        other = job
        fine = [job.parts]
        """)
    )
    assert {name for name, entry in first.dumped.items() if entry["status"] == "lost"} == {"job", "other", "fine"}
    assert first.dumped["job"]["where"] == "job.parts[1]"
    assert "generator" in first.dumped["job"]["why"]
    second = session.run(
        code("""
        assert job.name == 'n' and job.parts[0] == 1 and other is job and fine[0] is job.parts
        print(repr(job.parts[1]))
        for use in (next, len, iter, bool, str, lambda x: x.a, lambda x: x + 1, lambda x: x == 1, lambda x: x()):
            try: use(job.parts[1])
            except RuntimeError as error: text = str(error)
            else: assert False, use
        print(text)
        """)
    )
    assert second.loaded["job"]["status"] == "lost"
    assert "<lost the generator of <genexpr>() at job.parts[1]" in second.output
    assert "'job.parts[1]' was the generator of <genexpr>(), and is lost" in second.output
    third = session.run("assert repr(job.parts[1]).startswith('<lost')")
    assert third.loaded["job"]["where"] == "job.parts[1]"


REDUCTIONS = [
    "raise ValueError('no')",
    "raise KeyboardInterrupt",
    "raise SystemExit(3)",
    "return 5",
    "return ()",
    "return (1, 2)",
    "return 'nowhere'",
    "return (list, (), None, 7)",
    "return (list, (), None, (1 / 0 for _ in 'a'))",
    "return (list, (), None, None, None, 3)",
    "return (lambda: 1, 'x')",
    "return self.__reduce__()",
]


def test_a_hook_that_fails_costs_its_own_object(session: Session) -> None:
    made = "".join(
        f"class Bad{number}:\n    def __reduce__(self):\n        {reduction}\nx{number} = [Bad{number}(), 1]\n"
        for number, reduction in enumerate(REDUCTIONS)
    )
    first = session.run(made + "y = [2]\n")
    for number, reduction in enumerate(REDUCTIONS):
        entry = first.dumped[f"x{number}"]
        assert (entry["status"], entry["where"]) == ("lost", f"x{number}[0]"), reduction
    assert {entry["status"] for name, entry in first.dumped.items() if not name.startswith("x")} == {"kept"}
    session.run(
        f"for number in range({len(REDUCTIONS)}):\n"
        "    x = globals()[f'x{number}']\n"
        "    assert x[1] == 1 and y == [2] and repr(x[0]).startswith('<lost an object of Bad')"
    )


def test_a_hook_that_never_ends_is_stopped(session: Session) -> None:
    first = session.run(
        "class Slow:\n    def __reduce__(self):\n        while True: pass\nx = Slow()\ny = 1", hook_seconds=0.5
    )
    assert first.dumped["x"]["status"] == "lost"
    assert "0.5 seconds" in first.dumped["x"]["why"]
    session.run("assert y == 1")


@pytest.mark.parametrize("more", [8, 45])
def test_a_value_that_takes_more_memory_than_is_left_costs_itself(session: Session, more: int) -> None:
    """However far its pickling comes: the rest is kept, and is the same afterwards."""
    first = session.run(
        code(f"""
        import resource
        a = [1]; b = {{'a': a}}; c = 'text'
        big = ['x' * 50 + str(number) for number in range(300_000)]
        used = int(open('/proc/self/statm').read().split()[0]) * 4096
        resource.setrlimit(resource.RLIMIT_AS, (used + {more} * 1_000_000, -1))
        """)
    )
    entry = first.dumped["big"]
    assert {each["status"] for name, each in first.dumped.items() if name != "big"} == {"kept"}
    assert entry["status"] == "kept" or "raise the limit memory_bytes" in entry["why"], entry
    assert entry["status"] == "lost" or more > 8
    session.run(
        "assert b['a'] is a and a == [1] and c == 'text'; assert len(big) == 300_000 if type(big) is list else 1"
    )


def test_a_timer_of_the_user_goes_on_after_a_dump(session: Session) -> None:
    session.run(
        code("""
        import signal, sys, time
        hits = []
        signal.signal(signal.SIGALRM, lambda *_: hits.append(1))
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        sys.modules['_perdure_guest.checkpoint'].dump(globals())
        signal.sigwait if hits else signal.pause()
        assert hits == [1]
        """),
        dump=False,
    )


def test_a_hook_that_forks_makes_no_second_guest(session: Session) -> None:
    session.run("import os\nclass F:\n    def __reduce__(self):\n        os.fork()\n        return F, ()\nx = F()")
    session.run("assert type(x) is F")


def test_a_value_that_cannot_be_loaded_costs_its_own_name(session: Session) -> None:
    session.run(
        code("""
        class Bad:
            def __setstate__(self, state): raise RuntimeError('at load')
        shared = [1]
        x = [Bad(), shared, 'text that only this one brings']; x[0].z = 1
        y = [shared, x[2], len, 'text that only this one brings']
        def f(text='text that only this one brings'): return text
        """)
    )
    second = session.run(
        "assert repr(x[0]).startswith('<lost') and x[1] is shared is y[0] and x[2] == y[1] == y[3] == f()\n"
        "assert y[2] is len"
    )
    assert second.loaded["x"]["status"] == "lost"
    assert "at load" in second.loaded["x"]["why"]
    assert second.loaded["f"]["status"] == second.loaded["shared"]["status"] == "kept"


def test_a_hundred_thousand_levels(session: Session) -> None:
    first = session.run(
        code("""
        deep = []
        for _ in range(100_000): deep = [deep]
        class Node: pass
        chain = None
        for _ in range(30_000):
            node = Node(); node.next = chain; chain = node
        after = {'fine': 1}
        """)
    )
    assert {entry["status"] for entry in first.dumped.values()} == {"kept"}
    session.run(
        code("""
        count = 0
        while deep: deep = deep[0]; count += 1
        assert count == 100_000
        count = 0
        while chain: chain = chain.next; count += 1
        assert count == 30_000 and after == {'fine': 1}
        """),
        dump=False,
    )


def test_an_image_that_is_cut_or_changed_is_refused_before_anything_is_touched(session: Session) -> None:
    session.run("a = [1] * 1000")
    session.run(
        code("""
        import sys
        guest = sys.modules['_perdure_guest.checkpoint']
        data = guest.dump({'x': [1, 2], 'y': 3}).data
        for bad in [data[:n] for n in range(0, len(data), 7)] + [b'', b'x' * 100, data[:8] + b'\\xff' * 8 + data[16:]]:
            try: guest.load(bad, {'mine': 1})
            except guest.CheckpointError: pass
            else: assert False, bad
        newer = data.replace(b'"format":2', b'"format":9')
        try: guest.load(newer, {})
        except guest.CheckpointTooNew: pass
        else: assert False
        """),
        dump=False,
    )
