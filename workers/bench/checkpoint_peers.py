"""Other systems at the same namespace and changes, each in a process of its own: `checkpoint_peers.py SYSTEM FOLDER`.

It runs in an environment that holds them, and prints the seconds of each step in a line of JSON as soon as it is timed:
whoever waits may end it. It prints null where one is not installed.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: The namespace of `checkpoint_process.py`, which lies beside this file.
MAKE: str = importlib.import_module("checkpoint_process").MAKE
#: What changes, and how often it is timed: most of them take seconds.
CHANGES = {"small": "small['k'].append(COUNT); x = COUNT + 5", "element": "a1[COUNT * 100_000] = 1.0"}
TIMES = {("kishu", "small"): 10}
FEW = 3


def dumping(name: str, folder: Path) -> Callable[[str], float]:
    """Return what runs code and times a whole dump of the namespace after it, synced."""
    library: Any = importlib.import_module(name)
    namespace: dict[str, Any] = {}

    def step(code: str) -> float:
        exec(code, namespace)  # noqa: S102 - the code is above
        values = {key: value for key, value in namespace.items() if not key.startswith("__")}
        began = time.perf_counter()
        buffers: list[Any] = []
        out_of_band = {"buffer_callback": buffers.append} if name == "cloudpickle" else {}
        data = library.dumps(values, protocol=5, **out_of_band)
        with (folder / name).open("wb") as file:
            file.write(data)
            for buffer in buffers:
                file.write(buffer.raw())
            file.flush()
            os.fdatasync(file.fileno())
        return time.perf_counter() - began

    return step


def kishu(folder: Path) -> Callable[[str], float]:
    """Return what runs a cell and times what Kishu does before and after it, in IPython without a notebook's server."""
    nbformat: Any = importlib.import_module("nbformat")
    shells: Any = importlib.import_module("IPython.core.interactiveshell")
    part: Any = importlib.import_module("kishu.jupyterint")
    identity: Any = importlib.import_module("kishu.notebook_id").NotebookId
    notebook = folder / "bench.ipynb"
    nbformat.write(nbformat.v4.new_notebook(), notebook)
    shell = shells.InteractiveShell.instance()
    watcher = part.KishuForJupyter(identity("bench", notebook, "bench"), ip=shell)
    watcher.install_kishu_hooks()
    spent = [0.0]

    def timed(hook: Callable[[Any], None]) -> Callable[[Any], None]:
        def called(info: Any) -> None:
            began = time.perf_counter()
            hook(info)
            spent[0] += time.perf_counter() - began

        return called

    for event, hook in (("pre_run_cell", watcher.pre_run_cell), ("post_run_cell", watcher.post_run_cell)):
        shell.events.unregister(event, hook)
        shell.events.register(event, timed(hook))

    def step(code: str) -> float:
        spent[0] = 0.0
        shell.run_cell(code, store_history=True).raise_error()
        return spent[0]

    return step


def main() -> None:
    """Time one system."""
    system, folder = sys.argv[1], Path(sys.argv[2])
    if any(importlib.util.find_spec(name) is None for name in (system, "numpy", "pandas")):
        sys.stdout.write("null\n")
        return
    step = kishu(folder) if system == "kishu" else dumping(system, folder)
    step(MAKE)
    for what, code in CHANGES.items():
        for count in range(TIMES.get((system, what), FEW)):
            seconds = step(code.replace("COUNT", str(count)))
            sys.__stdout__.write(json.dumps({what: seconds}) + "\n")  # type: ignore[union-attr]
            sys.__stdout__.flush()  # type: ignore[union-attr]


if __name__ == "__main__":
    main()
