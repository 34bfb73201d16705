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
    try:
        entries = [json.loads(line) for line in (folder / JOURNAL).read_text().splitlines()]
    except FileNotFoundError:
        entries = []
    filed = sum(not entry["repeated"] for entry in entries)
    return {"requests": len(entries), "filed": filed, "repeated": len(entries) - filed}


class _Claims:
    def __init__(self, folder: Path) -> None:
        self._file = folder / JOURNAL
        self._by_key: dict[str, int] = {}
        self._lock = threading.Lock()

    def file(self, key: str, body: Any) -> int:
        """File a claim, or return the one that this key stands for."""
        with self._lock:
            repeated = key in self._by_key
            # A claim's number follows from its content, so that two runs can be compared.
            claim = self._by_key.setdefault(key, 1000 + int(body["flights"]) * 7 % 9000)
            with self._file.open("a") as journal:
                journal.write(json.dumps({"key": key, "carrier": body["carrier"], "repeated": repeated}) + "\n")
                journal.flush()
                os.fsync(journal.fileno())
            return claim


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
