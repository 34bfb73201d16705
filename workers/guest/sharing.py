"""What the guests of one zygote share for good: its objects, whose counts of references nobody writes from then on.

1. A count is written by whoever only looks at an object, and the page it lies in is then copied for that guest: without
   this, a guest that runs nothing yet has written to half of all that its zygote has.
2. What was made immortal is never freed. So nothing that belongs to a session may be held by what is there already and
   then be dropped together with it, but be taken out of it.

Where nothing was compiled, guests hold more memory for themselves, and differ in nothing else.
"""

from __future__ import annotations

import gc

from . import native_parts

__all__ = ["share_for_good"]


def share_for_good() -> int:
    """Make all that this process has immortal; return how many objects that were. Called once, before it forks."""
    native = native_parts.load("_forever")
    return int(native.settle(gc.get_objects())) if native is not None else 0
