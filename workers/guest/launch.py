"""How a guest process is started: its command line and its environment. The host imports it, the guest does not."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

__all__ = ["BACKEND", "HASH_SEED", "argv", "environment", "needed_files", "shim"]

#: The name under which matplotlib finds how figures are shown here (display.py).
BACKEND = "module://perdure.figures"

#: Where the guest finds what it loads; removed from its environment before code runs.
_PLACES = "PERDURE_GUEST"

#: Loads the runtime under names of its own, whatever the user's environment holds, and leaves ``__main__`` to the user.
_BOOT = """
def boot():
    import importlib.util, os, sys
    def load(name, path, folder=None):
        inside = [folder] if folder else None
        spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=inside)
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    guest, cloudpickle, values = os.environ.pop("PERDURE_GUEST").split(os.pathsep)
    load("_perdure_guest", guest + "/__init__.py", guest)
    load("_perdure_cloudpickle", cloudpickle + "/__init__.py", cloudpickle)
    load("_perdure_guest.values", values)
    from _perdure_guest.%s import main
    main()
boot()
"""

#: The seed of every guest's hashes: guests of one zygote share it, and a replay must find sets in the same order on
#: any machine. A fact of the format: another value makes other histories.
HASH_SEED = 0


def argv(python: str, main: str = "main") -> list[str]:
    """Return the command line of a guest, or with ``main="zygote"`` of what guests are forked from.

    Descriptor 3 is the channel, or the zygote's control socket. Not ``-I``, which ignores PYTHONHASHSEED and all else
    that ``environment`` sets.
    """
    return [python, "-s", "-P", "-X", "utf8", "-c", _BOOT % main]


def environment(python: str = sys.executable) -> dict[str, str]:
    """Return the whole environment a guest is born with: nothing of the host's own comes in.

    What names the workspace is set by the guest itself, since a zygote has none.
    """
    paths = [str(Path(python).parent), "/usr/local/bin", "/usr/bin", "/bin"]
    threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    return {
        "PATH": os.pathsep.join(paths),
        "LANG": "C.UTF-8",
        # Without them getpass looks the user up in files that no guest may read.
        "USER": "guest",
        "LOGNAME": "guest",
        # Another machine has another zone, and a replay there would show other times.
        "TZ": "UTC",
        "PYTHONHASHSEED": str(HASH_SEED),
        "PYTHONDONTWRITEBYTECODE": "1",
        "MALLOC_ARENA_MAX": "2",
        "MPLBACKEND": BACKEND,
        **dict.fromkeys(threads, "1"),
        **_preloaded(),
        # Where they really lie: in namespaces of its own the links of a source tree are not there.
        _PLACES: os.pathsep.join(map(str, needed_files())),
    }


def _preloaded() -> dict[str, str]:
    """Return what has the loader put libraries of ours before all others, in every guest and its zygote."""
    library = shim()
    return {"LD_PRELOAD": str(library)} if library else {}


def shim() -> Path | None:
    """Return the library that takes over the clock at libc; None where it was not built, or is not wanted.

    ``PERDURE_PURE=1`` leaves out everything that was compiled: its substitutes in Python are used.
    """
    library = Path(__file__).with_name("native") / "libclock.so"
    return library if library.exists() and os.environ.get("PERDURE_PURE") != "1" else None


def needed_files() -> list[Path]:
    """Return what a guest reads besides its interpreter and packages; the host lets it."""
    return [Path(place).resolve() for place in (str(Path(__file__).parent), _folder_of("cloudpickle"), _values())]


def _folder_of(package: str) -> str:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        msg = f"the package {package} is not installed beside perdure"
        raise ModuleNotFoundError(msg)
    return str(Path(spec.origin).parent)


def _values() -> str:
    spec = importlib.util.find_spec("perdure.capabilities")
    if spec is None or spec.origin is None:
        msg = "perdure.capabilities is not installed"
        raise ModuleNotFoundError(msg)
    return str(Path(spec.origin).with_name("values.py"))
