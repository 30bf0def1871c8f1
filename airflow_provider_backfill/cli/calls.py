"""One function per command: from flags to the command's arguments."""

import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.plain_text import plain_values
from ..errors import PROGRAM, Advice, Command, RequestError
from .console import print_line
from .environment import open_session, read_file, read_options, with_page
from .flags import ALL_FLAGS, PLAN_FLAGS, Payload
from .notify import check_address, notify
from .parser import Call
from .signals import Stopper
from .watch import RunDisplay, follow_events, watch_run

if TYPE_CHECKING:
    from datetime import timedelta

    from ..commands.run import RunFlags
    from ..commands.session import Session
    from ..core.chunking import Chunking
    from ..core.hours import Schedule
    from ..core.plan import Plan, PlanRequest
    from ..core.run_state import Run
    from ..options import Options


_COUNT = re.compile("[1-9][0-9]{0,5}")


def read_request(call: Call, options: "Options") -> "PlanRequest":
    """Read the flags of ``plan`` as a request."""
    from ..core.chunking import AUTO
    from ..core.instants import parse_instant
    from ..core.names import parse_table
    from ..core.parameters import read_formats
    from ..core.plan import PlanRequest, WriteMode
    from ..core.query_settings import settings_as_text
    from ..core.sql import parse_filter
    from ..core.tables import TIME_UNITS

    sources = call.given([ALL_FLAGS[name] for name in ("--source", "--select", "--select-file")])
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
    source = call.text("--source")
    auto = call.text("--chunk-hours") == AUTO
    mode = _choice(call, "--write-mode", [mode.value for mode in WriteMode])
    return PlanRequest(
        target=target,
        start=start,
        end=end,
        chunking=_chunking(call, options, auto),
        auto_chunks=auto,
        time_column=options.defaults.time_column,
        time_unit=_choice(call, "--time-unit", list(TIME_UNITS)) or "",
        source=None if source is None else parse_table(source, "source"),
        select=_select(call),
        formats=read_formats(dict(_pairs(call, "--param"))),
        settings=settings_as_text({**(options.defaults.settings or {}), **dict(_pairs(call, "--setting"))}),
        filter_tables=tuple(map(parse_filter, call.texts("--filter-table"))),
        whole_tables=tuple(parse_table(text, "whole-table") for text in call.texts("--whole-table")),
        write_mode=None if mode is None else WriteMode(mode),
        accept_at_least_once=call.on("--accept-at-least-once"),
        keep_outside=call.on("--keep-outside"),
        backup=call.on("--backup"),
        allow_existing_rows=call.on("--allow-existing-rows"),
        accept_partial_groups=_reason(call, "--accept-partial-groups"),
        trial=not call.on("--no-trial"),
        force_large_window=call.on("--force-large-window"),
        force=call.on("--force"),
        one_shard=call.on("--one-shard"),
        reason=call.text("--reason") or "",
        owner=call.text("--owner") or "",
    )


def _chunking(call: Call, options: "Options", auto: bool) -> "Chunking":
    """Read how the window is to be cut; what no flag says, options do."""
    lengths = [name for name in ("--chunk-hours", "--chunk-by") if call.text(name) is not None]
    zone = call.text("--chunk-zone")
    if len(lengths) > 1 or (auto and zone is not None):
        names = " and ".join([*lengths, *(["--chunk-zone"] if zone is not None else [])])
        raise RequestError(f"{names} exclude each other: a chunk has one length.", hint="keep one of them")
    limits = [name for name in ("--max-chunk-rows", "--max-chunk-bytes") if call.text(name) is not None]
    if auto and limits:
        raise RequestError(
            f"--chunk-hours auto and {limits[0]} exclude each other: with a limit, the rows decide anyway.",
            hint="leave --chunk-hours away",
        )
    chunking = options.defaults.chunking(None if auto or not lengths else call.text(lengths[0]), zone)
    return chunking.without_limits() if auto else chunking


def _choice(call: Call, name: str, allowed: list[str]) -> str | None:
    value = call.text(name)
    if value is not None and value not in allowed:
        raise RequestError(f"{name} is {value!r}.", hint=f"write {name} with one of {', '.join(allowed)}")
    return value


def _pairs(call: Call, name: str) -> Iterator[tuple[str, str]]:
    """Return the values of a flag that are written ``NAME=VALUE``."""
    for text in call.texts(name):
        left, sign, right = text.partition("=")
        if not sign or not left.strip():
            raise RequestError(f"{name} is {text!r}.", hint=f"write {name} {ALL_FLAGS[name].value}")
        yield left.strip(), right


def _reason(call: Call, name: str) -> str:
    reason = call.text(name)
    if reason is not None and not reason.strip():
        raise RequestError(f"{name} gives no reason.", hint=f"write {name} 'why parts of groups are fine'")
    return (reason or "").strip()


def _select(call: Call) -> str | None:
    name = "--select"
    text, path = call.text(name), call.text("--select-file")
    if path is not None:
        name = "--select-file"
        try:
            text = read_file(Path(path)).decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise RequestError(f"{name} {path} cannot be read: {reason}.", hint="check the path") from error
    if text is not None and not text.strip():
        raise RequestError(f"{name} {path or ''}".rstrip() + " holds no SELECT.", hint=f"write {name} 'SELECT …'")
    return text


def _plan(call: Call) -> Payload:
    from ..commands.plan import create_plan

    options = read_options(call)
    request = read_request(call, options)
    return create_plan(open_session(call, options), request, dry_run=call.on("--dry-run"))


def _run_flags(call: Call) -> "RunFlags":
    from ..commands.run import RunFlags

    return RunFlags(
        replay_done=call.on("--replay-done"),
        replay_failed=call.on("--replay-failed"),
        clear_window=call.on("--clear-window"),
        force_overlap=call.on("--force-overlap"),
        force_compatibility=call.on("--force-compatibility"),
        force_environment=call.on("--force-environment"),
    )


def _run(call: Call) -> Payload:
    """Execute a plan; where the policy allows, make it first."""
    from ..commands.plan import create_plan
    from ..commands.run import run_plan
    from ..commands.session import Session
    from ..core.run_state import RunStatus

    options = read_options(call)
    session = open_session(call, options)
    resume = call.command == "resume"
    arguments = [] if resume else call.given(PLAN_FLAGS)
    if arguments == ["--target"]:
        # The table alone names a plan of it; to plan first takes a window as well.
        arguments = []
    if arguments and (call.text("--plan-id") is not None or call.on("--last")):
        raise RequestError(
            f"A stored plan cannot be changed by {arguments[0]}.",
            hint=f"drop {arguments[0]} to run the stored plan, or drop its name to plan first",
        )
    if arguments and options.policy.require_dry_run_before_run:
        raise RequestError(
            f"{arguments[0]} belongs to plan: policy.requireDryRunBeforeRun is true, so only a stored plan is run.",
            remedy=Advice(
                "`{}` with the same flags, then `{}`; or set the policy to false", Command("plan"), Command("run", "ID")
            ),
        )
    _choice(call, "--log-format", ["text", "json"])
    address = call.text("--notify")
    if address is not None:
        check_address(address)
    with Stopper() as stopper:
        plan_id = (
            str(create_plan(session, read_request(call, options))["planId"]) if arguments else named_plan(call, session)
        )
        session = Session(session.store, options, stopper.opening(session.server), session.user)
        with RunDisplay(call, session) as display:

            def begin(worker: Any, plan: "Plan", _: "Run") -> None:
                display.begin(plan)
                stopper.attach(worker.stop)

            began = time.monotonic()
            payload = run_plan(
                session,
                plan_id,
                flags=_run_flags(call),
                resume=resume,
                on_start=begin,
                report=display.report,
                **_pace(call),
            )
    if payload.get("noop"):
        return payload
    payload["seconds"] = round(time.monotonic() - began, 3)
    if address is not None and (problem := notify(address, payload)):
        print_line(sys.stderr, f"{PROGRAM}: Nobody was notified: {problem}.")
    if stopper.signal and payload["status"] == RunStatus.PAUSED:
        # As a shell reports a program that a signal ended.
        payload["exitCode"] = 128 + stopper.signal
    return payload


def _pace(call: Call) -> dict[str, Any]:
    """Return the user's limits on load and failures, if any."""
    given: dict[str, Any] = {}
    if (load := call.text("--max-load")) is not None:
        # A share such as 0.8 is none: it would stop the run for ever.
        if not re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,9})?", load) or not 1 <= float(load) <= 100:
            raise RequestError(f"--max-load is {load!r}.", hint="write a percentage from 1 to 100, such as 80")
        given["max_load"] = float(load) / 100
    if (failures := call.text("--max-failures")) is not None:
        if not _COUNT.fullmatch(failures):
            raise RequestError(
                f"--max-failures is {failures!r}.", hint="write a whole number from 1 to 999999, such as 10"
            )
        given["max_failures"] = int(failures)
    return {**given, "schedule": _schedule(call), "newest_first": call.on("--newest-first")}


def _schedule(call: Call) -> "Schedule":
    """Read when chunks may start."""
    from datetime import UTC, datetime

    from ..core.hours import Schedule, parse_hours, parse_stop

    hours, stop, zone = (call.text(name) for name in ("--hours", "--stop-at", "--zone"))
    if zone is not None and hours is None and stop is None:
        raise RequestError("--zone says whose clocks count, and no time of day is given.", hint="write --hours 22-06")
    return Schedule(
        None if hours is None else parse_hours(hours, zone),
        None if stop is None else parse_stop(stop, datetime.now(UTC), zone),
    )


def named_plan(call: Call, session: "Session") -> str:
    """
    Return the id of the plan that this call names: an id or its beginning, ``--last``, or ``--target``.

    Raises:
        RequestError: No plan is named, two ways are used at once, or the name fits several plans.
    """
    from ..commands.find_plan import find_plan_id, last_plan_id, plan_id_of_target
    from ..core.names import parse_table

    name, target = call.text("--plan-id"), call.text("--target")
    ways = [way for way, used in (("--plan-id", name), ("--last", call.on("--last")), ("--target", target)) if used]
    if len(ways) > 1:
        raise RequestError(f"{' and '.join(ways)} exclude each other.", hint="keep one")
    if name is not None:
        return find_plan_id(session, name)
    if target is not None:
        return plan_id_of_target(session, parse_table(target, "target"))
    if call.on("--last"):
        return last_plan_id(session)
    raise RequestError(
        "No plan was named.",
        remedy=Advice(
            "write `{}` with one of those that `{}` shows, --last, or --target",
            Command(call.command, "ID"),
            Command("list"),
        ),
    )


def _status(call: Call) -> Payload:
    from ..commands.chunks import list_chunks
    from ..commands.status import read_status
    from ..core.run_state import ChunkStatus

    session = open_session(call, read_options(call))
    status = _choice(call, "--chunks", [status.value for status in ChunkStatus])
    plan_id = named_plan(call, session)
    if call.on("--watch"):
        watch_run(call, session, plan_id)
    payload = with_page(read_status(session, plan_id))
    if status is not None:
        payload["chunks"] = list_chunks(session, plan_id, ChunkStatus(status))
    return payload


def _events(call: Call) -> Payload:
    from ..commands.events import EventReader

    session = open_session(call, read_options(call))
    plan_id = named_plan(call, session)
    reader = EventReader(session, plan_id, chunk_id=call.text("--chunk") or "")
    if call.on("--follow"):
        return follow_events(call, session, plan_id, reader)
    return {"ok": True, "command": "events", "planId": plan_id, "events": list(reader.read())}


def _pause(call: Call) -> Payload:
    from ..commands.pause import pause_plan

    session = open_session(call, read_options(call))
    return pause_plan(session, named_plan(call, session), reason=call.text("--reason") or "")


def _cancel(call: Call) -> Payload:
    from ..commands.cancel import cancel_plan

    session = open_session(call, read_options(call))
    return cancel_plan(session, named_plan(call, session), reason=call.text("--reason") or "")


def _doctor(call: Call) -> Payload:
    from ..commands.doctor import diagnose
    from ..core.names import parse_table

    session, target = open_session(call, read_options(call)), call.text("--target")
    if target is not None and call.text("--plan-id") is None and not call.on("--last"):
        return diagnose(session, target=parse_table(target, "target"))
    return with_page(diagnose(session, named_plan(call, session)))


def _check(call: Call) -> Payload:
    from ..commands.check import check_backfills
    from ..core.names import parse_table
    from . import ci_reports
    from .required_file import read_required

    _choice(call, "--format", ["text", "github"])
    target, age, required = call.text("--target"), call.text("--max-age"), call.text("--required")
    payload = check_backfills(
        open_session(call, read_options(call)),
        None if target is None else parse_table(target, "target"),
        max_age=None if age is None else _age(age),
        declared=[] if required is None else read_required(Path(required)),
    )
    if junit := call.text("--junit"):
        ci_reports.write_junit(plain_values(payload), Path(junit))
    return payload


def _age(text: str) -> "timedelta":
    from datetime import timedelta

    match = re.fullmatch(r"([0-9]{1,7}(?:\.[0-9]{1,9})?)([mhdw])", text.strip())
    if match is None:
        raise RequestError(f"--max-age is {text!r}.", hint="write a number and its unit: 90m, 36h, 7d or 2w")
    units = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
    return float(match[1]) * units[match[2]]


def _coverage(call: Call) -> Payload:
    from ..commands.coverage import read_coverage
    from ..core.instants import parse_instant
    from ..core.names import parse_table

    target = parse_table(call.need("--target", "write --target database.table"), "target")
    bounds = (call.text(name) for name in ("--from", "--to"))
    start, end = (None if text is None else parse_instant(text) for text in bounds)
    return read_coverage(open_session(call, read_options(call)), target, start, end)


def _verify(call: Call) -> Payload:
    from ..commands.verify import verify_plan

    session = open_session(call, read_options(call))
    return verify_plan(session, named_plan(call, session))


def _undo(call: Call) -> Payload:
    from ..commands.undo import undo_plan

    session = open_session(call, read_options(call))
    return undo_plan(session, named_plan(call, session))


def _set_parallel(call: Call) -> Payload:
    from ..commands.set_parallel import set_parallel

    text = call.need("--parallel", f"write `{PROGRAM} {call.command} 4`, or auto to leave it to each worker")
    if text != "auto" and not _COUNT.fullmatch(text):
        raise RequestError(f"{text!r} is no number of chunks.", hint="write a whole number from 1 to 999999, or auto")
    session = open_session(call, read_options(call))
    return set_parallel(session, named_plan(call, session), 0 if text == "auto" else int(text))


def _waive(call: Call) -> Payload:
    from ..commands.waive import waive_plan
    from ..core.instants import parse_instant

    until = call.text("--until")
    session = open_session(call, read_options(call))
    return waive_plan(
        session,
        named_plan(call, session),
        reason=call.need("--reason", 'write --reason "why it need not be finished"'),
        until=None if until is None else parse_instant(until),
        superseded_by=call.text("--superseded-by") or "",
    )


def _repair(call: Call) -> Payload:
    from ..commands.repair import repair_plan

    session = open_session(call, read_options(call))
    return repair_plan(session, named_plan(call, session))


def _clean(call: Call) -> Payload:
    from ..commands.clean import clean_up
    from ..commands.find_plan import find_plan_id, last_plan_id
    from ..core.names import parse_table

    name, target = call.text("--plan-id"), call.text("--target")
    if name is not None and call.on("--last"):
        raise RequestError("--plan-id and --last exclude each other.", hint="keep one")
    table = None if target is None else parse_table(target, "target")
    session = open_session(call, read_options(call))
    plan_id = last_plan_id(session) if call.on("--last") else None if name is None else find_plan_id(session, name)
    return clean_up(session, plan_id=plan_id, target=table, remove=call.on("--yes"))


def _list(call: Call) -> Payload:
    from ..commands.list import list_plans
    from ..core.names import parse_table
    from ..core.run_state import RunStatus

    target = call.text("--target")
    return list_plans(
        open_session(call, read_options(call)),
        target=None if target is None else parse_table(target, "target"),
        status=_choice(call, "--status", [status.value for status in RunStatus]),
    )


def _report(call: Call) -> Payload:
    from ..commands.report import report_plan

    _choice(call, "--format", ["text", "markdown"])
    session = open_session(call, read_options(call))
    return report_plan(session, named_plan(call, session), verify=call.on("--verify"))


def _completion(call: Call) -> Payload:
    from .completion import SHELLS, completion_script

    shell = call.need("--shell", f"write `{PROGRAM} completion bash`, zsh or fish")
    _choice(call, "--shell", list(SHELLS))
    return {"ok": True, "command": "completion", "shell": shell, "script": completion_script(shell)}


CALLS: dict[str, Callable[[Call], Payload]] = {
    "plan": _plan,
    "run": _run,
    "resume": _run,
    "status": _status,
    "events": _events,
    "set-parallel": _set_parallel,
    "pause": _pause,
    "cancel": _cancel,
    "doctor": _doctor,
    "check": _check,
    "coverage": _coverage,
    "verify": _verify,
    "undo": _undo,
    "waive": _waive,
    "repair": _repair,
    "clean": _clean,
    "list": _list,
    "report": _report,
    "completion": _completion,
}
