"""To whom a message goes: one live member for an anycast address, the owner for a unicast one.

Messages are part of an action's outcome. They leave only after the commit that caused them, and losing
one loses nothing: an offered task is offered again, an unblocked listener's row waits in the outbox.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .database import Database
    from .promises import Task
    from .wire import PromiseRecord

UNICAST: Final = "poll://uni@"
ANYCAST: Final = "poll://any@"
UNDELIVERABLE: Final = "this store delivers to poll://any@GROUP, poll://any@GROUP/PID and poll://uni@GROUP/PID only"


def unicast_address(group: str, pid: str) -> str:
    """The address of one process."""
    return f"{UNICAST}{group}/{pid}"


def anycast_address(group: str) -> str:
    """The address of any one process of a group; with `/pid` behind it, of that one if it is there."""
    return f"{ANYCAST}{group}"


def deliverable(address: str) -> bool:
    """Whether a message to an address could ever reach anybody."""
    group, slash, pid = address.removeprefix(UNICAST).removeprefix(ANYCAST).partition("/")
    if address.startswith(UNICAST):
        return bool(group and pid)
    return address.startswith(ANYCAST) and bool(group) and bool(pid or not slash)


class Messages:
    """What is to be sent once the transaction is kept, and when time itself has something to say."""

    __slots__ = ("deadline", "executes", "fetches", "unblocks")

    def __init__(self) -> None:
        self.executes: dict[str, tuple[int, int]] = {}  # task -> member, version; a later offer replaces an earlier one
        self.unblocks: list[PromiseRecord] = []  # for this process
        self.fetches: set[int] = set()  # members with something new in the outbox
        self.deadline: int | None = None  # the earliest that the transaction has set

    def execute(self, member: int, task: str, version: int) -> None:
        """Offer a task to a member."""
        self.executes[task] = (member, version)

    def wake(self, at: int) -> None:
        """Say that something is due at a time; to be said of every deadline that is written."""
        if self.deadline is None or at < self.deadline:
            self.deadline = at

    def withdraw(self, task: str) -> None:
        """Take back an offer made in the same transaction."""
        self.executes.pop(task, None)


def choose(db: Database, task: Task, *, avoid: int | None = None) -> int | None:
    """The member to offer a task to: who held it last if possible, else spread by its id.

    `avoid` is taken only if nobody else is there.
    """
    if task.target.startswith(UNICAST):
        return owner(db, task.target)
    group, preferred = split_anycast(task.target)
    members = db.all("SELECT id, address FROM members WHERE anycast = ? AND receives = 1 ORDER BY id", (group,))
    if not members:
        return None
    ids: list[int] = [member for member, _ in members]
    wanted = next((member for member, address in members if preferred and address.endswith(f"/{preferred}")), None)
    for candidate in (wanted, task.member):
        if candidate is not None and candidate in ids and candidate != avoid:
            return candidate
    others = [member for member in ids if member != avoid] or ids
    return others[zlib.crc32(task.id.encode()) % len(others)]


def owner(db: Database, address: str) -> int | None:
    """The member behind a unicast address; of two that claim it, the later."""
    row = db.one("SELECT max(id) FROM members WHERE address = ? AND receives", (address,))
    return None if row is None else row[0]


def split_anycast(target: str) -> tuple[str, str]:
    """An anycast address without the process it prefers, and that process."""
    scheme, _, rest = target.partition("//")
    place, _, preferred = rest.partition("/")
    return f"{scheme}//{place}", preferred


def listening(db: Database, address: str) -> tuple[int, str] | None:
    """The member that hears what is said to an address, and its own address."""
    if address.startswith(UNICAST):
        member = owner(db, address)
        return None if member is None else (member, address)
    group, preferred = split_anycast(address)
    row: tuple[int, str] | None = db.one(
        "SELECT id, address FROM members WHERE anycast = ? AND receives"
        " ORDER BY address <> ?, receives, id DESC LIMIT 1",
        (group, f"{UNICAST}{group.removeprefix(ANYCAST)}/{preferred}"),
    )
    return row


def unblock(db: Database, address: str, promise: PromiseRecord, messages: Messages) -> None:
    """Tell whoever is at an address of a settled promise; a message to nobody is dropped."""
    found = listening(db, address)
    if found is None:
        return
    member, own = found
    if member == db.member:
        messages.unblocks.append(promise)
        return
    db.execute("INSERT OR IGNORE INTO outbox (address, promise_id) VALUES (?, ?)", (own, promise.id))
    messages.fetches.add(member)
