"""Coverage-guided fuzzing of what the host makes of a guest's bytes: ``make fuzz-frames`` (it needs atheris).

Whatever a guest says is a message, an incomplete one, or a ProtocolViolation; and memory follows what was sent. What is
a message is then read as a run reads it: its arguments, what it says has entered it, its displays, its error.
"""

from __future__ import annotations

import importlib
import struct
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Callable

    from perdure.workers.frames import Frames
    from perdure.workers.link import Link

type Read = Callable[[Any, Frames], None]

SEEDS = [
    b'{"t":"output","stream":"stdout","text":"hello"}',
    b'{"t":"call","path":"main.0","name":"http.get","args":{"url":"x"},"line":3,"entered":{"at":0,"items":[["r","a",0]]}}',
    b'{"t":"idle","waiting":["main.0"],"timers":[["main.1",2.5]],"consumed":3}',
    b'{"t":"done","status":"ok","value":{"$tuple":[1]},"has_value":true,"left":[],"notes":[]}',
    b'{"t":"stream","id":1,"size":3}',
    b'{"t":"idle","waiting":[],"timers":[],"consumed":2,"entered":{"at":0,"items":[["c","main",0,17,1,5,2],["t","a",0]]}}',
    b'{"t":"stream","id":1,"size":9}\xff\xff\x01\0\0\0\x01{"a":[1]}\xff\xff\0{"t":"call","path":"main.0","name":"x","args_stream":1}',
    b'{"t":"stream","id":1,"size":9}\xff\xff\x01\0\0\0\x01{"a":"b"}\xff\xff\0{"t":"display","data_stream":1}',
    b'{"t":"display","data":{"text/plain":"x"}}',
    b'{"t":"done","status":"error","error":{"type":"ValueError","message":"x","traceback":"","notes":["n"]}}',
    b'{"t":"done","status":"ok","has_value":true,"value":{"$ref":"blake3:00","size":1}}',
    b'{"t":"abandon","path":"main.0"}\xff\xff\0{"t":"diverged","message":"m"}\xff\xff\0{"t":"state_lost","what":"w"}',
    b'{"t":"step","stream":1,"statement":2,"line":3}\xff\xff\0{"t":"checkpoint","stream":1}\xff\xff\0{"t":"restored"}',
    b'{"t":"stream","id":1,"size":3}\xff\xff\x01\0\0\0\x01abc\xff\xff\x02\x01hello\n',
]


def parts() -> tuple[type[Frames], type[Exception], Read]:
    """Import what is fuzzed, and return it: imported under instruments, or nothing is seen of its branches."""
    from perdure.engine.refs import dumped
    from perdure.workers.endings import error_of
    from perdure.workers.frames import Frames
    from perdure.workers.messages import Call, Display, Done, ProtocolViolation
    from perdure.workers.requests import check_entered, refuse_refs, request_of
    from perdure.workers.showing import bundle_in_done, bundle_of_display

    def read(message: Any, parser: Frames) -> None:
        link = cast("Link", parser)  # All of it that is asked for is `take`.
        entered = getattr(message, "entered", None)
        if entered is not None:
            check_entered(entered, 2, lambda path: path == "a")
        match message:
            case Call():
                request = request_of(message, link, 0)
                str(request)
                dumped(request.data)
            case Display():
                bundle_of_display(message, link)
            case Done():
                error_of(message, "here")
                refuse_refs(message.value)
                bundle_in_done(message, link)

    return Frames, ProtocolViolation, read


def main() -> int:
    try:
        atheris = importlib.import_module("atheris")
    except ImportError:
        sys.stderr.write("atheris is not installed in this environment: uv pip install atheris\n")
        return 1
    with atheris.instrument_imports(include=["perdure.workers", "perdure.engine.journal", "perdure.engine.refs"]):
        frames, violation, read = parts()

    def one_input(data: bytes) -> None:
        parser = frames()
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
                while (message := parser.next(0.0)) is not None:
                    read(message, parser)
        except violation:
            pass

    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(SEEDS):
            (Path(corpus) / str(number)).write_bytes(b"\x01\x00" + seed)
        atheris.Setup([*sys.argv, corpus], one_input)
        atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
