"""The rows of one run as a page: ``docs/measurements.md`` is one, made by ``perdure bench all --page``."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime

from .yardstick import Rows

__all__ = ["as_page"]

_HEAD = """# Measurements

`perdure bench NAME` measures on your machine and prints these rows; `perdure bench all --page FILE` makes this page
of one run. Nothing here is asserted by a test: times are not. A row stands beside something measured in the same run,
in turns with it, and the figure to look at is the ratio; the bar is what the design asks for, met or not.

Run on {when:%Y-%m-%d}: {cores} cores ({machine}), Linux {kernel}, CPython {python}, nothing else running.
"""

_COLUMNS = ("what", "ms", "yardstick", "yardstick_ms", "ratio", "bar")


def as_page(runs: Mapping[str, Rows], now: datetime | None = None) -> str:
    """Return the page of one run: benchmark name to its rows, as `yardstick.row` makes them."""
    head = _HEAD.format(
        when=now or datetime.now(UTC),
        cores=os.cpu_count(),
        machine=platform.machine(),
        kernel=".".join(platform.release().split(".")[:2]),
        python=platform.python_version(),
    )
    return head + "".join(_section(name, rows) for name, rows in runs.items())


def _section(name: str, rows: Rows) -> str:
    lines = [f"\n## `perdure bench {name}`\n", "| what | ms | beside | ms | ratio | bar |", "|---|---|---|---|---|---|"]
    lines += ["| " + " | ".join(str(row[key]).replace("|", "\\|") for key in _COLUMNS) + " |" for row in rows]
    return "\n".join(lines) + "\n"
