"""A process that ends itself by a signal ends, also where the kernel would not let it: as the first of a namespace."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
#: The lock of its workspace is how a guest knows that it is one.
CODE = """
import faulthandler, os, signal, sys
sys.path.insert(0, "workers")
lock = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
os.dup2(lock, 4)
from guest import ends
ends.install()
faulthandler.enable()
assert os.getpid() == 1
{code}
print("still here")
"""
APART = ["unshare", "--user", "--map-root-user", "--pid", "--fork"]


@pytest.mark.parametrize(
    ("code", "ended", "noted"),
    [
        ("os.kill(os.getpid(), 9)", 128 + 9, 9),
        ("os.kill(os.getpid(), signal.SIGSEGV)", 128 + 11, 11),
        ("signal.raise_signal(signal.SIGTERM)", 128 + 15, 15),
        ("signal.signal(signal.SIGTERM, lambda *_: print('heard')); os.kill(1, signal.SIGTERM)", 0, 15),
        ("os.kill(os.getpid(), 0)", 0, 0),
        ("os.kill(os.getpid(), signal.SIGWINCH)", 0, signal.SIGWINCH),
    ],
)
def test_the_first_process_of_a_namespace_ends_by_its_own_signals(
    tmp_path: Path, code: str, ended: int, noted: int
) -> None:
    lock = tmp_path / "lock"
    command = [*APART, sys.executable, "-c", CODE.format(code=code), str(lock)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == ended, done.stderr
    assert ("still here" in done.stdout) == (not ended)
    assert lock.read_bytes()[200:201] == (bytes([noted]) if noted else b"")
