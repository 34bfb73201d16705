"""The demonstration does what it says, and would say so if something differed."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from perdure.engine.demo.service import JOURNAL, account
from perdure.engine.demo.show import Story, _compare

CALM = Story(output="all\n", report="report\n", account={"requests": 3, "filed": 3, "repeated": 0}, starts=1)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_demonstration_holds_and_its_service_saw_repeated_keys(tmp_path: Path) -> None:
    command = [str(Path(sys.executable).parent / "perdure"), "demo", "--folder", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "  NO " not in done.stdout
    assert "SIGKILL to the guest" in done.stdout
    assert "SIGKILL to the worker" in done.stdout
    calm, rough = account(tmp_path / "calm" / "service"), account(tmp_path / "rough" / "service")
    assert calm["filed"] == rough["filed"] == calm["requests"] == 15
    assert rough["requests"] == 15 + rough["repeated"]
    assert rough["repeated"] >= 1
    assert "| " not in done.stderr


@pytest.mark.parametrize(
    "rough",
    [
        replace(CALM, report="another\n"),
        replace(CALM, output="al\n"),
        replace(CALM, account={"requests": 4, "filed": 4, "repeated": 0}),
    ],
    ids=["another report", "lost output", "one effect too many"],
)
def test_a_difference_is_an_exit_code(rough: Story, capsys: pytest.CaptureFixture[str]) -> None:
    assert _compare(CALM, rough) == 1
    assert "NO " in capsys.readouterr().out
    assert _compare(CALM, CALM) == 0


def test_the_service_files_once_for_a_key_and_forgets_nothing_when_killed(tmp_path: Path) -> None:
    for start in range(2):
        command = [sys.executable, "-c", "from perdure.engine.demo.service import main; main()", str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as service:
            assert service.stdout is not None
            port = service.stdout.readline().strip()
            replies = [_post(port, key) for key in ("a", "a", f"new-{start}")]
            service.kill()
        with (tmp_path / JOURNAL).open("a") as journal:
            journal.write('{"key": "cut sh')  # a kill in the middle of a line
        assert replies[0] == replies[1]
    assert account(tmp_path) == {"requests": 6, "filed": 3, "repeated": 3}


def _post(port: str, key: str) -> dict[str, int]:
    url = f"http://127.0.0.1:{port}/claims"
    reply = httpx.post(
        url, json={"carrier": "UA", "flights": 12}, headers={"Idempotency-Key": key}, timeout=30, trust_env=False
    )
    answer: dict[str, int] = reply.raise_for_status().json()
    return answer
