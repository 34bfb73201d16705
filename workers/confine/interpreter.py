"""What a guest's interpreter is made of: asked of the interpreter itself, started as a guest is, and never guessed."""

from __future__ import annotations

__all__ = ["GUEST_FLAGS", "Interpreter", "guest_environment", "inspect_interpreter"]

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .errors import InterpreterUnusable

# Not -I: it would ignore PYTHONHASHSEED and the rest of the environment we build.
GUEST_FLAGS: Final = ("-s", "-P", "-X", "utf8")

# What the runtime inside a guest is written for.
OLDEST: Final = (3, 12, 0)

# A cold interpreter on a slow disk takes about a second; one that imports half a site in a .pth file, a few.
_INSPECTION_SECONDS = 20.0

_QUESTION = """
import json, os, sys, zoneinfo
folders = set()
with open("/proc/self/maps") as maps:
    for line in maps:
        path = line.rstrip("\\n").partition("/")
        if path[1] and ".so" in path[2]:
            folders.add(os.path.dirname("/" + path[2]))
print(json.dumps({
    "version": list(sys.version_info[:3]),
    "executable": sys.executable,
    "prefixes": sorted({sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix}),
    "search_path": [p for p in sys.path if os.path.isabs(p) and os.path.exists(p)],
    "zones": [p for p in zoneinfo.TZPATH if os.path.isdir(p)],
    "library_folders": sorted(folders),
}))
"""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """Where one interpreter, with its packages, lives on this machine."""

    executable: Path
    version: tuple[int, int, int]
    prefixes: tuple[Path, ...]
    search_path: tuple[Path, ...]
    zones: tuple[Path, ...]
    library_folders: tuple[Path, ...]


def guest_environment(home: Path, temporary: Path, *, hash_seed: int = 0) -> dict[str, str]:
    """The whole environment of a guest, built from nothing: what is not here, it does not have.

    One arena pair and one thread for each numeric library keep a guest small, and its address space countable.
    """
    one = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1")
    return {
        "PATH": "/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": str(home),
        "TMPDIR": str(temporary),
        "USER": "guest",
        "LOGNAME": "guest",
        "MALLOC_ARENA_MAX": "2",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": str(hash_seed),
        **one,
    }


def inspect_interpreter(python: Path) -> Interpreter:
    """Start the interpreter as a guest would be and ask where its parts are; blocks for one start of it.

    Its site packages run their .pth lines unconfined here, so the path must come from trusted settings. Raises
    InterpreterUnusable.
    """
    command = [str(python), *GUEST_FLAGS, "-c", _QUESTION]
    environment = guest_environment(Path("/"), Path("/"))
    try:
        done = subprocess.run(
            command,
            env=environment,
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_INSPECTION_SECONDS,
            check=True,
        )
        answer: dict[str, Any] = json.loads(done.stdout)
    except subprocess.CalledProcessError as problem:
        said = problem.stderr.decode("utf-8", "replace").strip()[-500:]
        raise InterpreterUnusable(f"{python} exited with {problem.returncode}: {said}") from problem
    except (OSError, subprocess.TimeoutExpired, ValueError) as problem:
        raise InterpreterUnusable(f"{python} could not be asked about itself: {problem}") from problem
    found = _interpreter(answer)
    if found.version < OLDEST:
        raise InterpreterUnusable(
            f"{python} is Python {found.version[0]}.{found.version[1]}; guests need 3.12 or newer"
        )
    return found


def _interpreter(answer: dict[str, Any]) -> Interpreter:
    major, minor, micro = answer["version"]
    return Interpreter(
        executable=Path(answer["executable"]),
        version=(major, minor, micro),
        prefixes=_paths(answer["prefixes"]),
        search_path=_paths(answer["search_path"]),
        zones=_paths(answer["zones"]),
        library_folders=_paths(answer["library_folders"]),
    )


def _paths(texts: list[str]) -> tuple[Path, ...]:
    return tuple(Path(text) for text in texts)
