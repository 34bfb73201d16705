"""The journal by itself: records in, matches and divergences out."""

from __future__ import annotations

from typing import Any

import pytest

from perdure.engine.durable import Promise, PromiseState
from perdure.engine.journal import CallRecord, Divergence, Journal, JournalDamaged, Request, outcome_of


def promise(param: Any, *, value: Any = None, state: PromiseState = "resolved", index: int = 0) -> Promise:
    return Promise(f"t@1:s0.{index}", state, param, value, {}, 0, 0, None)


def call(path: str, name: str = "f", *, at: int = 0, items: Any = (), **more: Any) -> dict[str, Any]:
    param = {"kind": "call", "path": path, "name": name, "args": {"what": path}, "print": f"{name}:{path}"}
    entered = {"entered": {"at": at, "items": list(items)}} if items else {}
    return {**param, "line": 1, "effect": "unknown", "at": 0, **entered, **more}


def request(path: str, name: str = "f") -> Request:
    return Request(path, name, {"what": path}, f"{name}:{path}", 1)


def output(*chunks: tuple[str, str, list[int]]) -> dict[str, Any]:
    return {"kind": "output", "offset": 0, "chunks": [list(chunk) for chunk in chunks], "at": 0}


def test_deliveries_come_in_the_order_of_the_records_and_overlaps_count_once() -> None:
    journal = Journal.read(
        [
            promise(call("main.0"), value=1),
            promise(call("main/1.0"), value=2),
            promise(call("main.1", at=0, items=[["r", "main/1.0", 0]]), value=3),
            promise(call("main.2", at=0, items=[["r", "main/1.0", 0], ["t", "main~0", 0], ["r", "main.0", 3]])),
        ]
    )
    assert journal.deliveries == [["r", "main/1.0", 0], ["t", "main~0", 0], ["r", "main.0", 3]]
    assert [record.delivered for record in journal.calls.values()] == [True, True, False, False]
    assert journal.next_index == 4


@pytest.mark.parametrize(
    "records",
    [
        pytest.param([call("main.0", at=2, items=[["r", "main.9", 0]])], id="deliveries missing before it"),
        pytest.param([call("main.0", items=[["r", "main.9", 0]])], id="a reply to a call nobody recorded"),
        pytest.param([{"kind": "dream", "at": 0}], id="a kind of record nobody knows"),
        pytest.param(["text"], id="no record at all"),
    ],
)
def test_records_that_contradict_each_other_are_damage(records: list[Any]) -> None:
    with pytest.raises(JournalDamaged):
        Journal.read([promise(param, index=index) for index, param in enumerate(records)])


def test_a_reply_consumed_but_not_recorded_is_damage() -> None:
    records = [
        promise(call("main.0"), state="pending"),
        promise(call("main.1", items=[["r", "main.0", 0]]), state="pending", index=1),
    ]
    with pytest.raises(JournalDamaged):
        Journal.read(records)


def test_calls_are_found_by_path_in_any_order_and_once() -> None:
    journal = Journal.read([promise(call("main/1.0"), value="a"), promise(call("main/2.0"), value="b", index=1)])
    assert journal.replaying
    second = journal.ask(request("main/2.0"))
    assert isinstance(second, CallRecord)
    assert second.outcome == {"value": "b"}
    assert journal.ask(request("main/3.0")) is None
    assert journal.rested(None, "ended") is not None
    assert isinstance(journal.ask(request("main/1.0")), CallRecord)
    assert journal.rested(None, "ended") is None
    again = journal.ask(request("main/1.0"))
    assert isinstance(again, Divergence)
    assert again.kind == "request"


def test_another_request_under_the_same_path_shows_both_and_the_line() -> None:
    journal = Journal.read([promise(call("main.0"), value="a")])
    found = journal.ask(Request("main.0", "f", {"what": "other", "x": 1}, "another", 7))
    assert isinstance(found, Divergence)
    assert str(found) == "at line 7: the first run asked f('main.0'); the replay asked f('other', x=1)"


def test_rest_before_every_recorded_call_is_asked_again_is_a_divergence() -> None:
    journal = Journal.read([promise(call("main.0"), value="a")])
    held = journal.rested(request("main.5"), "ended")
    assert held is not None
    assert held.kind == "missing"
    assert "asked f('main.5') instead" in str(held)
    ended = journal.rested(None, "ended")
    assert ended is not None
    assert str(ended).endswith("the replay ended")


def test_writes_are_matched_one_by_one_and_differences_counted() -> None:
    journal = Journal.read([promise(output(("stdout", "abc", [1, 2]), ("stderr", "x", [1])))])
    assert journal.characters == 4
    assert not journal.write("stdout", "a")
    assert not journal.write("stdout", "BC")
    assert not journal.write("stderr", "x")
    assert journal.write("stdout", "new")
    assert journal.differing_writes == 1


@pytest.mark.parametrize(
    "settled, outcome",
    [
        (promise(call("a"), state="pending"), None),
        (promise(call("a"), value={"$bytes": ""}), {"value": {"$bytes": ""}}),
        (promise(call("a", outcome={"value": 0})), {"value": 0}),
        (promise(call("a", outcome={"error": {"type": "T"}})), {"error": {"type": "T"}}),
        (
            promise(call("a"), state="rejected", value={"type": "CallFailed", "message": "m"}),
            {"error": {"type": "CallFailed", "message": "m", "data": None}},
        ),
    ],
)
def test_outcomes(settled: Promise, outcome: Any) -> None:
    assert outcome_of(settled) == outcome


@pytest.mark.parametrize("value", [None, "no", {"message": "no"}, {"__py_pickle": "gASV"}, 7])
def test_an_outsiders_rejection_is_a_failed_call(value: Any) -> None:
    outcome = outcome_of(promise(call("a"), state="rejected", value=value))
    assert outcome is not None
    assert outcome["error"]["type"] == "CallFailed"
    assert isinstance(outcome["error"]["message"], str)
