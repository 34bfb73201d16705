"""Programs that would notice a step's end if it could be noticed: each says what it looks at."""

from __future__ import annotations

__all__ = ["PROGRAMS"]

PROGRAMS = {
    "the order of sets, what is taken from them, and how they grow": """
small = {8, 0, 16} | {n * 64 for n in range(5)}
names = set(map(str, range(120)))
for n in range(0, 120, 7): names.discard(str(n))
first = [names.pop() for _ in range(9)]
mixed = {-1, -2, "a", 1.5, None, (2, "b"), b"c"} | {n << 33 for n in range(30)}
mixed -= {-1, 0}
frozen = frozenset(names) | frozenset(small)
kept = {"in": [names, {"again": frozen}]}
print(list(small), list(names), list(mixed), list(frozen))
names |= set(map(str, range(200, 230)))
names.pop()
second = [names.pop() for _ in range(9)]
small.update(range(0, 300, 8))
mixed.add("d")
print(list(small), list(names), list(mixed), kept["in"][0] is names, kept["in"][1]["again"] is frozen)
del kept
[small.pop() for _ in range(4)], list(frozen - names), [each for each in mixed if each != 1.5]
""",
    "plain values, aliases and cycles": """
x = [1, 2, {"k": (3, 4)}]
y = x
y.append(x)
z = {"x": x, "y": y}
print(x is y, z["x"] is z["y"], x[3] is x)
del z
len(x)
""",
    "functions, closures, late binding, recursion": """
def outer():
    n = 0
    def step():
        nonlocal n
        n += factor
        return n
    return step, lambda: n
factor = 2
step, look = outer()
step()
factor = 5
print(step(), look())
def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)
old = fib
def fib(n): return old(n) * 10 if n < 1 else old(n - 1)
fib(6), old.__globals__ is globals()
""",
    "classes, instances, inheritance, class state": """
import dataclasses, enum
class Base:
    made = 0
    def __init__(self):
        Base.made += 1
        self.number = Base.made
a = Base()
class Child(Base):
    def __repr__(self): return f"Child {self.number}"
b = Child()
@dataclasses.dataclass(frozen=True)
class Point:
    x: int
    y: int = 2
class Colour(enum.Enum):
    RED = 1
p = Point(1)
c = Colour.RED
print(b, p, c, isinstance(b, Base), type(a) is Base, Colour(1) is c)
Base.made
""",
    "random numbers of every kind": """
import random
import secrets
import uuid
import os
r = random.Random(7)
first = [random.random(), r.random(), secrets.token_hex(4), str(uuid.uuid4()), os.urandom(3)]
s = random.Random()
second = [random.random(), r.random(), s.random(), secrets.randbelow(10**9), str(uuid.uuid4())]
random.seed(5)
print(first, second, random.random(), random.gauss(0, 1))
random.getstate() == random.getstate()
random.gauss(0, 1)
""",
    "what the code's own seed and shuffles give": """
import random
random.seed(1)
deck = list(range(10))
random.shuffle(deck)
x = random.sample(deck, 3)
print(deck, x)
random.choice(deck)
""",
    "output in pieces": r"""
import sys, os
print("a", end="")
print("b", end="")
sys.stdout.write("c")
print()
sys.stderr.write("half a line")
os.write(1, b"raw\n")
x = 1
os.write(1, b"\xc3")
y = 2
os.write(1, b"\xa4\n")
sys.stderr.write(", and the rest\n")
sys.stdout.buffer.write(b"\xe2\x82")
sys.stdout.buffer.write(b"\xac\n")
print("end")
""",
    "calls, gathered and in turn": """
import asyncio
a = echo(1)
async def pair(n):
    return [await echo(n), await echo(n + 1)]
b = await asyncio.gather(pair(10), pair(20))
c = echo(a)
d = await pair(30)
print(a, b, c, d)
async def four(): return await asyncio.gather(*(asyncio.create_task(pair(n)) for n in range(4)))
await four()
""",
    "numbers of tasks, threads and pools": """
import asyncio, threading
from concurrent.futures import ThreadPoolExecutor
async def name(): return asyncio.current_task().get_name()
a = await asyncio.create_task(name())
b = threading.Thread().name
async def order(): return [t.get_name() for t in {asyncio.create_task(name()) for _ in range(5)}]
c = await order()
d = await order()
with ThreadPoolExecutor(1) as pool: e = pool.submit(lambda: threading.current_thread().name).result()
f = threading.Thread().name
with ThreadPoolExecutor(1) as pool: g = pool.submit(lambda: threading.current_thread().name).result()
del pool
print(a, b, c, d, e, f, g)
""",
    "names of the module and the histories": """
'what this is'
first = __doc__
__doc__ = "another"
x = 5
y = __doc__, __name__, _, In[-1] == _i
import sys
sys.argv.append("more")
__file__ = "mine.py"
z = sys.argv, __file__
del __file__
'__file__' in globals(), y, z
""",
    "a name of the history that the code took": """
_ = "mine"
x = 1
_ += "!"
_
""",
    "generators that live in a statement, and one across": """
x = sum(n * n for n in range(100))
def count():
    n = 0
    while True:
        yield n
        n += 1
g = count()
a = [next(g), next(g)]
b = next(g)
print(a, b)
del g
c = [n for n in (m for m in range(3))]
a, b, c
""",
    "a context variable, and the decimal context": """
import contextvars, decimal
v = contextvars.ContextVar("v", default=0)
token = v.set(3)
decimal.getcontext().prec = 5
x = v.get()
y = decimal.Decimal(1) / 3
del token
v.set(v.get() + 1)
print(x, y, v.get())
v.get(), str(decimal.Decimal(2) / 3)
""",
    "warnings are shown once": """
import warnings
def old(): warnings.warn("this is old", DeprecationWarning, stacklevel=1)
warnings.simplefilter("default")
old()
x = 1
old()
y = 2
old()
x + y
""",
    "submodules that no name is bound to": """
import xml.dom
import xml.etree.ElementTree
import importlib.metadata
x = xml.etree.ElementTree.fromstring("<a><b/></a>").tag
def use(): return xml.dom.Node.TEXT_NODE
y = importlib.metadata.PackageNotFoundError.__name__
x, use(), y
""",
    "files, where they stand": """
import os
f = open("log.txt", "w")
_n = f.write("one\\n")
g = open("log.txt")
f.flush()
a = g.readline()
_n = f.write("two\\n")
f.close()
b = g.read()
g.close()
del f, g
os.rename("log.txt", "kept.txt")
c = sorted(os.listdir())
a, b, c
""",
    "folders, environment, search path": """
import os, sys
os.mkdir("sub")
os.environ["MINE"] = "1"
os.chdir("sub")
sys.path.append("there")
x = os.environ["MINE"], os.path.basename(os.getcwd()), sys.path[-1]
del os.environ["MINE"]
os.chdir("..")
sys.path.pop()
x, os.environ.get("MINE"), sys.path[-1] == "there"
""",
    "temporary files have names of the session": """
import tempfile, os
a = tempfile.mktemp(dir="/x")
b = tempfile.mktemp(dir="/x")
c = tempfile.mktemp(dir="/x")
a, b, c
""",
    "exceptions: caught, kept, and the one that ends it": """
def fail(n): raise ValueError(f"no {n}")
try:
    fail(1)
except ValueError as e:
    kept = str(e)
x = 1
def deep(): fail(2)
x = 2
deep()
""",
    "exit with a code": """
import sys
x = 1
print("leaving")
y = 2
sys.exit(3)
z = 3
""",
    "future statements": """
from __future__ import annotations
def f(x: Undefined) -> AlsoUndefined: ...
y = 1
def g(x: Undefined): ...
f.__annotations__, g.__annotations__
""",
    "sleeps and timeouts": """
import asyncio, time
time.sleep(0.006)
a = 1
await asyncio.sleep(0.006)
async def soon(): return await asyncio.wait_for(asyncio.sleep(0.001, 7), 30)
b = await soon()
async def late():
    try:
        await asyncio.wait_for(asyncio.sleep(30), 0.006)
    except TimeoutError:
        return "late"
c = await late()
time.monotonic() > 0, a, b, c
""",
    "a task that lives on for a while": """
import asyncio
async def work():
    await asyncio.sleep(0.002)
    return await echo("done")
task = asyncio.create_task(work())
x = 1
y = await task
del task
z = echo(y)
x, y, z
""",
    "locks, queues, events": """
import threading, queue, asyncio, collections
lock = threading.Lock()
lock.acquire()
q = queue.Queue()
q.put(1)
event = asyncio.Event()
event.set()
d = collections.deque([1, 2], maxlen=2)
counter = collections.Counter("abca")
dd = collections.defaultdict(list)
dd["x"].append(1)
d.append(3)
lock.locked(), q.get(), event.is_set(), list(d), counter.most_common(1), dict(dd)
""",
    "hooks of pickling that would leave a trace": """
import random, os, sys, asyncio, threading, time
class Loud:
    def __reduce__(self):
        print("loud"); os.write(1, b"loud"); random.random(); os.urandom(4); sys.stderr.write("loud")
        time.sleep(0.006); threading.Thread()
        return Loud, ()
loud = Loud()
x = random.random(), os.urandom(4)
time.sleep(0.006)
y = random.random(), os.urandom(4)
print(x, y)
echo(1)
""",
    "a hook that calls a capability": """
import perdure
said = []
class Calling:
    def __reduce__(self):
        try: echo("from a hook")
        except perdure.CallError as error: pass
        return Calling, ()
thing = Calling()
x = echo(1)
y = echo(2)
x, y, said
""",
    "definitions in exec and lambdas on one line": """
exec("def made(): return 41")
pair = (lambda: 1), (lambda: 2)
x = made() + 1
f, g = pair
x, f(), g(), [h() for h in pair]
""",
    "star imports, del, global from within": """
from math import *
def set_it(): global late; late = pi
set_it()
del pi
x = round(late, 2)
'pi' in globals(), x
""",
    "weak references and finalizers": """
import weakref, gc
class Thing: pass
t = Thing()
r = weakref.ref(t)
t2 = t
del t
x = r() is t2
ended = []
def note(): ended.append(1)
u = Thing()
final = weakref.finalize(u, note)
y = 1
del u
_n = gc.collect()
ended, x, r() is t2
""",
    "numpy": """
import numpy as np
rng = np.random.default_rng(3)
np.random.seed(4)
a = np.arange(12.0).reshape(3, 4)
a[0, 0] = 99
b = rng.random(2), np.random.random(2)
c = np.random.default_rng().random()
a[1, 1] = 77
print(a, b, c, np.random.random(), rng.integers(10, size=3))
a.sum()
""",
}
