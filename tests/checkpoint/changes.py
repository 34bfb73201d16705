"""Runs the cases of changes.txt: one process lives through all pieces of each, another restores what they sent.

changes.py live|back ROOT FOLDER
"""

from __future__ import annotations

import importlib
import json
import pickle
import re
import sys
import traceback
import types
from pathlib import Path
from typing import Any


def cases() -> dict[str, list[str]]:
    """Return the pieces of each case by its name."""
    text = Path(__file__).with_name("changes.txt").read_text()
    parts = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    return {title.strip(): body.split("--\n") for title, _, body in (part.partition("\n") for part in parts)}


def live(folder: Path) -> dict[str, str]:
    """Live through every case, with a checkpoint after each piece but the last; returns what went wrong."""
    from tests.checkpoint.fuzz import load_guest

    checkpoint = load_guest()
    touched = importlib.import_module("_perdure_guest.checkpoints.touched")
    keeper: Any = importlib.import_module("_perdure_guest.checkpoints.keeper")
    pages = importlib.import_module("_perdure_guest.checkpoints.pages").Pages
    keeper.LOOKED_AT = 0
    wrong: dict[str, str] = {}
    for number, (name, pieces) in enumerate(cases().items()):
        module = types.ModuleType("__main__")
        sys.modules["__main__"] = module
        namespace = vars(module)
        watcher = touched.Watcher(lambda _name: False)
        watcher.ignore(__file__)
        checkpoints = checkpoint.Checkpoints(namespace, protected=frozenset(namespace), pages=pages.open())
        watcher.begin()
        sent = []
        for piece in pieces[:-1]:
            try:
                exec(compile(piece, f"<{name}>", "exec", dont_inherit=True), namespace)
            except KeyError:
                pass
            except BaseException:  # noqa: BLE001 - it is the answer
                wrong[name] = traceback.format_exc()
                break
            free = namespace.pop("assert_bytes", None) is not None
            few = namespace.pop("assert_few", None)
            delta = checkpoints.save(watcher.take())
            if free and (delta.chunks or len(json.dumps(delta.data)) > 64):
                wrong[name] = f"it cost {delta.data}"
            if few is not None and sum(map(len, delta.chunks)) > few:
                wrong[name] = f"it cost {sum(map(len, delta.chunks))} bytes"
            sent.append((json.loads(json.dumps(delta.data)), b"".join(delta.chunks)))
        watcher.end()
        (folder / f"{number}.sent").write_bytes(pickle.dumps(sent))
    return wrong


def back(folder: Path) -> dict[str, str]:
    """Restore every case and run its last piece; returns what went wrong."""
    from perdure.engine.checkpoints import Composed
    from tests.checkpoint.fuzz import load_guest

    checkpoint = load_guest()
    wrong: dict[str, str] = {}
    for number, (name, pieces) in enumerate(cases().items()):
        composed, packs = Composed(), {}
        sent = pickle.loads((folder / f"{number}.sent").read_bytes())  # noqa: S301 - the other half made it
        for data, pack in sent:
            packs[data["generation"]] = memoryview(bytearray(pack))
            composed.apply(data, {data["generation"]: [(0, "", 0, len(pack))]} if pack else {})
        module = types.ModuleType("__main__")
        sys.modules["__main__"] = module
        try:
            checkpoint.Checkpoints(vars(module), protected=frozenset(vars(module))).restore(composed.manifest(), packs)
            exec(compile(pieces[-1], f"<{name}, after>", "exec", dont_inherit=True), vars(module))
        except BaseException:  # noqa: BLE001 - it is the answer
            wrong[name] = traceback.format_exc()
    return wrong


def main() -> None:
    """Run one half, and write down what went wrong."""
    what, root, folder = sys.argv[1:4]
    sys.path.insert(0, root)
    wrong = (live if what == "live" else back)(Path(folder))
    Path(folder, f"{what}.json").write_text(json.dumps(wrong))


if __name__ == "__main__":
    main()
