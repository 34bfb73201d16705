"""What is done with calls that failed, or whose outcome was lost."""

from __future__ import annotations

import re
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.capabilities import Capability, capability
from perdure.capabilities.base import Effect
from perdure.capabilities.errors import BadArguments, CallFailed, CallInDoubt, CallTimeout, NotPerformed, TooLarge
from perdure.capabilities.policy import DEFAULT_RETRIES, MAX_DELAY, idempotency_key, recovery, retry_delay


def _make(effect: Effect, max_retries: int | None = None) -> Capability:
    def call(x: int) -> int:
        return x

    probe = call if effect == "reconcile" else None
    return capability("a", effect=effect, max_retries=max_retries, probe=probe)(call)


def test_every_effect_says_what_to_do_with_a_lost_outcome() -> None:
    assert {effect: recovery(effect) for effect in get_args(Effect)} == {
        "repeat": "repeat",
        "reconcile": "probe",
        "unknown": "in doubt",
    }


_TROUBLE = (CallTimeout("x"), ConnectionError("x"), TimeoutError(), ConnectionResetError())
_VERDICTS = (CallFailed("x"), BadArguments("x"), TooLarge("x"), CallInDoubt("x"), ValueError("x"), OSError("x"))


@pytest.mark.parametrize("effect", get_args(Effect))
def test_only_what_is_safe_is_tried_again(effect: Effect) -> None:
    it = _make(effect)
    assert retry_delay(it, NotPerformed("x"), 0) is not None
    for error in _TROUBLE:
        assert (retry_delay(it, error, 0) is not None) == (effect == "repeat")
    for verdict in _VERDICTS:
        assert retry_delay(it, verdict, 0) is None


def test_retries_end_and_their_delays_grow_to_a_ceiling() -> None:
    delays = [retry_delay(_make("repeat"), NotPerformed("x"), retry) for retry in range(DEFAULT_RETRIES + 1)]
    assert delays == [0.2, 0.4, 0.8, 1.6, None]
    assert retry_delay(_make("repeat", 0), NotPerformed("x"), 0) is None
    assert retry_delay(_make("repeat", 100), NotPerformed("x"), 99) == MAX_DELAY


def test_a_key_is_short_url_safe_and_the_same_again() -> None:
    key = idempotency_key("state", "born", "analysis@4!main.0")
    assert key == idempotency_key("state", "born", "analysis@4!main.0")
    assert re.fullmatch(r"[A-Za-z0-9_-]{32}", key)


def test_the_key_of_a_call_never_changes() -> None:
    """Stored outside of us, by the services that honour it: another value would repeat what they have done."""
    assert idempotency_key("state", "born", "analysis@4!main.0") == "777c7d996b27d5fa437dbcf3f81ffc53"


_PARTS = st.tuples(st.text(max_size=4), st.text(max_size=4), st.text(max_size=4))


@given(_PARTS, _PARTS)
def test_different_calls_have_different_keys(one: tuple[str, str, str], other: tuple[str, str, str]) -> None:
    assert (idempotency_key(*one) == idempotency_key(*other)) == (one == other)
