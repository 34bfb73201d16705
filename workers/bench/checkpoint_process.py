"""The process that `perdure bench checkpoint` measures in: the guest's runtime, one namespace, the other systems."""

from __future__ import annotations

import gc
import importlib
import importlib.util
import json
import os
import pickle
import sqlite3
import statistics
import sys
import time
import types
from pathlib import Path
from typing import Any

MAKE = """
import numpy as np, pandas as pd
chance = np.random.default_rng(0)
a1 = chance.random(25_000_000)
a2 = chance.random(12_500_000)
frame = pd.DataFrame(chance.random((625_000, 10)), columns=[f'c{i}' for i in range(10)])
wide = pd.DataFrame(chance.random((125_000, 100)))
ints = list(range(1_000_000))
recs = [{'id': i, 'name': f'n{i}', 'v': i * 0.5} for i in range(200_000)]
small = {'k': [1]}
x = 1
def used(part): return part
"""
LOOP = "for each in range(200_000): used(each)"
INLINE = 48 * 1024


class Durable:
    """What a checkpoint is written to: one commit, and a synced file before it for what is large."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0
        self._database = sqlite3.connect(folder / "steps.db", isolation_level=None)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=FULL")
        self._database.execute("CREATE TABLE steps (id INTEGER PRIMARY KEY, data BLOB)")

    def write(self, delta: Any) -> int:
        """Write a delta as a step would be; returns its bytes."""
        data = json.dumps(delta.data, separators=(",", ":")).encode()
        size = sum(map(len, delta.chunks))
        if size > INLINE:
            self.file(delta.chunks)
            self._database.execute("INSERT INTO steps (data) VALUES (?)", (data,))
        else:
            self._database.execute("INSERT INTO steps (data) VALUES (?)", (data + b"".join(delta.chunks),))
        return size + len(data)

    def file(self, chunks: list[Any]) -> Path:
        """Write bytes to a synced file of their own."""
        self._count += 1
        path = self._folder / str(self._count)
        with path.open("wb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fdatasync(file.fileno())
        return path


class Measure:
    """Times everything on one namespace."""

    def __init__(self, guest: str, folder: Path) -> None:
        self._checkpoint = _guest(guest)
        part = "_perdure_guest.checkpoints."
        self.pages = importlib.import_module(f"{part}pages").Pages.open()
        self.watcher = importlib.import_module(f"{part}touched").Watcher(lambda _name: False)
        # This file is no code of the session: in a guest nothing but the session's and libraries runs.
        self.watcher.ignore(__file__)
        # The session's module, not this one.
        sys.modules["__main__"] = types.ModuleType("__main__")
        self.namespace = vars(sys.modules["__main__"])
        self.checkpoints = self._checkpoint.Checkpoints(self.namespace, pages=self.pages)
        self.disk = Durable(folder)
        self.seconds: dict[str, float] = {}
        self.bytes: dict[str, int] = {}

    def run(self, code: str) -> None:
        exec(compile(code, "<cell>", "exec"), self.namespace)  # noqa: S102 - the code is above

    def step(self, case: str, code: str, times: int, *, write: bool = True) -> None:
        """Time a checkpoint after some code, so many times."""
        taken, stopped, written, beside, commits = [], [], [], [], []
        for count in range(times):
            self.watcher.take()
            self.run(code.replace("COUNT", str(count)))
            began = time.perf_counter()
            delta = self.checkpoints.save(self.watcher.take())
            stopped.append(time.perf_counter() - began)
            written.append(self.disk.write(delta) if write else 0)
            taken.append(time.perf_counter() - began)
            beside.append(written[-1] - sum(map(len, delta.chunks)))
            if write:
                commits.append(self.commit())
        self.seconds[case] = statistics.median(taken)
        self.seconds[f"{case} stop"] = statistics.median(stopped)
        if write:
            # Beside each of them: a disk that others use, too, is not as fast a second later.
            self.seconds[f"{case} commit"] = statistics.median(commits)
            self.bytes[case] = round(statistics.median(written))
            self.bytes[f"{case} beside"] = round(statistics.median(beside))

    def all(self) -> None:
        self.run(MAKE)
        self.watcher.begin()
        began = time.perf_counter()
        first = self.checkpoints.save()
        self.disk.write(first)
        self.seconds["first"] = time.perf_counter() - began
        packs = {1: b"".join(first.chunks)}
        manifest = json.loads(json.dumps(self.checkpoints.manifest()))
        self.commits()
        self.step("small", "small['k'].append(COUNT); x = COUNT + 5", 300)
        self.step("small cpu", "small['k'].append(COUNT); x = COUNT + 5", 300, write=False)
        self.step("element", "a1[COUNT * 100_000] = 1.0", 20)
        self.step("touch", "a1[COUNT]", 20)
        self.step("field", "recs[COUNT * 9_000]['v'] = 9", 5)
        self.step("everything", "globals()", 3)
        self.step("dirty", "a1 += 1; a2 += 1; frame += 1; wide += 1; recs[COUNT]['v'] = 9; ints[COUNT] = 9", 3)
        self.loops()
        self.others()
        self.restores(manifest, packs)

    def commits(self) -> None:
        """Time what no durable checkpoint can be below."""
        self.seconds["commit"] = statistics.median(self.commit() for _ in range(100))

    def commit(self) -> float:
        """Time a commit of as many bytes as a small checkpoint has."""
        empty = type("Empty", (), {"data": {"small": "x" * 200}, "chunks": []})
        began = time.perf_counter()
        self.disk.write(empty)
        return time.perf_counter() - began

    def loops(self) -> None:
        alone, watched = [], []
        for _ in range(15):
            began = time.perf_counter()
            self.run(LOOP)
            watched.append(time.perf_counter() - began)
            sys.monitoring.set_events(self.watcher.tool, 0)
            began = time.perf_counter()
            self.run(LOOP)
            alone.append(time.perf_counter() - began)
            sys.monitoring.set_events(
                self.watcher.tool, sys.monitoring.events.PY_START | sys.monitoring.events.PY_RESUME
            )
            sys.monitoring.restart_events()
        # In turns, and the middle one: one run of forty milliseconds says little on a machine that does other things.
        self.seconds["loop"], self.seconds["loop alone"] = statistics.median(watched), statistics.median(alone)

    def others(self) -> None:
        cloudpickle: Any = importlib.import_module("cloudpickle")

        values = {name: value for name, value in self.namespace.items() if not name.startswith("__")}
        began = time.perf_counter()
        buffers: list[pickle.PickleBuffer] = []
        data = cloudpickle.dumps(values, protocol=5, buffer_callback=buffers.append)
        self.disk.file([data, *(buffer.raw() for buffer in buffers)])
        self.seconds["full"] = time.perf_counter() - began
        self.bytes["full"] = len(data) + sum(buffer.raw().nbytes for buffer in buffers)
        del buffers
        whole = self.disk.file([cloudpickle.dumps(values, protocol=5)])
        gc.collect()
        with whole.open("rb") as file:
            began = time.perf_counter()
            loaded = pickle.load(file)  # noqa: S301 - made two lines above
            self.seconds["pickle.load"] = time.perf_counter() - began
        del loaded

    def restores(self, manifest: dict[str, Any], packs: dict[int, bytes]) -> None:
        taken = []
        for _ in range(3):
            memory = {number: _received(pack) for number, pack in packs.items()}
            again = self._checkpoint.Checkpoints({}, pages=self.pages)
            gc.collect()
            began = time.perf_counter()
            again.restore(manifest, memory)
            taken.append(time.perf_counter() - began)
            del memory, again
        self.seconds["restore"] = min(taken)
        for heavy in ("recs", "ints"):
            number = manifest["names"].pop(heavy)[0]
            manifest["units"] = {key: unit for key, unit in manifest["units"].items() if unit["roots"][0][0] != number}
        arrays, first = [], []
        # A guest that restores holds nothing else: the collector has nothing of ours to walk through.
        gc.collect()
        gc.freeze()
        for _ in range(7):
            memory = {number: _received(pack) for number, pack in packs.items()}
            namespace: dict[str, Any] = {}
            again = self._checkpoint.Checkpoints(namespace, pages=self.pages)
            began = time.perf_counter()
            again.restore(manifest, memory)
            arrays.append(time.perf_counter() - began)
            exec(compile("a1[0] + frame['c0'][0]", "<first>", "exec"), namespace)  # noqa: S102 - the code is here
            first.append(time.perf_counter() - began)
            del memory, again, namespace
        self.seconds["restore arrays"], self.seconds["first statement"] = map(statistics.median, (arrays, first))


def _received(pack: bytes) -> memoryview:
    """Return bytes in the memory that a guest's channel reads them to."""
    storage = importlib.import_module("_perdure_guest.checkpoints.storage").Storage
    memory = importlib.import_module("_perdure_guest.checkpoints.room").stretched(storage(), len(pack))
    memory[:] = pack
    return memoryview(memory)


def _guest(folder: str) -> Any:
    spec = importlib.util.spec_from_file_location(
        "_perdure_guest", f"{folder}/__init__.py", submodule_search_locations=[folder]
    )
    if spec is None or spec.loader is None:
        raise ImportError(folder)
    package = importlib.util.module_from_spec(spec)
    sys.modules["_perdure_guest"] = package
    spec.loader.exec_module(package)
    return importlib.import_module("_perdure_guest.checkpoint")


def main() -> None:
    missing = [name for name in ("numpy", "pandas", "cloudpickle") if importlib.util.find_spec(name) is None]
    output = sys.stdout
    if missing:
        output.write(json.dumps({"missing": ", ".join(missing)}) + "\n")
        return
    measure = Measure(sys.argv[1], Path(sys.argv[2]))
    measure.all()
    output.write(json.dumps({"seconds": measure.seconds, "bytes": measure.bytes}) + "\n")


if __name__ == "__main__":
    main()
