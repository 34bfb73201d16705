"""What is said to the operator costs nothing but itself where nobody can hear it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import io
import logging
import os
import sys
from typing import TYPE_CHECKING

import pytest
import structlog

from perdure.engine.cli.failing import hear_background
from perdure.engine.logs import StandardError
from perdure.workers import executions
from tests.whole.kit import opened, outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def closed() -> io.TextIOBase:
    stream = io.StringIO()
    stream.close()
    return stream


def unread() -> io.TextIOBase:
    reader, writer = os.pipe()
    os.close(reader)
    return io.TextIOWrapper(io.FileIO(writer, "w"), write_through=True)


@pytest.mark.parametrize("stderr", [closed, unread, lambda: None], ids=["closed", "unread", "none"])
def test_words_that_nobody_can_hear_are_lost_alone(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], stderr: Callable[[], io.TextIOBase | None]
) -> None:
    stream = stderr()
    monkeypatch.setattr(sys, "stderr", stream)
    StandardError()().warning("words")
    monkeypatch.undo()
    if stream is not None:
        with contextlib.suppress(OSError):
            stream.close()
    assert capfd.readouterr() == ("", "")
    StandardError()().warning("heard")
    assert capfd.readouterr() == ("", "heard\n")


@pytest.fixture
def configured() -> Iterator[None]:
    structured, handlers = structlog.get_config(), list(logging.getLogger().handlers)
    yield
    structlog.configure(**structured)
    logging.getLogger().handlers[:] = handlers


@pytest.mark.usefixtures("configured")
async def test_an_execution_that_is_given_back_goes_on_though_the_worker_cannot_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executions, "BACK_OFF", 0.1)
    refused = 0
    flock = fcntl.flock

    def failing(fd: int, how: int) -> None:
        nonlocal refused
        if not refused and os.readlink(f"/proc/self/fd/{fd}").endswith("s.lock"):
            refused += 1
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
        flock(fd, how)

    monkeypatch.setattr(fcntl, "flock", failing)
    monkeypatch.setattr(sys, "stderr", stream := io.StringIO())
    hear_background()
    stream.close()
    async with opened(tmp_path / "state") as client:
        result = await outcome(client, "s", "1 + 1")
    assert (result.value, result.attempts, refused) == (2, 2, 1)


async def test_a_client_that_is_closed_gives_its_work_back_once_and_with_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with structlog.testing.capture_logs() as said:
        async with opened(tmp_path / "state") as client:
            execution = await (await client.session("s")).submit("import time\nwhile True: time.sleep(0.01)")
            async with asyncio.timeout(20):
                while (await execution.info()).beat is None:
                    await asyncio.sleep(0.05)
    assert [(line["event"], line.get("version")) for line in said] == [("attempt.lost", 1)], said
    assert [record.getMessage() for record in caplog.records if record.name.startswith("resonate")] == []
    async with opened(tmp_path / "state") as client:
        again = client.execution(execution.id)
        await again.cancel()
        assert (await again.result()).status == "cancelled"
