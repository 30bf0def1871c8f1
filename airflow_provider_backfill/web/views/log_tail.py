"""
Read a log's lines one time, in slices, for facts that a run does not keep, such as rates and recent events.

A log of 100,000 chunks has about 60 MB. The caller limits the time of each read, and calls again.
"""

import json
import re
import sys
import time
from collections import deque
from datetime import datetime

from ...commands.session import Payload
from ...core.instants import render_instant, to_ms
from ...core.plan import Plan
from ...core.progress import Pace, ProgressMeter
from ...state.store import StateStore

_FEED = 200
_BUCKETS = 160
# No text in an event matches these patterns, because quotes in texts are escaped.
_CHUNK = re.compile(rb'"chunkId":"([^"]+)"')
_ON_BEHALF_OF = re.compile(rb'"onBehalfOf":("(?:[^"\\]|\\.)*")')
_ENDED = re.compile(
    rb'\{"at":"([^"]+)".*"content":\[(\d+),\d+\],"seconds":([0-9.e+-]+)(?:,"readRows":(\d+),"readBytes":(\d+))?\}'
)


class RateHistogram:
    """Rows written over time, in at most 160 buckets, which widen as the time grows."""

    def __init__(self) -> None:
        self.width = 1_000
        self.start = 0
        self.begin, self.end = sys.maxsize, 0
        self.rows: list[float] = []

    def add(self, end: int, seconds: float, rows: int) -> None:
        """Distribute *rows* over the *seconds* before *end* (milliseconds since 1970)."""
        begin = end - max(1, round(seconds * 1000))
        self.begin, self.end = min(self.begin, begin), max(self.end, end)
        if not self.rows:
            self.start = begin // self.width * self.width
        if begin < self.start:
            missing = -(-(self.start - begin) // self.width)
            self.rows[:0] = [0.0] * missing
            self.start -= missing * self.width
            while len(self.rows) > _BUCKETS:
                self._widen()
        while (end - self.start) // self.width >= _BUCKETS:
            self._widen()
        first, last = (begin - self.start) // self.width, (end - self.start) // self.width
        if len(self.rows) <= last:
            self.rows += [0.0] * (last + 1 - len(self.rows))
        if first == last:
            self.rows[first] += rows
            return
        per_ms = rows / (end - begin)
        for bucket in range(first, last + 1):
            at = self.start + bucket * self.width
            self.rows[bucket] += per_ms * (min(end, at + self.width) - max(begin, at))

    def _widen(self) -> None:
        wider = self.width * 2
        before = (self.start - self.start // wider * wider) // self.width
        rows = [0.0] * before + self.rows
        rows += [0.0] * (len(rows) % 2)
        self.start -= before * self.width
        self.rows = [a + b for a, b in zip(rows[::2], rows[1::2], strict=True)]
        self.width = wider

    def payload(self) -> Payload:
        """
        Return the rates in rows per second, with the start of the first bucket and the width of a bucket.

        ``perSecond[i]`` is the mean in ``[start + i * width, start + (i + 1) * width)``. *start* is in milliseconds
        since 1970, and *width* in milliseconds.
        """
        found = []
        for place, rows in enumerate(self.rows):
            begin = self.start + place * self.width
            # The first and the last bucket are only partly filled.
            length = min(begin + self.width, self.end) - max(begin, self.begin)
            found.append(round(rows * 1000 / max(length, 1), 1))
        return {"start": self.start, "width": self.width, "perSecond": found}


class LogTail:
    """
    The lines of a log, read one time, for facts that a run does not keep.

    Attributes:
        lines: Number of lines read so far.
        feed: The last lines that matter to a person, each with its number.
        news: The events after line *fresh_from* that no caller has taken yet.
        began_by: The user or task behind the last attempt of each chunk that is not done, by chunk id; may be empty.
        last_by: The user or task behind the last attempt of all; empty if unknown, or before the first attempt.
        began: The first start of the run, in milliseconds since 1970; None before that start.
        at_end: Whether the last read reached the end of the log.
    """

    def __init__(self, store: StateStore, plan: Plan) -> None:
        self._log = store.backend.log(plan.plan_id, render_instant(plan.created_at))
        self.fresh_from = sys.maxsize
        self._forget()

    def _forget(self) -> None:
        self._position, self._last, self.lines = 0, b"", 0
        self.at_end = False
        self.meter = RateHistogram()
        self.feed: deque[tuple[int, bytes]] = deque(maxlen=_FEED)
        self.progress = ProgressMeter(0.0)
        self.news: list[Payload] = []
        self.began_by: dict[str, str] = {}
        self.last_by = ""
        self.began: int | None = None

    def advance(self, seconds: float) -> None:
        """Continue reading for at most *seconds*; *at_end* shows whether the end was reached."""
        deadline = time.monotonic() + seconds
        while True:
            lines = self._log.read(self._position, self._last)
            if lines is None:
                self._forget()
                # Start again: the values from the lost lines must be read again.
                self.fresh_from = 0
                self.news.append({"type": "RunReplayed"})
                continue
            self.at_end = not lines
            for line in lines:
                self._take(line)
            if lines:
                self._last = lines[-1]
            if self.at_end or time.monotonic() > deadline:
                return

    def _take(self, line: bytes) -> None:
        self._position = self._log.advance(self._position, line)
        self.lines += 1
        fresh = self.lines > self.fresh_from
        # No text in an event contains these types, because quotes in texts are escaped.
        if b'"type":"ChunkDone"' in line:
            self._ended(line)
        elif b'"type":"ChunkStarted"' in line:
            self._began(line)
        elif b'"type":"WorkerHeartbeat"' in line or b'"type":"ChunkVerified"' in line or b'"type":"LogOpened"' in line:
            return
        elif b'"type":"RunStarted"' in line or b'"type":"RunResumed"' in line:
            began = to_ms(datetime.fromisoformat(json.loads(line)["at"]))
            self.progress.begin(began / 1000)
            self.began = self.began or began
        self.feed.append((self.lines, line))
        if fresh:
            self.news.append(json.loads(line))

    def _began(self, line: bytes) -> None:
        chunk, somebody = _CHUNK.search(line), _ON_BEHALF_OF.search(line)
        self.last_by = json.loads(somebody[1]) if somebody else ""
        if chunk:
            self.began_by[chunk[1].decode()] = self.last_by

    def _ended(self, line: bytes) -> None:
        if chunk := _CHUNK.search(line):
            self.began_by.pop(chunk[1].decode(), None)
        # About 100,000 of these lines may be read at a time; the pattern takes an eighth of a parser's time.
        if match := _ENDED.match(line):
            when, rows, seconds = match[1].decode(), int(match[2]), float(match[3])
            read_rows, read_bytes = int(match[4] or 0), int(match[5] or 0)
        else:
            event = json.loads(line)
            when, rows, seconds = event["at"], event["content"][0], event["seconds"]
            read_rows, read_bytes = event.get("readRows", 0), event.get("readBytes", 0)
        at = to_ms(datetime.fromisoformat(when))
        self.meter.add(at, seconds, rows)
        self.progress.add(at / 1000, 1, rows, read_rows, read_bytes)

    def pace(self, moment: int) -> Pace | None:
        """Return the work per second before *moment* (milliseconds since 1970); None until a chunk is done."""
        return self.progress.pace(moment / 1000)
