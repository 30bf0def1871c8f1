"""Read the attempts of one chunk from the log."""

import json
from contextlib import suppress

from ...commands.session import Payload
from ...core.instants import render_instant
from ...core.plan import Plan
from ...state.store import StateStore


def read_attempts(store: StateStore, plan: Plan, chunk_id: str) -> list[Payload]:
    """Return the attempts of one chunk in log order, each with its outcome, query id and times; empty if none began."""
    log, position, last = store.backend.log(plan.plan_id, render_instant(plan.created_at)), 0, b""
    wanted = f'"chunkId":"{chunk_id}"'.encode()
    attempts: dict[int, Payload] = {}
    while lines := log.read(position, last):
        for line in lines:
            position = log.advance(position, line)
            if wanted in line:
                # The next refresh reports a line that was damaged after it was read.
                with suppress(ValueError, LookupError, TypeError, RecursionError):
                    _note_attempt(attempts, json.loads(line))
        last = lines[-1]
    return list(attempts.values())


def _note_attempt(attempts: dict[int, Payload], event: Payload) -> None:
    kind = event["type"]
    if kind == "ChunkStarted":
        attempts[event["attempt"]] = {
            "attempt": event["attempt"],
            "queryId": event["queryId"],
            "by": event["by"],
            "startedAt": event["at"],
            "takesOver": event.get("takesOver", False),
            "outcome": "running",
            "onBehalfOf": event.get("onBehalfOf", ""),
        }
        for number, earlier in attempts.items():
            if number < event["attempt"] and earlier["outcome"] == "running":
                earlier["outcome"] = "lost"
        return
    attempt = attempts.get(event["attempt"])
    if attempt is None:
        return
    if kind == "ChunkVerified":
        attempt["verifiedAt"], attempt["staged"] = event["at"], event["content"][0]
        return
    attempt["endedAt"] = event["at"]
    attempt["outcome"] = {
        "ChunkDone": "done",
        "ChunkFailed": "failed",
        "ChunkReleased": "released",
        "ChunkSplit": "split",
    }.get(kind, kind)
    if kind == "ChunkDone":
        attempt["rows"], attempt["seconds"] = event["content"][0], event["seconds"]
    for name in ("code", "name", "message", "reason", "final"):
        if name in event:
            attempt[name] = event[name]
