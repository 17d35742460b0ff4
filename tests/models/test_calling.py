"""Calls to a server: what is tried again, how long it waits, and what a server that is gone costs."""

from __future__ import annotations

import threading
import time

import pytest

from augment.errors import ItemFailed, UnavailableError
from augment.models import calling
from augment.models.calling import NoServer, PassingFault, map_concurrent, pause_asked_for, with_retries


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that would have been waited."""
    waited: list[float] = []
    monkeypatch.setattr("tenacity.nap.time.sleep", waited.append)
    return waited


def test_passing_faults_are_tried_again_with_growing_pauses(pauses: list[float]) -> None:
    faults = [PassingFault("busy"), PassingFault("busy"), PassingFault("busy", pause=7.0)]

    def ask() -> str:
        if faults:
            raise faults.pop(0)
        return "answer"

    assert with_retries(ask, 3, threading.Event()) == "answer"
    assert pauses == [0.5, 1.0, 7.0]


def test_the_last_fault_is_raised_and_others_are_not_tried_again(pauses: list[float]) -> None:
    tries = []

    def ask(error: Exception) -> None:
        tries.append(error)
        raise error

    for error, count in ((PassingFault("busy"), 3), (ItemFailed("no"), 1), (UnavailableError("no key"), 1)):
        tries.clear()
        with pytest.raises(type(error), match=str(error)):
            with_retries(lambda error=error: ask(error), 2, threading.Event())
        assert len(tries) == count


def test_once_a_server_is_gone_each_call_tries_once_until_it_is_back(pauses: list[float]) -> None:
    down, tries, gone = threading.Event(), [], True

    def ask() -> str:
        tries.append(1)
        if gone:
            raise NoServer("nobody there")
        return "answer"

    for expected in (3, 4, 5):
        with pytest.raises(NoServer):
            with_retries(ask, 2, down)
        assert len(tries) == expected
    gone = False
    assert with_retries(ask, 2, down) == "answer"
    assert not down.is_set()


@pytest.mark.parametrize(
    ("header", "pause"),
    [(None, None), ("3", 3.0), ("-1", None), ("nan", None), ("Wed, 25 Nov 2026 16:00:00 GMT", None)],
)
def test_the_servers_own_pause_is_read_if_it_is_a_number(header: str | None, pause: float | None) -> None:
    assert pause_asked_for(header) == pause


def test_no_server_can_ask_for_an_endless_pause(pauses: list[float]) -> None:
    faults = [PassingFault("busy", pause=1e9)]

    def ask() -> None:
        if faults:
            raise faults.pop()

    with_retries(ask, 1, threading.Event())
    assert pauses == [calling._LONGEST_PAUSE]


def test_items_are_asked_at_once_and_come_back_in_order_with_failures_in_their_places() -> None:
    def ask(item: int) -> int:
        time.sleep(0.02 * (3 - item))
        if item == 1:
            raise ItemFailed("one")
        return item

    first, failed, last = map_concurrent(ask, [0, 1, 2], 3)
    assert (first, str(failed), last) == (0, "one", 2)


def test_any_other_error_ends_the_work() -> None:
    asked = []

    def ask(item: int) -> None:
        asked.append(item)
        raise UnavailableError("no key")

    with pytest.raises(UnavailableError):
        map_concurrent(ask, list(range(100)), 1)
    assert len(asked) < 100
