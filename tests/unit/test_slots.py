"""How many chunks a worker fills at a time while others are published."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from airflow_provider_backfill.commands.slots import Slot, Slots, publishes_aside, work_in_threads
from airflow_provider_backfill.core.plan import RowProof, WriteMode
from tests.state import make_plan


@pytest.mark.parametrize("width", [1, 2, 3])
def test_as_many_threads_as_allowed_have_a_place(width: int) -> None:
    lock, drained, seen = threading.Lock(), threading.Event(), []
    slots, held = Slots(lambda: width, lambda: False), 0

    def work(_: int) -> None:
        nonlocal held
        slot = Slot(slots)
        for _ in range(10):
            # A second call takes no second place.
            assert slot.take()
            assert slot.take()
            with lock:
                held += 1
                seen.append(held)
            time.sleep(0.001)
            with lock:
                held -= 1
            slot.give()
            slot.give()
        drained.set()

    work_in_threads(work, lambda: 5, drained, threading.Event(), lambda _: None)
    assert (len(seen) >= 50, max(seen), slots.taken) == (True, width, 0)


def test_a_smaller_width_counts_from_the_next_place_on() -> None:
    width = 2
    slots = Slots(lambda: width, lambda: False)
    first, second, third = Slot(slots), Slot(slots), Slot(slots)
    assert first.take()
    assert second.take()
    width = 1
    waiting = threading.Thread(target=third.take)
    waiting.start()
    first.give()
    waiting.join(0.3)
    assert waiting.is_alive()
    second.give()
    waiting.join(5)
    assert slots.taken == 1


def test_a_stop_wakes_a_thread_that_waits_for_a_place() -> None:
    over = threading.Event()
    slots = Slots(lambda: 1, over.is_set)
    first, second = Slot(slots), Slot(slots)
    assert first.take()
    answers: list[bool] = []
    waiting = threading.Thread(target=lambda: answers.append(second.take()))
    waiting.start()
    waiting.join(0.05)
    assert waiting.is_alive()
    over.set()
    waiting.join(5)
    assert answers == [False]
    # Also the thread with the place must not start a further chunk.
    assert not first.take()
    second.give()
    assert slots.taken == 1
    first.give()
    assert slots.taken == 0


@pytest.mark.parametrize(
    ("aside", "changes"),
    [
        (True, {"row_proof": RowProof.WRITTEN}),
        (True, {"row_proof": RowProof.WRITTEN, "write_mode": WriteMode.REPLACE}),
        (False, {"row_proof": RowProof.CONTENT}),
        (False, {"row_proof": RowProof.WRITTEN, "write_mode": WriteMode.REPLACE, "keep_outside": True}),
        (False, {"row_proof": RowProof.WRITTEN, "write_mode": WriteMode.INSERT}),
    ],
)
def test_only_a_cheap_publication_runs_beside_all_fills(aside: bool, changes: dict[str, Any]) -> None:
    """Reading the source again or copying rows would be as heavy as a further chunk that the user has not allowed."""
    assert publishes_aside(make_plan(**changes)) is aside
