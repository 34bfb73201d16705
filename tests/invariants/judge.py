"""Compares what came of a disturbed run with the undisturbed one. Pure: no I/O.

1. The result, the output and the namespace are the undisturbed run's; where order is free, what the program says of
   itself.
2. ``repeat``: one key for each call of the undisturbed run, at least once, more often only if its handler was lost, or
   gave no outcome in its time.
3. ``unknown``: at most once, and what is missing was said to be in doubt. ``reconcile``: exactly once.
4. Nothing of an attempt acts after one of its successors; but a handler of `repeat` that ran when its process was
   stopped, and goes on with it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from .program import Case, Played, Program

__all__ = ["judge"]

#: What may not be repeated: what nobody can look up, and what the probe knows.
ONCE = {"pay", "flaky", "slow", "book"}

#: What takes the handlers away from under an execution; a killed guest does not.
TAKEN_OVER = ("worker", "stop\t", "silence")


def judge(program: Program, calm: Played | None, played: Played, case: Case) -> list[tuple[str, str]]:
    """Return what is wrong, as (kind, words): not played, stuck, divergence, wrong result, ..."""
    if played.unplayed:
        return [("not played", played.unplayed)]
    if played.stuck:
        return [("stuck", played.stuck)]
    wrong = list(_outcome(program, calm, played))
    wrong += _effects(calm, played, case)
    if played.contradicted:
        wrong.append(("wrong output", played.contradicted))
    return wrong


def _outcome(program: Program, calm: Played | None, played: Played) -> list[tuple[str, str]]:
    disturbed = played.kills > 0
    if program.unlike and disturbed:
        if "diverged" not in played.statuses:
            return [("missed divergence", f"ended as {played.statuses}: {played.values}")]
        return []
    if "diverged" in played.statuses:
        return [("divergence", "; ".join(played.errors))]
    wrong: list[tuple[str, str]] = []
    if said := _checked(program, played):
        wrong.append(("wrong result", said))
    if calm is None:
        return wrong
    if played.statuses != calm.statuses:
        return [*wrong, ("wrong result", f"ended as {played.statuses}, not {calm.statuses}: {played.errors}")]
    if not program.free:
        wrong += _differs("wrong result", calm.values, played.values)
        wrong += _differs("wrong result", calm.errors, played.errors)
        wrong += _differs("wrong namespace", calm.names, played.names)
        wrong += _differs("wrong output", _joined(calm.output), _joined(played.output))
    elif not program.raced:
        wrong += _differs("wrong output", _lines(calm.output), _lines(played.output))
    return wrong


def _checked(program: Program, played: Played) -> str:
    """Return what the program itself finds wrong with what came of it."""
    try:
        return program.check(played) if program.check is not None else ""
    except (TypeError, IndexError, ValueError) as exc:
        return f"{played.values} is nothing that could be checked: {exc}; {played.statuses} {played.errors}"


def _differs(kind: str, calm: Any, played: Any) -> list[tuple[str, str]]:
    if calm == played:
        return []
    if isinstance(calm, dict) and isinstance(played, dict):
        names = sorted(key for key in {*calm, *played} if calm.get(key) != played.get(key))
        calm, played = {key: calm.get(key) for key in names}, {key: played.get(key) for key in names}
    return [(kind, f"{str(calm)[:600]} became {str(played)[:600]}")]


def _joined(output: list[tuple[str, str]]) -> dict[str, str]:
    streams: defaultdict[str, str] = defaultdict(str)
    for stream, text in output:
        streams[stream] += text
    return dict(streams)


def _lines(output: list[tuple[str, str]]) -> dict[str, Counter[str]]:
    return {stream: Counter(text.splitlines()) for stream, text in _joined(output).items()}


def _effects(calm: Played | None, played: Played, case: Case) -> list[tuple[str, str]]:
    by_what: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for effect in played.effects:
        by_what[effect["name"], effect["what"]][effect["key"]] += 1
    wrong = _repeated(by_what, played, case)
    if calm is not None and "diverged" not in played.statuses:
        expected = Counter((each["name"], each["what"]) for each in calm.effects)
        wrong += _missing(expected, by_what, played)
    return wrong + _order(played)


def _repeated(by_what: dict[tuple[str, str], Counter[str]], played: Played, case: Case) -> list[tuple[str, str]]:
    wrong = []
    # On a busy machine a handler may give no outcome in time, and is tried again: that is its policy.
    retries = sum(effect["retry"] > 0 for effect in played.effects if effect["name"] not in ONCE)
    again = -retries
    for (name, what), keys in by_what.items():
        for count in keys.values():
            if name in ONCE and count > 1:
                wrong.append(("duplicate", f"{name} {what} was performed {count} times"))
            again += count - 1
    if again > 0 and case.workers == 1 and not any(act.startswith(TAKEN_OVER) for act in played.acts):
        wrong.append(("duplicate", f"{again} effects were repeated, though their handlers were never lost"))
    return wrong


def _missing(
    expected: Counter[tuple[str, str]], by_what: dict[tuple[str, str], Counter[str]], played: Played
) -> list[tuple[str, str]]:
    wrong = []
    for (name, what), calls in expected.items():
        keys = len(by_what.get((name, what), ()))
        if keys > calls:
            wrong.append(("duplicate", f"{name} {what} was performed under {keys} keys, not {calls}"))
        if not keys and what not in played.doubts:
            wrong.append(("lost effect", f"{name} {what} was never performed, and nobody was told"))
    return wrong


def _order(played: Played) -> list[tuple[str, str]]:
    newest: dict[str, int] = {}
    acted: dict[str, float] = {}
    for effect in played.effects:
        seen = newest.get(effect["execution"], 0)
        under_way = effect["name"] not in ONCE and effect["began"] < acted.get(effect["execution"], 0.0)
        if effect["attempt"] < seen and not under_way:
            text = f"attempt {effect['attempt']} performed {effect['name']} {effect['what']} after attempt {seen}"
            return [("late effect", text)]
        if effect["attempt"] > seen:
            newest[effect["execution"]] = effect["attempt"]
            acted[effect["execution"]] = effect["at"]
    return []
