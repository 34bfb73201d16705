"""Several executions in one session: what one leaves, the next one finds, whoever died in between."""

from __future__ import annotations

from ..program import Program

__all__ = ["PROGRAMS"]

PROGRAMS = [
    Program(
        "three_executions",
        ("x = [look(1)]\ny = x", "x.append(sure('two'))\nprint(y)", "y.append(look(3))\nx is y, x"),
    ),
    Program(
        "functions_live_on",
        (
            "calls = 0\ndef act(what):\n    global calls\n    calls += 1\n    return look(what), calls",
            "a = act('a')\nprint(a)",
            "b = act('b')\n(a, b, calls)",
        ),
    ),
    Program(
        "classes_live_on",
        (
            "class Node:\n    def __init__(self, v):\n        self.v, self.next = v, None\na = Node(look(1))",
            "b = Node(look(2)); a.next = b; b.next = a",
            "a.next.next is a, isinstance(b, Node), [a.v, b.v], sure('end')",
        ),
    ),
    Program(
        "files_in_the_workspace",
        (
            "from pathlib import Path\nPath('log').write_text(look('a') + '\\n')\nPath('d').mkdir()",
            "with open('log', 'a') as f:\n    f.write(sure('b')['paid'])\ndel f\nPath('d/x').write_text('x' * 60000)",
            "import os\n(Path('log').read_text(), len(Path('d/x').read_text()), sorted(os.listdir('.')), look('c'))",
        ),
    ),
    Program(
        "a_file_written_between_calls",
        (
            """
from pathlib import Path
log = Path("log")
for n in range(4):
    with log.open("a") as file:
        file.write(f"{look(n)}\\n")
    print(log.read_text().split())
del file
sure(log.read_text().replace("\\n", ","))
""",
        ),
    ),
    Program(
        "a_large_namespace",
        (
            """
import random
data = {i: str(i) * 3 for i in range(20_000)}
noise = random.Random(1).randbytes(300_000)
look(len(data))
""",
            "data[5] = sure('x')\nblob = bytes(200_000)\nlen(blob)",
            "(len(data), data[5], data[19_999], len(blob), look('end'))",
        ),
    ),
    Program(
        "an_error_in_between",
        ("kept = look('a')", "half = look('b')\nraise ValueError('no')", "(kept, half, sure('c'))"),
    ),
    Program(
        "a_pending_import",
        ("import json as j, math", "from collections import Counter", "j.dumps(Counter(look('aab')))"),
    ),
    Program(
        "randomness_goes_on",
        (
            "import random\na = random.random()\nprint(a)\nlook('one')",
            "b = random.random()\nprint(b)\nsure(str(b))",
            "c = [random.random() for _ in range(3)]\nprint(a, b, c)\na != b, look(str(c))",
        ),
    ),
    Program(
        "randomness_of_every_kind",
        (
            """
import os, random, secrets, uuid
drawn = [random.random(), secrets.token_hex(4), str(uuid.uuid4()), os.urandom(4).hex(), random.SystemRandom().random()]
print(drawn)
look(str(drawn[0]))
drawn += [random.randint(1, 100), random.sample(range(100), 3), secrets.randbelow(1000)]
own = random.Random(5)
drawn.append(own.random())
names = {"ada", "bob", "cyd", "dee"}
order = list(names)
sure(str(order))
drawn, order
""",
        ),
    ),
    Program(
        "a_seed_of_the_users_own",
        ("import random\nrandom.seed(7)\na = [random.random(), look(1)]", "b = [random.random(), look(2)]\n(a, b)"),
    ),
    Program(
        "a_request_by_chance", ("import random\nn = random.randrange(10**9)\nsure(str(n))\nlook(random.random())",)
    ),
    Program(
        "output_in_every_execution",
        ("print('one'); look(1); print('one more')", "print('two'); sure('b')", "print('three', look(3))"),
    ),
    Program("underscores", ("look(5)", "kept = _ * 2", "(kept, look(_))")),
]
