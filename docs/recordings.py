"""
The recordings of the terminal in the documentation: real commands on a real ClickHouse, as SVG.

    python -m docs.recordings

Writes docs/images/*.svg. Commands run in a terminal of 80 columns; the progress of a run is written line by line, as it
is where nothing can be drawn.
"""

import os
import pty
import re
import shlex
import subprocess
import sys
import tempfile
import termios
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path

import clickhouse_connect
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

from tests.server import ClickHouseServer

IMAGES = Path(__file__).parent / "images"
COLUMNS = 80
# Fetch no font, since every machine has a monospaced one.
_WITHOUT_FONTS = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
_TABLES = """
CREATE DATABASE shop;
CREATE TABLE shop.orders (ts DateTime('UTC'), id UInt64, amount Int64) ENGINE = MergeTree ORDER BY ts;
CREATE TABLE shop.orders_eur (ts DateTime('UTC'), id UInt64, cents UInt64) ENGINE = MergeTree ORDER BY (id, ts);
INSERT INTO shop.orders SELECT toDateTime('2025-01-01', 'UTC') + number * 60, number,
    if(number = 5000, -1, number % 900) FROM numbers(14400);
"""
_SELECT = "SELECT ts, id, toUInt64(amount + throwIf(amount < 0, 'a negative amount')) AS cents FROM shop.orders"
_WINDOW = "--from 2025-01-01 --to 2025-01-11 --chunk-by day"
# The typed lines by recording; a line that begins with # is SQL that runs in ClickHouse meanwhile.
SESSIONS = {
    "failed-chunk": (
        f'plan --target shop.orders_eur {_WINDOW} --select "{_SELECT}" --quiet',
        "run --last",
        "status --last --chunks failed",
        "# ALTER TABLE shop.orders UPDATE amount = -amount WHERE amount < 0 SETTINGS mutations_sync = 1",
        "resume --last",
        "verify --last",
    ),
    "clean": (
        "list",
        # A table that a worker leaves if it is killed between its last event and its cleanup.
        "# CREATE TABLE shop.backfill_5aac71362141371d_0123456789abcdef_1 AS shop.orders_eur",
        "clean",
        "clean --yes",
    ),
}


def main() -> None:
    """Play every session and write its recording."""
    with (
        tempfile.TemporaryDirectory(prefix="backfill-recordings-") as folder,
        ClickHouseServer(Path(folder) / "clickhouse") as server,
    ):
        client = clickhouse_connect.get_client(dsn=server.url, autogenerate_session_id=False)
        for statement in filter(str.strip, _TABLES.split(";")):
            client.command(statement)
        environment = {**os.environ, "CLICKHOUSE_URL": server.url, "TERM": "xterm-256color"}
        work = Path(folder) / "work"
        work.mkdir()
        for name, lines in SESSIONS.items():
            screen = play(lines, work, environment, client.command)
            (IMAGES / f"{name}.svg").write_text(drawing(screen, name), encoding="utf-8")
            sys.stdout.write(f"docs/images/{name}.svg\n")


def play(lines: tuple[str, ...], folder: Path, environment: dict[str, str], sql: Callable[[str], object]) -> Text:
    """Type *lines* one after the other, and return the content of the terminal."""
    screen = Text()
    for line in lines:
        if line.startswith("# "):
            sql(line.removeprefix("# "))
            screen.append(f"clickhouse> {line.removeprefix('# ')};\n\n", style="dim")
            continue
        screen.append("$ ", style="green").append(f"clickhouse-backfill {line}\n", style="bold")
        shown = "".join(_output(shlex.split(line), folder, environment)).replace(str(folder), "~")
        screen.append(Text.from_ansi(shown)).append("\n\n")
    screen.rstrip()
    return screen


def _output(words: list[str], folder: Path, environment: dict[str, str]) -> Iterator[str]:
    """Yield the output of a command: stderr goes to a pipe, stdout to a terminal of 80 columns."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (50, COLUMNS))
    program = [sys.executable, "-m", "airflow_provider_backfill.cli", *words]
    done = subprocess.run(  # noqa: S603 - our own program
        program, cwd=folder, env=environment, stdout=theirs, stderr=subprocess.PIPE, check=False
    )
    os.close(theirs)
    yield done.stderr.decode()
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        while True:
            try:
                data = terminal.read(65536)
            except OSError:
                # The other end is closed, and everything was read.
                return
            if not data:
                return
            yield data.decode().replace("\r\n", "\n")


def drawing(screen: Text, name: str) -> str:
    """Draw the screen as an SVG with real text, for search and for screen readers."""
    console = Console(record=True, width=COLUMNS, file=StringIO(), force_terminal=True, legacy_windows=False)
    console.print(screen, soft_wrap=False)
    return console.export_svg(title="clickhouse-backfill", code_format=_WITHOUT_FONTS, unique_id=name)


if __name__ == "__main__":
    main()
