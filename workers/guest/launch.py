"""How a guest process is started: its command line and its environment. The host imports it, the guest does not."""

from __future__ import annotations

import importlib.util
import os
import sysconfig
from pathlib import Path
from typing import Any

__all__ = ["argv", "environment", "needed_files"]

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
    from _perdure_guest.main import main
    main()
boot()
"""


def argv(python: str) -> list[str]:
    """Return the command line; the channel is descriptor 3, the current folder the workspace."""
    return [python, "-s", "-P", "-X", "utf8", "-c", _BOOT]


def environment(config: dict[str, Any]) -> dict[str, str]:
    """Return the whole environment of the guest: nothing of the host's own comes in."""
    workspace = str(config["workspace"])
    paths = [sysconfig.get_path("scripts"), "/usr/local/bin", "/usr/bin", "/bin"]
    threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    return {
        "PATH": os.pathsep.join(paths),
        "LANG": "C.UTF-8",
        "HOME": workspace,
        "TMPDIR": workspace,
        "PWD": workspace,
        "PYTHONHASHSEED": str(config["seed"] % (1 << 32)),
        "PYTHONDONTWRITEBYTECODE": "1",
        "MALLOC_ARENA_MAX": "2",
        **dict.fromkeys(threads, "1"),
        _PLACES: os.pathsep.join((str(Path(__file__).parent), _folder_of("cloudpickle"), _values())),
    }


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
