"""Deliberately broken variants of the product, applied to a worker process of the tests when it starts.

Each takes one law away; each has a case in ``CONTROLS`` that must catch it. The product itself carries none of this.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from blake3 import blake3

from perdure.capabilities import policy
from perdure.engine import substrate
from perdure.engine.blobs_folder import FolderBlobs
from perdure.engine.durable import Attempt, Promise
from perdure.engine.journal import Journal
from perdure.engine.store import SqliteConnection
from perdure.workers import handlers, recording, zygote
from perdure.workers.leases import LeaseKeeper
from perdure.workers.pool import Parked, Pool

from .program import Case, Order

__all__ = ["CONTROLS", "apply"]

#: Variants by name: what is done to the process, and the case that catches it.
CONTROLS: dict[str, tuple[Callable[[], None], Case, tuple[str, ...]]] = {}


#: Seconds after which a blob is stored in the variant that gives out its reference first.
LATE = 30.0


def apply(name: str) -> None:
    """Break this process in one way; an empty name leaves it whole."""
    if name:
        CONTROLS[name][0]()


def caught_by(program: str, *orders: Order, shown_as: tuple[str, ...], **how: Any) -> Callable[..., Any]:
    """Note a variant under its function's name, with the case that catches it and what the judge then says."""

    def note(function: Callable[[], None]) -> Callable[[], None]:
        name = function.__name__.replace("_", " ")
        CONTROLS[name] = (function, Case(program, f"control: {name}", orders, **how), shown_as)
        return function

    return note


def replace(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    """Put something else in the place of an attribute that must be there."""
    setattr(owner, name, make(getattr(owner, name)))


def break_guest(code: str) -> None:
    """Run this in every guest, once its runtime is loaded and before it begins."""
    loaded = "    main()\n"
    indented = "".join(f"    {line}\n" for line in code.strip().splitlines())

    def broken(argv: Callable[..., list[str]]) -> Callable[..., list[str]]:
        def of(*what: Any, **more: Any) -> list[str]:
            before = argv(*what, **more)
            after = [part.replace(loaded, indented + loaded) for part in before]
            assert before != after, "the guest's boot code has changed, and this variant breaks nothing"
            return after

        return of

    replace(zygote, "argv", broken)


# -- replay ------------------------------------------------------------------------


@caught_by("resonate_sdk_py_438", ("1 suspending", 1, "guest"), waiting="suspended", shown_as=("divergence",))
def counter_ids() -> None:
    """Calls are named by their number in the process, and replies come as soon as they are asked for."""
    break_guest(
        """
import itertools
from _perdure_guest import lineage
counter = itertools.count()
lineage.Node.next_call = lambda self, execution: f"main.{next(counter)}"
"""
    )
    without_order()


def without_order() -> None:
    read = Journal.read.__func__  # type: ignore[attr-defined]

    def unordered(cls: type[Journal], records: Any) -> Journal:
        journal: Journal = read(cls, records)
        journal.deliveries = []
        for call in journal.calls.values():
            call.delivered = False
        return journal

    Journal.read = classmethod(unordered)  # type: ignore[assignment, method-assign]


@caught_by("asks_another_thing", ("1 call main.2 start recorded", 1, "guest"), shown_as=("missed divergence",))
def no_fingerprint() -> None:
    """A request under a known path is taken for the recorded one, whatever it asks."""

    def ask(_: Any) -> Any:
        def unlooked(self: Journal, request: Any) -> Any:
            call = self.calls.get(request.path)
            if call is not None:
                call.asked = True
                self.unasked -= 1
            return call

        return unlooked

    replace(Journal, "ask", ask)


@caught_by(
    "answers_as_they_come",
    ("1 call main.0 answer recorded", 1, "guest"),
    waiting="suspended",
    backwards=True,
    shown_as=("wrong result",),
)
def deliveries_fed_early() -> None:
    """Recorded replies are fed in the order of asking, not in that of the first run."""
    read = Journal.read.__func__  # type: ignore[attr-defined]

    def sorted_by_path(cls: type[Journal], records: Any) -> Journal:
        journal: Journal = read(cls, records)
        journal.deliveries.sort(key=lambda item: item[1])
        return journal

    Journal.read = classmethod(sorted_by_path)  # type: ignore[assignment, method-assign]


@caught_by("calls_in_order", ("1 call main.1 answer recorded", 1, "guest"), shown_as=("duplicate", "divergence"))
def a_call_repeated_though_recorded() -> None:
    """A call that is recorded is performed again."""

    def ask(_: Any) -> Any:
        def forgotten(self: Journal, request: Any) -> None:
            call = self.calls.get(request.path)
            if call is not None and not call.asked:
                call.asked = True
                self.unasked -= 1

        return forgotten

    replace(Journal, "ask", ask)


@caught_by("asks_less", ("1 call main.2 start recorded", 1, "guest"), shown_as=("missed divergence",))
def a_replay_ended_early() -> None:
    """A replay may end, or go on, though recorded calls were not asked again."""
    replace(Journal, "rested", lambda _: lambda _self, _held, _doing: None)
    Journal.replaying = property(lambda _self: False)  # type: ignore[assignment]


@caught_by(
    "answers_shown",
    ("1 output recorded", 3, "guest"),
    waiting="suspended",
    backwards=True,
    shown_as=("wrong result",),
)
def output_recorded_before_what_it_depends_on() -> None:
    """Output is shown before the deliveries that came before it are recorded."""

    def record(right: Any) -> Any:
        async def bare(self: Any, param: dict[str, Any], **how: Any) -> Any:
            if param["kind"] != "output":
                return await right(self, param, **how)
            held, self._unrecorded = self._unrecorded, []
            promise = await right(self, param, **how)
            self._unrecorded = held + self._unrecorded
            return promise

        return bare

    replace(recording.Recorder, "_record", record)


@caught_by("output_between", ("1 call main.3 answer recorded", 1, "guest"), shown_as=("wrong output",))
def output_shown_again() -> None:
    """What a replay prints is shown once more."""
    replace(Journal, "write", lambda _: lambda _self, _stream, _text: True)


@caught_by("randomness_goes_on", ("1 ended", 1, "guest"), shown_as=("wrong result", "wrong output", "wrong namespace"))
def reseeded_at_a_boundary() -> None:
    """A restored guest draws from the session's seed anew."""
    break_guest(
        """
import random
from _perdure_guest import main as rooms
restore = rooms.Guest._restore
def reseeding(self, message):
    restore(self, message)
    random.seed(self._config["seed"])
rooms.Guest._restore = reseeding
"""
    )


@caught_by("the_clock_in_requests", ("1 call main.1 delivered", 1, "guest"), shown_as=("divergence",))
def the_clock_not_recorded() -> None:
    """A replay reads the time that it is."""
    break_guest(
        """
from _perdure_guest import wallclock
begin = wallclock.WallClock.begin
wallclock.WallClock.begin = lambda self, execution, items: begin(self, execution, ())
"""
    )


# -- outcomes ------------------------------------------------------------------------


@caught_by("one_call", ("1 call main.0 settling", 1, "worker"), shown_as=("duplicate",))
def unknown_repeated() -> None:
    """A call that may not be repeated is, when its outcome was lost."""
    replace(policy, "recovery", lambda _: lambda _effect: "repeat")


@caught_by("booked_once", ("1 call main.0 settling", 1, "worker"), shown_as=("duplicate",))
def no_probe() -> None:
    """A call that can be looked up is performed again instead."""
    replace(policy, "recovery", lambda right: lambda effect: "repeat" if effect == "reconcile" else right(effect))


@caught_by("one_call", ("1 call main.0 answer recording", 1, "worker"), shown_as=("duplicate",))
def performed_before_recorded() -> None:
    """A call that may not be repeated is performed before its start is recorded."""

    def begin(right: Any) -> Any:
        def at_once(self: Any, execution: str, request: Any, **more: Any) -> Any:
            begun = right(self, execution, request, **more)
            if begun.effect != "unknown" or begun.running is not None:
                return begun
            return handlers.Begun("repeat", self.start(execution, request))

        return at_once

    replace(handlers.Handlers, "begin", begin)


@caught_by("loop_of_calls", ("1 call main.1 answer recording", 1, "worker"), shown_as=("duplicate",))
def another_key_for_every_attempt() -> None:
    """The key that a service would know a repetition by says which attempt asks."""

    def key(right: Any) -> Any:
        return lambda self, request: f"{right(self, request)}{self.scope.attempt}"

    replace(handlers.Handlers, "_key", key)


# -- what is durable -------------------------------------------------------------------


@caught_by(
    "calls_in_order",
    ("1 call main.0 delivering", 1, "worker"),
    powerless=True,
    shown_as=("duplicate", "lost effect", "stuck"),
)
def fsync_before_a_reply_dropped() -> None:
    """The store answers before what it answers is on disk."""

    class Careless(SqliteConnection):
        def __init__(self, *what: Any, **more: Any) -> None:
            super().__init__(*what, **more, synchronous="NORMAL")

    replace(substrate, "SqliteConnection", lambda _: Careless)


@caught_by("a_large_namespace", ("1 ended", 1, "worker"), shown_as=("wrong result", "stuck"))
def a_checkpoint_recorded_before_its_blob() -> None:
    """The reference of a blob is given out before the blob is stored."""

    def put(right: Any) -> Any:
        async def later(self: FolderBlobs, data: Any) -> str:
            if not isinstance(data, (bytes, bytearray, memoryview)):
                data = b"".join(bytes(each) for each in data)
            loop = asyncio.get_running_loop()
            kept = bytes(data)
            loop.call_later(LATE, lambda: loop.create_task(right(self, kept)))
            return f"blake3:{blake3(kept).hexdigest()}"

        return later

    replace(FolderBlobs, "put", put)


# -- attempts ------------------------------------------------------------------------------


@caught_by(
    "questions_and_payments",
    waiting="suspended", workers=2, swaps=True, elsewhere=True,
    shown_as=("duplicate", "stuck", "wrong result", "late effect"),
)  # fmt: skip
def a_stale_parked_guest_continued() -> None:
    """A parked guest goes on whatever has happened since under other versions of its task."""

    def take(_: Any) -> Any:
        async def any_version(self: Pool, session: str, execution: str, version: int) -> Parked | None:
            del version
            kept = self._kept.get(session)
            parked = kept.what if kept is not None else None
            if not isinstance(parked, Parked) or parked.run.execution != execution or not parked.run.guest.alive:
                return None
            del self._kept[session]
            parked.run.guest.thaw()
            return parked

        return any_version

    def create(right: Any) -> Any:
        async def unlooked(self: Attempt, id: str, kind: str, param: Any, **how: Any) -> Promise:
            promise: Promise = await right(self, id, kind, param, **how)
            if kind not in ("step", "cancel"):
                promise.param["at"] = param["at"]
            return promise

        return unlooked

    replace(Pool, "take_parked", take)
    # What such a guest asks comes under numbers that are taken, and the recorder would see that too.
    replace(Attempt, "create", create)


@caught_by(
    "calls_in_order", ("1 call main.0 start recorded", 1, "stop"), workers=2, elsewhere=True, shown_as=("late effect",)
)
def the_leases_deadline_ignored() -> None:
    """An attempt goes on acting for as long as nobody stops it."""
    replace(LeaseKeeper, "left", lambda _: lambda _self, _task, _version: 1e9)
    replace(LeaseKeeper, "on_expiry", lambda _: lambda _self, _task, _version, _expire: None)
