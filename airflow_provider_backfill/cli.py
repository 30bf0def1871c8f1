"""
The console script ``clickhouse-backfill``: words in, one call of :mod:`.commands`, text or JSON out.

Errors are handled once, in :func:`main`; nothing here prompts. What a command needs is imported
when it is called, so ``--version`` loads only the standard library and no command loads Airflow.
A password is read here, handed to the client, and cut out of whatever is printed.
"""

import argparse
import difflib
import io
import json
import os
import re
import shlex
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import IO, TYPE_CHECKING, Any, NamedTuple, NoReturn, Self

from . import __version__
from .errors import BackfillError, ConfigError, RequestError

if TYPE_CHECKING:
    from datetime import timedelta

    from .commands import RunFlags, Session
    from .core.model import Plan, Run
    from .core.planner import PlanRequest
    from .options import Options
    from .terminal import Progress

PROGRAM = "clickhouse-backfill"
# Looking for plugins of pydantic in every installed distribution takes longer than most commands.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

Payload = dict[str, Any]


class _Flag(NamedTuple):
    """One flag; *value* shows what it takes and is empty for a switch."""

    name: str
    value: str
    help: str

    @property
    def key(self) -> str:
        return self.name.lstrip("-").replace("-", "_")


class _Command(NamedTuple):
    help: str
    flags: tuple[_Flag, ...]
    more: tuple[_Flag, ...] = ()


_COMMON = (
    _Flag("--clickhouse-url", "URL", "http[s]://user@host:8123/database or chdb:///path (CLICKHOUSE_URL)"),
    _Flag("--password-file", "FILE", "file that holds the password (CLICKHOUSE_PASSWORD_FILE, CLICKHOUSE_PASSWORD)"),
    _Flag("--state-dir", "DIR", "folder of plans, runs and events (CLICKHOUSE_BACKFILL_STATE_DIR)"),
    _Flag("--config", "FILE", "options file; default: clickhouse-backfill.toml or pyproject.toml here"),
    _Flag("--json", "", "print one JSON object on stdout and nothing else"),
    _Flag("--verbose", "", "show every event, and the traceback of an unexpected error"),
)
_PLAN_ID = _Flag("--plan-id", "ID", "the plan's 16 hex digits, as printed by plan and list")
_PLAN_FLAGS = (
    _Flag("--target", "DATABASE.TABLE", "table to fill"),
    _Flag("--from", "TIME", "start of the window, included: 2025-01-31 or 2025-01-31T06:00:00Z"),
    _Flag("--to", "TIME", "end of the window, excluded"),
    _Flag("--chunk-hours", "HOURS", "length of a chunk, or auto: what suits the rows (default: option chunkHours, 6)"),
    _Flag("--time-column", "COLUMN", "column that the window applies to (default: found)"),
    _Flag("--time-unit", "UNIT", "s, ms or us, when the time column is an integer epoch"),
    _Flag(
        "--source", "DATABASE.TABLE", "copy this table, columns matched by name (default: replay the target's views)"
    ),
    _Flag("--select", "SQL", "insert the rows of this SELECT"),
    _Flag("--select-file", "FILE", "insert the rows of the SELECT in this file"),
    _Flag("--filter-table", "DATABASE.TABLE", "table of the SELECT that the window applies to"),
    _Flag("--write-mode", "MODE", "stage, replace or insert (default: what fits the target)"),
    _Flag("--accept-at-least-once", "", "with insert: accept that a failed attempt may repeat rows"),
    _Flag("--keep-outside", "", "with replace: keep rows outside the window in partitions that it covers in part"),
    _Flag("--backup", "", "with replace: keep what is overwritten, so that undo can bring it back"),
    _Flag("--allow-existing-rows", "", "add to the rows that the target already holds in the window"),
    _Flag("--force-large-window", "", "go over limits.maxWindowHours"),
    _Flag("--force", "", "plan anew where a plan of this id exists; its files are kept beside"),
)
_RUN_FLAGS = (
    _PLAN_ID,
    _Flag("--max-parallel-chunks", "N", "chunks at once (default: option maxParallelChunks, 1)"),
    _Flag("--replay-done", "", "execute done chunks again"),
    _Flag("--replay-failed", "", "execute failed chunks again, with a fresh budget of attempts"),
    _Flag(
        "--clear-window", "", "with --replay-done or --replay-failed: delete each chunk's window from the target first"
    ),
    _Flag("--max-load", "PERCENT", "wait while the server uses more of its limits on parts and memory (default: 80)"),
    _Flag("--max-failures", "N", "pause when so many chunks in a row failed for good (default: 10)"),
    _Flag("--force-overlap", "", "run beside another run over the same rows"),
    _Flag("--force-compatibility", "", "run the plan as it was made, though options have changed since"),
    _Flag("--force-environment", "", "run on another ClickHouse than the plan was made on"),
)
_WATCH = _Flag("--watch", "", "show progress until the run has ended; with --json a line for each change")
_REASON = _Flag("--reason", "TEXT", "why, for the event log")
_NARROW = _Flag("--target", "DATABASE.TABLE", "look only at the backfills of this table")

_DOCTOR_FLAGS = (_PLAN_ID, _Flag("--target", "DATABASE.TABLE", "look at this table, before there is a plan"))
_CHECK_FLAGS = (
    _NARROW,
    _Flag("--max-age", "AGE", "an unfinished plan only warns until it is so old: 90m, 36h, 7d"),
    _Flag("--required", "FILE", "TOML, YAML or JSON file of backfills that must have a plan"),
    _Flag("--format", "FORMAT", "text, or github for annotations of a workflow"),
    _Flag("--junit", "FILE", "write the findings as a JUnit file as well"),
)
_PACE_FLAGS = (_PLAN_ID, _Flag("--max-parallel-chunks", "N", "chunks at once, over all workers; off: as each was told"))
_WAIVE_FLAGS = (
    _PLAN_ID,
    _REASON,
    _Flag("--until", "TIME", "when the waiver ends by itself (default: never)"),
    _Flag("--superseded-by", "ID", "the plan that does this one's work"),
)
_COVERAGE_FLAGS = (
    _Flag("--target", "DATABASE.TABLE", "table whose done chunks are looked at"),
    _Flag("--from", "TIME", "start of the window, included"),
    _Flag("--to", "TIME", "end of the window, excluded"),
)

_COMMANDS = {
    "plan": _Command("make an immutable plan; nothing runs", _PLAN_FLAGS),
    "run": _Command("execute a plan, chunk by chunk", _RUN_FLAGS, _PLAN_FLAGS),
    "resume": _Command("go on after a pause, crash, failure or cancel; failed chunks included", _RUN_FLAGS),
    "status": _Command("show where a plan stands", (_PLAN_ID, _WATCH)),
    "pace": _Command("turn how many chunks run at once, while they run", _PACE_FLAGS),
    "cancel": _Command("stop a plan and kill its queries, until it is resumed", (_PLAN_ID, _REASON)),
    "doctor": _Command("show what is wrong with a plan or a table, and what to type", _DOCTOR_FLAGS),
    "check": _Command("fail while a planned backfill is not completed; for CI", _CHECK_FLAGS),
    "coverage": _Command("show which parts of a window are proven filled", _COVERAGE_FLAGS),
    "verify": _Command("compare what was written with the source and the target as they are now", (_PLAN_ID,)),
    "undo": _Command("bring back what a plan made with --backup has replaced", (_PLAN_ID,)),
    "waive": _Command("say that a plan need not be finished; check does not count it", _WAIVE_FLAGS),
    "repair": _Command("make a plan's damaged files readable again; the damaged ones are kept", (_PLAN_ID,)),
    "list": _Command("list all plans", ()),
}
_ALL_FLAGS = {flag.name: flag for command in _COMMANDS.values() for flag in (*_COMMON, *command.flags)}
# After these, advice given by one command works only with the same flag.
_CARRIED = ("--state-dir", "--config")
_CARRIED_TO_SERVER = ("--clickhouse-url", "--password-file")
_ASKS_SERVER = ("plan", "run", "resume", "cancel", "doctor", "verify", "undo")
_PASSWORD_IN_URL = re.compile(r"(//[^/:@\s]*):[^@\s]*@")


# ---------------------------------------------------------------- words


class _Parser(argparse.ArgumentParser):
    """Raises what argparse would print."""

    def error(self, message: str) -> NoReturn:
        raise RequestError(f"{message[:1].upper()}{message[1:]}.", hint=f"{self.prog} --help shows what it takes")


class _Call(NamedTuple):
    """One command as it was typed; a flag that was not given is None, or False for a switch."""

    command: str
    values: Mapping[str, Any]
    airflow_section: Mapping[str, str] | None = None

    def text(self, name: str) -> str | None:
        """The value of a flag, None when it was not given."""
        value: str | None = self.values[_ALL_FLAGS[name].key]
        return value

    def on(self, name: str) -> bool:
        """Whether a switch was given."""
        return bool(self.values[_ALL_FLAGS[name].key])

    def given(self, flags: Sequence[_Flag]) -> list[str]:
        """The names of those of *flags* that were given."""
        return [flag.name for flag in flags if self.values[flag.key] not in (None, False)]

    def need(self, name: str, hint: str) -> str:
        """The value of a flag that must be given."""
        value = self.text(name)
        if value is None:
            raise RequestError(f"{name} is missing.", hint=hint)
        return value


def _parse(words: Sequence[str]) -> _Call:
    """
    Read the command line: the command is the first word that is neither a flag nor a flag's value.

    Raises:
        RequestError: No command, an unknown word, or a flag without its value.
    """
    index = 0
    while index < len(words) and words[index].startswith("-"):
        flag = _ALL_FLAGS.get(words[index])
        if words[index] == "--version":
            _print(sys.stdout, f"{PROGRAM} {__version__}")
            raise SystemExit(0)
        if words[index] in ("-h", "--help") and not any(word in _COMMANDS for word in words):
            _print(sys.stdout, _overview())
            raise SystemExit(0)
        index += 2 if flag and flag.value else 1
    if index >= len(words):
        if unknown := next((word for word in words if word.startswith("-") and _name(word) not in _ALL_FLAGS), None):
            raise _unknown(unknown, "")
        raise RequestError("No command was given.", hint=f"one of {', '.join(_COMMANDS)}; {PROGRAM} --help explains")
    command = words[index]
    if command not in _COMMANDS:
        near = difflib.get_close_matches(command, _COMMANDS, 1)
        hint = f"did you mean {PROGRAM} {near[0]}?" if near else f"one of {', '.join(_COMMANDS)}"
        raise RequestError(f"{command!r} is not a command.", hint=hint)
    rest = [*words[:index], *words[index + 1 :]]
    defaults = {flag.key: None if flag.value else False for flag in _ALL_FLAGS.values()}
    try:
        found, extra = _parser(command).parse_known_args(rest, argparse.Namespace(**defaults))
    except argparse.ArgumentError as error:
        raise _misused(error, command) from None
    if extra:
        raise _unknown(extra[0], command)
    return _Call(command, vars(found))


def _name(word: str) -> str:
    return word.partition("=")[0]


def _parser(command: str) -> _Parser:
    about = _COMMANDS[command]
    parser = _Parser(
        prog=f"{PROGRAM} {command}",
        description=f"{about.help[0].upper()}{about.help[1:]}.",
        add_help=False,
        allow_abbrev=False,
        exit_on_error=False,
        argument_default=argparse.SUPPRESS,
        usage=f"{PROGRAM} {command} [options]",
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=34, width=120),
    )
    own = parser.add_argument_group("options")
    more = parser.add_argument_group("to plan first, when policy.requireDryRunBeforeRun is false")
    common = parser.add_argument_group("common options, before or after the command")
    for group, flags in ((own, about.flags), (more, about.more), (common, _COMMON)):
        for flag in flags:
            if flag.value:
                group.add_argument(flag.name, dest=flag.key, metavar=flag.value, help=flag.help)
            else:
                group.add_argument(flag.name, dest=flag.key, action="store_true", help=flag.help)
    common.add_argument("-h", "--help", action="help", help="show this")
    return parser


def _overview() -> str:
    lines = [
        f"usage: {PROGRAM} COMMAND [options]",
        "",
        "Plan, run and watch time-windowed ClickHouse backfills, each row written exactly once.",
        "",
        "commands:",
        *(f"  {name:<8} {about.help}" for name, about in _COMMANDS.items()),
        "",
        "common options, before or after the command:",
        *(f"  {f'{flag.name} {flag.value}':<24} {flag.help}" for flag in _COMMON),
        "  --version                show the version",
        "  -h, --help               show this, or a command's options",
        "",
        "exit codes: 0 success, 1 runtime error, 2 configuration or usage error",
    ]
    return "\n".join(lines)


def _flags(command: str) -> dict[str, _Flag]:
    about = _COMMANDS[command]
    return {flag.name: flag for flag in (*_COMMON, *about.more, *about.flags)}


def _misused(error: argparse.ArgumentError, command: str) -> RequestError:
    name = (error.argument_name or "").rpartition("/")[2]
    flag = _flags(command).get(name)
    if flag is None:
        return RequestError(f"{name}: {error.message}.", hint=f"{PROGRAM} --help shows what it takes")
    if flag.value:
        return RequestError(f"{name} needs a value.", hint=f"write {name} {flag.value}: {flag.help}")
    return RequestError(f"{name} takes no value.", hint=f"write {name} alone: {flag.help}")


def _unknown(word: str, command: str) -> RequestError:
    known = _flags(command) if command else {flag.name: flag for flag in _COMMON}
    where = f"{PROGRAM} {command}".rstrip()
    what = command or PROGRAM
    if not word.startswith("-"):
        hint = (
            f"write --plan-id {word}" if re.fullmatch("[0-9a-f]{16}", word) else f"{where} --help shows what it takes"
        )
        return RequestError(f"{word!r} belongs to no flag.", hint=hint)
    near = difflib.get_close_matches(_name(word), known, 1)
    owners = [name for name, about in _COMMANDS.items() if _name(word) in [flag.name for flag in about.flags]]
    if owners:
        hint = f"it belongs to {', '.join(owners)}"
    else:
        hint = f"did you mean {near[0]}?" if near else f"{where} --help shows what it takes"
    return RequestError(f"{what} has no flag {_name(word)}.", hint=hint)


# ---------------------------------------------------------------- what a command works with


def _options(call: _Call) -> "Options":
    from .options import load_options

    config = call.text("--config")
    return load_options(
        overrides={name: call.text(name) for name in ("--state-dir", "--time-column", "--max-parallel-chunks")},
        environ=os.environ,
        config_file=Path(config) if config else None,
        directory=Path.cwd(),
        airflow_section=call.airflow_section,
    )


def _session(call: _Call, options: "Options") -> "Session":
    from .clickhouse.client import Server, connect
    from .commands import Session
    from .state.store import open_store

    url = _url(call)

    def open_server() -> Server:
        # Threads of the worker, its watcher, and one to spare.
        return connect(url or "", _password(call), connections=options.defaults.max_parallel_chunks + 4)

    store = open_store(options.state_dir or f".{PROGRAM}")
    return Session(store, options, open_server if url else None, _user())


def _url(call: _Call) -> str | None:
    given = call.text("--clickhouse-url")
    return os.environ.get("CLICKHOUSE_URL") or None if given is None else given


def _with_page(payload: Payload) -> Payload:
    """The payload of a plan with the address of its page, where Airflow's own address is known."""
    from .address import airflow_address, page_address

    base = airflow_address(os.environ)
    return {**payload, "page": page_address(base, payload["planId"])} if base and payload["planId"] else payload


def _password(call: _Call) -> str | None:
    """
    The password that is not in the URL: from --password-file, else CLICKHOUSE_PASSWORD, else its file.

    Raises:
        ConfigError: The file cannot be read.
    """
    path, where = call.text("--password-file"), "--password-file"
    if path is None and (given := os.environ.get("CLICKHOUSE_PASSWORD")):
        return given
    if path is None:
        path, where = os.environ.get("CLICKHOUSE_PASSWORD_FILE"), "CLICKHOUSE_PASSWORD_FILE"
    if not path:
        return None
    try:
        return Path(path).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"The password file {path} cannot be read: {reason}.", hint=f"check {where}") from error


def _user() -> str:
    """Who gives the commands: the account this process runs under, and the host; no variable can change it."""
    import pwd

    number = os.getuid()
    try:
        name = pwd.getpwuid(number).pw_name
    except KeyError:
        # Containers run under numbers that no account has.
        name = f"uid-{number}"
    return f"{name}@{socket.gethostname()}"


# ---------------------------------------------------------------- commands


def _request(call: _Call, options: "Options") -> "PlanRequest":
    from .core.model import WriteMode
    from .core.planner import PlanRequest, parse_chunk_hours, parse_instant
    from .core.statements import parse_table

    sources = call.given([_ALL_FLAGS[name] for name in ("--source", "--select", "--select-file")])
    if len(sources) > 1:
        raise RequestError(
            f"{' and '.join(sources)} exclude each other: rows come from one place.", hint=f"keep one of {len(sources)}"
        )
    target = parse_table(call.need("--target", "write --target database.table"), "target")
    bounds = [call.text(name) for name in ("--from", "--to")]
    if options.policy.require_explicit_window and None in bounds:
        missing = ("--from", "--to")[bounds.index(None)]
        raise RequestError(
            f"{missing} is missing.",
            hint=f"write {missing} 2025-01-31, or set policy.requireExplicitWindow to false to take it from the source",
        )
    start, end = (None if text is None else parse_instant(text) for text in bounds)
    hours, source, table = call.text("--chunk-hours"), call.text("--source"), call.text("--filter-table")
    mode = _choice(call, "--write-mode", [mode.value for mode in WriteMode])
    return PlanRequest(
        target=target,
        start=start,
        end=end,
        chunk_hours=options.defaults.chunk_hours if hours in (None, "auto") else parse_chunk_hours(hours),
        auto_chunk_hours=hours == "auto",
        time_column=options.defaults.time_column,
        time_unit=_choice(call, "--time-unit", ["s", "ms", "us"]) or "",
        source=None if source is None else parse_table(source, "source"),
        select=_select(call),
        filter_table=None if table is None else parse_table(table, "filter-table"),
        write_mode=None if mode is None else WriteMode(mode),
        accept_at_least_once=call.on("--accept-at-least-once"),
        keep_outside=call.on("--keep-outside"),
        backup=call.on("--backup"),
        allow_existing_rows=call.on("--allow-existing-rows"),
        force_large_window=call.on("--force-large-window"),
        force=call.on("--force"),
    )


def _choice(call: _Call, name: str, allowed: list[str]) -> str | None:
    value = call.text(name)
    if value is not None and value not in allowed:
        raise RequestError(f"{name} is {value!r}.", hint=f"write {name} with one of {', '.join(allowed)}")
    return value


def _select(call: _Call) -> str | None:
    name = "--select"
    text, path = call.text(name), call.text("--select-file")
    if path is not None:
        name = "--select-file"
        try:
            text = Path(path).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise RequestError(f"{name} {path} cannot be read: {reason}.", hint="check the path") from error
    if text is not None and not text.strip():
        raise RequestError(f"{name} {path or ''}".rstrip() + " holds no SELECT.", hint=f"write {name} 'SELECT …'")
    return text


def _plan(call: _Call) -> Payload:
    from . import commands

    options = _options(call)
    request = _request(call, options)
    return commands.plan(_session(call, options), request)


def _run_flags(call: _Call) -> "RunFlags":
    from .commands import RunFlags

    return RunFlags(
        replay_done=call.on("--replay-done"),
        replay_failed=call.on("--replay-failed"),
        clear_window=call.on("--clear-window"),
        force_overlap=call.on("--force-overlap"),
        force_compatibility=call.on("--force-compatibility"),
        force_environment=call.on("--force-environment"),
    )


def _run(call: _Call) -> Payload:
    """Execute a plan; where the policy allows, make it first."""
    from . import commands

    options = _options(call)
    session = _session(call, options)
    arguments = call.given(_PLAN_FLAGS)
    resume = call.command == "resume"
    if arguments and call.text("--plan-id") is not None:
        raise RequestError(
            f"--plan-id and {arguments[0]} exclude each other: a stored plan is run as it is.",
            hint="keep --plan-id, or leave it away to plan first",
        )
    if arguments and options.policy.require_dry_run_before_run:
        raise RequestError(
            f"{arguments[0]} belongs to plan: policy.requireDryRunBeforeRun is true, so only a stored plan is run.",
            hint=f"`{PROGRAM} plan` with the same flags, then `{PROGRAM} run --plan-id …`; or set the policy to false",
        )
    with _Stopper() as stopper:
        plan_id = str(commands.plan(session, _request(call, options))["planId"]) if arguments else _plan_id(call)
        session = commands.Session(session.store, options, stopper.opening(session.server), session.user)
        with _RunDisplay(call, session) as display:

            def begin(worker: Any, made: "Plan", _: "Run") -> None:
                display.begin(made)
                stopper.attach(worker.stop)

            began = time.monotonic()
            payload = commands.run(
                session,
                plan_id,
                flags=_run_flags(call),
                resume=resume,
                on_start=begin,
                report=display.report,
                **_pace(call),
            )
    return payload if payload.get("noop") else {**payload, "seconds": round(time.monotonic() - began, 3)}


def _pace(call: _Call) -> dict[str, Any]:
    """What the user says of load and failures, where anything."""
    given: dict[str, Any] = {}
    if (load := call.text("--max-load")) is not None:
        if not re.fullmatch(r"\d+(\.\d+)?", load) or not 0 < float(load) <= 100:
            raise RequestError(f"--max-load is {load!r}.", hint="write a percentage above 0 and up to 100, such as 80")
        given["max_load"] = float(load) / 100
    if (failures := call.text("--max-failures")) is not None:
        if not failures.isdecimal() or int(failures) < 1:
            raise RequestError(f"--max-failures is {failures!r}.", hint="write a whole number from 1 on, such as 10")
        given["max_failures"] = int(failures)
    return given


class _RunDisplay:
    """The progress of one run, from the moment it begins."""

    def __init__(self, call: _Call, session: "Session") -> None:
        self._call, self._session = call, session
        self._progress: Progress | None = None

    def __enter__(self) -> Self:
        return self

    def begin(self, made: "Plan") -> None:
        """Start to show the run of *made*."""
        from . import terminal

        if self._call.on("--json"):
            return
        look, every = self._session.store.open_run(made).refresh, self._call.on("--verbose")
        progress: Progress
        if terminal.is_terminal(sys.stderr):
            from .live import Live

            progress = Live(sys.stderr, made, look, every=every)
        else:
            progress = terminal.Lines(sys.stderr, look, every=every)
        self._progress = progress.__enter__()

    def report(self, event: Any) -> None:
        """Show an event; called from any thread of the worker."""
        if self._progress is not None:
            self._progress.report(event)

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.__exit__(None, None, None)


class _Stopper:
    """
    Turns SIGINT, SIGTERM and SIGHUP into a pause while a run lasts.

    Before the worker exists, a signal ends the command; after that the first one stops the
    worker, which gives its chunks back. A second SIGINT ends the process at once.
    """

    _SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self._reason = ""
        self._stop: Callable[[str], None] | None = None
        self._connected = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        # Handlers belong to the main thread; a signal that was ignored from outside (nohup) stays so.
        if threading.current_thread() is threading.main_thread():
            for number in self._SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def opening(self, connect: Callable[[], Any] | None) -> Callable[[], Any] | None:
        """*connect*, after which a signal waits for the worker: from there on the log is written."""
        if connect is None:
            return None

        def connected() -> Any:
            server = connect()
            self._connected = True
            return server

        return connected

    def attach(self, stop: Callable[[str], None]) -> None:
        """Pass signals on to a worker's *stop*, also one that came before."""
        self._stop = stop
        if self._reason:
            stop(self._reason)

    def _handle(self, number: int, _: FrameType | None) -> None:
        name = signal.Signals(number).name
        if not self._connected:
            raise KeyboardInterrupt
        if self._reason:
            if number == signal.SIGINT:
                # A drawn bar has hidden the cursor.
                os.write(2, b"\x1b[?25h\n" if os.isatty(2) else b"")
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        self._reason = f"stopped by {name}"
        # In a thread, because this one may hold, where it was interrupted, a lock that stop() and writing need.
        threading.Thread(target=self._pause, daemon=True).start()

    def _pause(self) -> None:
        # Looked up now: a progress bar puts a writer of its own there, which keeps the line above it.
        _print(
            sys.stderr, f"{self._reason[0].upper()}{self._reason[1:]}; giving the chunks back. Ctrl-C leaves at once."
        )
        if self._stop is not None:
            self._stop(self._reason)


def _plan_id(call: _Call) -> str:
    return call.need("--plan-id", f"write --plan-id with one of those that `{PROGRAM} list` shows")


def _status(call: _Call) -> Payload:
    from . import commands

    session = _session(call, _options(call))
    plan_id = _plan_id(call)
    if call.on("--watch"):
        _watch(call, session, plan_id)
    return _with_page(commands.status(session, plan_id))


def _watch(call: _Call, session: "Session", plan_id: str) -> None:
    """
    Show progress on stderr until the run has ended or the user leaves with Ctrl-C.

    With --json each change is a line on stdout: the payload of status, its slowest and failing chunks, and the pace.
    """
    from . import commands, terminal

    made = session.store.load_plan(plan_id)
    log = session.store.open_run(made)
    try:
        if call.on("--json"):
            _until_settled(commands.is_settled, log.refresh, _Changes(call, session, made, log.run).draw)
        elif terminal.is_terminal(sys.stderr):
            from .live import Live

            with Live(sys.stderr, made, session.store.open_run(made).refresh):
                _until_settled(commands.is_settled, log.refresh, lambda _: None)
        else:
            changes = terminal.Changes(sys.stderr, log.run)
            _until_settled(commands.is_settled, log.refresh, changes.draw)
    except KeyboardInterrupt:
        pass


class _Changes:
    """Writes a JSON line for a machine whenever the run has changed."""

    def __init__(self, call: _Call, session: "Session", made: "Plan", run: "Run") -> None:
        from .core.atlas import Atlas
        from .terminal import Pace

        self._call, self._session, self._made = call, session, made
        self._atlas, self._pace = Atlas(made), Pace(run)
        self._last: Payload = {}

    def draw(self, run: "Run") -> None:
        """Write a line if something has changed since the last one."""
        from . import commands
        from .core.atlas import highlights

        payload = commands.status_payload(self._session, self._made, run, "status")
        if payload == self._last:
            return
        self._last = payload
        left = self._pace.seconds_left(run)
        pace = {
            "rowsPerSecond": round(self._pace.rows_per_second(run)),
            "secondsLeft": None if left is None else round(left, 1),
        }
        _print(
            sys.stdout, json.dumps({**_pasteable(payload, self._call), "pace": pace, **highlights(self._atlas, run)})
        )
        sys.stdout.flush()


def _until_settled(settled: Callable[["Run"], bool], look: Callable[[], "Run"], draw: Callable[["Run"], None]) -> None:
    while True:
        run = look()
        draw(run)
        if settled(run):
            return
        time.sleep(0.5)


def _cancel(call: _Call) -> Payload:
    from . import commands

    session = _session(call, _options(call))
    return commands.cancel(session, _plan_id(call), reason=call.text("--reason") or "")


def _doctor(call: _Call) -> Payload:
    from . import commands
    from .core.statements import parse_table

    plan_id, target = call.text("--plan-id"), call.text("--target")
    if plan_id is not None and target is not None:
        raise RequestError("--plan-id and --target exclude each other.", hint="keep one")
    session = _session(call, _options(call))
    if target is not None:
        return commands.doctor(session, target=parse_table(target, "target"))
    return _with_page(commands.doctor(session, _plan_id(call)))


def _check(call: _Call) -> Payload:
    from . import commands, reports
    from .core.statements import parse_table
    from .declared import read_declared

    _choice(call, "--format", ["text", "github"])
    target, age, required = call.text("--target"), call.text("--max-age"), call.text("--required")
    payload = commands.check(
        _session(call, _options(call)),
        None if target is None else parse_table(target, "target"),
        max_age=None if age is None else _age(age),
        declared=[] if required is None else read_declared(Path(required)),
    )
    if junit := call.text("--junit"):
        reports.write_junit(_pasteable(payload, call), Path(junit))
    return payload


def _age(text: str) -> "timedelta":
    from datetime import timedelta

    match = re.fullmatch(r"(\d+(?:\.\d+)?)([mhd])", text.strip())
    if match is None:
        raise RequestError(f"--max-age is {text!r}.", hint="write a number and its unit: 90m, 36h or 7d")
    return float(match[1]) * {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}[match[2]]


def _coverage(call: _Call) -> Payload:
    from . import commands
    from .core.identity import parse_instant
    from .core.statements import parse_table

    target = parse_table(call.need("--target", "write --target database.table"), "target")
    start, end = (
        parse_instant(call.need(name, f"write {name} 2025-01-31, the window that must be filled"))
        for name in ("--from", "--to")
    )
    return commands.coverage(_session(call, _options(call)), target, start, end)


def _verify(call: _Call) -> Payload:
    from . import commands

    return commands.verify(_session(call, _options(call)), _plan_id(call))


def _undo(call: _Call) -> Payload:
    from . import commands

    return commands.undo(_session(call, _options(call)), _plan_id(call))


def _set_pace(call: _Call) -> Payload:
    from . import commands

    name = "--max-parallel-chunks"
    text = call.need(name, f"write {name} 4, or {name} off to leave it to each worker")
    if text != "off" and not (text.isdecimal() and int(text) > 0):
        raise RequestError(f"{name} is {text!r}.", hint=f"write {name} with a whole number from 1 on, or off")
    # Without the option of the same name: this is about a run, whatever workers here would do.
    options = _options(_Call(call.command, {**call.values, "max_parallel_chunks": None}))
    return commands.set_pace(_session(call, options), _plan_id(call), 0 if text == "off" else int(text))


def _waive(call: _Call) -> Payload:
    from . import commands
    from .core.identity import parse_instant

    until = call.text("--until")
    return commands.waive(
        _session(call, _options(call)),
        _plan_id(call),
        reason=call.need("--reason", 'write --reason "why it need not be finished"'),
        until=None if until is None else parse_instant(until),
        superseded_by=call.text("--superseded-by") or "",
    )


def _repair(call: _Call) -> Payload:
    from . import commands

    return commands.repair(_session(call, _options(call)), _plan_id(call))


def _list(call: _Call) -> Payload:
    from . import commands

    return commands.list_plans(_session(call, _options(call)))


_CALLS: dict[str, Callable[[_Call], Payload]] = {
    "plan": _plan,
    "run": _run,
    "resume": _run,
    "status": _status,
    "pace": _set_pace,
    "cancel": _cancel,
    "doctor": _doctor,
    "check": _check,
    "coverage": _coverage,
    "verify": _verify,
    "undo": _undo,
    "waive": _waive,
    "repair": _repair,
    "list": _list,
}


# ---------------------------------------------------------------- out


def main(arguments: Sequence[str] | None = None, *, airflow_section: Mapping[str, str] | None = None) -> int:
    """
    Run one command; *arguments* are those of the process when None.

    Args:
        airflow_section: ``[clickhouse_backfill]`` of Airflow's configuration, where this is a command of Airflow's.

    Returns:
        0 for success, 1 for a runtime error, 2 for a configuration or usage error.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if arguments is None:
        # This process is ours alone; looking for plugins among all installed packages takes a part of each start.
        os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal or pipe that cannot take a character gets its escape, not an error.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = _main(words, airflow_section)
        sys.stdout.flush()
    except BrokenPipeError:
        from .terminal import mute

        # The reader has left (`… | head`); what is still buffered must not fail again at exit.
        mute(sys.stdout)
        mute(sys.stderr)
        return 1
    return code


def _main(words: list[str], airflow_section: Mapping[str, str] | None) -> int:
    command, call = next((word for word in words if word in _COMMANDS), ""), None
    try:
        call = _parse(words)._replace(airflow_section=airflow_section)
        payload = _CALLS[call.command](call)
    except SystemExit as end:
        return int(end.code or 0)
    except BrokenPipeError:
        raise
    except BackfillError as error:
        return _fail(words, call, command, error)
    except KeyboardInterrupt:
        return _fail(words, call, command, BackfillError("Interrupted."))
    except Exception as error:  # noqa: BLE001 - the last place to catch it; --verbose shows where it came from
        if "--verbose" in words:
            _print(sys.stderr, _clean(traceback.format_exc(), call).rstrip())
        text = f"Unexpected error: {type(error).__name__}: {error}"
        return _fail(words, call, command, BackfillError(text, hint="--verbose shows the traceback; please report it"))
    _show(payload, call)
    return 0 if payload["ok"] else 1


def _show(payload: Payload, call: _Call) -> None:
    payload = _pasteable(payload, call)
    if call.on("--json"):
        _print(sys.stdout, json.dumps(payload))
        return
    if call.command == "check" and call.text("--format") == "github":
        from .reports import github_lines

        for line in github_lines(payload):
            _print(sys.stdout, line)
        return
    from . import terminal

    show = {
        "plan": terminal.show_plan,
        "doctor": terminal.show_doctor,
        "check": terminal.show_check,
        "coverage": terminal.show_coverage,
        "verify": terminal.show_verify,
        "list": terminal.show_list,
        "pace": terminal.show_set_pace,
        "waive": terminal.show_waiver,
        "repair": terminal.show_repair,
    }.get(call.command, terminal.show_status)
    _print(sys.stdout, show(payload, sys.stdout))


def _fail(words: list[str], call: _Call | None, command: str, error: BackfillError) -> int:
    """Say what happened and what to type, on stderr; with --json as an object on stdout, too."""
    message, hint = (_clean(text, call) for text in (error.message, error.hint))
    if call is not None:
        hint = _pasteable(hint, call)
    _print(sys.stderr, f"{PROGRAM}: {message}" + (f"\n  hint: {hint}" if hint else ""))
    if "--json" in words:
        payload = {"ok": False, "command": command, "error": message, "hint": hint, "exitCode": error.exit_code}
        _print(sys.stdout, json.dumps(payload))
    return error.exit_code


def _print(out: IO[str], text: str) -> None:
    out.write(f"{text}\n")


def _clean(text: str, call: _Call | None) -> str:
    """*text* without the passwords of this call, whoever wrote them into it."""
    from urllib.parse import unquote, urlsplit

    secrets = {os.environ.get("CLICKHOUSE_PASSWORD") or ""}
    url = (_url(call) if call else os.environ.get("CLICKHOUSE_URL")) or ""
    try:
        secrets |= {urlsplit(url).password or "", unquote(urlsplit(url).password or "")}
        secrets.add(_password(call) or "" if call else "")
    except (ValueError, ConfigError):
        pass
    for secret in secrets:
        # A word of three letters is no secret, and cutting it out would garble the text.
        if len(secret) > 3:
            text = text.replace(secret, "…")
    return _PASSWORD_IN_URL.sub(r"\1:…@", text)


def _pasteable(value: Any, call: _Call) -> Any:
    """*value* with this call's common flags in every command that it advises, so that it works when pasted."""
    if isinstance(value, dict):
        return {key: _pasteable(inner, call) for key, inner in value.items()}
    if isinstance(value, list):
        return [_pasteable(inner, call) for inner in value]
    if not isinstance(value, str) or f"{PROGRAM} " not in value:
        return value

    def with_flags(match: re.Match[str]) -> str:
        names = (*_CARRIED, *_CARRIED_TO_SERVER) if match[1] in _ASKS_SERVER else _CARRIED
        given = [(name, text) for name in names if (text := call.text(name)) is not None]
        words = [f"{name} {shlex.quote(re.sub(r':[^:@/]*@', '@', text))}" for name, text in given]
        return " ".join([PROGRAM, match[1], *words])

    return re.sub(rf"\b{PROGRAM} ({'|'.join(_COMMANDS)})\b", with_flags, value)


if __name__ == "__main__":
    sys.exit(main())
