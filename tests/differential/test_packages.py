"""Packages that people use do something real in a guest, confined as it is by default."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from perdure.engine import Client

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
    "polars": "import polars as pl\nd = pl.DataFrame({'k': ['a', 'b', 'a'], 'v': [1, 2, 3]})\n"
    "d.lazy().group_by('k').agg(pl.col('v').sum()).sort('k').collect()['v'].to_list() == [4, 2]",
    "sympy": "import sympy as sp\nx = sp.symbols('x')\nsp.integrate(x * sp.sin(x), x) == -x * sp.cos(x) + sp.sin(x)",
    "networkx": "import networkx as nx\nnx.shortest_path(nx.karate_club_graph(), 0, 33)[-1] == 33",
    "PIL": "from PIL import Image, ImageDraw\ni = Image.new('RGB', (20, 20), 'white')\nImageDraw.Draw(i).line((0, 0, 19, 19), 'red')\n"
    "i.save('i.png')\nImage.open('i.png').getpixel((5, 5)) == (255, 0, 0)",
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


@pytest.mark.python
def test_none_was_left_out() -> None:
    assert sorted({**WORK, **NO_NETWORK}.keys() - {*installed(WORK), *installed(NO_NETWORK)}) == []
