"""Show a plan as text for people."""

from typing import IO

from ..core.plain_text import show_bytes, show_number
from ..core.plan_words import adds_up
from .console import paint
from .flags import Payload
from .text import remedy_lines, show_estimate, show_pairs, show_seconds, show_window


def adds_up_lines(shown: Payload | None) -> list[tuple[str, str]]:
    """Return pairs of label and text that tell why the chunks add up; empty without *shown*."""
    if shown is None:
        return []
    return [
        ("adds up", adds_up(shown["proof"], shown["accepted"])),
        *(("", step) for step in (*shown["setAside"], *shown["steps"])),
        *(("reads", read) for read in shown["reads"]),
        ("trial", shown["trial"]),
    ]


def show_plan(payload: Payload, out: IO[str]) -> str:
    """Return a plan as text: target, chunks, source, guarantee, warnings, preview if any, and the next command."""
    existing = payload["existingRows"]
    made = "would be created. Nothing was written." if "preview" in payload else "created. Nothing has run yet."
    lines = [
        f"Plan {payload['planId']} " + ("already exists and is identical." if payload["existed"] else made),
        *show_pairs(
            [
                ("target", payload["target"]),
                ("window", show_window(payload["from"], payload["to"])),
                (
                    "chunks",
                    f"{payload['chunkCount']:,} {payload['chunks']}, by the column {payload['timeColumn']}",
                ),
                *(("shards" if not at else "", line) for at, line in enumerate(map(_shard, payload.get("shards", ())))),
                ("", payload.get("rowsOfShards", "")),
                *(("source", _source(statement)) for statement in payload["statements"]),
                ("write mode", f"{payload['writeMode']}: {payload['modeReason']}"),
                ("guarantee", payload["guarantee"]),
                *adds_up_lines(payload.get("addsUp")),
                ("rows", show_estimate(payload.get("estimate"))),
                ("verify", _verifiable(payload["verify"])),
                (
                    "existing",
                    "not known" if existing is None else f"{show_number(existing, 'row')} in the window of the target",
                ),
                ("views", _missed(payload, out)),
                *(("meets", _meeting(other)) for other in payload["meetingPlans"]),
                ("file", payload["planPath"] or ""),
            ]
        ),
    ]
    for warning in payload.get("warnings", ()):
        lines.append(f"  {paint('warn', 'warn', out)}  {warning['message']}")
        lines += remedy_lines(warning)
    if "preview" in payload:
        lines += _preview(payload["preview"])
    lines += ["", f"Next: {payload['next']}"] if payload["next"] else []
    return "\n".join(lines)


def _shard(shard: Payload) -> str:
    return f"{shard['shard']}, reached directly at {' or '.join(shard['urls'])}"


def _preview(preview: Payload) -> list[str]:
    """Return lines with the cost of all chunks, and with the cost and the statements of the previewed chunks."""
    lines = [f"  {_cost(preview) or 'rows and time are not known'} in all, one chunk at a time"]
    for chunk in preview["chunks"]:
        window = show_window(chunk["from"], chunk["to"])
        cost = _cost(chunk)
        lines += ["", f"-- the {chunk['which']} chunk, {window}{f': {cost}' if cost else ''}"]
        lines += [f"{statement};" for statement in chunk["sql"]]
    return lines


def _cost(entry: Payload) -> str:
    rows, size, seconds = entry["rows"], entry["bytes"], entry["seconds"]
    words = [
        "" if rows is None else f"{show_number(rows, 'row')} of the source",
        "" if size is None else f"{show_bytes(size)} uncompressed",
        "" if seconds is None else f"about {show_seconds(seconds)}",
    ]
    return ", ".join(word for word in words if word)


def _source(statement: Payload) -> str:
    name, source = statement["name"], statement["source"]
    how = "" if name == source else " through the given SELECT" if name == "--select" else f" through the view {name}"
    checked = ", each chunk compared with it" if statement["verifiedAgainstSource"] else ""
    if not source:
        return f"the given SELECT, which places the window itself{checked}"
    return f"{source}{how}{checked}"


def _verifiable(verify: Payload) -> str:
    if verify["caveat"]:
        return f"can confirm equality; otherwise inconclusive: {verify['caveat']}"
    left = verify["notCompared"]
    return "can confirm equality or a difference" + (f", except in the columns {', '.join(left)}" if left else "")


def _meeting(other: Payload) -> str:
    return (
        f"plan {other['planId']} ({other['status']}, {other['done']:,} of {other['total']:,} chunks done), "
        f"{show_window(other['from'], other['to'])}"
    )


def _missed(payload: Payload, out: IO[str]) -> str:
    views: list[str] = payload["missedViews"]
    if not views:
        return ""
    return paint(f"not triggered, because partitions are moved rather than inserted: {', '.join(views)}", "warn", out)
