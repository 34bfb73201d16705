"""Which capabilities exist here, and what a grant names.

A grant is a Capability, a name, or ``module:attr``. A name grants the capability of that name and every one under it:
``http`` grants ``http.get`` and its sisters. An attr is a Capability, a list or tuple of them, or a Registry. The host
imports what a grant names, never the guest.
"""

from __future__ import annotations

import difflib
import importlib
from typing import TYPE_CHECKING

from .base import Capability
from .errors import BadCapability, UnknownCapability, UnknownGrant

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Grant", "Registry", "intersect"]

type Grant = Capability | str


class Registry:
    """Capabilities by name."""

    def __init__(self, capabilities: Iterable[Capability] = ()) -> None:
        self._by_name: dict[str, Capability] = {}
        for each in capabilities:
            self.add(each)

    def add(self, capability: Capability) -> Capability:
        """Make a capability known; the same one twice is harmless, another of the same name is refused."""
        known = self._by_name.setdefault(capability.name, capability)
        if known is not capability:
            msg = f"two capabilities are named {capability.name}: rename one, or add only one"
            raise BadCapability(msg)
        return capability

    def get(self, name: str) -> Capability:
        """Return the capability of that name, or raise UnknownCapability."""
        found = self._by_name.get(name)
        if found is None:
            msg = f"no capability is named {name!r}{self._known(name)}"
            raise UnknownCapability(msg)
        return found

    def names(self) -> list[str]:
        """Return every name, sorted."""
        return sorted(self._by_name)

    def resolve(self, grant: Grant) -> list[Capability]:
        """Return what a grant names, sorted by name; raise UnknownGrant that says what there is."""
        if isinstance(grant, Capability):
            return [self.add(grant)]
        if ":" in grant:
            return self._learn(grant)
        found = [each for name, each in sorted(self._by_name.items()) if name == grant or name.startswith(grant + ".")]
        if not found:
            msg = f"no capability is named {grant!r}{self._known(grant)}"
            raise UnknownGrant(msg)
        return found

    def resolve_all(self, grants: Iterable[Grant]) -> dict[str, Capability]:
        """Return everything that the grants name, by name."""
        return {each.name: each for grant in grants for each in self.resolve(grant)}

    def _learn(self, grant: str) -> list[Capability]:
        try:
            return [self.add(each) for each in _load(grant)]
        except BadCapability as error:
            msg = f"{grant!r} cannot be granted here: {error}"
            raise UnknownGrant(msg) from None

    def _known(self, name: str) -> str:
        groups = sorted({each.split(".")[0] for each in self._by_name} | set(self._by_name))
        near = difflib.get_close_matches(name, groups, n=1)
        guess = f"; did you mean {near[0]!r}?" if near else ""
        return f"{guess} (there is: {', '.join(self.names()) or 'none'}; your own is granted as 'module:attr')"


def intersect(grants: Iterable[str], session_grants: Iterable[str]) -> list[str]:
    """Return, sorted, what both name: ``http.get`` of ``http.get`` and ``http``, in either order.

    A ``module:attr`` meets only itself: what it holds is known only once it is imported.
    """
    own, allowed = set(grants), set(session_grants)
    met = {each for each in own if any(_within(each, other) for other in allowed)}
    return sorted(met | {each for each in allowed if any(_within(each, other) for other in own)})


def _within(name: str, grant: str) -> bool:
    return name == grant or (":" not in name and name.startswith(grant + "."))


def _load(grant: str) -> list[Capability]:
    module_name, _, attribute = grant.partition(":")
    try:
        module = importlib.import_module(module_name)
    # The module is somebody's, and may fail in any way; a script may even leave.
    except (Exception, SystemExit) as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        msg = f"{grant!r} cannot be granted: importing {module_name or 'nothing'} failed: {text}"
        raise UnknownGrant(msg) from error
    missing = object()
    found = getattr(module, attribute, missing)
    if isinstance(found, Capability):
        return [found]
    if isinstance(found, Registry):
        return [found.get(name) for name in found.names()]
    if isinstance(found, (list, tuple)) and found and all(isinstance(each, Capability) for each in found):
        return list(found)
    there = [name for name, value in vars(module).items() if isinstance(value, Capability)]
    state = "does not exist" if found is missing else f"is a {type(found).__name__}, not a capability"
    has = f"{module_name} has: {', '.join(there) or 'no capability'}"
    msg = f"{grant!r} cannot be granted: {attribute or 'a name after the colon'} {state}; {has}"
    raise UnknownGrant(msg)
