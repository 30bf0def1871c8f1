"""Show the report of a plan as text for a terminal, and as Markdown for a ticket."""

from collections.abc import Iterator
from typing import IO

from ..core.plain_text import show_bytes, show_number, state_words
from .flags import Payload
from .text import show_moment, show_seconds, show_window


def show_report(payload: Payload, _: IO[str]) -> str:
    """Return the report as text: a heading, a line for each known fact (user, times, cost …), and skipped checks."""
    pairs = list(_pairs(payload))
    width = max(len(label) for label, _ in pairs)
    head = f"Plan {payload['planId']} of {payload['target']} {state_words(payload['status'])}."
    lines = [f"  {label:<{width}}  {value}" for label, value in pairs]
    return "\n".join([head, *lines, *(f"Skipped: {what}" for what in payload["notLookedAt"])])


def show_markdown(payload: Payload, _: IO[str]) -> str:
    """Return the report as Markdown: a heading, a table of the known facts, and skipped checks."""
    lines = [
        f"### Backfill {payload['planId']} of `{payload['target']}`: {payload['status']}",
        "",
        "| | |",
        "|---|---|",
    ]
    lines += [f"| {label} | {value.replace('|', chr(92) + '|')} |" for label, value in _pairs(payload)]
    lines += [f"\nSkipped: {what}" for what in payload["notLookedAt"]]
    return "\n".join(lines)


def _pairs(payload: Payload) -> Iterator[tuple[str, str]]:
    yield "window", show_window(payload["from"], payload["to"])
    if payload["owner"]:
        yield "owner", payload["owner"]
    if payload["reason"]:
        yield "reason", payload["reason"]
    if payload["people"]:
        yield "run by", ", ".join(payload["people"])
    for label, key in (("planned", "plannedAt"), ("started", "startedAt"), ("ended", "endedAt")):
        if payload[key]:
            yield label, f"{show_moment(payload[key][:19] + '.000Z')} UTC"
    attempts = show_number(payload["attempts"], "attempt")
    yield "chunks", f"{payload['chunksTotal']:,} in {attempts}, write mode {payload['writeMode']}"
    yield "written", show_number(payload["rowsWritten"], "row")
    if payload["rowsRead"]:
        yield "read", f"{show_number(payload['rowsRead'], 'row')}, {show_bytes(payload['bytesRead'])}"
    if (cost := payload["cost"]) is not None:
        yield "queries", f"{cost['queries']:,}, of which {cost['failedQueries']:,} failed"
        yield "processor", f"{show_seconds(cost['cpuSeconds'])} of the server"
        yield "memory", f"{show_bytes(cost['peakMemoryBytes'])} for the heaviest query"
        yield "scanned", f"{show_number(cost['readRows'], 'row')}, {show_bytes(cost['readBytes'])}, proofs included"
    for group in payload["failures"]:
        yield "failed", f"{show_number(group['count'], 'chunk')}: {group['error']}"
    if (verification := payload["verification"]) is not None:
        yield "verified", "yes" if verification["ok"] else "no"
