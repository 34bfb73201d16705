"""Texts that a library compares by identity: to it, a text that is only equal means something else.

A parser of arguments that came back with copies of `argparse.SUPPRESS` would set attributes nobody asked for.
"""

from __future__ import annotations

import importlib
import sys
from typing import Final

__all__ = ["loaded", "named", "place_of"]

#: Module and name of each, by the text itself.
_PLACES: Final = {
    "==SUPPRESS==": ("argparse", "SUPPRESS"),
    "SUPPRESSHELP": ("optparse", "SUPPRESS_HELP"),
    "SUPPRESSUSAGE": ("optparse", "SUPPRESS_USAGE"),
}


def loaded() -> dict[str, object]:
    """Return those of the libraries that are imported, by the persistent id that stands for them."""
    found: dict[str, object] = {}
    for module, name in _PLACES.values():
        if module in sys.modules:
            text = getattr(sys.modules[module], name, None)
            if type(text) is str:
                found[f"{module}.{name}"] = text
    return found


def named(key: object) -> str | None:
    """Return the text for which a persistent id stands, importing its library; None if it stands for none."""
    for module, name in _PLACES.values():
        if key == f"{module}.{name}":
            text = getattr(importlib.import_module(module), name, None)
            return text if type(text) is str else None
    return None


def place_of(text: str) -> tuple[str, str] | None:
    """Return where a library keeps the very object `text`."""
    place = _PLACES.get(text)
    if place is None:
        return None
    module, name = place
    return place if getattr(sys.modules.get(module), name, None) is text else None
