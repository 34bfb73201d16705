"""How a guest process is started: its command line and environment. For the host; standard library only."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

__all__ = ["argv", "environment", "needed_files"]

_HERE = Path(__file__).resolve().parent
_VALUES = _HERE.parent.parent / "capabilities" / "values.py"

#: Loads this folder as a package of a private name, and beside it the two parts that it borrows from the worker's
#: environment: nothing is imported from the user's.
_BOOTSTRAP = """
import importlib.util, os, sys
def load(name, path, folder=None):
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=folder and [folder])
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
here, values, pickler = (os.environ.pop("PERDURE_" + key) for key in ("GUEST", "VALUES", "PICKLER"))
load("_perdure_guest", here + "/__init__.py", here)
load("_perdure_guest.values", values)
load("_perdure_cloudpickle", pickler + "/__init__.py", pickler)
import _perdure_guest.main
_perdure_guest.main.main()
"""


def argv(python: str) -> list[str]:
    """Return the command line of a guest: no user site, no script folder on the path, UTF-8 throughout."""
    return [python, "-s", "-P", "-X", "utf8", "-c", _BOOTSTRAP]


def environment(config: dict[str, Any]) -> dict[str, str]:
    """Return the whole environment of a guest; nothing is inherited."""
    workspace = config["workspace"]
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": workspace,
        "TMPDIR": workspace,
        "PYTHONHASHSEED": str(config["seed"] % 2**32),
        "PYTHONDONTWRITEBYTECODE": "1",
        # One thread for linear algebra: a guest shares the machine, and threads would take part in every fork later.
        **dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"), "1"),
        "MALLOC_ARENA_MAX": "2",
        "PERDURE_GUEST": str(_HERE),
        "PERDURE_VALUES": str(_VALUES.resolve()),
        "PERDURE_PICKLER": str(_pickler()),
    }


def needed_files() -> list[Path]:
    """Return what a guest reads besides its interpreter and packages."""
    return [_HERE, _VALUES.resolve(), _pickler()]


def _pickler() -> Path:
    spec = importlib.util.find_spec("cloudpickle")
    if spec is None or spec.origin is None:
        msg = "cloudpickle is not installed beside perdure"
        raise ImportError(msg)
    return Path(spec.origin).resolve().parent
