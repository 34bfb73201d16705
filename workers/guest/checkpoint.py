"""Checkpoints of the live namespace: `Checkpoints` says what changed since the last one, and puts one back in place.

1. The namespace is one dict for life: functions keep it as their globals, and a load fills it in place.
2. One variable that cannot be kept never costs another; it is named, with the reason, and raises when used.
3. A checkpoint leaves no trace: no reference to a value is kept, what hooks print or draw is discarded.

The bytes are code: they are loaded only inside a confined guest, never by the host.
"""

from __future__ import annotations

import os
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .checkpoints import image, rebuild, texts
from .checkpoints.hooks import HOOK_SECONDS, Watch, hooks_running, untraced
from .checkpoints.keeper import Keeper
from .checkpoints.known import Delta
from .checkpoints.lost import Lost, LostObjectError
from .checkpoints.report import NameReport
from .checkpoints.restoring import (
    CheckpointDamaged,
    CheckpointError,
    CheckpointTooNew,
    CheckpointTooOld,
    Loaded,
    Restoration,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .checkpoints.packs import Pack
    from .checkpoints.pages import Pages
    from .checkpoints.touched import Touched

__all__ = [
    "CheckpointDamaged",
    "CheckpointError",
    "CheckpointTooNew",
    "CheckpointTooOld",
    "Checkpoints",
    "Delta",
    "Dump",
    "Loaded",
    "Lost",
    "LostObjectError",
    "NameReport",
    "dump",
    "hooks_running",
    "load",
]

# Names that belong to the interpreter, whatever the caller protects besides.
ALWAYS_PROTECTED = frozenset({"__builtins__", "__spec__", "__loader__"})


class Checkpoints:
    """The checkpoints of one namespace, from the birth of its process on.

    `live` names objects of the runtime that are not stored: references to them lead to the object of the same key
    where the checkpoint is loaded. A pickling hook may take `hook_seconds` (counted on the main thread only).
    """

    def __init__(
        self,
        namespace: dict[str, Any],
        *,
        protected: frozenset[str] = frozenset(),
        live: Callable[[], Mapping[str, object]] = dict,
        hook_seconds: float = HOOK_SECONDS,
        pages: Pages | None = None,
    ) -> None:
        rebuild.install()
        self._namespace = namespace
        self._protected = protected | ALWAYS_PROTECTED
        self._more_live = live
        self._watch = Watch(hook_seconds)
        self._pages = pages
        self._keeper = self._new_keeper()

    def watch(self, pages: Pages | None) -> None:
        """Have writes to large buffers told by these pages, before the first checkpoint."""
        self._pages = pages
        self._keeper = self._new_keeper()

    @property
    def generation(self) -> int:
        """The number of the last checkpoint; 0 before the first."""
        return self._keeper.generation

    def save(
        self,
        touched: Touched | None = None,
        *,
        strict: bool = False,
        trial: bool = False,
        runtime: Mapping[str, Any] | None = None,
        texts: Mapping[str, str] | None = None,
    ) -> Delta:
        """Return what changed since the last checkpoint; never raises for what a value does.

        With `touched` None everything is looked at again; with `strict` too, and what changed although nothing said
        that it could have is counted (`missed` in the data). A `trial` can be taken back. `runtime` is state of the
        guest's own as JSON data, and `texts` are long texts of it: they are stored with the namespace, and again only
        where they changed.
        """
        with untraced(), self._watch:
            return self._keeper.save(self._watch, touched, strict=strict, trial=trial, runtime=runtime, texts=texts)

    def take_back(self) -> None:
        """Have made no trial: the next checkpoint adds to the one before it, and is to be told all that was touched."""
        self._keeper.take_back()

    def verify(self, stop: Callable[[], bool]) -> bool:
        """Look whether something large changed that the last checkpoint did not see; the next one then looks there.

        Runs no code of the session. Returns whether it came to its end before `stop` said that there is more to do.
        """
        with untraced(), self._watch:
            return self._keeper.verify(self._watch, stop)

    def reports(self) -> list[NameReport]:
        """Return what became of each name at the checkpoint made just now."""
        return self._keeper.reports()

    def losses(self) -> list[NameReport]:
        """Return what became of the names that were not kept as they are at the checkpoint made just now."""
        return self._keeper.reports(self._keeper.losses())

    def states_lost(self) -> dict[str, str]:
        """Return which states of the process lost something at the checkpoint made just now, in words, and why."""
        return self._keeper.states_lost()

    def weight(self, name: str) -> int:
        """Return how many bytes the pickle of a variable had at the last checkpoint, without large buffers."""
        return self._keeper.weight(name)

    def manifest(self) -> dict[str, Any]:
        """Return the last checkpoint whole, as data: what all deltas up to it add up to."""
        return self._keeper.manifest()

    def forget(self) -> None:
        """Know of no checkpoint any more: the next one is whole."""
        self._keeper = self._new_keeper()

    def restore(self, manifest: Mapping[str, Any], packs: Mapping[int, Pack]) -> Loaded:
        """Make the namespace what a checkpoint holds, in place; the next one says what changed since.

        Names that are neither in the checkpoint nor protected are removed. Give writable memory and arrays will use it
        instead of a copy. Raises `CheckpointError` before anything is touched.
        """
        restoration = Restoration(
            manifest,
            packs,
            self._namespace,
            self._protected,
            self._live(),
            self._watch,
            self._pages,
        )
        with untraced(), self._watch:
            loaded = restoration.run()
            self._keeper = self._new_keeper()
            self._keeper.adopt(manifest, loaded)
        restoration.finish()
        return loaded

    def _new_keeper(self) -> Keeper:
        return Keeper(self._namespace, protected=self._protected, live=self._live, pages=self._pages)

    def _live(self) -> dict[str, object]:
        """Return the objects that a checkpoint refers to and never holds."""
        known: dict[str, object] = {
            "namespace": self._namespace,
            "main": sys.modules["__main__"],
            "builtins": vars(sys.modules["builtins"]),
            "environ": os.environ,
            "modules": sys.modules,
            "path": sys.path,
            "argv": sys.argv,
            "meta_path": sys.meta_path,
            "path_hooks": sys.path_hooks,
            "main_thread": threading.main_thread(),
        }
        for name in ("stdin", "stdout", "stderr", "__stdin__", "__stdout__", "__stderr__"):
            stream = getattr(sys, name, None)
            if stream is not None:
                known[name] = stream
        known.update(texts.loaded())
        known.update(self._more_live())
        return known


@dataclass(frozen=True, slots=True)
class Dump:
    """A namespace in one piece, and what became of each name in it."""

    chunks: list[bytes | memoryview]
    """The image in order. Large buffers are views of the live values: use them before code runs again."""
    names: list[NameReport]

    @property
    def data(self) -> bytes:
        """The whole image in one piece."""
        return b"".join(self.chunks)


def dump(
    namespace: dict[str, Any],
    *,
    protected: frozenset[str] = frozenset(),
    live: Mapping[str, object] | None = None,
    hook_seconds: float = HOOK_SECONDS,
) -> Dump:
    """Return the image of `namespace` without the `protected` names; never raises for what a value does."""
    known = dict(live or {})
    checkpoints = Checkpoints(namespace, protected=protected, live=lambda: known, hook_seconds=hook_seconds)
    delta = checkpoints.save()
    return Dump(image.encode(checkpoints.manifest(), delta.chunks), checkpoints.reports())


def load(
    data: bytes | bytearray | memoryview,
    namespace: dict[str, Any],
    *,
    protected: frozenset[str] = frozenset(),
    live: Mapping[str, object] | None = None,
    hook_seconds: float = HOOK_SECONDS,
) -> list[NameReport]:
    """Make `namespace` what an image holds, in place, and return what became of each name.

    Raises `CheckpointError` before anything is touched.
    """
    known = dict(live or {})
    manifest, packs = image.decode(data)
    checkpoints = Checkpoints(namespace, protected=protected, live=lambda: known, hook_seconds=hook_seconds)
    return checkpoints.restore(manifest, packs).reports
