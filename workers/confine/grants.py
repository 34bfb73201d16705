"""Decide which paths may be granted for reading: pure but for reading links.

A link that a guest could have planted would turn into a grant, so every hop of every path is looked at.
"""

from __future__ import annotations

__all__ = ["Refused", "Sifted", "hops", "outermost", "sift", "with_linked_packages"]

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

# More links than this in one path is ELOOP in the kernel too.
_MOST_LINKS: Final = 40

# Never granted themselves: each holds what is not the interpreter's.
_TOO_WIDE: Final = tuple(
    Path(path)
    for path in (
        *("/", "/boot", "/dev", "/etc", "/home", "/lost+found", "/media", "/mnt", "/opt", "/proc", "/root", "/run"),
        *("/srv", "/sys", "/tmp", "/usr", "/usr/local", "/var", "/var/lib", "/var/tmp"),  # noqa: S108 - named to be refused
    )
)
# Nothing beneath these is granted but the fixed list in `policy`.
_CLOSED: Final = tuple(Path(path) for path in ("/dev", "/etc", "/proc", "/run", "/sys", "/boot"))


@dataclass(frozen=True, slots=True)
class Refused:
    """A path left out of a policy, and why: imports from it will fail in the guest."""

    path: Path
    why: str


@dataclass(frozen=True, slots=True)
class Sifted:
    """Real paths that may be granted, the links that lead to them with their targets, and what was refused."""

    granted: tuple[Path, ...]
    links: tuple[tuple[Path, str], ...]
    refused: tuple[Refused, ...]


def hops(path: Path) -> Iterator[Path]:
    """Every place the kernel would pass through to open an absolute path, the real one last; OSError on a loop."""
    links = 0
    done = Path("/")
    todo = list(path.parts[1:])
    while todo:
        part = todo.pop(0)
        if part == "..":
            done = done.parent
            continue
        step = done / part
        if step.is_symlink():
            links += 1
            if links > _MOST_LINKS:
                raise OSError(f"too many links in {path}")
            yield step
            target = step.readlink()
            if target.is_absolute():
                done = Path("/")
            todo[:0] = [piece for piece in target.parts if piece != "/"]
            continue
        done = step
    yield done


def sift(paths: Iterable[Path], *, private: Sequence[Path]) -> Sifted:
    """Resolve each path and part those that may be granted from those that may not; missing ones are left out."""
    granted: dict[Path, None] = {}
    links: dict[Path, str] = {}
    refused: dict[Path, Refused] = {}
    for path in dict.fromkeys(paths):
        try:
            passed = list(hops(path))
            real = passed[-1]
            if not real.exists():
                continue
        except OSError as problem:
            refused[path] = Refused(path, f"cannot be resolved: {problem}")
            continue
        why = _objection(passed, private)
        if why is None:
            granted[real] = None
            links.update((link, str(link.readlink())) for link in passed[:-1])
        else:
            refused[path] = Refused(path, why)
    return Sifted(tuple(granted), tuple(links.items()), tuple(refused.values()))


def _objection(passed: Sequence[Path], private: Sequence[Path]) -> str | None:
    real = passed[-1]
    home = Path.home()
    if real in _TOO_WIDE or real == home or real in home.parents:
        return f"{real} is too wide"
    if any(real.is_relative_to(closed) for closed in _CLOSED):
        return f"{real} lies where only a fixed list is granted"
    for folder in private:
        if any(hop.is_relative_to(folder) for hop in passed):
            return f"it passes through {folder}, which guests write or which holds state"
        if folder.is_relative_to(real):
            return f"{real} contains {folder}, which holds state or a workspace; keep them apart"
    return None


def with_linked_packages(search_path: Iterable[Path]) -> Iterator[Path]:
    """Where packages installed as links really lie: one level of links, and folders that mirror one of links."""
    for folder in search_path:
        try:
            with os.scandir(folder) as listing:
                entries = list(listing)
        except OSError:
            # A zip file, or a folder that is not there: nothing in it is a link.
            continue
        for entry in entries:
            if entry.is_symlink():
                yield Path(entry.path)
            elif entry.is_dir():
                yield from _mirrored(Path(entry.path))


def _mirrored(package: Path) -> Iterator[Path]:
    try:
        with os.scandir(package) as entries:
            first = next((entry for entry in entries if entry.is_symlink()), None)
    except OSError:
        return
    if first is not None:
        origin = Path(first.path).resolve().parent
        if origin.name == package.name:
            yield origin


def outermost(paths: Iterable[Path]) -> tuple[Path, ...]:
    """The paths that lie beneath no other of them, in order and once each: fewer rules for every guest to make."""
    unique = dict.fromkeys(paths)
    return tuple(path for path in unique if not any(above in unique for above in path.parents))
