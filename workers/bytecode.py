"""Bytecode of what guests load, written where Python looks for it.

A zygote writes none, and whoever installed the package may not have written it either: each would compile the whole
runtime anew, and take three times as long to start.
"""

from __future__ import annotations

import compileall
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = ["compile_all"]


def compile_all(paths: Iterable[Path]) -> None:
    """Compile these files, and those in these folders, as far as they have changed and can be written beside.

    ``PYTHONDONTWRITEBYTECODE`` is for what is imported, and says nothing of this.
    """
    for path in paths:
        # Quiet even if it fails: a folder that nobody may write to works too, only slower.
        if path.is_dir():
            compileall.compile_dir(path, quiet=2, optimize=0)
        else:
            compileall.compile_file(path, quiet=2, optimize=0)
