"""Imports of what is not the session's own: they happen beside its clock and its randomness.

1. What a library reads of the clock as it is imported is not recorded, and takes nothing of what is; what it draws is
   drawn from a stream of its own. Whether it is imported in the middle of the code, was so before the fork, or is for
   a restore, is no doing of the code: what the code itself reads and draws must be the same in all three.
2. A module of the workspace is code: its readings are recorded like all others, whoever imports it.
3. Nothing of this is seen: no frame in a traceback, no class of ours on a module once it is there.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import ModuleSpec
from typing import TYPE_CHECKING, Any

from . import entropy

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["install", "without_processes"]

#: Set by ``install``: the session's folder (as it is named, and where it is), and what has this thread read beside the
#: code (1) or as the code (0).
_workspace = ("", "")
_beside: Callable[[int], int] = int


def install(workspace: str, beside: Callable[[int], int]) -> None:
    """Watch imports from now on; ``beside`` switches this thread's clock, and returns how it was."""
    global _workspace, _beside
    _workspace, _beside = (f"{workspace}/", f"{os.path.realpath(workspace)}/"), beside
    if not any(isinstance(each, _Finder) for each in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    for name in _TUNED:
        _tune(name)


def without_processes() -> None:
    """From now on no process can be started: say so to libraries that start them unasked."""
    _TUNED["joblib.parallel"] = _in_this_process
    _tune("joblib.parallel")


def _tune(name: str) -> None:
    """Set what a library does in the background, if it is one of those and is there: code may set it back."""
    module = sys.modules.get(name)
    if module is not None and name in _TUNED:
        _TUNED[name](module)


def _without_monitor(module: Any) -> None:
    module.tqdm.monitor_interval = 0


def _in_this_process(module: Any) -> None:
    """``n_jobs=2`` is done one after another, as ``n_jobs=1`` is: scikit-learn would end with a PermissionError."""

    def one_after_another(**options: Any) -> Any:
        backend = module.SequentialBackend(**options)
        # Whoever asks for threads is given threads all the same.
        backend.uses_threads, backend.supports_sharedmem, backend.supports_inner_max_num_threads = False, False, True
        return backend

    if hasattr(module, "SequentialBackend") and hasattr(module, "register_parallel_backend"):
        for name in ("loky", "multiprocessing"):
            module.register_parallel_backend(name, one_after_another)


#: The thread that redraws progress bars would run for ever: no step could end, and nothing that waits be put away.
_TUNED: dict[str, Callable[[Any], None]] = {"tqdm.std": _without_monitor}


class _Finder:
    """Finds what the others find, and has it say when it is being executed."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = find(name, path, target) if find is not None and finder is not self else None
            if spec is not None:
                if type(spec) is ModuleSpec and spec.has_location:
                    spec.__class__ = _Watched
                return spec
        return None


class _Watched(ModuleSpec):
    """A module that is not there yet. The import system marks when its code runs, by setting ``_initializing``."""

    __slots__ = ()

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "_initializing":
            if value:
                own = (self.origin or "").startswith(_workspace)
                super().__setattr__("_before", (_beside(not own), entropy.beside(on=not own)))
            else:
                clock, drawing = self.__dict__.pop("_before", (0, False))
                _beside(clock)
                entropy.beside(on=drawing)
                self.__class__ = ModuleSpec  # type: ignore[assignment]
                entropy.settle(self.name)
                _tune(self.name)

    def __reduce_ex__(self, protocol: Any) -> Any:
        self.__class__ = ModuleSpec  # type: ignore[assignment]
        return self.__reduce_ex__(protocol)


_Watched.__name__ = _Watched.__qualname__ = "ModuleSpec"
_Watched.__module__ = ModuleSpec.__module__
