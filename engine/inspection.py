"""Executions as data: their promises as a tree, their output, what they wait for. Reads only."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from .blobs import BlobDamaged, BlobMissing
from .durable import KIND
from .errors import ExecutionNotFound
from .ids import cancel_id, death_id, parse_execution, parse_record, record_id, step_id
from .journal import DISPLAY, outcome_of, render_args
from .records import DisplayEvent, OutputEvent, TreeNode
from .refs import fetched

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from .blobs import BlobStore
    from .durable import Promise
    from .substrate import Substrate

__all__ = ["outputs_of", "promises_of", "records_from", "shown_call", "submitted", "tree_of"]

#: How many records are asked for at once where they cannot be listed.
AHEAD = 64
#: Characters of a call's arguments that a line shows.
SHOWN_ARGS = 160
#: Variables that a step's line names.
SHOWN_NAMES = 5


async def promises_of(substrate: Substrate, execution: str, *, strict: bool = True) -> list[Promise]:
    """Return every promise of an execution but its root. Raises RecordDamaged if it is ``strict``."""
    listed = await substrate.scan(execution + ":", strict=strict)
    if listed is not None:
        return listed
    found: list[Promise] = []
    cancel = await substrate.promises.get(cancel_id(execution), strict=strict)
    found += [cancel] if cancel else []
    number = 0
    while (death := await substrate.promises.get(death_id(execution, number), strict=strict)) is not None:
        found.append(death)
        number += 1
    number = 0
    while (step := await substrate.promises.get(step_id(execution, number), strict=strict)) is not None:
        found.append(step)
        found += [record async for record in records_from(substrate, execution, number, 0, strict=strict)]
        number += 1
    return found


async def records_from(
    substrate: Substrate, execution: str, step: int, index: int, *, strict: bool = True
) -> AsyncIterator[Promise]:
    """Yield a step's records from a number on, as far as they go now. Raises RecordDamaged if it is ``strict``."""
    ahead = 1
    while True:
        wanted = [record_id(execution, step, number) for number in range(index, index + ahead)]
        for promise in await asyncio.gather(*(substrate.promises.get(id, strict=strict) for id in wanted)):
            if promise is None:
                return
            yield promise
            index += 1
        ahead = min(ahead * 4, AHEAD)


async def outputs_of(promise: Promise, blobs: BlobStore, start: int = 0) -> list[OutputEvent | DisplayEvent]:
    """Return what a record of output shows from a character of the execution's output on."""
    offset = promise.param["offset"]
    events: list[OutputEvent | DisplayEvent] = []
    for stream, content, lengths in promise.param["chunks"]:
        begins, offset = offset, offset + sum(lengths)
        if offset <= start:
            continue
        if stream == DISPLAY:
            events.append(await _display(promise.id, begins, content, blobs))
        else:
            at = max(begins, start)
            events.append(OutputEvent(offset=at, stream=stream, text=content[at - begins :], record=promise.id))
    return events


async def _display(record: str, offset: int, content: Any, blobs: BlobStore) -> DisplayEvent:
    try:
        return DisplayEvent(offset=offset, data=await fetched(blobs, content), record=record)
    except (BlobDamaged, BlobMissing) as exc:
        # What was printed after it is there, and how it ended: one lost picture costs no more than itself.
        return DisplayEvent(offset=offset, data={}, record=record, lost=str(exc))


def shown_call(param: dict[str, Any]) -> str:
    """Return a call's arguments as one short line."""
    text = render_args(param.get("args"))
    return text if len(text) <= SHOWN_ARGS else text[: SHOWN_ARGS - 3] + "..."


async def tree_of(substrate: Substrate, execution: str) -> TreeNode:
    """Return the promises of an execution as a tree. Raises ExecutionNotFound, InvalidName."""
    parse_execution(execution)
    root = await substrate.promises.get(execution, strict=False)
    if root is None:
        msg = f"there is no execution {execution}: 'perdure ps' lists those there are"
        raise ExecutionNotFound(msg)
    every = await promises_of(substrate, execution, strict=False)
    steps = {promise.id: promise for promise in every if promise.tags.get(KIND) == "step"}
    children: dict[str, list[Promise]] = {}
    others: list[Promise] = []
    for promise in every:
        if promise.id in steps:
            continue
        if promise.tags.get(KIND) in ("call", "output", "timer", "fork", "cancelled"):
            children.setdefault(promise.id.rpartition(".")[0], []).append(promise)
        else:
            others.append(promise)
    nodes = []
    for id, step in sorted(steps.items(), key=lambda item: _number(item[0])):
        records = sorted(children.get(id, []), key=lambda promise: parse_record(promise.id).number)
        nodes.append(_step(step, tuple(_over(_record(record), root) for record in records)))
    nodes += [_other(promise) for promise in others]
    return TreeNode(
        id=root.id,
        kind="execution",
        state=root.state,
        label=_root_label(root),
        created_at=root.created_at,
        settled_at=root.settled_at,
        param=root.param,
        value=root.value,
        children=tuple(nodes),
    )


def _number(id: str) -> int:
    return int(id.rpartition(":s")[2])


def submitted(root: Promise) -> dict[str, Any]:
    """Return what was handed in as an execution, as its root holds it; nothing if that is no submission at all."""
    arguments = root.param.get("args") if isinstance(root.param, dict) else None
    first = arguments[0] if isinstance(arguments, list) and arguments else None
    return first if isinstance(first, dict) else {}


def _root_label(root: Promise) -> str:
    parts = [str(submitted(root).get("filename") or "code")]
    if isinstance(root.value, dict):
        mode = root.value.get("mode")
        parts += [f"({mode})"] if mode else []
        parts.append(f"-> {root.value.get('status')}")
    return " ".join(parts) + _damage(root)


def _damage(promise: Promise) -> str:
    """Return how the line of a promise ends that cannot be read; the others are drawn all the same."""
    return f", damaged: {promise.problem}" if promise.problem else ""


def _step(step: Promise, records: tuple[TreeNode, ...]) -> TreeNode:
    value = step.value if isinstance(step.value, dict) else {}
    manifest = value.get("checkpoint")
    line = value.get("line")
    label = f"to line {line - 1} " if isinstance(line, int) and not value.get("final") else ""
    if isinstance(manifest, dict):
        label += f"-> checkpoint of {manifest.get('names', '?')} names, {manifest.get('size', '?')} bytes"
    label += _losses(value.get("result") or {}) + _damage(step)
    return TreeNode(
        id=step.id,
        kind="step",
        state=step.state,
        label=label,
        created_at=step.created_at,
        settled_at=step.settled_at,
        children=records,
    )


def _losses(result: dict[str, Any]) -> str:
    """Return the variables that were not kept, or that its process could not load, as a step's line ends."""
    said = ""
    for what, title in (("lost", "not kept"), ("not_restored", "not restored")):
        names = [str(report.get("name")) for report in result.get(what) or ()]
        more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
        said += f", {title}: {', '.join(names[:SHOWN_NAMES])}{more}" if names else ""
    return said


def _record(record: Promise) -> TreeNode:
    if record.problem:
        return _other(record)
    param = record.param
    path, value = "", record.value
    match param["kind"]:
        case "call":
            label, path = f"{param['name']}({shown_call(param)})", param["path"]
            value = outcome_of(record)
        case "output":
            label = f"{sum(sum(lengths) for _, _, lengths in param['chunks'])} characters"
            if any(stream == DISPLAY for stream, _, _ in param["chunks"]):
                label += ", with displays"
        case "cancelled":
            label = f"no longer waited for: {param['path']}"
        case "fork":
            label = f"from {param['from']}"
        case _:
            label = f"wakes at {_moment(param['wake'])}"
    state = "rejected" if isinstance(value, dict) and param["kind"] == "call" and "error" in value else record.state
    return TreeNode(
        id=record.id,
        kind=param["kind"],
        state=state,
        label=label,
        path=path,
        created_at=param["at"],
        settled_at=record.settled_at,
        param=param,
        value=value,
    )


def _over(record: TreeNode, root: Promise) -> TreeNode:
    """Return a record as it stands now: the end of an execution settles no timer, but nobody waits for it any more."""
    if record.kind != "timer" or record.state != "pending" or not root.settled:
        return record
    return record.model_copy(update={"state": "not needed", "settled_at": root.settled_at})


def _moment(at: int) -> str:
    """Return a time (ms since 1970) as text; one that no calendar has, as code may ask for, as it is."""
    try:
        return f"{datetime.fromtimestamp(at / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (OverflowError, ValueError, OSError):
        return str(at)


def _other(promise: Promise) -> TreeNode:
    kind = promise.tags.get(KIND, "promise")
    label = str(promise.param.get("how", "")) if isinstance(promise.param, dict) else ""
    label += _damage(promise).removeprefix(", ")
    return TreeNode(
        id=promise.id,
        kind=kind,
        state=promise.state,
        label=label,
        created_at=promise.created_at,
        settled_at=promise.settled_at,
        param=promise.param,
    )
