"""The benchmarks as a command: what there is, and the page of a run."""

from __future__ import annotations

import inspect
from datetime import UTC, datetime
from pathlib import Path

import pytest

from perdure.engine.bench import BENCHES, run_bench, running
from perdure.engine.bench.page import as_page
from perdure.engine.bench.running import _load
from perdure.engine.bench.yardstick import Rows, row, said


@pytest.mark.parametrize("name", sorted(BENCHES))
def test_every_name_is_a_benchmark_with_a_line_of_its_own(name: str) -> None:
    bench = _load(name)
    assert inspect.iscoroutinefunction(bench)
    assert bench.__doc__


def test_an_unknown_name_lists_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_bench("nothing") == 2
    printed = capsys.readouterr().out
    assert all(name in printed for name in BENCHES)


def test_a_page_holds_every_row_of_every_run() -> None:
    rows = [row("a | b", 0.002, "one commit", 0.0005, "<= 4x")]
    page = as_page({"store": rows, "calls": rows}, datetime(2026, 1, 2, tzinfo=UTC))
    assert "2026-01-02" in page
    assert page.count("| a \\| b | 2.0 | one commit | 0.5 | 4.0 | <= 4x |") == 2
    assert page.index("## `perdure bench store`") < page.index("## `perdure bench calls`")


def test_what_fails_or_finds_no_time_is_named_and_costs_the_others_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def fails(_folder: Path) -> Rows:
        """Fail."""
        raise OSError("no disk")

    async def works(_folder: Path) -> Rows:
        """Work."""
        return [row("a", 0.002, "one commit", 0.0005, "")]

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(running, "_load", {"calls": fails, "store": works}.get)
    monkeypatch.setattr(running, "BENCHES", {"calls": "", "store": ""})
    runs = running._run_all(60.0)
    assert runs["calls"] == [said("not run", "it failed: OSError: no disk")]
    assert runs["store"][0]["what"] == "a"
    assert running._run_all(0.0)["store"][0]["what"] == "not run"
    assert "| not run | it failed: OSError: no disk |" in as_page(runs)
