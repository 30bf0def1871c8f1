"""When a worker counts as dead: by its process on this host, by its lease anywhere, with clocks that differ."""

from __future__ import annotations

import os
import socket
from datetime import timedelta

import pytest

from airflow_provider_backfill.commands.lease import new_owner, owner_is_dead
from airflow_provider_backfill.core.run_state import Run, WorkerLease
from tests.state import START

HERE = socket.gethostname()


def _run(owner: str) -> Run:
    return Run("0123456789abcdef", 1, workers={owner: WorkerLease(START, 60)})


@pytest.mark.parametrize(
    ("owner", "seconds", "dead"),
    [
        (new_owner(), 59, False),
        (new_owner(), 61, True),
        (f"{HERE}:{os.getpid()}:1:nonce", 1, True),  # another process that had our number
        ("elsewhere:1:2:nonce", 61, False),
        ("elsewhere:1:2:nonce", 89, False),
        ("elsewhere:1:2:nonce", 91, True),
        ("elsewhere:1:2:nonce", -3600, False),  # its clock is ahead
    ],
    ids=["alive", "silent", "number used again", "waits", "grace", "gone", "clock ahead"],
)
def test_a_worker_is_dead_when_it_can_be_known(owner: str, seconds: float, dead: bool) -> None:
    """Too early costs a live worker its work; too late lets everybody wait."""
    assert owner_is_dead(_run(owner), owner, START + timedelta(seconds=seconds)) is dead


def test_who_holds_no_claim_is_dead() -> None:
    """There is nothing to wait for."""
    assert owner_is_dead(_run("elsewhere:1:2:nonce"), "somebody:1:2:else", START)
