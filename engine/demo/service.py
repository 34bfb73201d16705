"""A service that files claims and honours ``Idempotency-Key``; it counts what it was asked and what it did.

It runs as a process of its own and prints its port. Its journal is a file, synced before it replies, so that its
account is true whatever is killed.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

__all__ = ["JOURNAL", "account", "main"]

#: The file in the service's folder with one line a request.
JOURNAL = "claims.jsonl"
#: Seconds between the effect and the reply: long enough for something to be killed in between.
SLOW = 0.15


def account(folder: Path) -> dict[str, int]:
    """Return what the service's journal says: requests, claims filed, and requests that repeated a key."""
    entries = _entries(folder / JOURNAL)
    filed = sum(not entry["repeated"] for entry in entries)
    return {"requests": len(entries), "filed": filed, "repeated": len(entries) - filed}


def _entries(journal: Path) -> list[dict[str, Any]]:
    try:
        text = journal.read_text()
    except FileNotFoundError:
        return []
    # A line cut short by a kill was never replied to: it does not count.
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


class _Claims:
    def __init__(self, folder: Path) -> None:
        self._file = folder / JOURNAL
        entries = _entries(self._file)
        if self._file.exists():
            _cut_to_whole_lines(self._file)
        self._by_key: dict[str, int] = {entry["key"]: entry["claim"] for entry in entries}
        self._lock = threading.Lock()

    def file(self, key: str, body: Any) -> int:
        """File a claim, or return the one that this key stands for."""
        with self._lock:
            repeated = key in self._by_key
            # A claim's number follows from its content, so that two runs can be compared.
            claim = self._by_key.setdefault(key, 1000 + int(body["flights"]) * 7 % 9000)
            with self._file.open("a") as journal:
                entry = {"key": key, "carrier": body["carrier"], "claim": claim, "repeated": repeated}
                journal.write(json.dumps(entry) + "\n")
                journal.flush()
                os.fsync(journal.fileno())
            return claim


def _cut_to_whole_lines(journal: Path) -> None:
    data = journal.read_bytes()
    os.truncate(journal, data.rfind(b"\n") + 1)


def _handler(claims: _Claims) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            claim = claims.file(self.headers["Idempotency-Key"], body)
            time.sleep(SLOW)
            reply = json.dumps({"claim": claim}).encode()
            try:
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(reply)))
                self.end_headers()
                self.wfile.write(reply)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name http.server passes
            """Say nothing: the journal is the account."""

    return Handler


def main() -> None:
    """Serve until the process is ended."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(_Claims(Path(sys.argv[1]))))
    server.daemon_threads = True
    sys.stdout.write(f"{server.server_address[1]}\n")
    sys.stdout.flush()
    server.serve_forever()
