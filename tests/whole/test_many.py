"""Cost follows the work: what is asked of the store grows with what happens, not with what is outstanding."""

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from resonate.resonate import Resonate

from perdure.engine import Client
from perdure.engine.settings import WorkerSettings
from perdure.engine.store import SqliteConnection

from .kit import World, guests, opened, outcome

QUESTIONS = 300


class Counting:
    """Counts the requests of a connection by kind, and the gets of records."""

    def __init__(self, connection: SqliteConnection) -> None:
        self.kinds: Counter[str] = Counter()
        self._send = connection.send
        self._fence = connection.fence
        connection.send = self.send  # type: ignore[method-assign]
        connection.fence = self.fence  # type: ignore[method-assign,assignment]

    async def send(self, req: str, headers: dict[str, str] | None = None) -> str:
        self.kinds[json.loads(req)["kind"]] += 1
        return await self._send(req, headers)

    async def fence(self, *request: Any) -> Any:
        self.kinds["task.fence"] += 1
        return await self._fence(*request)


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_300_questions_answered_one_by_one(tmp_path: Path) -> None:
    code = f"""
import asyncio
answers = await asyncio.gather(*[ask(f"question {{i}}") for i in range({QUESTIONS})])
answers == list(range({QUESTIONS}))
"""
    state = tmp_path / "state"
    async with Client.open(state, settings=WorkerSettings(lease_seconds=5.0)) as client:
        session = await client.session("s", grants=["ask"])
        execution = await session.submit(code)
        async with asyncio.timeout(60):
            while not await client.substrate.promises.waiting("s@1"):
                await asyncio.sleep(0.05)
        pending = await client.pending()
        assert len(pending) == QUESTIONS
        counting = Counting(client.substrate.network)
        for call in pending:
            await client.substrate.promises.settle(call.id, int(call.prompt.split()[1]))
            async with asyncio.timeout(20):
                while not (await client.substrate.promises.waiting("s@1") or await ended(client)):
                    await asyncio.sleep(0.002)
        result = await execution.result()
    assert result.value is True
    kinds = counting.kinds
    assert kinds["task.suspend"] <= QUESTIONS + 5
    assert kinds["task.acquire"] <= QUESTIONS + 5
    # Looks of this test itself aside (task.get, and the root), a resume asks for a bounded number of promises.
    assert kinds["task.fence"] <= 3 * QUESTIONS + 20
    worked = kinds.total() - kinds["task.get"] - kinds["promise.get"]
    assert worked <= 8 * QUESTIONS, kinds


async def ended(client: Client) -> bool:
    root = await client.substrate.promises.get("s@1")
    return root is not None and root.settled


async def test_a_plain_sdk_client_runs_code_and_reads_the_result(tmp_path: Path) -> None:
    state = tmp_path / "state"
    async with opened(state):
        network = SqliteConnection(state / "perdure.db", group="asking")
        resonate = Resonate(network=network, group="asking")
        try:
            handle = resonate.options(target="default").rpc("plain@1", "execute", {"code": "x = 20\nx + 1"})
            async with asyncio.timeout(20):
                first: dict[str, Any] = await handle.result()
            assert (first["status"], first["data"]) == ("ok", 21)
            second = resonate.options(target="default").rpc("plain@2", "execute", {"code": "x * 2"})
            async with asyncio.timeout(20):
                assert (await second.result())["data"] == 40
        finally:
            await resonate.stop()


@pytest.mark.parametrize(
    "id, submission, status, words",
    [
        ("s@1", {}, "refused", "code"),
        ("s@1", {"code": 5}, "refused", "code"),
        ("s@1", {"code": "1", "session": "other"}, "refused", "other"),
        ("s@1", {"code": "1", "base": "s@7"}, "refused", "follows"),
        ("s@1", {"code": "1", "more": 1}, "refused", "more"),
        ("s@1", {"code": "1", "files": {"../x": "b:" + "0" * 64}}, "refused", "in the workspace"),
        ("s@1", {"code": "1", "files": {"x" * 256: "b:" + "0" * 64}}, "refused", "longer than file systems allow"),
        ("s@1", {"code": "1", "files": {"x": "nothing"}}, "refused", "nothing"),
        ("s@1", 7, "refused", "dictionary"),
        ("s@1", [], "refused", "dictionary"),
        ("s@9", {"code": "1"}, "busy", "s@8"),
        ("no session", {"code": "1"}, "refused", "id of an execution"),
    ],
)
async def test_nothing_in_the_param_is_trusted(
    tmp_path: Path, id: str, submission: dict[str, Any], status: str, words: str
) -> None:
    async with opened(tmp_path / "state") as client:
        param = {"func": "execute", "args": [submission], "kwargs": {}, "version": 1}
        promises = client.substrate.promises
        await promises.create(id, "execution", param, timeout_at=2**52, target=True)
        async with asyncio.timeout(20):
            while not (root := await promises.get(id)) or not root.settled:
                await client.substrate.changed(0.5)
        assert root.state == "resolved"
        assert root.value["status"] == status
        assert words in root.value["error"]["message"]


@pytest.mark.parametrize(("args", "kwargs"), [([], {}), ([{"code": "1"}, 2], {}), ([7], {}), ([], {"more": 1})])
async def test_what_is_no_submission_resolves_as_refused_and_is_listed(
    tmp_path: Path, args: list[Any], kwargs: dict[str, Any]
) -> None:
    async with opened(tmp_path / "state") as client:
        param = {"func": "execute", "args": args, "kwargs": kwargs, "version": 1}
        await client.substrate.promises.create("s@1", "execution", param, timeout_at=2**52, target=True)
        async with asyncio.timeout(20):
            result = await client.execution("s@1").result()
        assert (result.status, result.error and result.error.type) == ("refused", "BadSubmission"), result
        (listed,) = await client.executions("s")
        assert (listed.status, (await client.execution("s@1").tree()).label) == ("refused", "code (UNKNOWN) -> refused")
        assert (await outcome(client, "s", "1 + 1")).value == 2


async def test_grants_of_a_submission_are_cut_to_the_sessions_own(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with opened(tmp_path / "state", world) as client:
        session = await client.session("s", grants=["look"])
        execution = await session.submit("import perdure\nperdure.call('pay', what='x')", grants=["look", "pay"])
        async with asyncio.timeout(20):
            result = await execution.result()
        assert result.error is not None
        assert result.error.type == "CapabilityNotGranted"
        assert world.effects() == []


async def test_stopping_a_worker_leaves_no_guest_and_loses_nothing(tmp_path: Path) -> None:
    world = World(tmp_path)
    async with opened(tmp_path / "state", world) as client:
        session = await client.session("s", grants=["look"])
        await session.submit("a = look('one')\nb = look('two', 1.0)\n[a, b]")
        async with asyncio.timeout(20):
            while not await client.substrate.promises.get("s@1:s0.0"):
                await asyncio.sleep(0.01)
    assert not guests(waiting=True), "a guest outlived its worker"
    async with opened(tmp_path / "state", world) as client:
        async with asyncio.timeout(30):
            result = await client.execution("s@1").result()
        assert result.value == ["one", "two"]
    assert world.effects().count("look one") == 1
