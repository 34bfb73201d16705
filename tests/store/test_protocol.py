"""Each action of the protocol, its guards in their order, and what follows from it."""

from __future__ import annotations

from typing import Any

import pytest

from perdure.engine.store.members import rest

from .conftest import Machine

ANY = "poll://any@g"


def ready(machine: Machine, id: str = "a") -> int:
    """A task held under version 1."""
    machine.join()
    machine.create(0, id, target=ANY)
    machine.acquire(0, id, 0)
    return 1


class TestPromises:
    def test_a_promise_is_created_once(self, machine: Machine) -> None:
        first = machine.create(5, "a")
        assert first == machine.create(9, "a", timeout=7)
        assert first[1]["promise"] == {
            "id": "a", "state": "pending", "param": {"data": "cA=="}, "value": {}, "tags": {},
            "timeoutAt": 10**9, "createdAt": 5,
        }  # fmt: skip

    def test_a_promise_is_settled_once_and_answers_with_what_it_is(self, machine: Machine) -> None:
        machine.create(0, "a")
        status, data = machine.settle(3, "a")
        assert (status, data["promise"]["state"], data["promise"]["settledAt"]) == (200, "resolved", 3)
        assert machine.settle(4, "a", "rejected") == (200, data)

    def test_unknown_promises_are_missing(self, machine: Machine) -> None:
        assert machine.apply(0, "promise.get", id="a")[0] == 404
        assert machine.settle(0, "a")[0] == 404
        assert machine.apply(0, "promise.register_listener", awaited="a", address="poll://uni@g/p")[0] == 404

    @pytest.mark.parametrize(
        "data",
        [
            {"id": "a"},
            {"id": "", "timeoutAt": 1},
            {"id": "a\0b", "timeoutAt": 1},
            {"id": "a", "timeoutAt": -1},
            {"id": "a", "timeoutAt": 2**63},
            {"id": "a", "timeoutAt": "1"},
            {"id": "a", "timeoutAt": 1, "param": {"data": 1}},
            {"id": "a", "timeoutAt": 1, "tags": {"x": 1}},
            {"id": "b", "timeoutAt": 1, "tags": {"resonate:origin": "a"}},
            {"id": "ab", "timeoutAt": 1, "tags": {"resonate:parent": "a"}},
            {"id": "a:1", "timeoutAt": 1, "tags": {"resonate:origin": "a:1"}},
            {"id": "a", "timeoutAt": 9, "tags": {"resonate:delay": "5"}},
            {"id": "a", "timeoutAt": 9, "tags": {"resonate:delay": "9", "resonate:target": ANY}},
            {"id": "a", "timeoutAt": 9, "tags": {"resonate:delay": "-1", "resonate:target": ANY}},
        ],
    )
    def test_malformed_creations_are_refused(self, machine: Machine, data: dict[str, Any]) -> None:
        assert machine.apply(0, "promise.create", **data)[0] == 400
        assert machine.apply(0, "promise.search")[1] == {"promises": []}

    @pytest.mark.parametrize("state", ["pending", "rejected_timedout", "done", None])
    def test_only_a_settlement_settles(self, machine: Machine, state: str | None) -> None:
        assert machine.apply(0, "promise.settle", id="missing", state=state)[0] == 400

    def test_a_promise_past_its_timeout_reads_as_settled_before_anybody_wrote_so(self, machine: Machine) -> None:
        machine.create(0, "a", timeout=10)
        promise = machine.apply(10, "promise.get", id="a")[1]["promise"]
        assert (promise["state"], promise["settledAt"]) == ("rejected_timedout", 10)
        assert machine.settle(11, "a")[1]["promise"] == promise

    def test_a_timer_resolves_at_its_timeout(self, machine: Machine) -> None:
        machine.create(0, "a", timeout=10, timer="true")
        machine.tick(9)
        assert machine.apply(9, "promise.get", id="a")[1]["promise"]["state"] == "pending"
        machine.tick(12)
        promise = machine.apply(12, "promise.get", id="a")[1]["promise"]
        assert (promise["state"], promise["settledAt"]) == ("resolved", 10)

    def test_a_timer_created_late_is_one_settled_row_and_no_deadline(self, machine: Machine) -> None:
        status, data = machine.create(50, "a", timeout=10, timer="true")
        assert (status, data["promise"]["state"], data["promise"]["createdAt"]) == (200, "resolved", 10)
        assert machine.apply(50, "task.get", id="a")[0] == 404
        before = machine.db.changes
        machine.tick(100)
        assert machine.db.changes == before

    def test_search_pages_by_id_and_filters_by_what_is_seen(self, machine: Machine) -> None:
        for number in range(5):
            machine.create(
                0, f"p{number}", timeout=10 if number == 1 else 99, kind="even" if number % 2 == 0 else "odd"
            )
        machine.settle(1, "p4")
        first = machine.apply(20, "promise.search", state="pending", limit=2)[1]
        assert [p["id"] for p in first["promises"]] == ["p0", "p2"]
        rest = machine.apply(20, "promise.search", state="pending", limit=2, cursor=first["cursor"])[1]
        assert ([p["id"] for p in rest["promises"]], "cursor" in rest) == (["p3"], False)
        odd = machine.apply(20, "promise.search", tags={"resonate:kind": "odd"}, state="rejected_timedout")[1]
        assert [p["id"] for p in odd["promises"]] == ["p1"]
        assert machine.apply(20, "promise.search", limit=1001)[0] == 400

    def test_listeners_are_told_once(self, machine: Machine) -> None:
        machine.join()
        machine.create(0, "a")
        for _ in range(2):
            assert machine.apply(0, "promise.register_listener", awaited="a", address="poll://uni@g/p")[0] == 200
        machine.settle(1, "a")
        assert [promise.id for promise in machine.messages.unblocks] == ["a"]
        machine.settle(2, "a")
        assert machine.messages.unblocks == []

    @pytest.mark.parametrize(
        "address", ["http://x", "g", "poll://", "poll://any@", "poll://any@g/", "poll://uni@g", "poll://all@g/p"]
    )
    def test_addresses_this_store_cannot_deliver_to_are_refused(self, machine: Machine, address: str) -> None:
        assert machine.apply(0, "promise.register_listener", awaited="a", address=address)[0] == 400
        assert machine.create(0, "a", target=address)[0] == 400

    def test_a_listener_may_be_any_one_of_a_group(self, machine: Machine) -> None:
        machine.join(group="other")
        first, second = machine.join(pid="p"), machine.join(pid="q")
        for address in (ANY, ANY + "/p", "poll://any@nobody"):
            machine.create(0, "a" + address)
            machine.apply(0, "promise.register_listener", awaited="a" + address, address=address)
        machine.settle(1, "a" + ANY)
        assert [promise.id for promise in machine.messages.unblocks] == ["a" + ANY]
        machine.settle(1, f"a{ANY}/p")
        assert (machine.messages.unblocks, machine.messages.fetches) == ([], {first})
        assert second == machine.db.member
        machine.settle(1, "apoll://any@nobody")
        assert machine.messages.fetches == set()

    def test_callbacks_guard_in_order(self, machine: Machine) -> None:
        def register(awaited: str, awaiter: str) -> int:
            return machine.apply(0, "promise.register_callback", awaited=awaited, awaiter=awaiter)[0]

        machine.create(0, "a", target=ANY)
        machine.create(0, "a:in")
        machine.create(0, "a:ex", external="true")
        assert register("a", "a") == 400
        assert register("b:1", "a") == 400
        assert register("a:none", "a") == 404
        assert register("a:ex", "a:none") == 422
        assert register("a:ex", "a:in") == 422
        assert register("a:in", "a") == 422
        assert register("a:ex", "a") == 200


class TestTasks:
    def test_a_target_makes_a_task_and_offers_it(self, machine: Machine) -> None:
        member = machine.join()
        machine.create(0, "a", target=ANY)
        assert machine.messages.executes == {"a": (member, 0)}
        assert machine.task(0, "a") == ("pending", 0)

    def test_only_acquiring_raises_the_version(self, machine: Machine) -> None:
        version = ready(machine)
        assert machine.task(0, "a") == ("acquired", 1)
        assert machine.acquire(0, "a", 1)[0] == 409
        assert machine.apply(0, "task.release", id="a", version=0)[0] == 409
        assert machine.apply(0, "task.release", id="a", version=version)[0] == 200
        assert machine.task(0, "a") == ("pending", 1)
        assert machine.acquire(0, "a", 0)[0] == 409
        assert machine.acquire(0, "a", 1)[1]["task"]["version"] == 2

    @pytest.mark.parametrize("kind", ["task.fence", "task.suspend", "task.fulfill", "task.release"])
    def test_whoever_holds_an_older_version_is_refused(self, machine: Machine, kind: str) -> None:
        version = ready(machine)
        machine.create(0, "a:x", external="true")
        machine.apply(0, "task.release", id="a", version=version)
        machine.acquire(0, "a", version)
        extras: dict[str, dict[str, Any]] = {
            "task.fence": {"action": {"kind": "promise.settle", "data": {"id": "a:x", "state": "resolved"}}},
            "task.suspend": {"actions": [{"data": {"awaited": "a:x", "awaiter": "a"}}]},
            "task.fulfill": {"action": {"data": {"id": "a", "state": "resolved"}}},
            "task.release": {},
        }
        extra = extras[kind]
        assert machine.apply(1, kind, id="none", version=1, **refocus(extra, "none"))[0] in {400, 404}
        assert machine.apply(1, kind, id="a", version=version, **extra)[0] == 409
        assert machine.task(1, "a") == ("acquired", 2)
        assert machine.apply(1, kind, id="a", version=2, **extra)[0] == 200

    def test_a_fence_acts_only_under_the_lease(self, machine: Machine) -> None:
        version = ready(machine)
        status, data = machine.fence(1, "a", version, "promise.create", id="a:1", timeoutAt=99)
        assert (status, data["action"]["data"]["promise"]["id"], data["preload"]) == (200, "a:1", [])
        assert machine.fence(1, "a", version, "promise.settle", id="a:1", state="resolved")[0] == 200
        assert machine.fence(1, "a", version, "promise.settle", id="a", state="resolved")[0] == 400
        assert machine.fence(1, "a", version, "promise.settle", id="a:none", state="resolved")[0] == 404
        assert machine.fence(1, "a", version, "promise.get", id="a:1")[0] == 400
        assert machine.fence(1, "b", version, "promise.settle", id="a:1", state="resolved")[0] == 404

    def test_fulfilling_settles_the_promise_and_ends_the_task(self, machine: Machine) -> None:
        version = ready(machine)
        action = {"data": {"id": "a", "state": "rejected", "value": {"data": "eA=="}}}
        status, data = machine.apply(5, "task.fulfill", id="a", version=version, action=action)
        assert (status, data["promise"]["state"]) == (200, "rejected")
        assert machine.task(5, "a") == ("fulfilled", 1)
        assert machine.apply(5, "task.fulfill", id="a", version=version, action=action)[0] == 409

    def test_a_suspended_task_resumes_once_and_its_next_holder_is_told_by_what(self, machine: Machine) -> None:
        member, version = 1, ready(machine)
        for name in ("x", "y", "z"):
            machine.create(0, f"a:{name}", external="true")
        assert machine.suspend(1, "a", version, "a:x", "a:y", "a:z")[0] == 200
        assert machine.task(1, "a") == ("suspended", 1)
        machine.settle(2, "a:y")
        assert machine.messages.executes == {"a": (member, 1)}
        machine.settle(3, "a:x")
        assert machine.messages.executes == {}
        assert machine.apply(3, "task.get", id="a")[1]["task"]["resumes"] == 2
        preload = machine.acquire(4, "a", 1)[1]["preload"]
        assert [(p["id"], p["state"]) for p in preload] == [("a:x", "resolved"), ("a:y", "resolved")]

    def test_suspending_on_what_has_settled_goes_on_at_once_with_it(self, machine: Machine) -> None:
        version = ready(machine)
        machine.create(0, "a:x", external="true")
        machine.create(0, "a:y", external="true", timeout=3)
        machine.settle(1, "a:x")
        status, data = machine.suspend(5, "a", version, "a:x", "a:y")
        assert (status, [p["id"] for p in data["preload"]]) == (300, ["a:x", "a:y"])
        assert machine.task(5, "a") == ("acquired", 1)

    def test_suspend_guards_in_order(self, machine: Machine) -> None:
        version = ready(machine)
        machine.create(0, "a:in")
        machine.create(0, "a:ex", external="true")
        assert machine.suspend(0, "none", 9)[0] == 400
        assert machine.suspend(0, "a", 9, "a")[0] == 400
        assert machine.suspend(0, "a", 9, "a:ex", "a:ex")[0] == 400
        assert machine.suspend(0, "a", 9, "b:ex")[0] == 400
        assert machine.suspend(0, "b", 9, "b:ex")[0] == 404
        assert machine.suspend(0, "a", 9, "a:none")[0] == 409
        assert machine.suspend(0, "a", version, "a:none")[0] == 422
        assert machine.suspend(0, "a", version, "a:in")[0] == 422
        assert machine.suspend(0, "a", version, "a:ex")[0] == 200

    def test_suspending_again_writes_only_what_is_new(self, machine: Machine) -> None:
        version = ready(machine)
        names = [f"a:{number}" for number in range(300)]
        for name in names:
            machine.create(0, name, external="true")
        machine.suspend(1, "a", version, *names)
        machine.settle(2, names[0])
        machine.acquire(3, "a", 1)
        before = machine.db.changes
        assert machine.suspend(4, "a", 2, *names[1:])[0] == 200
        assert machine.db.changes - before <= 2

    def test_a_lease_lapses_and_a_heartbeat_holds_it(self, machine: Machine) -> None:
        member, version = 1, ready(machine)
        beat: dict[str, Any] = {"tasks": [{"id": "a", "version": version}]}
        machine.apply(50_000, "task.heartbeat", pid="p", **beat)
        machine.apply(55_000, "task.heartbeat", pid="other", **beat)
        machine.tick(109_999)
        assert machine.task(109_999, "a") == ("acquired", 1)
        machine.tick(110_000)
        assert machine.messages.executes == {"a": (member, 1)}
        assert machine.task(110_000, "a") == ("pending", 1)
        assert machine.fence(110_001, "a", 1, "promise.create", id="a:1", timeoutAt=10**9)[0] == 409

    def test_an_offer_nobody_took_is_repeated(self, machine: Machine) -> None:
        member = machine.join()
        machine.create(0, "a", target=ANY)
        machine.tick(4_999)
        assert machine.messages.executes == {}
        machine.tick(5_000)
        assert machine.messages.executes == {"a": (member, 0)}

    def test_a_delayed_task_is_offered_when_its_delay_is_over(self, machine: Machine) -> None:
        member = machine.join()
        machine.create(0, "a", target=ANY, delay="7000")
        assert machine.messages.executes == {}
        machine.tick(6_999)
        assert machine.messages.executes == {}
        machine.tick(7_000)
        assert machine.messages.executes == {"a": (member, 0)}

    def test_a_task_without_anybody_to_take_it_waits_without_a_deadline(self, machine: Machine) -> None:
        machine.create(0, "a", target=ANY)
        machine.create(0, "b", target=ANY + "/p9")
        machine.create(0, "c", target="poll://any@gg")
        before = machine.db.changes
        machine.tick(10**8)
        assert machine.db.changes == before
        member = machine.join()
        assert machine.messages.executes == {"a": (member, 0), "b": (member, 0)}

    def test_who_rests_is_told_what_it_listens_to_and_offered_nothing(self, machine: Machine) -> None:
        working = machine.join(pid="q")
        machine.join(pid="p")
        for id in ("held", "offered"):
            machine.create(0, id, target=ANY + "/p")
        machine.create(0, "heard")
        machine.apply(0, "promise.register_listener", awaited="heard", address="poll://uni@g/p")
        version = machine.acquire(1, "held", 0)[1]["task"]["version"]
        machine.write(lambda messages: rest(machine.db, 2, messages))
        assert machine.messages.executes == {"offered": (working, 0)}
        machine.apply(3, "task.release", id="held", version=version)
        assert machine.messages.executes == {"held": (working, version)}
        machine.settle(4, "heard")
        assert [promise.id for promise in machine.messages.unblocks] == ["heard"]

    def test_creating_a_task_holds_it(self, machine: Machine) -> None:
        def create(now: int, id: str, **tags: str) -> tuple[int, Any]:
            named = {f"resonate:{name}": value for name, value in tags.items()}
            action = {"kind": "promise.create", "data": {"id": id, "timeoutAt": 1000, "tags": named}}
            return machine.apply(now, "task.create", pid="p", ttl=10, action=action)

        assert create(0, "a")[0] == 400
        assert create(0, "a", target=ANY, delay="5")[0] == 400
        status, data = create(0, "a", target=ANY)
        assert (status, data["task"]["state"], data["task"]["version"]) == (200, "acquired", 1)
        assert create(0, "a", target=ANY)[0] == 409
        machine.tick(10)
        assert create(11, "a", target=ANY)[1]["task"]["version"] == 2
        machine.create(0, "plain")
        assert create(0, "plain", target=ANY)[0] == 422
        assert create(2000, "late", target=ANY)[1]["task"]["state"] == "fulfilled"
        assert create(2000, "a", target=ANY)[1]["task"]["state"] == "fulfilled"

    def test_a_halted_task_rests_until_it_is_continued(self, machine: Machine) -> None:
        version = ready(machine)
        machine.create(0, "a:x", external="true")
        machine.suspend(0, "a", version, "a:x")
        assert machine.apply(0, "task.halt", id="a")[0] == 200
        machine.settle(1, "a:x")
        assert machine.task(1, "a") == ("halted", 1)
        assert machine.apply(1, "task.halt", id="a")[0] == 200
        assert machine.apply(1, "task.continue", id="a")[0] == 200
        assert machine.apply(1, "task.continue", id="a")[0] == 409
        assert [p["id"] for p in machine.acquire(2, "a", 1)[1]["preload"]] == ["a:x"]
        assert machine.apply(2, "task.halt", id="none")[0] == 404

    def test_a_promise_settled_by_others_ends_its_task_and_what_it_awaited(self, machine: Machine) -> None:
        version = ready(machine)
        machine.create(0, "a:x", external="true")
        machine.suspend(0, "a", version, "a:x")
        machine.settle(1, "a", "rejected_canceled")
        assert machine.task(1, "a") == ("fulfilled", 1)
        machine.settle(2, "a:x")
        assert machine.messages.executes == {}
        assert machine.apply(2, "task.halt", id="a")[0] == 409

    def test_a_task_whose_promise_times_out_with_what_it_awaits_is_not_offered(self, machine: Machine) -> None:
        machine.join()
        machine.create(0, "a", target=ANY, timeout=100)
        machine.acquire(0, "a", 0)
        machine.create(0, "a:x", external="true", timeout=90)
        machine.suspend(0, "a", 1, "a:x")
        machine.tick(200)
        assert machine.messages.executes == {}
        assert machine.task(200, "a") == ("fulfilled", 1)

    def test_a_timers_task_is_not_offered_just_before_it_resolves(self, machine: Machine) -> None:
        machine.join()
        machine.create(0, "sleep", target=ANY, timer="true", timeout=1000, delay="999")
        machine.create(0, "long", target=ANY, timer="true", timeout=5000, delay="999")
        machine.tick(999)
        assert list(machine.messages.executes) == ["long"]
        machine.tick(1000)
        assert machine.messages.executes == {}
        assert machine.task(1000, "sleep") == ("fulfilled", 0)

    def test_tasks_are_searched_by_what_is_seen(self, machine: Machine) -> None:
        ready(machine)
        machine.create(0, "b", target=ANY)
        machine.create(0, "c", target=ANY, timeout=5)
        found = machine.apply(10, "task.search", state="pending")[1]["tasks"]
        assert [task["id"] for task in found] == ["b"]
        assert [task["id"] for task in machine.apply(10, "task.search", state="fulfilled")[1]["tasks"]] == ["c"]
        first = machine.apply(10, "task.search", limit=1)[1]
        assert (first["tasks"][0]["id"], first["cursor"]) == ("a", "a")


class TestSchedules:
    def schedule(self, machine: Machine, id: str = "s", cron: str = "* * * * *", **tags: str) -> tuple[int, Any]:
        named = {f"resonate:{name}": value for name, value in tags.items()}
        return machine.apply(
            0, "schedule.create", id=id, cron=cron, promiseId="{{.id}}-{{.timestamp}}", promiseTimeout=1000,
            promiseParam={"data": "cA=="}, promiseTags=named,
        )  # fmt: skip

    def test_a_schedule_makes_a_promise_at_each_of_its_times(self, machine: Machine) -> None:
        member = machine.join()
        status, data = self.schedule(machine, target=ANY, parent="elsewhere")
        assert (status, data["schedule"]["nextRunAt"]) == (200, 60_000)
        machine.tick(60_000)
        assert machine.messages.executes == {"s-60000": (member, 0)}
        promise = machine.apply(60_000, "promise.get", id="s-60000")[1]["promise"]
        assert (promise["timeoutAt"], promise["tags"]["resonate:origin"]) == (61_000, "s-60000")
        assert promise["tags"]["resonate:parent"] == "s-60000"
        seen = machine.apply(60_000, "schedule.get", id="s")[1]["schedule"]
        assert (seen["lastRunAt"], seen["nextRunAt"]) == (60_000, 120_000)

    def test_missed_times_are_made_up_for(self, machine: Machine) -> None:
        self.schedule(machine, target=ANY)
        for _ in range(3):
            machine.tick(180_500)
        found = machine.apply(180_500, "promise.search")[1]["promises"]
        assert [(p["id"], p["state"]) for p in found] == [
            ("s-120000", "rejected_timedout"), ("s-180000", "pending"), ("s-60000", "rejected_timedout"),
        ]  # fmt: skip

    def test_schedules_are_created_once_searched_and_deleted(self, machine: Machine) -> None:
        first = self.schedule(machine, target=ANY, team="x")
        assert self.schedule(machine, cron="5 * * * *", target=ANY) == first
        self.schedule(machine, id="t", target=ANY)
        found = machine.apply(0, "schedule.search", tags={"resonate:team": "x"})[1]["schedules"]
        assert [schedule["id"] for schedule in found] == ["s"]
        assert machine.apply(0, "schedule.delete", id="s")[0] == 200
        assert machine.apply(0, "schedule.delete", id="s")[0] == 404
        assert machine.apply(0, "schedule.get", id="s")[0] == 404

    @pytest.mark.parametrize(
        "cron", ["", "* * * *", "61 * * * *", "*/0 * * * *", "x * * * *", "0 0 31 2 *", "9-5 * * * *", "* * * * 7"]
    )
    def test_what_is_no_schedule_is_refused(self, machine: Machine, cron: str) -> None:
        assert self.schedule(machine, cron=cron, target=ANY)[0] == 400

    def test_a_schedule_needs_a_target_and_a_root_id(self, machine: Machine) -> None:
        assert self.schedule(machine)[0] == 400
        assert self.schedule(machine, id="a:b", target=ANY)[0] == 400


def refocus(extra: dict[str, Any], id: str) -> dict[str, Any]:
    """The same request aimed at another task."""
    if "action" in extra and "kind" not in extra["action"]:
        return {"action": {"data": {**extra["action"]["data"], "id": id}}}
    if "actions" in extra:
        return {"actions": [{"data": {"awaited": f"{id}:x", "awaiter": id}}]}
    return extra
