"""Cron expressions, as Resonate on Postgres reads them: five fields, UTC."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

HORIZON: Final = timedelta(days=9 * 366)  # longer than the longest gap between two 29ths of February
_NUMBER = re.compile(r"[0-9]{1,4}")


class InvalidCron(ValueError):
    """Not a cron expression, or one that never fires."""


class _Field(NamedTuple):
    low: int
    high: int


_FIELDS: Final = (_Field(0, 59), _Field(0, 23), _Field(1, 31), _Field(1, 12), _Field(0, 6))


def _number(text: str) -> int:
    if _NUMBER.fullmatch(text) is None:
        message = f"not a number in a cron expression: {text!r}"
        raise InvalidCron(message)
    return int(text)


def _values(text: str, field: _Field) -> frozenset[int]:
    found: set[int] = set()
    for part in text.split(","):
        span, slash, step_text = part.partition("/")
        step = _number(step_text) if slash else 1
        if step < 1:
            message = f"not a step in a cron expression: {part!r}"
            raise InvalidCron(message)
        if span == "*":
            low, high = field
        elif "-" in span:
            first, _, last = span.partition("-")
            low, high = _number(first), _number(last)
        else:
            low = _number(span)
            high = field.high if slash else low
        if low < field.low or high > field.high or high < low:
            message = f"out of {field.low}-{field.high} in a cron expression: {part!r}"
            raise InvalidCron(message)
        found.update(range(low, high + 1, step))
    return frozenset(found)


def next_run(cron: str, after: int) -> int:
    """The first time the expression names after `after`; both in milliseconds.

    Raises:
        InvalidCron: it cannot be read, or names no time within nine years.
    """
    fields = cron.split()
    if len(fields) != len(_FIELDS):
        message = f"a cron expression has five fields: {cron!r}"
        raise InvalidCron(message)
    minutes, hours, days, months, weekdays = (_values(text, field) for text, field in zip(fields, _FIELDS, strict=True))
    any_day, any_weekday = fields[2] == "*", fields[4] == "*"

    def on(moment: datetime) -> bool:
        day, weekday = moment.day in days, moment.isoweekday() % 7 in weekdays
        # Both given: either will do, as cron has always had it.
        return (day or weekday) if not any_day and not any_weekday else (day and weekday)

    try:
        moment = datetime.fromtimestamp(after // 1000, UTC).replace(second=0) + timedelta(minutes=1)
        limit = moment + HORIZON
        while moment < limit:
            if moment.month not in months:
                moment = (moment.replace(day=1, hour=0, minute=0) + timedelta(days=32)).replace(day=1)
            elif not on(moment):
                moment = moment.replace(hour=0, minute=0) + timedelta(days=1)
            elif moment.hour not in hours:
                moment = moment.replace(minute=0) + timedelta(hours=1)
            elif moment.minute not in minutes:
                moment += timedelta(minutes=1)
            else:
                return int(moment.timestamp()) * 1000
    except (OverflowError, ValueError) as error:
        message = f"no time in the calendar after {after}"
        raise InvalidCron(message) from error
    message = f"a cron expression that names no time: {cron!r}"
    raise InvalidCron(message)
