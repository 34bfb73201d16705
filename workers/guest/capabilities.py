"""How code sees its grants: objects in builtins, and the module ``perdure``.

A grant ``a.b`` is an object ``a`` with an attribute ``b``. They are found after the names of the code, so that it may
use any of these names itself, and none of them is part of its namespace.
"""

from __future__ import annotations

import builtins
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

from . import errors

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .runtime import Runtime

__all__ = ["Grants"]

_runtime: Runtime | None = None


def _lookup(name: str) -> Granted:
    """Return the capability, or the group of capabilities, of a name; what pickles of them lead to."""
    return Granted(name)


class Granted:
    """A capability, or a group of them; calling one asks the host."""

    __slots__ = ("_described", "_name")

    def __init__(self, name: str, described: dict[str, dict[str, Any]] | None = None) -> None:
        self._name = name
        self._described = described if described is not None else Grants.described

    def __getattr__(self, name: str) -> Granted:
        full = f"{self._name}.{name}"
        if name.startswith("_") or not any(each == full or each.startswith(full + ".") for each in self._described):
            msg = f"{full} is not granted; there is: {', '.join(sorted(self._described)) or 'nothing'}"
            raise AttributeError(msg)
        return Granted(full, self._described)

    def __dir__(self) -> list[str]:
        start = self._name + "."
        return sorted({each[len(start) :].partition(".")[0] for each in self._described if each.startswith(start)})

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if _runtime is None:
            msg = "capabilities are called from code that runs in a session"
            raise errors.NoExecution(msg)
        return _runtime.call(self._name, args, kwargs)

    def __repr__(self) -> str:
        about = self._described.get(self._name)
        return f"<capability {self._name}{about['signature']}>" if about else f"<capabilities {self._name}.*>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Granted) and other._name == self._name

    def __hash__(self) -> int:
        return hash(("perdure", self._name))

    def __reduce__(self) -> tuple[Any, ...]:
        return (_lookup, (self._name,))


_lookup.__module__ = Granted.__module__ = "perdure"


class Grants:
    """Puts grants where code finds them."""

    described: ClassVar[dict[str, dict[str, Any]]] = {}

    def __init__(self, runtime: Runtime) -> None:
        global _runtime  # noqa: PLW0603 - one guest, one runtime
        _runtime = runtime
        self._runtime = runtime
        self._placed: dict[str, Any] = {}
        self._input = builtins.input
        module = ModuleType("perdure", "What code running in Perdure may ask of it.")
        for name, cls in errors.public().items():
            setattr(module, name, cls)
        module._lookup = _lookup  # type: ignore[attr-defined]
        module.Granted = Granted  # type: ignore[attr-defined]
        module.call = self._call  # type: ignore[attr-defined]
        sys.modules["perdure"] = module
        builtins.input = self._ask

    def place(self, described: Iterable[dict[str, Any]]) -> None:
        """Offer these capabilities from now on, and no others."""
        Grants.described.clear()
        Grants.described.update({each["name"]: each for each in described})
        for name in self._placed:
            if getattr(builtins, name, None) is self._placed[name]:
                delattr(builtins, name)
        self._placed = {}
        for name in sorted({each.partition(".")[0] for each in Grants.described}):
            if name == "input":
                continue
            self._placed[name] = Granted(name)
            setattr(builtins, name, self._placed[name])

    def _call(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        """Ask the host for a capability by its name."""
        return self._runtime.call(name, args, kwargs)

    def _ask(self, prompt: object = "", /) -> str:
        """Ask whoever watches this execution for a line of text; waits as long as it takes."""
        text = str(prompt)
        if text:
            sys.stdout.write(text)
        sys.stdout.flush()
        answer = self._runtime.call_blocking("input", (text,), {})
        return answer if isinstance(answer, str) else str(answer)
