"""Values as people want to see them: MIME bundles, made by the methods that notebooks know, each bounded.

1. Whatever a method does, the bundle comes: what failed or is too large is said, and the rest is there.
2. Bytes travel as base64; text as it is.
"""

from __future__ import annotations

import io
import json
import sys
from binascii import b2a_base64
from functools import partial
from typing import TYPE_CHECKING, Any

from .result import TooLong, bounded_repr, within

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["BUNDLE_MAX", "Rich", "bundle_of"]

#: Bytes of one bundle, encoded: a large picture. Beyond, a part is left out by name.
BUNDLE_MAX = 16 << 20
#: Seconds one method may take: a figure of many points takes some.
METHOD_SECONDS = 10.0
#: Parts a bundle may have.
MAX_PARTS = 32
#: Types that show themselves by their repr alone.
_PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes, bytearray, list, tuple, dict, set, frozenset})
#: Methods that notebooks know, by the type of what they return.
_METHODS = {
    "_repr_html_": "text/html",
    "_repr_markdown_": "text/markdown",
    "_repr_svg_": "image/svg+xml",
    "_repr_png_": "image/png",
    "_repr_jpeg_": "image/jpeg",
    "_repr_latex_": "text/latex",
    "_repr_json_": "application/json",
    "_repr_javascript_": "application/javascript",
    "_repr_pdf_": "application/pdf",
}


class Rich:
    """A bundle: ``data`` by MIME type, and what could not be had, in words."""

    def __init__(self) -> None:
        self.data: dict[str, str] = {}
        self.problems: list[str] = []
        self._size = 0

    def add(self, mime: str, content: Any) -> None:
        """Add a part; one that is too large, or of no type that travels, is a problem instead."""
        if isinstance(content, tuple) and content:
            content = content[0]  # Beside the data there may be metadata.
        if content is None:
            return
        if mime == "$ref":
            self.problems.append(f"{mime} was left out: it is no kind of content")
            return
        if isinstance(content, bytes | bytearray | memoryview):
            text = b2a_base64(bytes(content), newline=False).decode()
        elif isinstance(content, str):
            text = str.__str__(content).encode("utf-8", "backslashreplace").decode()
        else:
            text = json.dumps(content)
        if self._size + len(text) > BUNDLE_MAX or len(self.data) >= MAX_PARTS:
            self.problems.append(f"{mime} was left out: {len(text)} bytes, and a bundle has at most {BUNDLE_MAX}")
            return
        self._size += len(text)
        self.data[mime] = text


def bundle_of(value: Any, repr_limit: int, repr_seconds: float, *, plain: str | None = None) -> Rich | None:
    """Return how a value shows itself beyond its repr; None if it does not."""
    if type(value) in _PLAIN or issubclass(type(value), type):
        return None
    rich = Rich()
    methods = _made(rich, "its attributes", lambda: _methods_of(value)) or {}
    whole = methods.pop("_repr_mimebundle_", None)
    if whole is not None:
        for mime, content in (_made(rich, "_repr_mimebundle_", lambda: _parts(whole())) or {}).items():
            _made(rich, mime, partial(rich.add, mime, content))
    for name, method in methods.items():
        mime = _METHODS[name]
        if mime not in rich.data:
            _made(rich, name, partial(_add, rich, mime, method))
    if _is_figure(value) and "image/png" not in rich.data:
        _made(rich, "image/png", lambda: rich.add("image/png", png_of(value)))
    if not rich.data and not rich.problems:
        return None
    rich.data.setdefault("text/plain", plain if plain is not None else bounded_repr(value, repr_limit, repr_seconds))
    return rich


def _add(rich: Rich, mime: str, method: Callable[[], Any]) -> None:
    rich.add(mime, method())


def png_of(figure: Any) -> bytes:
    """Return a figure of matplotlib as a picture."""
    out = io.BytesIO()
    figure.savefig(out, format="png", bbox_inches="tight")
    return out.getvalue()


def _is_figure(value: Any) -> bool:
    figures = sys.modules.get("matplotlib.figure")
    return figures is not None and issubclass(type(value), figures.Figure)


def _methods_of(value: Any) -> dict[str, Callable[[], Any]]:
    # An object that answers to any name would answer to these too: ask it for one that nobody defines.
    if getattr(value, "_repr_of_no_kind_", None) is not None:
        return {}
    found = {name: getattr(value, name, None) for name in ("_repr_mimebundle_", *_METHODS)}
    return {name: method for name, method in found.items() if callable(method)}


def _parts(made: Any) -> dict[str, Any]:
    data = made[0] if isinstance(made, tuple) else made
    return {str(mime): content for mime, content in dict(data or {}).items()}


def _made[T](rich: Rich, what: str, work: Callable[[], T]) -> T | None:
    try:
        return within(METHOD_SECONDS, work)
    except TooLong:
        rich.problems.append(f"{what} takes more than {METHOD_SECONDS:g} s")
    except BaseException as error:
        if what != "its attributes":
            rich.problems.append(f"{what} raised {type(error).__name__}")
    return None
