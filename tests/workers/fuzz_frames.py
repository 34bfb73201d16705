"""Coverage-guided fuzzing of what the host makes of a guest's bytes: ``make fuzz-frames`` (it needs atheris).

Whatever a guest says is a message, an incomplete one, or a ProtocolViolation; and memory follows what was sent.
"""

from __future__ import annotations

import importlib
import struct
import sys
import tempfile
from pathlib import Path

SEEDS = [
    b'{"t":"output","stream":"stdout","text":"hello"}',
    b'{"t":"call","path":"main.0","name":"http.get","args":{"url":"x"},"line":3,"entered":{"at":0,"items":[["r","a",0]]}}',
    b'{"t":"idle","waiting":["main.0"],"timers":[["main.1",2.5]],"consumed":3}',
    b'{"t":"done","status":"ok","value":{"$tuple":[1]},"has_value":true,"left":[],"notes":[]}',
    b'{"t":"stream","id":1,"size":3}',
    b'{"t":"stream","id":1,"size":3}\xff\xff\x01\0\0\0\x01abc\xff\xff\x02\x01hello\n',
]


def main() -> int:
    try:
        atheris = importlib.import_module("atheris")
    except ImportError:
        sys.stderr.write("atheris is not installed in this environment: uv pip install atheris\n")
        return 1
    with atheris.instrument_imports(include=["perdure.workers"]):
        from perdure.workers.frames import Frames
        from perdure.workers.messages import ProtocolViolation

    def one_input(data: bytes) -> None:
        parser = Frames()
        # The first byte says how it is cut, and whether the rest is framed: most random lengths are refused at once.
        how, said = (data[0], data[1:]) if data else (0, b"")
        if how & 1:
            parts = said.split(b"\xff\xff")
            heads = [
                struct.pack(">IBIQ", max(0, len(part) - 1) + 13, part[0] % 3 if part else 0, n, 0)
                for n, part in enumerate(parts, 1)
            ]
            said = b"".join(head + part[1:] for head, part in zip(heads, parts, strict=True))
        step = max(1, (how >> 1) & 63)
        try:
            for at in range(0, len(said), step):
                parser.feed(said[at : at + step])
                while parser.next(0.0) is not None:
                    pass
        except ProtocolViolation:
            pass

    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(SEEDS):
            (Path(corpus) / str(number)).write_bytes(b"\x01\x00" + seed)
        atheris.Setup([*sys.argv, corpus], one_input)
        atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
