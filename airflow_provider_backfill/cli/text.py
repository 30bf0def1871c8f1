"""
Show payloads as text for people.

This module only formats and decides nothing. The progress of a run is shown by :mod:`.progress` and :mod:`.live`.
"""

from collections.abc import Iterable, Sequence
from typing import IO

from ..core.failures import short_error
from ..core.plain_text import show_bytes, show_number, state_words
from ..core.run_state import RunStatus
from .console import columns_of, paint
from .flags import Payload

_ERRORS_SHOWN = 5
_WINDOWS_SHOWN = 4


def show_moment(text: str) -> str:
    """Return an instant such as ``2025-01-01T06:00:00.000Z`` as ``2025-01-01 06:00``; only the date for midnight."""
    day, _, clock = text.removesuffix("Z").partition("T")
    clock = clock.removesuffix(".000").removesuffix(":00")
    return day if clock in ("", "00:00") else f"{day} {clock}"


def show_window(start: str, end: str) -> str:
    """Return a half-open window as text, such as ``2025-01-01 to 2025-02-01 UTC``."""
    return f"{show_moment(start)} to {show_moment(end)} UTC"


def show_seconds(seconds: float) -> str:
    """Return a duration in its two largest units, such as ``2 h 5 min``; below ten seconds with one or two decimals."""
    if seconds < 9.95:
        return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    units = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    first = next(index for index, (count, _) in enumerate(units) if count)
    return " ".join(f"{count} {unit}" for count, unit in units[first : first + 2] if count)


def show_pairs(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """Return one line per label and value, without pairs that have no value."""
    kept = [(label, value) for label, value in pairs if value]
    width = max((len(label) for label, _ in kept), default=0)
    return [f"  {label:<{width}}  {value}" for label, value in kept]


def remedy_text(finding: Payload) -> str:
    """Return the remedy of a finding as one line; a statement is marked as SQL."""
    return f"SQL: {finding['hint']}" if finding["remedy"] == "sql" else str(finding["hint"])


def remedy_lines(finding: Payload) -> list[str]:
    """Return the remedy of a finding as a line with an arrow, in a list; empty without a remedy."""
    return [f"    -> {remedy_text(finding)}"] if finding["hint"] else []


def show_status(payload: Payload, out: IO[str]) -> str:
    """Return the state of a run as text, with the payload's chunks, statements, findings and next command, if any."""
    status, counts = payload["status"], payload["chunkCounts"]
    others = [f"{counts[name]:,} {name}" for name in ("running", "failed", "pending") if counts[name]]
    error = "" if status == RunStatus.COMPLETED else payload.get("lastError", "")
    dead: list[str] = payload.get("lostWorkers", [])
    lines = [
        f"Plan {payload['planId']} {state_words(status, paint(status, status, out))}"
        + (" already; there was nothing to do." if payload.get("noop") else "."),
        *show_pairs(
            [
                ("target", payload["target"]),
                ("window", show_window(payload["from"], payload["to"])),
                ("chunks", ", ".join([f"{counts['done']:,} of {counts['total']:,} done", *others])),
                *(("", _shard_counts(shard)) for shard in payload.get("shards", ())),
                ("rows", f"{payload['rowsWritten']:,} written in {show_number(payload['attempts'], 'attempt')}"),
                ("read", _read(payload)),
                ("time", f"{show_seconds(payload['seconds'])} this time" if "seconds" in payload else ""),
                ("back", _restored(payload)),
                ("undo", "not finished; the replaced rows may be back in part" if payload.get("undoing") else ""),
                ("backup", _kept(payload.get("backup"))),
                ("queries", payload.get("queries", "")),
                ("workers", f"lost (no heartbeat): {', '.join(dead)}" if dead else ""),
                ("waits", payload.get("throttledBy", "")),
                ("parallel", _dial(payload.get("maxParallelChunks"))),
                ("failed", _failures(payload.get("failures", ()))),
                ("last error", "" if payload.get("failures") else error),
                ("updated", f"{show_moment(payload['updatedAt'])} UTC" if payload["updatedAt"] else ""),
                ("events", payload["eventPath"] if payload["updatedAt"] else ""),
                ("page", payload.get("page", "")),
            ]
        ),
    ]
    if "chunks" in payload:
        lines += _chunks(payload["chunks"], out)
    lines += [f"{one['insert']}\n{one['filter']}".rstrip() + ";" for one in payload.get("statements", ())]
    lines += _findings(payload.get("findings", ()), out)
    if step := payload.get("next"):
        lines += ["", f"Next: {step}"]
    return "\n".join(lines)


def _read(payload: Payload) -> str:
    if not payload.get("rowsRead"):
        return ""
    return f"{show_number(payload['rowsRead'], 'row')}, {show_bytes(payload['bytesRead'])}"


def _failures(groups: Sequence[Payload]) -> str:
    """Return a line for each of the first five different errors: the first chunks' starts, then the error."""
    return f"\n{' ' * 14}".join(f"{_windows(group)}: {group['error']}" for group in groups[:_ERRORS_SHOWN])


def _windows(group: Payload) -> str:
    shown = [show_moment(window["from"]) for window in group["windows"][:_WINDOWS_SHOWN]]
    more = group["count"] - len(shown)
    return ", ".join(shown) + (f" and {more:,} more" if more else "")


def _chunks(chunks: Sequence[Payload], out: IO[str]) -> list[str]:
    lines = []
    for chunk in chunks:
        window = show_window(chunk["from"], chunk["to"]).removesuffix(" UTC") + _on_shard(chunk)
        about = chunk["error"] or ("" if chunk["rowsWritten"] is None else show_number(chunk["rowsWritten"], "row"))
        tries = f"after {show_number(chunk['attempts'], 'attempt')}" if chunk["attempts"] else ""
        words = (window, paint(chunk["status"], chunk["status"], out), tries, about, chunk["queryId"] or "")
        lines.append("  " + "  ".join(word for word in words if word))
    return lines or ["  No chunk has this status."]


def show_events(payload: Payload, _: IO[str]) -> str:
    """Return the history of a plan, one line for each event, oldest first; a sentence if there are no events."""
    return "\n".join(map(show_event, payload["events"])) or f"Nothing has happened to plan {payload['planId']} yet."


def show_event(event: Payload) -> str:
    """Return one event of the log as a line: time, type and user, and the chunk, attempt, rows and text if any."""
    chunk = event.get("chunkId", "")
    window = show_window(event["from"], event["to"]).removesuffix(" UTC") if "from" in event else chunk
    attempt = f"attempt {event['attempt']}" if "attempt" in event else ""
    content = event.get("content")
    rows = show_number(content[0], "row") if content else ""
    took = show_seconds(event["seconds"]) if "seconds" in event else ""
    said = short_error(event["message"]) if "message" in event else event.get("reason", "")
    words = (show_moment(event["at"]), event["type"], window, attempt, rows, took, said, f"by {event['by']}")
    return "  ".join(word for word in words if word)


def show_completion(payload: Payload, _: IO[str]) -> str:
    """Return the completion script for the shell, unchanged, so that a shell can source the output."""
    return str(payload["script"])


def _dial(number: int | None) -> str:
    return "" if number is None else f"at most {show_number(number, 'chunk')} in parallel, set with `set-parallel`"


def show_doctor(payload: Payload, out: IO[str]) -> str:
    """Return the findings about a plan or table with their remedies, then chunk size, pace, page and skipped checks."""
    what = f"{payload['target']}, no plan given"
    if payload["planId"] is not None:
        what = f"Plan {payload['planId']} of {payload['target']} {state_words(payload['status'])}"
    lines = [f"{what}: " + ("see below." if payload["findings"] else "no problems found.")]
    lines += _findings(payload["findings"], out)
    lines += show_pairs([("chunks", show_estimate(payload.get("estimate"))), ("pace", _pace(payload.get("pace")))])
    lines += show_pairs([("page", payload.get("page", ""))])
    lines += [f"Skipped: {what}" for what in payload["notLookedAt"]]
    return "\n".join(lines)


def show_estimate(estimate: Payload | None) -> str:
    """Return rows and bytes per chunk and a proposed chunk length if any, in words; empty without an estimate."""
    if estimate is None:
        return ""
    rows, size = estimate["rowsPerChunk"], estimate["bytesPerChunk"]
    text = f"{show_number(rows['max'], 'row')} of the source per chunk"
    if rows["min"] != rows["max"]:
        text = f"{rows['min']:,} to {text}, median {rows['median']:,}"
    if size is not None:
        text += f"; up to {show_bytes(size['max'])} on disk"
    if not estimate["exact"]:
        text += f" (from the index, {estimate['chunksLookedAt']:,} chunks checked)"
    proposed = estimate["proposedChunkHours"]
    return text + ("" if proposed is None else f"; --chunk-hours {proposed:g} would suit")


def _pace(pace: Payload | None) -> str:
    if pace is None:
        return ""
    return f"{show_seconds(pace['secondsPerChunk'])} a chunk, {pace['rowsPerSecond']:,} rows/s"


def show_count(number: float) -> str:
    """Return a number of rows with three digits and a unit: ``950``, ``12.3 thousand``, ``1.15 million``."""
    for unit, size in (("billion", 1e9), ("million", 1e6), ("thousand", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f}"


def show_coverage(payload: Payload, out: IO[str]) -> str:
    """Return the proven parts and the gaps of a window for each server, parts filled twice, and damaged plans."""
    verdict = paint("filled", "completed", out) if payload["ok"] else paint("not filled", "failed", out)
    lines = [f"{payload['target']}, {show_window(payload['from'], payload['to'])}: {verdict}."]
    for server in payload["servers"]:
        lines.append(f"  on {server['environment']}: {server['share']:.1%} proven")
        filled, gap = paint("filled", "completed", out), paint("gap", "warn", out)
        lines += [
            f"    {filled}  {show_window(part['from'], part['to'])}  by {', '.join(part['planIds'])}"
            for part in server["covered"]
        ]
        lines += [f"    {gap}     {show_window(part['from'], part['to'])}" for part in server["gaps"]]
    if not payload["servers"]:
        lines.append("  No plan in this state folder has filled a part of the window.")
    for twice in payload["filledTwice"]:
        word = paint("twice", "warn" if twice["accepted"] else "failed", out)
        lines.append(f"    {word}   {show_window(twice['from'], twice['to'])}  by {' and '.join(twice['planIds'])}")
    lines += [f"{paint('damaged', 'error', out)}  {entry['message']}" for entry in payload["damaged"]]
    return "\n".join(lines)


def show_verify(payload: Payload, out: IO[str]) -> str:
    """Return the verdict, the row counts of source and target, the chunks that differ, and rows that one side lacks."""
    done, total = payload["chunksVerified"], payload["chunksTotal"]
    verdict = payload["verdict"]
    if verdict == "inconclusive":
        word = paint("inconclusive", "warn", out)
    elif verdict == "differs":
        word = paint("differs", "failed", out)
    else:
        word = paint("verified", "completed" if done == total else "warn", out)
    chunks = f"{done:,} of {total:,} chunks"
    if done < total:
        chunks += " verified" if verdict == "equal" else " compared"
        chunks += f"; {total - done:,} {'is' if total - done == 1 else 'are'} not done"
    lines = [f"Plan {payload['planId']} on {payload['target']}: {word} ({chunks})."]
    lines += show_pairs(
        [
            ("in target", _known(payload["rowsInTarget"])),
            ("from source", _known(payload["rowsFromSource"])),
            ("left out", ", ".join(payload["notCompared"])),
            ("why", payload["why"]),
        ]
    )
    for shard in payload.get("shards", ()):
        rows = _known(shard["rowsInTarget"])
        lines.append(f"  shard {shard['shard']}: {shard['verdict']}{f', {rows}' if rows else ''}")
    for chunk in payload["changedChunks"]:
        where = show_window(chunk["from"], chunk["to"]) + _on_shard(chunk)
        lines.append(f"  {paint('differs', 'failed', out)}  {where}")
        if "written" in chunk:
            lines.append(
                f"    {_sums(chunk['written'])} were written, the source gives {_sums(chunk['sourceNow'])} now"
            )
    for difference in payload["differences"]:
        row = ", ".join(f"{name} = {value[:80]}" for name, value in difference["row"].items())
        lines.append(f"  only in {difference['givenBy']}{_on_shard(difference)}: {row}")
    return "\n".join(lines)


def _shard_counts(shard: Payload) -> str:
    others = [f"{shard[name]:,} {name}" for name in ("running", "failed", "pending") if shard[name]]
    return ", ".join([f"{shard['done']:,} of {shard['total']:,} done on shard {shard['shard']}", *others])


def _on_shard(entry: Payload) -> str:
    return f" on shard {entry['shard']}" if entry.get("shard") else ""


def _known(rows: int | None) -> str:
    return "" if rows is None else f"{show_number(rows, 'row')} in the window, before merging"


def _sums(content: Payload) -> str:
    return f"{show_number(content['rows'], 'row')}, checksum {content['checksum']}"


def show_parallel(payload: Payload, out: IO[str]) -> str:
    """
    Return a sentence with the plan's status and the new number of parallel chunks.

    Without a number, the sentence says that each worker's own setting applies. If more chunks run than the number
    allows, a second sentence has the number of running chunks.
    """
    number = payload["maxParallelChunks"]
    now = "parallel chunks as set for each worker" if number is None else f"{show_number(number, 'chunk')} in parallel"
    over = f" {payload['running']:,} run; those over it are not stopped." if payload["running"] > (number or 0) else ""
    status = paint(payload["status"], payload["status"], out)
    return f"Plan {payload['planId']} is {status}: {now}, from now on.{over if number else ''}"


def show_waiver(payload: Payload, out: IO[str]) -> str:
    """Return the waiver as a sentence: end and reason, and the plan that replaces the waived plan."""
    until = f" until {show_moment(payload['until'])} UTC" if payload["until"] else ""
    instead = f"; plan {payload['supersededBy']} does its work" if payload["supersededBy"] else ""
    waived = paint("waived", "paused", out)
    return f"Plan {payload['planId']} of {payload['target']} is {waived}{until}: {payload['reason']}{instead}."


def show_repair(payload: Payload, out: IO[str]) -> str:
    """Return the repairs, the advice about uncertain chunks, and the next command, as text."""
    state = state_words(payload["status"], paint(payload["status"], payload["status"], out))
    lines = [f"Plan {payload['planId']} of {payload['target']} {state}."]
    lines += [f"  {action}" for action in payload["actions"] or ["The files are intact; there was nothing to do."]]
    lines += [f"  {payload['advice']}"] if payload["advice"] else []
    if step := payload["nextStep"]:
        lines += ["", f"Next: {step}"]
    return "\n".join(lines)


def _restored(payload: Payload) -> str:
    if "rowsRestored" not in payload:
        return ""
    partitions = show_number(payload["partitionsRestored"], "partition")
    return f"{show_number(payload['rowsRestored'], 'row')} in {partitions} of {payload['target']}, as before the run"


def _kept(backup: Payload | None) -> str:
    return f"still in {backup['table']}; to drop the backup: {backup['drop']}" if backup else ""


def show_check(payload: Payload, out: IO[str]) -> str:
    """Return whether all required backfills are finished, the number of checked plans, and the findings, as text."""
    result = payload["plugins"]["backfill"]
    plans = show_number(result["evaluated"], "plan")
    verdict = "every required backfill is finished" if payload["ok"] else "not every required backfill is finished"
    verdict = "no plan found" if not result["evaluated"] and payload["ok"] else verdict
    signals = ", ".join(f"{count:,} {name}" for name, count in result["signals"].items() if count)
    plans = f"{plans} checked{f': {signals}' if signals else ''}"
    first = f"{paint('ok', 'completed', out) if payload['ok'] else paint('failed', 'failed', out)}: {verdict}"
    return "\n".join([f"{first} ({plans}).", *_findings(result["findings"], out)])


def _findings(findings: Sequence[Payload], out: IO[str]) -> list[str]:
    lines = []
    for finding in findings:
        lines.append(f"  {paint(finding['severity'], finding['severity'], out)}  {finding['code']}")
        lines.append(f"    {finding['message']}")
        lines += remedy_lines(finding)
    return lines


# Indexes of the columns that a narrow terminal omits, in this order: user, start, rows, window.
_SPARED = (7, 6, 3, 4)


def _columns_that_fit(widths: Sequence[int], room: int | None) -> list[int]:
    """
    Return the indexes of the columns to show.

    Columns in ``_SPARED`` are omitted, in that order, until a line fits into *room* characters. If *room* is None, no
    column is omitted.
    """
    shown = list(range(len(widths)))
    for column in _SPARED:
        if room is None or sum(widths[one] for one in shown) + 2 * (len(shown) - 1) <= room:
            break
        shown.remove(column)
    return shown


def show_list(payload: Payload, out: IO[str]) -> str:
    """Return a table of the plans in the payload's order, then the damaged plans; a sentence if there is no plan."""
    header = ("PLAN", "STATUS", "DONE", "ROWS", "WINDOW (UTC)", "TARGET", "STARTED", "BY")
    rows = [
        (
            plan["planId"],
            "waived" if plan["waived"] else str(plan["status"]),
            f"{plan['done']:,}/{plan['total']:,}",
            f"{plan['rowsWritten']:,}",
            show_window(plan["from"], plan["to"]).removesuffix(" UTC"),
            plan["target"],
            show_moment(plan["startedAt"][:16] + ":00.000Z") if plan["startedAt"] else "never",
            plan["startedBy"],
        )
        for plan in payload["plans"]
    ]
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    shown = _columns_that_fit(widths, columns_of(out))
    lines = []
    for row in (header, *rows) if rows else ():
        cells = [
            f"{row[column]:>{widths[column]}}" if column in (2, 3) else f"{row[column]:<{widths[column]}}"
            for column in shown
        ]
        cells[1] = cells[1].replace(row[1], paint(row[1], row[1], out), 1)
        lines.append("  ".join(cells).rstrip())
    if not rows and not payload["damaged"]:
        lines.append(f"There is no plan in {payload['stateDir']}.")
    lines += [f"{paint('damaged', 'error', out)}  {entry['message']}" for entry in payload["damaged"]]
    return "\n".join(lines)
