"""
What people see of a command: payloads as text, and a run's progress while it lasts.

Text for a terminal is made here and nowhere else; nothing here decides anything. Progress is
drawn from the event log (:class:`Run`), so it shows other workers' chunks as well; drawing never
makes a worker wait. rich is loaded only when there is a terminal to draw on.
"""

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import IO, Any, Protocol, Self

from .core.identity import render_instant
from .core.model import (
    ChunkDone,
    ChunkFailed,
    ChunkReleased,
    ChunkSplit,
    ChunkStarted,
    ChunkStatus,
    Event,
    Run,
    RunHeld,
    RunStatus,
)
from .errors import BackfillError

Payload = dict[str, Any]

# Up to so many chunks each gets a line; of more, one line in so many seconds.
_ALL_LINES = 50
_LINE_SECONDS = 2.0
_MIDNIGHT = "T00:00:00.000Z"
_COLOURS = {"error": "31", "failed": "31", "warn": "33", "paused": "33", "cancelled": "33", "completed": "32"}


# ---------------------------------------------------------------- small texts


def is_terminal(out: IO[str]) -> bool:
    """Whether *out* can be drawn on, rather than only written to line by line."""
    return out.isatty() and os.environ.get("TERM") != "dumb"


def write(out: IO[str], line: str) -> None:
    """Write a line of progress at once; when nobody is there to read it any more, nothing happens."""
    with muted_when_broken(out):
        out.write(f"{line}\n")
        out.flush()


def mute(out: IO[str]) -> None:
    """Send what is still to be written to *out* nowhere, also what Python writes at its exit."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, out.fileno())
        os.close(nowhere)


@contextmanager
def muted_when_broken(out: IO[str]) -> Iterator[None]:
    """A run outlives the terminal or the pipe that shows it."""
    try:
        yield
    except OSError:
        mute(out)


def paint(text: str, kind: str, out: IO[str]) -> str:
    """*text* in the colour of *kind* (a status or severity), where *out* shows colours and the user wants them."""
    code = _COLOURS.get(kind)
    return f"\x1b[{code}m{text}\x1b[0m" if code and is_terminal(out) and not os.environ.get("NO_COLOR") else text


def show_moment(text: str) -> str:
    """``2025-01-01T06:00:00.000Z`` as ``2025-01-01 06:00``; only the date at midnight."""
    day, _, clock = text.removesuffix("Z").partition("T")
    clock = clock.removesuffix(".000").removesuffix(":00")
    return day if clock in ("", "00:00") else f"{day} {clock}"


def show_window(start: str, end: str) -> str:
    """A half-open window, such as ``2025-01-01 to 2025-02-01 UTC``."""
    return f"{show_moment(start)} to {show_moment(end)} UTC"


def show_seconds(seconds: float) -> str:
    """A length of time in the two units that matter."""
    if seconds < 9.95:
        return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    units = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    first = next(index for index, (count, _) in enumerate(units) if count)
    return " ".join(f"{count} {unit}" for count, unit in units[first : first + 2] if count)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _pairs(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """Label and value per line; pairs without a value are left out."""
    kept = [(label, value) for label, value in pairs if value]
    width = max((len(label) for label, _ in kept), default=0)
    return [f"  {label:<{width}}  {value}" for label, value in kept]


# ---------------------------------------------------------------- payloads


def show_plan(payload: Payload, out: IO[str]) -> str:
    """What a plan will do, on one screen."""
    existing = payload["existingRows"]
    lines = [
        f"Plan {payload['planId']} "
        + ("was made before, the same." if payload["existed"] else "is made; nothing ran."),
        *_pairs(
            [
                ("target", payload["target"]),
                ("window", show_window(payload["from"], payload["to"])),
                (
                    "chunks",
                    f"{payload['chunkCount']:,} of {payload['chunkHours']:g} h, by the column {payload['timeColumn']}",
                ),
                *(("source", _source(statement)) for statement in payload["statements"]),
                ("write mode", f"{payload['writeMode']}: {payload['modeReason']}"),
                ("guarantee", payload["guarantee"]),
                ("rows", _estimate(payload.get("estimate"))),
                ("existing", "not known" if existing is None else f"{_count(existing, 'row')} of the window in target"),
                ("views", _missed(payload, out)),
                ("file", payload["planPath"]),
            ]
        ),
    ]
    for warning in payload.get("warnings", ()):
        lines.append(f"  {paint('warn', 'warn', out)}  {warning['message']}")
        lines += [f"    -> {warning['hint']}"] if warning["hint"] else []
    lines += ["", f"Next: {payload['next']}"]
    return "\n".join(lines)


def _source(statement: Payload) -> str:
    name, source = statement["name"], statement["source"]
    how = "" if name == source else " through the given SELECT" if name == "--select" else f" through the view {name}"
    checked = ", each chunk held against it" if statement["verifiedAgainstSource"] else ""
    return f"{source}{how}{checked}"


def _missed(payload: Payload, out: IO[str]) -> str:
    views: list[str] = payload["missedViews"]
    if not views:
        return ""
    return paint(f"these do not see the rows, as they come in by partition: {', '.join(views)}", "warn", out)


def show_status(payload: Payload, out: IO[str]) -> str:
    """Where a run stands, and what to type next."""
    status, counts = payload["status"], payload["chunkCounts"]
    others = [f"{counts[name]:,} {name}" for name in ("running", "failed", "skipped", "pending") if counts[name]]
    error = "" if status == RunStatus.COMPLETED else payload.get("lastError", "")
    dead: list[str] = payload.get("deadWorkers", [])
    lines = [
        f"Plan {payload['planId']} is {paint(status, status, out)}"
        + (" already; nothing was to be done." if payload.get("noop") else "."),
        *_pairs(
            [
                ("target", payload["target"]),
                ("window", show_window(payload["from"], payload["to"])),
                ("chunks", ", ".join([f"{counts['done']:,} of {counts['total']:,} done", *others])),
                ("rows", f"{payload['rowsWritten']:,} written in {_count(payload['attempts'], 'attempt')}"),
                ("time", f"{show_seconds(payload['seconds'])} this time" if "seconds" in payload else ""),
                ("queries", payload.get("queries", "")),
                ("workers", f"gone without a word: {', '.join(dead)}" if dead else ""),
                ("waits", payload.get("waitsFor", "")),
                ("pace", _dial(payload.get("maxParallelChunks"))),
                ("last error", error),
                ("updated", f"{show_moment(payload['updatedAt'])} UTC" if payload["updatedAt"] else ""),
                ("events", payload["eventPath"] if payload["updatedAt"] else ""),
                ("page", payload.get("page", "")),
            ]
        ),
    ]
    lines += _findings(payload.get("findings", ()), out)
    if step := payload.get("next"):
        lines += ["", f"Next: {step}"]
    return "\n".join(lines)


def _dial(number: int | None) -> str:
    return "" if number is None else f"at most {_count(number, 'chunk')} at once, set with `pace`"


def show_doctor(payload: Payload, out: IO[str]) -> str:
    """What is wrong with a plan, or with a table before there is one, worst first, each with its remedy."""
    what = f"{payload['target']}, which has no plan here that was asked for"
    if payload["planId"] is not None:
        what = f"Plan {payload['planId']} of {payload['target']} is {payload['status']}"
    lines = [f"{what}: " + ("see below." if payload["findings"] else "nothing is wrong.")]
    lines += _findings(payload["findings"], out)
    lines += _pairs([("chunks", _estimate(payload.get("estimate"))), ("pace", _pace(payload.get("pace")))])
    lines += _pairs([("page", payload.get("page", ""))])
    lines += [f"Not looked at: {what}" for what in payload["notLookedAt"]]
    return "\n".join(lines)


def _estimate(estimate: Payload | None) -> str:
    if estimate is None:
        return ""
    rows, size = estimate["rowsPerChunk"], estimate["bytesPerChunk"]
    text = f"{rows['min']:,} to {rows['max']:,} rows of the source each, {rows['median']:,} in the median"
    if size is not None:
        text += f"; up to {show_bytes(size['max'])} on disk"
    if not estimate["exact"]:
        text += f" (from the index, {estimate['chunksLookedAt']:,} chunks looked at)"
    proposed = estimate["proposedChunkHours"]
    return text + ("" if proposed is None else f"; --chunk-hours {proposed:g} would suit")


def _pace(pace: Payload | None) -> str:
    if pace is None:
        return ""
    text = f"{show_seconds(pace['secondsPerChunk'])} a chunk, {pace['rowsPerSecond']:,} rows/s"
    return text + (f", about {show_seconds(pace['secondsLeft'])} left" if pace["secondsLeft"] else "")


def show_bytes(count: float) -> str:
    """A size in the unit that keeps it short."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def show_coverage(payload: Payload, out: IO[str]) -> str:
    """Which parts of a window are proven filled, and the gaps."""
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
        lines.append("  No plan of this folder has filled any of it.")
    lines += [f"{paint('damaged', 'error', out)}  {entry['message']}" for entry in payload["damaged"]]
    return "\n".join(lines)


def show_verify(payload: Payload, out: IO[str]) -> str:
    """What was written, and what source and target hold now."""
    compared, target = payload["compared"], payload["targetContent"]
    if not compared:
        verdict = paint("nothing could be compared", "warn", out)
    elif not payload["ok"]:
        verdict = paint("differs", "failed", out)
    else:
        verdict = paint("verified" if "target" in compared else "source verified", "completed", out)
    chunks = f"{payload['chunksVerified']} of {payload['chunksTotal']} chunks"
    lines = [f"Plan {payload['planId']} on {payload['target']}: {verdict} ({chunks})."]
    lines += _pairs(
        [
            ("written", _sums(target["written"])),
            ("in target", _sums(target["found"]) if target["found"] else f"not compared: {target['why']}"),
            ("source", "" if "source" in compared else "not asked again: the SELECT is no row-by-row one"),
            ("whole rows", _whole_rows(payload["wholeRows"])),
        ]
    )
    for chunk in payload["changedChunks"]:
        where = show_window(chunk["from"], chunk["to"])
        lines.append(f"  {paint('changed', 'failed', out)}  {where}: {_sums(chunk['written'])} were written,")
        lines.append(f"    the source gives {_sums(chunk['sourceNow'])} now")
    return "\n".join(lines)


def _whole_rows(rows: Payload | None) -> str:
    if rows is None:
        return ""
    if rows["match"]:
        return f"{_sums(rows['source'])}, the same in source and target"
    return f"{_sums(rows['source'])} in the source, {_sums(rows['target'])} in the target"


def _sums(content: Payload) -> str:
    return f"{content['rows']:,} rows, checksum {content['checksum']}"


def show_set_pace(payload: Payload, out: IO[str]) -> str:
    """How many chunks run at once from now on, and how many do."""
    number = payload["maxParallelChunks"]
    now = "as many chunks at once as each worker was told" if number is None else f"{_count(number, 'chunk')} at once"
    over = f" {payload['running']:,} run; those over it are not stopped." if payload["running"] > (number or 0) else ""
    status = paint(payload["status"], payload["status"], out)
    return f"Plan {payload['planId']} is {status}: {now}, from now on.{over if number else ''}"


def show_waiver(payload: Payload, out: IO[str]) -> str:
    """What was waived, and how to take it back."""
    until = f" until {show_moment(payload['until'])} UTC" if payload["until"] else ""
    instead = f"; plan {payload['supersededBy']} does its work" if payload["supersededBy"] else ""
    waived = paint("waived", "paused", out)
    return f"Plan {payload['planId']} of {payload['target']} is {waived}{until}: {payload['reason']}{instead}."


def show_repair(payload: Payload, out: IO[str]) -> str:
    """What was done to the files, what is in doubt, and what to type next."""
    lines = [f"Plan {payload['planId']} of {payload['target']} is {paint(payload['status'], payload['status'], out)}."]
    lines += [f"  {action}" for action in payload["actions"] or ["Its files are sound; nothing was to be done."]]
    lines += [f"  {payload['advice']}"] if payload["advice"] else []
    if step := payload["nextStep"]:
        lines += ["", f"Next: {step}"]
    return "\n".join(lines)


def show_check(payload: Payload, out: IO[str]) -> str:
    """Whether the required backfills are finished, and which are not."""
    result = payload["plugins"]["backfill"]
    plans = _count(result["evaluated"], "plan")
    verdict = "every required backfill is finished" if payload["ok"] else "not every required backfill is finished"
    first = f"{paint('ok', 'completed', out) if payload['ok'] else paint('failed', 'failed', out)}: {verdict}"
    return "\n".join([f"{first} ({plans} looked at).", *_findings(result["findings"], out)])


def _findings(findings: Sequence[Payload], out: IO[str]) -> list[str]:
    lines = []
    for finding in findings:
        lines.append(f"  {paint(finding['severity'], finding['severity'], out)}  {finding['code']}")
        lines.append(f"    {finding['message']}")
        if finding["hint"]:
            lines.append(f"    -> {finding['hint']}")
    return lines


def show_list(payload: Payload, out: IO[str]) -> str:
    """A table of the plans, newest last."""
    header = ("PLAN", "STATUS", "DONE", "ROWS", "WINDOW (UTC)", "TARGET")
    rows = [
        (
            plan["planId"],
            str(plan["status"]),
            f"{plan['done']:,}/{plan['total']:,}",
            f"{plan['rowsWritten']:,}",
            show_window(plan["from"], plan["to"]).removesuffix(" UTC"),
            plan["target"],
        )
        for plan in payload["plans"]
    ]
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]
    lines = []
    for row in (header, *rows) if rows else ():
        cells = [
            f"{cell:>{width}}" if column in (2, 3) else f"{cell:<{width}}"
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        cells[1] = cells[1].replace(row[1], paint(row[1], row[1], out), 1)
        lines.append("  ".join(cells).rstrip())
    if not rows:
        lines.append(f"There is no plan in {payload['stateDir']}.")
    lines += [f"{paint('damaged', 'error', out)}  {entry['message']}" for entry in payload["damaged"]]
    return "\n".join(lines)


# ---------------------------------------------------------------- progress


class Progress(Protocol):
    """Shows a run while it lasts; used as a context manager."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...

    def report(self, event: Event) -> None:
        """Show what one of our own workers has just written; called from any of its threads."""


class Quiet:
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def report(self, event: Event) -> None:
        """Show nothing."""


class Pace:
    """Rows a second and time left, from what was done since the first look."""

    def __init__(self, run: Run) -> None:
        self._began = time.monotonic()
        self._done, self._rows = ended(run), run.rows

    def rows_per_second(self, run: Run) -> float:
        """Rows a second since the first look."""
        return max(0, run.rows - self._rows) / max(time.monotonic() - self._began, 0.001)

    def seconds_left(self, run: Run) -> float | None:
        """Seconds until every chunk has ended, None while none has."""
        done = ended(run) - self._done
        return (time.monotonic() - self._began) / done * (run.total - ended(run)) if done > 0 else None

    def text(self, run: Run) -> str:
        """Both, as far as they are known."""
        left = self.seconds_left(run)
        if left is None:
            return ""
        ending = f", {show_seconds(left)} left" if left else ""
        return f"{self.rows_per_second(run):,.0f} rows/s{ending}"


def ended(run: Run) -> int:
    """Chunks that nothing is to be done for."""
    return run.count(ChunkStatus.DONE) + run.count(ChunkStatus.FAILED) + run.count(ChunkStatus.SKIPPED)


class Narrator:
    """Events as sentences; remembers a running chunk's window, which only its first event tells."""

    def __init__(self) -> None:
        self._windows: dict[str, str] = {}

    def tell(self, event: Event) -> str:
        """What happened to which chunk; empty for what is no news."""
        match event:
            case ChunkStarted():
                self._windows[event.chunk_id] = chunk_window(event.start, event.end)
                return f"{self._windows[event.chunk_id]}  attempt {event.attempt} begins"
            case ChunkDone():
                return f"{self._end(event.chunk_id)}  {event.content.rows:,} rows in {show_seconds(event.seconds)}"
            case ChunkFailed():
                then = "failed for good" if event.final else "failed, will be tried again"
                return f"{self._end(event.chunk_id)}  attempt {event.attempt} {then}: {event.message}"
            case ChunkSplit():
                return f"{self._end(event.chunk_id)}  split into {len(event.parts)} parts: {event.message}"
            case ChunkReleased():
                return f"{self._end(event.chunk_id)}  given back: {event.reason}"
            case RunHeld():
                return f"waits: {event.reason}"
            case _:
                return ""

    def _end(self, chunk_id: str) -> str:
        return self._windows.pop(chunk_id, chunk_id)


def chunk_window(start_at: datetime, end_at: datetime) -> str:
    """A chunk's window in a column of them."""
    start, end = (render_instant(moment) for moment in (start_at, end_at))
    if {start[10:], end[10:]} == {_MIDNIGHT}:
        return f"{start[:10]} to {end[:10]}"
    # As short as a column of them can be read: the day again only where it changes, no seconds that are zero.
    first, last = (text.removesuffix("Z").removesuffix(".000").removesuffix(":00") for text in (start, end))
    return f"{first} to {last[11:] if start[:10] == end[:10] else last}".replace("T", " ")


class Lines:
    """
    Progress as plain lines: one for each finished chunk of a small plan, else one every two seconds.

    Failures always get a line. With *every* all events do, whatever the size.

    Args:
        look: Gives the run as of now; called only when a line is due.
    """

    def __init__(self, out: IO[str], look: Callable[[], Run], *, every: bool = False) -> None:
        self._out, self._look, self._every = out, look, every
        run = look()
        self._pace = Pace(run)
        self._pause = 0.0 if every or run.total <= _ALL_LINES else _LINE_SECONDS
        self._next = 0.0
        self._lock = threading.Lock()
        self._narrator = Narrator()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def report(self, event: Event) -> None:
        """Write the event's line, if one is due."""
        with self._lock:
            text = self._narrator.tell(event)
            wanted = bool(text) and (self._every or not isinstance(event, ChunkStarted | ChunkReleased))
            if not wanted or (isinstance(event, ChunkDone) and time.monotonic() < self._next):
                return
            self._next = time.monotonic() + self._pause
            try:
                run = self._look()
            except BackfillError:
                # The worker meets the same error and reports it.
                return
            pace = self._pace.text(run) if self._pause and isinstance(event, ChunkDone) else ""
            done = f"{run.count(ChunkStatus.DONE)}/{run.total}"
            write(self._out, f"{event.at:%H:%M:%S}Z  {done}  {text}" + (f"  ({pace})" if pace else ""))


class Changes:
    """Progress as plain lines, one whenever status or counts have changed; for a watcher."""

    def __init__(self, out: IO[str], run: Run) -> None:
        self._out = out
        self._pace = Pace(run)
        self._last = ""

    def draw(self, run: Run) -> None:
        """Write a line if something has changed since the last one."""
        line = counts_text(run)
        if line != self._last:
            self._last = line
            pace = self._pace.text(run)
            moment = f"{run.updated_at:%H:%M:%S}Z  " if run.updated_at else ""
            write(self._out, f"{moment}{line}" + (f"  ({pace})" if pace else ""))


def counts_text(run: Run) -> str:
    """The run in one line: status, chunks, rows."""
    failed = run.count(ChunkStatus.FAILED)
    return (
        f"{run.status}: {run.count(ChunkStatus.DONE):,} of {run.total:,} chunks done"
        + (f", {failed:,} failed" if failed else "")
        + f", {run.rows:,} rows"
    )
