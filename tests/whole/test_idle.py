"""What a guest does while nobody asks it anything: it looks whether its last checkpoint missed a change."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from .kit import kill_guests, opened, outcome

if TYPE_CHECKING:
    from pathlib import Path

MISSED = "1 value (big) had changed unseen by an earlier checkpoint, and is stored now; "


async def test_what_a_checkpoint_missed_is_found_while_nothing_is_asked(tmp_path: Path) -> None:
    async with opened(tmp_path / "state") as client:
        # A library that keeps a value by a reference of its own: no name leads there when it changes it.
        await client.session("s", limits={"verify_every": 1000})
        await outcome(client, "s", "import collections; big = list(range(5000)); collections.kept = big")
        changed = await outcome(client, "s", "import collections; collections.kept.append(7)")
        assert changed.notes == ()
        notes: tuple[str, ...] = ()
        for _ in range(12):
            # It takes a second of rest, and on a busy machine more.
            await asyncio.sleep(1.5)
            notes = notes or (await outcome(client, "s", "x = 1")).notes
            if notes:
                break
        assert len(notes) == 1
        assert notes[0].startswith(MISSED)
        assert client._worker.alarms == {"checkpoint.missed_mutations": 1}
        kill_guests()
        assert (await outcome(client, "s", "len(big), big[-1]")).value == (5001, 7)
