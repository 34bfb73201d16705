"""The namespace as a whole: one dict, its aliases, its functions' globals, its order."""

from __future__ import annotations

import textwrap

import pytest

from .kit import Session


def code(text: str) -> str:
    return textwrap.dedent(text)


def test_two_names_of_one_list_stay_one_list(session: Session) -> None:
    session.run("a = [1]\nb = a\nc = {'deep': (a,)}")
    session.run("a.append(2)\nassert b is a and c['deep'][0] is a and b == [1, 2]")


def test_cycles_within_and_across_names(session: Session) -> None:
    session.run("a = []\nb = {'a': a}\na.append(b)\na.append(a)")
    session.run("assert a[0] is b and b['a'] is a and a[1] is a")


def test_functions_share_the_live_globals(session: Session) -> None:
    session.run(
        code("""
        n = 0
        def inc():
            global n
            n += 1
            return n
        def even(k): return k == 0 or odd(k - 1)
        def odd(k): return k != 0 and even(k - 1)
        """)
    )
    session.run("assert inc() == 1 and n == 1 and inc.__globals__ is globals()\nassert even(10)\n")
    session.run("odd = lambda k: 'new'\nassert even(3) == 'new' and inc() == 2 and n == 2")


def test_closures_share_their_cells(session: Session) -> None:
    session.run(
        code("""
        def make():
            count = 0
            def up():
                nonlocal count
                count += 1
                return count
            def see(): return count
            def itself(): return itself
            return up, see, itself
        up, see, itself = make()
        def late():
            def inner(): return missing
            if False: missing = 1
            return inner
        empty = late()
        cell = up.__closure__[0]
        """)
    )
    session.run(
        code("""
        up(); up()
        assert see() == 2 and cell.cell_contents == 2 and itself() is itself
        try: empty()
        except NameError: pass
        else: assert False
        """)
    )


def test_the_globals_held_in_a_variable_are_the_globals(session: Session) -> None:
    session.run(
        "import sys, builtins\nmine = globals()\nme = sys.modules['__main__']\nb = vars(builtins)\npath = sys.path"
    )
    session.run(
        "assert mine is globals() and me is sys.modules['__main__'] and b is vars(builtins) and path is sys.path"
    )


def test_names_keep_their_order(session: Session) -> None:
    session.run("z = [1]\ndef f(): pass\na = 1\nimport math\nb = f")
    session.run(
        "names = [n for n in globals() if not n.startswith('__')]\nassert names == ['z', 'f', 'a', 'math', 'b'], names"
    )


def test_a_load_removes_what_the_image_does_not_have(session: Session) -> None:
    session.run("import sys\na = 1")
    session.run(
        code("""
        guest = sys.modules['_perdure_guest.checkpoint']
        protected = frozenset(name for name in globals() if name.startswith('__'))
        kept = guest.dump(globals(), protected=protected | {'guest', 'protected'}).data
        a = 2
        extra = 3
        guest.load(kept, globals(), protected=protected | {'guest', 'protected', 'kept'})
        assert a == 1 and 'extra' not in globals()
        """),
        dump=False,
    )


def test_builtins_of_the_user_are_left_alone(session: Session) -> None:
    session.run("import builtins\nbuiltins.mine = 5\nlength = len\nassert mine == 5")
    session.run("assert length is len and not hasattr(builtins, 'mine')")


def test_a_dump_changes_nothing_and_keeps_nothing(session: Session) -> None:
    session.run(
        code("""
        import random, sys, weakref
        gone = []
        class Thing:
            def __reduce__(self):
                print("noise"); random.random()
                return Thing, ()
            def __del__(self): gone.append(1)
        thing = Thing()
        random.seed(1)
        guest = sys.modules['_perdure_guest.checkpoint']
        before = random.getstate()
        guest.dump(globals(), protected=frozenset({'guest'}))
        assert random.getstate() == before and not guest.hooks_running()
        del thing
        assert gone == [1]
        """),
        dump=False,
    )


def test_hooks_print_nothing(session: Session) -> None:
    session.run(
        "class T:\n    def __getstate__(self):\n        print('noise')\n        return 1\n"
        "    def __setstate__(self, s):\n        print('noise')\nt = T()"
    )
    assert session.run("").output == ""


def test_generators_of_chance_and_contexts_go_on(session: Session) -> None:
    first = session.run("import random, decimal\nrandom.seed(7)\ndecimal.getcontext().prec = 9\nprint(random.random())")
    second = session.run("print(random.random(), decimal.getcontext().prec)")
    random = __import__("random").Random(7)
    assert (first.output + second.output).split() == [str(random.random()), str(random.random()), "9"]


def test_the_process_is_as_the_code_left_it(session: Session) -> None:
    session.run(
        code("""
        import os, sys, warnings
        os.environ['MINE'] = 'yes'; del os.environ['HOME']
        os.mkdir('inside'); os.chdir('inside')
        sys.path.append('/added'); sys.setrecursionlimit(1234)
        warnings.simplefilter('error', DeprecationWarning)
        environ = os.environ
        """)
    )
    session.run(
        code("""
        assert os.environ['MINE'] == 'yes' and 'HOME' not in os.environ and environ is os.environ
        assert os.path.basename(os.getcwd()) == 'inside' and sys.path[-1] == '/added'
        assert sys.getrecursionlimit() == 1234
        try: warnings.warn('x', DeprecationWarning)
        except DeprecationWarning: pass
        else: assert False
        """)
    )


def test_options_of_numpy(session: Session) -> None:
    session.run("import numpy as np\nnp.set_printoptions(precision=3, suppress=True)\n_ = np.seterr(divide='ignore')")
    session.run(
        code("""
        assert str(np.array([1 / 3])) == '[0.333]'
        assert np.geterr()['divide'] == 'ignore' and np.geterr()['over'] == 'warn'
        np.set_printoptions(precision=8, suppress=False); _ = np.seterr(divide='warn')
        """)
    )
    session.run("assert str(np.array([1 / 3])) == '[0.33333333]' and np.geterr()['divide'] == 'warn'")


@pytest.mark.python
def test_options_of_matplotlib(session: Session) -> None:
    session.run(
        code("""
        import matplotlib; matplotlib.use('Agg')
        import matplotlib.pyplot as plt
        plt.style.use('ggplot'); plt.rcParams['figure.figsize'] = (3, 2); plt.rc('lines', linewidth=5)
        # As seaborn sets them: colours as tuples, a style as a member of an enumeration.
        plt.rc('lines', solid_capstyle='round')
        plt.rcParams['axes.prop_cycle'] = plt.cycler(color=[(0.5, 0.25, 0.0), (0.0, 0.5, 1.0)], linestyle=['-', '--'])
        """)
    )
    session.run(
        code("""
        fresh = dict(matplotlib.rcParams)
        assert matplotlib.get_backend().lower() == 'agg' and fresh['figure.figsize'] == [3, 2]
        assert fresh['lines.linewidth'] == 5 and fresh['axes.facecolor'] == '#E5E5E5'
        styles = fresh['axes.prop_cycle'].by_key()
        assert styles == {'color': [(0.5, 0.25, 0.0), (0.0, 0.5, 1.0)], 'linestyle': ['-', '--']}
        assert fresh['lines.solid_capstyle'] == 'round' and type(fresh['lines.solid_capstyle']) is not str
        plt.rcdefaults(); del fresh, styles
        """)
    )
    session.run("assert matplotlib.rcParams['lines.linewidth'] == 1.5")


def test_handlers_and_filters_of_loggers(session: Session) -> None:
    session.run(
        code("""
        import logging, io
        class Short(logging.Filter):
            def filter(self, record): return len(record.getMessage()) < 6
        class Mine(logging.StreamHandler): pass
        out, log = io.StringIO(), logging.getLogger('app')
        def to(stream):
            made = Mine(stream)
            made.setFormatter(logging.Formatter('%(name)s %(message)s'))
            return made
        handler = to(out); log.addHandler(handler); logging.getLogger('other').addHandler(to(out))
        log.addFilter(Short()); handler.addFilter(lambda record: record.levelno > 10)
        log.setLevel(10); log.warning('one'); log.debug('two'); log.warning('too long')
        broken = to(None); broken.part = (n for n in 'ab'); next(broken.part)
        logging.getLogger('broken').addHandler(broken); del broken
        logging.disable(5)
        """)
    )
    session.run(
        code("""
        log.warning('three'); log.debug('four'); log.warning('too long'); logging.getLogger('other').error('x')
        assert out.getvalue() == 'app one\\napp three\\nother x\\n', out.getvalue()
        assert log.handlers == [handler] and log is logging.getLogger('app') and type(handler) is Mine
        assert repr(logging.getLogger('broken').handlers[0].part).startswith('<lost'), 'the deepest part alone'
        assert logging.root.manager.disable == 5
        logging.disable(0); log.handlers.clear(); log.filters.clear(); logging.getLogger('other').handlers.clear()
        """)
    )
    session.run("assert logging.getLogger('other').handlers == [] == log.filters and not logging.root.manager.disable")


def test_levels_of_loggers_and_options_of_pandas(session: Session) -> None:
    session.run(
        code("""
        import logging, pandas as pd
        logging.getLogger('a.b').setLevel(logging.DEBUG); logging.getLogger('quiet').disabled = True
        logging.getLogger('alone').propagate = False
        pd.set_option('display.max_rows', 7); pd.options.display.precision = 3
        """)
    )
    session.run(
        code("""
        import sys
        assert logging.getLogger('a.b').level == logging.DEBUG and logging.getLogger('quiet').disabled
        assert not logging.getLogger('alone').propagate
        assert pd.get_option('display.max_rows') == 7 and pd.get_option('display.precision') == 3
        pd.reset_option('display.max_rows'); pd.reset_option('display.precision'); logging.getLogger('a.b').setLevel(0)
        logging.getLogger('alone').propagate = True; logging.getLogger('quiet').disabled = False
        del pd
        """)
    )
    session.run(
        code("""
        import sys
        assert 'pandas' not in sys.modules, 'nothing of it is left, and it costs a restore nothing'
        assert logging.getLogger('a.b').level == 0 and logging.getLogger('alone').propagate
        """)
    )


def test_how_long_a_field_of_csv_may_be_is_kept(session: Session) -> None:
    session.run("import csv; was = csv.field_size_limit()")
    session.run("assert csv.field_size_limit(1 << 30) == was == 131072")
    session.run("assert csv.field_size_limit() == 1 << 30; x = csv.field_size_limit(was)")
    session.run("assert csv.field_size_limit() == was")
