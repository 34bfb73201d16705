"""The fidelity corpus: every value's outcome is the published one, on this Python and from it to the others."""

from __future__ import annotations

import collections
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .corpus.run import Case, cases, table
from .kit import GUEST
from .test_pythons import other_pythons

ROOT = Path(__file__).resolve().parents[2]
RUN = Path(__file__).parent / "corpus" / "run.py"


def half(what: str, folder: Path, python: str = sys.executable) -> dict[str, Any]:
    done = subprocess.run(
        [python, "-I", str(RUN), what, str(GUEST), str(folder)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        env={"PYTHONHASHSEED": "0", "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads((folder / f"{what}.json").read_text()))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    half("make", folder)
    return folder


@pytest.fixture(scope="module")
def found(made: Path) -> dict[str, Any]:
    return half("check", made)


def outcome(case: Case) -> str:
    """What is expected where the corpus is published: on Python 3.12 and 3.13."""
    return "exact" if case.outcome == "differs" or "from Python" in case.expected else case.outcome


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_the_outcome_is_the_published_one(case: Case, found: dict[str, Any]) -> None:
    answer = found[case.name]
    assert answer["outcome"] == outcome(case), answer["why"]
    assert answer["why"] or answer["outcome"] == "exact"


def test_the_corpus_is_large_and_mostly_exact(found: dict[str, Any]) -> None:
    counted = collections.Counter(answer["outcome"] for answer in found.values())
    assert counted.total() >= 125
    assert counted["exact"] + counted["rebuilt"] >= 115
    assert counted["wrong"] == counted["failed"] == 0
    assert [case.name for case in cases() if case.outcome == "differs"] == [
        "a text of your own compared by identity",
        "a dict keyed by id()",
    ]


def test_the_published_table_is_the_generated_one(found: dict[str, Any]) -> None:
    published = (ROOT / "docs" / "checkpoints.md").read_text()
    assert table(found) in published, "write it again: python -m tests.checkpoint.corpus"


def test_the_corpus_comes_back_under_other_pythons(tmp_path: Path) -> None:
    for python in other_pythons():
        folder = tmp_path / Path(python).name
        folder.mkdir()
        half("make", folder)
        elsewhere = half("check", folder, python)
        different = {
            name: answer["why"] for name, answer in elsewhere.items() if answer["outcome"] in ("wrong", "failed")
        }
        # A bare interpreter has the standard library only.
        packaged = {case.name for case in cases() if case.group in ("numpy", "pandas")}
        different = {name: why for name, why in different.items() if name not in packaged}
        assert set(different) <= FOREIGN, different
        assert all("LostObjectError" in why for why in different.values()), different


def test_the_corpus_of_other_pythons_comes_back_here(tmp_path: Path) -> None:
    for python in other_pythons():
        folder = tmp_path / Path(python).name
        folder.mkdir()
        half("make", folder, python)
        here = half("check", folder)
        different = {name: answer["why"] for name, answer in here.items() if answer["outcome"] in ("wrong", "failed")}
        assert set(different) <= FOREIGN, different
        assert all("LostObjectError" in why for why in different.values()), different


#: What has no source that could be compiled again: it raises under another Python, and says why.
FOREIGN = {"made by exec", "with globals of its own", "code objects"}
