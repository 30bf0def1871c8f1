"""
Identities of plans and chunks, computed equally by other tools.

Source of every rule: the contract's identity section. Pure: standard library only.
"""

import hashlib
from collections.abc import Iterator
from datetime import datetime

from .instants import render_instant
from .window import iter_window, render_chunk_hours


def plan_id(target: str, start: datetime, end: datetime, chunk_hours: float, time_column: str) -> str:
    """The plan's identity: 16 hex digits of a SHA-256 over target, window, chunk size and time column."""
    size = render_chunk_hours(chunk_hours)
    return _sha256(f"{target}|{render_instant(start)}|{render_instant(end)}|{size}|{time_column}")[:16]


def chunk_id(plan_id: str, start: datetime, end: datetime) -> str:
    """The identity of the chunk ``[start, end)`` of a plan: 16 hex digits."""
    return _sha256(f"chunk:{plan_id}:{render_instant(start)}:{render_instant(end)}")[:16]


def idempotency_token(plan_id: str, start: datetime, end: datetime) -> str:
    """The deduplication token of the chunk ``[start, end)`` of a plan: 64 hex digits."""
    return _sha256(f"token:{plan_id}:{render_instant(start)}:{render_instant(end)}")


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def iter_chunks(
    plan_id: str, start: datetime, end: datetime, chunk_hours: float
) -> Iterator[tuple[str, datetime, datetime]]:
    """
    Yield ``(chunk id, start, end)`` of each slice of :func:`iter_window`, in constant memory.

    The ids are those of :func:`chunk_id`, at a third of its cost: each bound is rendered once,
    and what all texts begin with is hashed once.
    """
    common = hashlib.sha256(f"chunk:{plan_id}".encode())
    before = render_instant(start)
    for first, last in iter_window(start, end, chunk_hours):
        after = render_instant(last)
        digest = common.copy()
        digest.update(f":{before}:{after}".encode())
        yield digest.hexdigest()[:16], first, last
        before = after
