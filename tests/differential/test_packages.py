"""Packages that people use do something real in a guest, confined as it is by default."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from perdure.engine import Client, WorkerSettings

from .corpus import pieces

#: By package to import: code whose last value is True when it did what it is for.
WORK = {
    "numpy": "import numpy as np\na = np.arange(12.0).reshape(3, 4)\nx = np.linalg.lstsq(a, a.sum(1), rcond=None)[0]\n"
    "bool(np.allclose(a @ x, a.sum(1))) and float(np.fft.fft(a[0])[0].real) == 6.0",
    "pandas": "import pandas as pd\nd = pd.DataFrame({'k': list('abab'), 'v': range(4)})\nd.to_csv('d.csv', index=False)\n"
    "g = pd.read_csv('d.csv').groupby('k').v.agg('sum').to_frame('sum')\nint(g.loc['b', 'sum']) == 4",
    "pydantic": "from pydantic import BaseModel, ValidationError\nclass M(BaseModel):\n    n: int\n    tags: list[str] = []\n"
    "try:\n    M(n='x')\nexcept ValidationError as e:\n    errors = e.error_count()\n"
    "M.model_validate_json('{\"n\": \"5\"}').n == 5 and errors == 1",
    "sqlite3": "import sqlite3\nc = sqlite3.connect('data.db')\nc.execute('create table t (a)')\n"
    "c.executemany('insert into t values (?)', [(n,) for n in range(100)])\nc.commit()\n"
    "c.execute('select sum(a) from t').fetchone()[0] == 4950",
    "matplotlib": "import matplotlib.pyplot as plt\nfig, ax = plt.subplots()\nax.plot([1, 2, 3], [1, 4, 9])\n"
    "ax.set_title('squares')\nfig.savefig('f.png')\nopen('f.png', 'rb').read(8) == b'\\x89PNG\\r\\n\\x1a\\n'",
    "sklearn": "from sklearn.datasets import make_classification\nfrom sklearn.ensemble import RandomForestClassifier\n"
    "X, y = make_classification(300, random_state=0)\n"
    "float(RandomForestClassifier(20, random_state=0, n_jobs=2).fit(X, y).score(X, y)) > 0.9",
    "joblib": "from joblib import Parallel, delayed\nfrom sklearn.datasets import make_classification\n"
    "from sklearn.linear_model import LogisticRegression\nfrom sklearn.model_selection import GridSearchCV\n"
    "X, y = make_classification(80, random_state=0)\n"
    "best = GridSearchCV(LogisticRegression(), {'C': [0.1, 1]}, n_jobs=-1).fit(X, y).best_score_\n"
    "also = [Parallel(2, backend=name)(delayed(pow)(n, 2) for n in range(3)) for name in ('loky', 'multiprocessing')]\n"
    "float(best) > 0.5 and also == [[0, 1, 4]] * 2 and Parallel(2, require='sharedmem')([delayed(abs)(-1)]) == [1]",
    "polars": "import polars as pl\nd = pl.DataFrame({'k': ['a', 'b', 'a'], 'v': [1, 2, 3]})\n"
    "d.lazy().group_by('k').agg(pl.col('v').sum()).sort('k').collect()['v'].to_list() == [4, 2]",
    "sympy": "import sympy as sp\nx = sp.symbols('x')\nsp.integrate(x * sp.sin(x), x) == -x * sp.cos(x) + sp.sin(x)",
    "networkx": "import networkx as nx\nnx.shortest_path(nx.karate_club_graph(), 0, 33)[-1] == 33",
    "PIL": "from PIL import Image, ImageDraw\ni = Image.new('RGB', (20, 20), 'white')\nImageDraw.Draw(i).line((0, 0, 19, 19), 'red')\n"
    "i.save('i.png')\nImage.open('i.png').getpixel((5, 5)) == (255, 0, 0)",
    "tqdm": "import io\nfrom tqdm import tqdm\nseen = io.StringIO()\n"
    "total = sum(tqdm(range(1000), file=seen, mininterval=0))\n"
    "total == 499500 and '100%' in seen.getvalue() and seen.getvalue().count('\\r') > 100",
    "rich": "import io\nfrom rich.console import Console\nfrom rich.table import Table\nt = Table('a', 'b')\nt.add_row('1', '2')\n"
    "out = io.StringIO()\nConsole(file=out, width=40).print(t)\n'┃ a ┃ b ┃' in out.getvalue()",
    "lxml": "from lxml import etree\netree.XML('<a><b c=\"1\"/></a>').xpath('//b/@c') == ['1']",
}  # fmt: skip

#: What says clearly that there is no network, whoever asks for it.
NO_NETWORK = {
    "requests": "import requests\nrequests.get('http://example.com', timeout=5)",
    "urllib": "import urllib.request\nurllib.request.urlopen('http://example.com', timeout=5)",
    "socket": "import socket\nsocket.create_connection(('1.1.1.1', 80), timeout=5)",
    "httpx": "import httpx\nhttpx.get('http://example.com', timeout=5)",
}


def installed(names: dict[str, str]) -> list[str]:
    return [name for name in names if importlib.util.find_spec(name) is not None]


@pytest.mark.slow
@pytest.mark.parametrize("name", installed(WORK))
async def test_a_package_works(tmp_path: Path, name: str) -> None:
    async with Client.open(tmp_path / "state") as client:
        session = await client.session("work")
        result = await (await session.submit(WORK[name])).result()
        assert (result.status, result.value) == ("ok", True), result.error
        assert (await (await session.submit("1 + 1")).result()).value == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", installed(NO_NETWORK))
async def test_without_the_network_it_fails_at_once_and_says_so(tmp_path: Path, name: str) -> None:
    async with Client.open(tmp_path / "state") as client:
        result = await (await (await client.session("net")).submit(NO_NETWORK[name])).result()
        assert result.status == "error"
        assert result.error is not None
        assert result.timings.ran < 20


#: A notebook: cells that build on each other. Each runs in a new process when no guest is kept.
NOTEBOOK = """
import numpy as np, pandas as pd
import matplotlib.pyplot as plt
rng = np.random.default_rng(7)
flights = pd.DataFrame({"day": rng.integers(1, 29, 5000), "late": rng.gamma(2.0, 9.0, 5000), "carrier": rng.choice(list("ABCD"), 5000)})
flights["heavy"] = flights.late > 30
by = flights.groupby("carrier").late.agg(["mean", "max", "count"])
assert by["count"].sum() == 5000
days = flights.pivot_table(index="day", columns="carrier", values="late", aggfunc="mean")
assert days.shape == (28, 4)
flights.to_csv("flights.csv", index=False)
again = pd.read_csv("flights.csv")
assert np.allclose(again.late, flights.late)
fig, ax = plt.subplots()
lines = ax.plot(days.index, days["A"])
fig.savefig("days.png")
assert open("days.png", "rb").read(4) == b"\\x89PNG"
def clean(frame, limit=60):
    return frame[frame.late < limit]
few = clean(flights)
class Report:
    def __init__(self, frame): self.frame, self.notes = frame, []
    def note(self, text): self.notes.append(text); return self
report = Report(few).note("cleaned")
report.note(f"{len(few)} left")
assert report.frame is few
import sqlite3
db = sqlite3.connect("flights.db")
flights.to_sql("flights", db, index=False, if_exists="replace"); db.commit(); db.close()
rows = sqlite3.connect("flights.db").execute("select count(*) from flights where late > 30").fetchone()
assert rows[0] == int(flights.heavy.sum())
X = np.column_stack([flights.day, flights.late]); y = flights.heavy.to_numpy()
mean, std = X.mean(0), X.std(0)
Z = (X - mean) / std
w = np.linalg.lstsq(np.column_stack([Z, np.ones(len(Z))]), y, rcond=None)[0]
score = float((((Z @ w[:2] + w[2]) > 0.5) == y).mean())
assert score > 0.9
view = Z[:10]; view[:] = 0
assert Z[5].sum() == 0
lookup = {name: group.late.median() for name, group in flights.groupby("carrier")}
top = max(lookup, key=lookup.get)
summary = "\\n".join(f"{name} {value:.1f}" for name, value in sorted(lookup.items()))
(top, len(report.notes), round(score, 1) >= 0.9)
"""


@pytest.mark.python
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kept", [0, 8])
async def test_a_notebook_goes_on_from_cell_to_cell(tmp_path: Path, kept: int) -> None:
    """With no guest kept, every cell begins with a restore, and nothing of it may be seen."""
    async with Client.open(tmp_path / "state", settings=WorkerSettings(kept_guests=kept)) as client:
        session = await client.session("book")
        value: Any = None
        for cell in pieces(NOTEBOOK):
            result = await (await session.submit(cell.strip("\n"), wait=True)).result()
            assert result.status == "ok", (cell, result.error)
            # Open databases cannot be carried over, and no later cell uses them.
            assert {lost.name for lost in result.lost} <= {"db"}, result.lost
            value = result.value
        assert value[1:] == (2, True)


@pytest.mark.python
async def test_a_debugger_asks_its_commands(tmp_path: Path) -> None:
    async with Client.open(tmp_path / "state") as client:
        session = await client.session("debug", grants=["input"])
        execution = await session.submit("def f(n):\n    breakpoint()\n    return n * 2\nf(21)")
        for command in ("p n", "n", "c"):
            while not (asked := await client.pending(execution.id)):
                await client.substrate.changed(1.0)
            await client.answer(asked[0].id, command)
        result = await execution.result()
        assert (result.status, result.value) == ("ok", 42), result.error
        shown = [event.text async for event in execution.events(follow=False) if event.type == "output"]
        assert "21" in "".join(shown)


@pytest.mark.python
def test_none_was_left_out() -> None:
    assert sorted({**WORK, **NO_NETWORK}.keys() - {*installed(WORK), *installed(NO_NETWORK)}) == []
