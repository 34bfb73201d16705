"""The process that `kit.Session` starts: a clean interpreter with the guest runtime and one piece of code."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import json
import linecache
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    order: dict[str, Any] = json.loads(sys.stdin.read())
    checkpoint = _guest(order["guest"])
    namespace = vars(sys.modules["__main__"])
    del namespace["runner"], namespace["sys"], sys.path[0], sys.modules["runner"]
    protected = frozenset(namespace)
    options = {name: order[name] for name in ("hook_seconds",) if name in order}
    image = Path(order["image"])
    loaded = []
    if image.exists():
        loaded = checkpoint.load(bytearray(image.read_bytes()), namespace, protected=protected, **options)
    filename = f"<cell {order['count']}>"
    code = order["code"]
    linecache.cache[filename] = (len(code), None, code.splitlines(keepends=True), filename)
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile(code, filename, "exec", dont_inherit=True), namespace)
        dumped = []
        if order["dump"]:
            made = checkpoint.dump(namespace, protected=protected, **options)
            image.write_bytes(made.data)
            dumped = made.names
    answer = {
        "loaded": {entry.name: entry.as_data() for entry in loaded},
        "dumped": {entry.name: entry.as_data() for entry in dumped},
        "output": output.getvalue(),
    }
    print("\n" + json.dumps(answer))


def _guest(folder: str) -> Any:
    """Load the runtime as the guest's bootstrap does: by path, under its private name."""
    spec = importlib.util.spec_from_file_location(
        "_perdure_guest", f"{folder}/__init__.py", submodule_search_locations=[folder]
    )
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules["_perdure_guest"] = package
    spec.loader.exec_module(package)
    return importlib.import_module("_perdure_guest.checkpoint")
