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
