"""Warm processes, one pair for a file of tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .running import Warm


@pytest.fixture(scope="module")
def interpreter() -> Iterator[Warm]:
    with Warm("outside") as warm:
        yield warm


@pytest.fixture(scope="module")
def guests() -> Iterator[Warm]:
    with Warm("guest") as warm:
        yield warm


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the packages that are not installed, whose tests were not run."""
    from .test_packages import NO_NETWORK, WORK, installed

    known = {**WORK, **NO_NETWORK}
    missing = sorted(known.keys() - set(installed(known)))
    if missing:
        terminalreporter.write_line(
            f"packages not tried, since they are not installed (make python): {', '.join(missing)}"
        )
