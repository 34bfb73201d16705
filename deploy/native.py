"""Builds what is written in C, when the package is built or installed from its tree; hatchling calls ``initialize``.

``workers/guest/native/NAME.c`` becomes an extension module where NAME starts with ``_``, and a plain shared library
(to be preloaded) where it starts with ``lib``. Each has a substitute in Python with the same results, so where there
is no compiler the package is built without them, and says so.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

#: Sources, from the root of the tree.
SOURCES = Path("workers/guest/native")
#: No debug information and no paths in it: the same source gives the same file wherever it is built.
FLAGS = ["-O3", "-fPIC", "-shared", "-std=gnu11", "-Wall", "-Wextra", "-fvisibility=hidden", "-ffile-prefix-map=.=."]
#: What links after the object.
LIBRARIES = ["-ldl", "-lpthread"]


class NativeBuildHook(BuildHookInterface[Any]):
    """Compiles in place: an editable install finds the result in the tree, a wheel is given it."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        built = [target for source in sorted((root / SOURCES).glob("*.c")) if (target := self._compiled(source))]
        if version == "editable" or not built:
            return  # an editable install reads the tree itself
        for target in built:
            build_data["force_include"][str(target)] = f"perdure/{target.relative_to(root).as_posix()}"
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def _compiled(self, source: Path) -> Path | None:
        compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        if compiler is None:
            self.app.display_warning(f"no C compiler: {source.name} is left out, its substitute in Python is used")
            return None
        extension = source.stem.startswith("_")
        suffix = sysconfig.get_config_var("EXT_SUFFIX") if extension else ".so"
        target = source.with_name(f"{source.stem}{suffix}")
        includes = [f"-I{sysconfig.get_path('include')}"] if extension else []
        scratch = target.with_name(f".{target.name}.{os.getpid()}")
        command = [*compiler.split(), *FLAGS, *includes, "-o", scratch.name, source.name, *LIBRARIES]
        done = subprocess.run(command, cwd=source.parent, capture_output=True, text=True, check=False)
        if done.returncode:
            self.app.display_warning(f"{source.name} does not compile here and is left out:\n{done.stderr}")
            return None
        scratch.rename(target)  # in place at once: a process that has the old one mapped keeps it
        return target
