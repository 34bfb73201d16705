"""What every test may rely on: blocking calls on the loop found on request, and no test left out unnoticed."""

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from blockbuster import blockbuster_ctx

#: The code that is held to never block; a test or a library that does is nobody's concern.
_OURS = ["perdure.engine", "perdure.capabilities", "perdure.workers"]

# A shell's background job ignores interrupts, and so would every process that a test starts to interrupt it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

#: Which servers tests may need, by marker: the variable that names one.
_NEEDED = {"postgres": "PERDURE_TEST_PG", "server": "RESONATE_URL", "bucket": "PERDURE_TEST_BUCKET"}
_NOT_RUN = pytest.StashKey[int]()
#: The same, as a process that runs a part of the tests tells the one that prints the summary.
_TOLD = "perdure_not_run"


@pytest.fixture(autouse=True)
def _no_blocking(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.node.get_closest_marker("no_blocking") is None:
        yield
        return
    with blockbuster_ctx(_OURS):
        yield


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what needs a server that is not there; the summary says how many."""
    absent = [marker for marker, variable in _NEEDED.items() if not os.environ.get(variable)]
    missing = [item for item in items if any(item.get_closest_marker(marker) for marker in absent)]
    without = [item for item in items if item not in missing]
    config.stash[_NOT_RUN] = len(missing)
    getattr(config, "workeroutput", {})[_TOLD] = len(missing)
    items[:] = without
    if missing:
        config.hook.pytest_deselected(items=missing)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take in what a process that ran a part of the tests left out; each of them collects all."""
    told = getattr(node, "workeroutput", {}).get(_TOLD, 0)
    node.config.stash[_NOT_RUN] = max(told, node.config.stash.get(_NOT_RUN, 0))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if missing := config.stash.get(_NOT_RUN, 0):
        terminalreporter.write_line(
            f"{missing} tests not run: they need {' or '.join(_NEEDED.values())}, which docs/contributing.md explains"
        )
