"""The protocol's actions: `(db, now, request, messages) -> reply`, synchronous, each inside one transaction.

1. Guards stand in the order in which Resonate on Postgres applies them: what is malformed (400) before what is
   missing (404) before what is in the wrong state (409) or cannot be done (422).
2. Only acquiring raises a task's version, so whoever acts under an older one is refused.
3. A reply that says no has changed nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from msgspec import Struct

from . import promise_actions as promises
from . import task_actions as tasks
from . import wire
from .database import Database
from .delivery import Messages
from .schedules import schedule_create, schedule_delete, schedule_get, schedule_search
from .search import promise_search, task_search
from .wire import Reply

type Action[Request] = Callable[[Database, int, Request, Messages], Reply]

ACTIONS: Final[dict[str, tuple[type[Struct], Action[Any]]]] = {
    "promise.get": (wire.PromiseGet, promises.promise_get),
    "promise.create": (wire.PromiseCreate, promises.promise_create),
    "promise.settle": (wire.PromiseSettle, promises.promise_settle),
    "promise.register_callback": (wire.PromiseRegisterCallback, promises.promise_register_callback),
    "promise.register_listener": (wire.PromiseRegisterListener, promises.promise_register_listener),
    "promise.search": (wire.PromiseSearch, promise_search),
    "task.get": (wire.TaskGet, tasks.task_get),
    "task.create": (wire.TaskCreate, tasks.task_create),
    "task.acquire": (wire.TaskAcquire, tasks.task_acquire),
    "task.fence": (wire.TaskFence, tasks.task_fence),
    "task.heartbeat": (wire.TaskHeartbeat, tasks.task_heartbeat),
    "task.suspend": (wire.TaskSuspend, tasks.task_suspend),
    "task.fulfill": (wire.TaskFulfill, tasks.task_fulfill),
    "task.release": (wire.TaskRelease, tasks.task_release),
    "task.halt": (wire.TaskHalt, tasks.task_halt),
    "task.continue": (wire.TaskContinue, tasks.task_continue),
    "task.search": (wire.TaskSearch, task_search),
    "schedule.get": (wire.ScheduleGet, schedule_get),
    "schedule.create": (wire.ScheduleCreate, schedule_create),
    "schedule.delete": (wire.ScheduleDelete, schedule_delete),
    "schedule.search": (wire.ScheduleSearch, schedule_search),
}

READS: Final = frozenset(
    {"promise.get", "promise.search", "task.get", "task.search", "schedule.get", "schedule.search"}
)
