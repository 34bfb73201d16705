"""gc, backup and doctor as a user starts them."""

import json
import os
from pathlib import Path

import pytest

from .kit import Cli

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


def test_a_state_is_checked_copied_and_collected(cli: Cli, tmp_path: Path) -> None:
    for n in range(3):
        assert cli("exec", "-s", "s", f"import os; big = os.urandom(90_000); n = {n}").code == 0
    assert cli("doctor", "--state", ".perdure").out.splitlines()[-1].startswith("ok      .perdure: ")
    kept = cli("gc")
    assert kept.code == 0
    assert kept.out.startswith("0 executions (0 promises) that ended more than 30 days ago removed\n0 blobs")
    assert cli("gc", "--days", "0").code == 2, "not under an hour"
    copied = cli("backup", "copy")
    assert copied.code == 0
    assert "to go on from it" in copied.out
    assert cli("exec", "--state", "copy", "-s", "s", "n").out == "2\n"
    again = cli("backup", "copy")
    assert (again.code, again.err) == (2, f"perdure: {tmp_path / 'copy'} exists: name a folder that does not\n")
    for blob in (tmp_path / ".perdure" / "blobs").glob("??/*"):
        os.truncate(blob, 10)
    broken = cli("doctor", "--state", ".perdure", "--json")
    assert broken.code == 1
    assert "is damaged" in json.loads(broken.out.splitlines()[-1])["problems"][0]
