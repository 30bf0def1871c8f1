"""
Draw a run on a terminal while it lasts: the map of its window, the pace, the slowest and the failing chunks.

A separate thread reads the log and draws at most four times a second. Failures and splits, or all events with
``--verbose``, become lines above the picture. The picture adapts to the size of the terminal.
"""

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import IO, TYPE_CHECKING, Self

from ..core.events import ChunkFailed, ChunkSplit, Event
from ..core.names import show_table
from ..core.plain_text import plain_line, show_number
from ..core.plan import Chunk, Plan
from ..core.progress_map import CellKind, ProgressMap
from ..core.run_state import ChunkStatus, Run, RunStatus
from ..errors import BackfillError
from .console import muted_when_broken
from .progress import EventText, RateMeter, chunk_window, ended
from .text import show_seconds

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.table import Table
    from rich.text import Text


_FRAME_SECONDS = 0.25
# The minimum pause after a frame, as a multiple of the time that reading and drawing took.
_REST = 10
_MAP_LINES = 7
_LABEL = 12
_WIDEST = 120
_SHOWN = 3
# By kind: the sign of a cell, readable without colour; the sign in ASCII; and the colour.
_CELLS = {
    CellKind.DONE: ("█", "#", "green"),
    CellKind.PARTLY: ("▄", "=", "green"),
    CellKind.RUNNING: ("▒", "~", "yellow"),
    CellKind.FAILED: ("✗", "x", "bold red"),
    CellKind.PENDING: ("·", ".", "bright_black"),
}
_STATUS = {
    RunStatus.RUNNING: "yellow",
    RunStatus.COMPLETED: "green",
    RunStatus.FAILED: "bold red",
    RunStatus.CANCELLED: "yellow",
    RunStatus.UNDONE: "yellow",
    RunStatus.PAUSED: "yellow",
}


class RunView:
    """The picture of one run, drawn again for each frame."""

    def __init__(self, plan: Plan, run: Run, ascii_only: bool = False) -> None:
        self._plan, self._atlas, self._pace = plan, ProgressMap(plan), RateMeter(run)
        self._glyph = int(ascii_only)

    def draw(self, run: Run, width: int, height: int) -> "Group":
        """Return the frame for a terminal of *width* columns and *height* lines."""
        from rich.console import Group

        width = min(width, _WIDEST)
        head = self._head(run, width)
        most = max(1, min(_MAP_LINES, height - 7 - len(head)))
        parts: list[RenderableType] = [*head, self._bar(run, width), *self._map(run, width, most)]
        if height > most + len(head) + 2 * _SHOWN + 6:
            parts += [*self._slowest(run), *self._failing(run)]
        return Group(*parts)

    def _head(self, run: Run, width: int) -> "list[Text]":
        """
        Return one or two lines with the target, the status, the rows and the news.

        The news is the reason why a worker waits, or the time left and the pace of a running run. News that does not
        fit into the first line gets the second line.
        """
        from rich.text import Text

        line = Text.assemble(
            (plain_line(show_table(self._plan.target)), "bold"),
            "  ",
            (run.status, _STATUS.get(run.status, "")),
            f"  {show_number(run.rows, 'row')}",
            no_wrap=True,
            overflow="crop",
        )
        if run.throttled_by:
            news = f"waits: {plain_line(run.throttled_by)}"
        else:
            news = self._pace.text(run) if run.status is RunStatus.RUNNING else ""
        if len(line) + 2 + len(news) <= width:
            return [line.append(f"  {news}")] if news else [line]
        return [line, Text(news, no_wrap=True, overflow="ellipsis")]

    def _bar(self, run: Run, width: int) -> "Table":
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        running, failed = run.count(ChunkStatus.RUNNING), run.count(ChunkStatus.FAILED)
        counts = f"{run.count(ChunkStatus.DONE):,}/{run.total:,} chunks"
        counts += f", {running} running" if running else ""
        share = int(100 * ended(run) / run.total) if run.total else 0
        line = Table.grid(padding=(0, 1))
        text = Text.assemble(f"{share:>3} %  {counts}", (f", {failed:,} failed" if failed else "", "bold red"))
        room = max(width - len(text) - 2, 10)
        line.add_row(ProgressBar(run.total, ended(run), width=room, complete_style="green"), text)
        return line

    def _map(self, run: Run, width: int, most: int) -> list["Text"]:
        from rich.text import Text

        rows = self._atlas.rows(run, max(width - _LABEL, 10), most)
        daily = len({row.start.date() for row in rows}) == len(rows)
        lines = []
        for row in rows:
            label = f"{row.start:%Y-%m-%d}" if daily else f"{row.start:%m-%d %H:%M}"
            line = Text(f"{label:<{_LABEL}}", style="", no_wrap=True, overflow="crop")
            for kind in row.cells:
                glyphs = _CELLS[kind]
                line.append(glyphs[self._glyph], style=glyphs[2])
            lines.append(line)
        legend = Text(" " * _LABEL, style="bright_black", no_wrap=True, overflow="crop")
        seen = {kind for row in rows for kind in row.cells}
        for kind in CellKind:
            if kind in seen:
                glyphs = _CELLS[kind]
                legend.append(glyphs[self._glyph], style=glyphs[2]).append(f" {kind}   ")
        return [Text(), *lines, legend]

    def _slowest(self, run: Run) -> "list[Text]":
        rows = []
        for chunk, (_, count, _, seconds) in self._atlas.slowest(run, _SHOWN):
            rows.append((chunk, f"{show_seconds(seconds)}, {show_number(count, 'row')}"))
        return _listed("slowest", "", rows)

    def _failing(self, run: Run) -> "list[Text]":
        rows = []
        for chunk, state in self._atlas.failing(run, _SHOWN):
            then = "" if state.status is ChunkStatus.FAILED else ", retried"
            rows.append((chunk, f"attempt {state.attempt}{then}: {' '.join(state.error.split())}"))
        return _listed("failing", "red", rows)


def _listed(label: str, style: str, rows: list[tuple[Chunk, str]]) -> "list[Text]":
    from rich.text import Text

    windows = [_window(chunk) for chunk, _ in rows]
    wide = max(map(len, windows), default=0)
    lines = [Text()] if rows else []
    for number, (window, (_, text)) in enumerate(zip(windows, rows, strict=True)):
        line = Text(f"{'' if number else label:<{_LABEL}}{window:<{wide}}  ", no_wrap=True, overflow="ellipsis")
        lines.append(line.append(plain_line(text), style))
    return lines


def _window(chunk: Chunk) -> str:
    """Return a chunk's window as text. If a part of a day ends at midnight, the end is written as 24:00."""
    text = chunk_window(chunk.start, chunk.end)
    last = chunk.end - timedelta(milliseconds=1)
    ends_its_day = not (chunk.end.hour or chunk.end.minute or chunk.end.second) and last.date() == chunk.start.date()
    return f"{text.partition(' to ')[0]} to 24:00" if ends_its_day and " to " in text and ":" in text else text


class Live:
    """
    A picture of a run on a terminal, drawn again while the run lasts; used as a context manager.

    Args:
        look: Returns the current run; never called by two threads at the same time.
        every: Whether all events become lines above the picture, instead of failures and splits only.
    """

    def __init__(self, out: IO[str], plan: Plan, look: Callable[[], Run], *, every: bool = False) -> None:
        from rich.console import Console
        from rich.live import Live as RichLive

        self._out, self._look, self._every = out, look, every
        self._run = look()
        self._console = Console(file=out, highlight=False)
        self._picture = RunView(plan, self._run, ascii_only=not self._console.encoding.lower().startswith("utf"))
        self._live = RichLive(console=self._console, auto_refresh=False, vertical_overflow="crop")
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._draw_on, name="backfill-display", daemon=True)
        self._narrator = EventText()
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        with muted_when_broken(self._out):
            self._live.start()
        self._draw()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._thread.join()
        self._draw()
        with muted_when_broken(self._out):
            self._live.stop()

    def report(self, event: Event) -> None:
        """Write a line above the picture for a failure or a split; with *every*, for each event that has a text."""
        with self._lock:
            text = self._narrator.tell(event)
        if text and (self._every or isinstance(event, ChunkFailed | ChunkSplit)):
            with muted_when_broken(self._out):
                self._console.print(
                    plain_line(text), style="red" if isinstance(event, ChunkFailed) else None, markup=False
                )

    def _draw_on(self) -> None:
        pause = _FRAME_SECONDS
        while not self._closing.wait(pause):
            began = time.monotonic()
            self._draw()
            # Reading a distant log is slow; drawing must not keep the store busy.
            pause = max(_FRAME_SECONDS, _REST * (time.monotonic() - began))

    def _draw(self) -> None:
        try:
            self._run = self._look()
        except BackfillError:
            # The worker or the watcher meets the same error and reports it.
            return
        size = self._console.size
        with muted_when_broken(self._out):
            self._live.update(self._picture.draw(self._run, size.width, size.height), refresh=True)
