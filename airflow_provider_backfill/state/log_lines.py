"""Write the lines of an event log, and recognise lines without parsing."""

from typing import Literal

from ..core.events import Event, event_adapter
from ..core.model import FORMAT, Instant, Model
from ..core.plan import Plan

EVENT, CHUNK_EVENT = b'{"at":"', b'"type":"Chunk'
"""
The beginning of each event's line, and bytes that only the events of chunks contain.

No text contains these bytes, because quotes within texts are escaped.
"""


class LogOpened(Model):
    """The first line of every log, which names the format of the lines, the plan and the planning date."""

    type: Literal["LogOpened"] = "LogOpened"
    format: int
    plan_id: str
    planned_at: Instant


def log_header(plan: Plan) -> bytes:
    """Return the first line of a plan's log, with its newline."""
    header = LogOpened(format=FORMAT, plan_id=plan.plan_id, planned_at=plan.created_at)
    return header.model_dump_json(by_alias=True).encode() + b"\n"


def event_line(event: Event) -> bytes:
    """Return an event as one line of the log, with its newline."""
    return event_adapter().dump_json(event, by_alias=True, exclude_none=True) + b"\n"
