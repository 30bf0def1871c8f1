"""
Compute the ids of plans and chunks, and the deduplication tokens of chunks.

The rules are fixed, because other tools compute the same values. This module is pure.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

from .instants import render_instant
from .window import Slice, render_chunk_hours


def plan_id(target: str, start: datetime, end: datetime, length: float | str, time_column: str) -> str:
    """
    Return the plan's identity: 16 hex digits of a SHA-256 over target, window, chunk length and time column.

    Args:
        length: Hours, or the text of a :class:`.chunking.Chunking`. For a chunking by hours, both give the same id.
    """
    size = length if isinstance(length, str) else render_chunk_hours(length)
    return _sha256(f"{target}|{render_instant(start)}|{render_instant(end)}|{size}|{time_column}")[:16]


def chunk_id(plan_id: str, start: datetime, end: datetime, key_range: str = "", shard: int = 0) -> str:
    """Return the id of the chunk ``[start, end)``, or of its part by key or shard: 16 hex digits."""
    part = _part(key_range, shard)
    return _sha256(f"chunk:{plan_id}:{render_instant(start)}:{render_instant(end)}{part}")[:16]


def idempotency_token(plan_id: str, start: datetime, end: datetime, key_range: str = "", shard: int = 0) -> str:
    """Return the deduplication token of the chunk ``[start, end)``, or of its part by key or shard: 64 hex digits."""
    part = _part(key_range, shard)
    return _sha256(f"token:{plan_id}:{render_instant(start)}:{render_instant(end)}{part}")


def _part(key_range: str, shard: int) -> str:
    return (f":shard {shard}" if shard else "") + (f":{key_range}" if key_range else "")


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def iter_chunks(
    plan_id: str, slices: Iterable[Slice], shards: Sequence[int] = (0,)
) -> Iterator[tuple[str, datetime, datetime, str, int]]:
    """
    Yield ``(chunk id, start, end, "", shard)`` for each of the adjacent *slices* on each shard, in constant memory.

    The empty text is the key range: a chunk has all rows of its slice. The ids equal those of :func:`chunk_id` at a
    third of the cost: each bound is rendered once, and the common prefix is hashed once.
    """
    common = hashlib.sha256(f"chunk:{plan_id}".encode())
    before = ""
    for first, last in slices:
        before = before or render_instant(first)
        after = render_instant(last)
        for shard in shards:
            digest = common.copy()
            digest.update(f":{before}:{after}{_part('', shard)}".encode())
            yield digest.hexdigest()[:16], first, last, "", shard
        before = after
