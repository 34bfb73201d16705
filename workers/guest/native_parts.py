"""Loads what was compiled, by its path: the guest's runtime is no package that Python could find by name."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
from pathlib import Path
from typing import Any

__all__ = ["load"]


def load(name: str) -> Any:
    """Return the extension of that name; None where it was not built, or ``PERDURE_PURE=1`` leaves it out."""
    if os.environ.get("PERDURE_PURE") == "1":
        return None
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        path = Path(__file__).parent / "native" / f"{name}{suffix}"
        if path.exists():
            spec = importlib.util.spec_from_file_location(name, path)
            if spec is not None and spec.loader is not None:
                module = importlib.util.module_from_spec(spec)
                spec.loader.exec_module(module)
                return module
    return None
