"""Runs random programs: a checkpoint after every statement, restored into a fresh namespace and compared.

    python -m tests.checkpoint.fuzz SEED STEPS [tier1]

The namespace that lives on is compared with what comes back from the deltas that its steps sent: the whole graph, with
who is whose alias. With ``tier1`` only what the code can have touched by name is looked at, none of the small units
that are otherwise looked at every time: that is the part that can miss something.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.util
import io
import json
import sys
import types
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def load_guest() -> Any:
    """Load the guest's runtime by path, as a guest does; returns its module of checkpoints."""
    if "_perdure_guest" not in sys.modules:
        folder = ROOT / "workers" / "guest"
        spec = importlib.util.spec_from_file_location(
            "_perdure_guest", folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        assert spec is not None
        assert spec.loader is not None
        package = importlib.util.module_from_spec(spec)
        sys.modules["_perdure_guest"] = package
        spec.loader.exec_module(package)
    return importlib.import_module("_perdure_guest.checkpoint")


#: Steps of one program.
LENGTH = 50
#: Every so many steps it is said how far it is.
TOLD = 1000
#: Every so many steps a checkpoint is made and taken back before the real one.
TRIED = 10
#: Every so many steps the restored namespace takes the place of the one it came from.
GO_ON = 7


class Different(AssertionError):
    """What came back is not what was there."""


def run(seed: int, steps: int, *, tier1: bool = False) -> int:  # noqa: PLR0915 - one loop, told in order
    """Run one program of so many steps; returns the bytes of its deltas. Raises Different."""
    from perdure.engine import packs as host_packs
    from perdure.engine.checkpoints import Composed

    from .graph import draw
    from .programs import PRELUDE, Program

    checkpoint = load_guest()
    touched = importlib.import_module("_perdure_guest.checkpoints.touched")
    pack_of = importlib.import_module("_perdure_guest.checkpoints.packs").pack_of
    keeper: Any = importlib.import_module("_perdure_guest.checkpoints.keeper")
    # To the byte, or small programs would lose nothing.
    cuts = host_packs.PAGE, host_packs.GAP
    host_packs.PAGE, host_packs.GAP = 1, 0
    looked_at, keeper.LOOKED_AT = keeper.LOOKED_AT, 0 if tier1 else keeper.LOOKED_AT
    main = sys.modules["__main__"]
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    namespace = vars(module)
    protected = frozenset(namespace)
    watcher = touched.Watcher(lambda _name: False)
    checkpoints = checkpoint.Checkpoints(namespace, protected=protected)
    composed, packs, size = Composed(), {}, 0
    program = Program(seed)
    source = PRELUDE
    watcher.begin()
    history = []
    # Everything there is would be looked through again and again, for the few objects of one step.
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        for step in range(steps):
            history.append(source)
            with contextlib.suppress(Exception), contextlib.redirect_stdout(io.StringIO()):
                exec(compile(source, f"<step {step}>", "exec"), namespace)
            ran = watcher.take() if step else None
            if step % TRIED == 2:
                # A checkpoint that nobody takes, in the middle of a step.
                checkpoints.save(ran, trial=True)
                checkpoints.take_back()
                source = program.statement()
                history.append(source)
                with contextlib.suppress(Exception), contextlib.redirect_stdout(io.StringIO()):
                    exec(compile(source, f"<step {step} on>", "exec"), namespace)
                more = watcher.take()
                more.add(ran)
                ran = more
            delta = checkpoints.save(ran)
            data = json.loads(json.dumps(delta.data))
            pack = b"".join(delta.chunks)
            size += len(pack) + len(json.dumps(data))
            if pack:
                packs[data["generation"]] = bytearray(pack)
            composed.apply(data, {data["generation"]: [(0, "", 0, len(pack))]} if pack else {})
            back = types.ModuleType("__main__")
            # What a restore does to memory must not reach what the next one starts from.
            memory = {
                number: pack_of([(at, memoryview(packs[number][at : at + size])) for at, _, _, size in pieces])
                for number, pieces in composed.packs.items()
                if number in packs
            }
            sys.modules["__main__"] = back
            restored_by = checkpoint.Checkpoints(vars(back), protected=protected)
            restored_by.restore(json.loads(json.dumps(composed.manifest())), memory)
            sys.modules["__main__"] = module
            live, restored = draw(namespace), draw(vars(back))
            if live != restored:
                raise Different(_difference(seed, history, live, restored))
            # What nothing refers to is let go of, as a whole checkpoint does: nothing may come to refer to it again.
            used = composed.needed()
            composed.packs = {number: host_packs.cut(composed.packs[number], spans) for number, spans in used.items()}
            for number in packs.keys() - used.keys():
                del packs[number]
            if step % GO_ON == GO_ON - 1:
                # What came back lives on: its next checkpoint adds to what it was restored from.
                module, namespace, checkpoints = back, vars(back), restored_by
                sys.modules["__main__"] = module
                watcher.take()
            source = program.statement()
    finally:
        gc.enable()
        sys.modules["__main__"] = main
        keeper.LOOKED_AT = looked_at
        host_packs.PAGE, host_packs.GAP = cuts
        watcher.end()
    return size


def _difference(seed: int, history: list[str], live: str, restored: str) -> str:
    pairs = [(one, other) for one, other in zip(live.splitlines(), restored.splitlines(), strict=False) if one != other]
    shown = "\n".join(_where(one, other) for one, other in pairs[:3])
    return f"seed {seed}, step {len(history) - 1}:\n" + "\n".join(history[-6:]) + f"\n{shown}"


def _where(one: str, other: str) -> str:
    at = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), 0)
    start = max(0, at - 60)
    return f"  was {one[:40]} ... {one[start : at + 100]}\n  is  {other[:40]} ... {other[start : at + 100]}"


def main() -> None:
    """Run many programs from a seed on; told now and then is the seed from which a run that was stopped can go on."""
    seed, steps = int(sys.argv[1]), int(sys.argv[2])
    done = 0
    while done < steps:
        run(seed, min(LENGTH, steps - done), tier1="tier1" in sys.argv)
        done += LENGTH
        seed += 1
        if not done % TOLD:
            print(f"{done} steps, no difference; the next seed is {seed}", flush=True)
    print(f"{steps} steps, no difference")


if __name__ == "__main__":
    main()
