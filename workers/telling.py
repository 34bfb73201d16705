"""What a guest is told to run, and to replay: what does not fit its message goes ahead of it as a stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from perdure.engine.refs import INLINE_LIMIT, dumped, fetched, is_ref

if TYPE_CHECKING:
    from perdure.engine.blobs import BlobStore
    from perdure.engine.journal import Journal

    from .link import Link
    from .orders import Execute

__all__ = ["recorded_deliveries", "tell"]


async def tell(link: Link, order: Execute, replay: dict[str, Any]) -> None:
    """Send an execution with what it replays. Raises LinkClosed."""
    large: dict[str, int] = {}
    data = dumped(replay)
    if len(data) > INLINE_LIMIT:
        large["replay_stream"] = await link.send_stream(data)
    else:
        order.replay = replay
    if len(brought := dumped(order.variables)) > INLINE_LIMIT:
        large["variables_stream"] = await link.send_stream(brought)
    code = order.code.encode("utf-8", "surrogatepass")
    if len(code) > INLINE_LIMIT:
        large["code_stream"] = await link.send_stream(code)
    inline = order.model_fields_set - {name.removesuffix("_stream") for name in large}
    await link.send(order.model_construct(inline | {*large}, **{**order.__dict__, **large}))


async def recorded_deliveries(journal: Journal, blobs: BlobStore) -> list[list[Any]]:
    """Return the recorded deliveries as the guest gets them: replies with their outcomes."""
    deliveries: list[list[Any]] = []
    for item in journal.deliveries:
        if item[0] != "r":
            deliveries.append(item)
            continue
        outcome = journal.calls[item[1]].outcome
        assert outcome is not None  # noqa: S101 - Journal.read checked it
        if "value" in outcome and is_ref(outcome["value"]):
            outcome = {"value": await fetched(blobs, outcome["value"])}
        deliveries.append([*item, outcome])
    return deliveries
