"""What the walls refuse is explained beside the traceback, in the result's notes, and nothing else is."""

from __future__ import annotations

from pathlib import Path

from .kit import opened, outcome

REFUSED = {
    "import subprocess\nsubprocess.run(['ls'])": "start no processes",
    "import multiprocessing\nmultiprocessing.get_context('fork').Process(target=print).start()": "start no processes",
    "import os\nos.fork()": "start no processes",
    "import urllib.request\nurllib.request.urlopen('http://example.com', timeout=5)": "no network",
    "import socket\nsocket.create_connection(('1.1.1.1', 80), timeout=5)": "no network",
    "open('/data/sales.csv')": "bring files in",
    "open('/usr/out.txt', 'w')": "may write in its workspace only",
    "http.get('http://example.com')": "http is a capability that was not granted",
    "try:\n    open('/data/x')\nexcept OSError as e:\n    raise RuntimeError('no data') from e": "bring files in",
}

THEIR_OWN = ["open('missing.txt')", "raise PermissionError(1, 'mine')", "undefined_name", "1 / 0", "{}['http']"]


async def test_what_is_refused_is_explained(tmp_path: Path) -> None:
    async with opened(tmp_path / "state") as client:
        for code, hint in REFUSED.items():
            result = await outcome(client, "refused", code)
            assert result.status == "error", code
            assert [note for note in result.notes if hint in note], (code, result.notes, result.error)


async def test_the_codes_own_errors_are_left_alone(tmp_path: Path) -> None:
    async with opened(tmp_path / "state") as client:
        for code in THEIR_OWN:
            result = await outcome(client, "own", code)
            assert (result.status, result.notes) == ("error", ()), code


async def test_without_walls_there_is_nothing_to_explain(tmp_path: Path) -> None:
    async with opened(tmp_path / "state") as client:
        session = await client.session("open", isolation="process")
        result = await (await session.submit("open('/data/sales.csv')")).result()
        assert (result.status, result.notes) == ("error", ())
