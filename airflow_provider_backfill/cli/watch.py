"""Show live views of a run: for ``run``, ``status --watch`` and ``events --follow``."""

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

from ..core.plain_text import plain_values
from .console import print_line
from .flags import Payload
from .output import print_json
from .parser import Call

if TYPE_CHECKING:
    from ..commands.events import EventReader
    from ..commands.session import Session
    from ..core.plan import Plan
    from ..core.run_state import Run
    from .progress import Progress


class RunDisplay:
    """A display of one run's progress on stderr, from :meth:`begin` to the exit; it shows nothing with --json."""

    def __init__(self, call: Call, session: "Session") -> None:
        self._call, self._session = call, session
        self._progress: Progress | None = None

    def __enter__(self) -> Self:
        return self

    def begin(self, plan: "Plan") -> None:
        """Start to show the run of *plan*: as JSON lines, as a picture on a terminal, or as plain lines."""
        from . import console
        from .progress import JsonLines, LineProgress

        if self._call.on("--json"):
            return
        look, every = self._session.store.open_run(plan).refresh, self._call.on("--verbose")
        progress: Progress
        if self._call.text("--log-format") == "json":
            progress = JsonLines(sys.stderr, plan.plan_id, look)
        elif console.is_terminal(sys.stderr):
            from .live import Live

            progress = Live(sys.stderr, plan, look, every=every)
        else:
            progress = LineProgress(sys.stderr, look, every=every)
        self._progress = progress.__enter__()

    def report(self, event: Any) -> None:
        """Show an event, if the display has begun; any thread of this process's workers may call this method."""
        if self._progress is not None:
            self._progress.report(event)

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.__exit__(None, None, None)


def watch_run(call: Call, session: "Session", plan_id: str) -> None:
    """
    Show progress on stderr until the run pauses or ends, its workers are dead, or the user presses Ctrl-C.

    With --json, each change is a line on stdout: the status payload, the slowest and failing chunks, and the pace.
    """
    from ..commands.status import is_settled
    from . import console, progress

    plan = session.store.load_plan(plan_id)
    log = session.store.open_run(plan)
    try:
        if call.on("--json"):
            _until_settled(is_settled, log.refresh, JsonChanges(call, session, plan, log.run).draw)
        elif console.is_terminal(sys.stderr):
            from .live import Live

            with Live(sys.stderr, plan, session.store.open_run(plan).refresh):
                _until_settled(is_settled, log.refresh, lambda _: None)
        else:
            changes = progress.ChangeLog(sys.stderr, log.run)
            _until_settled(is_settled, log.refresh, changes.draw)
    except KeyboardInterrupt:
        pass


def follow_events(call: Call, session: "Session", plan_id: str, reader: "EventReader") -> Payload:
    """
    Print events as they arrive, until the run pauses or ends, its workers are dead, or the user presses Ctrl-C.

    Returns:
        A payload with ``followed`` set and without events, because the events are already printed.
    """
    from ..commands.status import is_settled
    from .text import show_event

    plan = session.store.load_plan(plan_id)
    log = session.store.open_run(plan)

    def draw(_: "Run") -> None:
        for event in reader.read():
            if call.on("--json"):
                print_json(event)
            else:
                print_line(sys.stdout, show_event(plain_values(event)))
        sys.stdout.flush()

    with suppress(KeyboardInterrupt):
        _until_settled(is_settled, log.refresh, draw)
    return {"ok": True, "command": "events", "planId": plan_id, "events": [], "followed": True}


class JsonChanges:
    """A writer of a JSON line on stdout for each change of the run."""

    def __init__(self, call: Call, session: "Session", plan: "Plan", run: "Run") -> None:
        from ..core.progress_map import ProgressMap
        from .progress import RateMeter

        self._call, self._session, self._made = call, session, plan
        self._atlas, self._pace = ProgressMap(plan), RateMeter(run)
        self._last: Payload = {}

    def draw(self, run: "Run") -> None:
        """Write a line if the run has changed since the last line."""
        from ..commands.status import status_payload
        from ..core.progress_map import highlights
        from .progress import pace_payload

        payload = status_payload(self._session, self._made, run, "status")
        if payload == self._last:
            return
        self._last = payload
        left, pace = self._pace.seconds_left(run), pace_payload(self._pace.pace(run))
        pace["secondsLeft"] = None if left is None else round(left, 1)
        print_json({**payload, "pace": pace, **highlights(self._atlas, run)})
        sys.stdout.flush()


def _until_settled(settled: Callable[["Run"], bool], look: Callable[[], "Run"], draw: Callable[["Run"], None]) -> None:
    while True:
        run = look()
        draw(run)
        if settled(run):
            return
        time.sleep(0.5)
