"""One function per command: from flags to the command's arguments."""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RequestError
from .environment import open_session, read_options, with_page
from .flags import ALL_FLAGS, PLAN_FLAGS, PROGRAM, Payload
from .output import pasteable
from .parser import Call
from .signals import Stopper
from .watch import RunDisplay, watch_run

if TYPE_CHECKING:
    from datetime import timedelta

    from ..commands.run import RunFlags
    from ..core.chunking import Chunking
    from ..core.plan import Plan, PlanRequest
    from ..core.run_state import Run
    from ..options import Options


def read_request(call: Call, options: "Options") -> "PlanRequest":
    """Read the flags of ``plan`` as a request."""
    from ..core.chunking import AUTO
    from ..core.instants import parse_instant
    from ..core.plan import PlanRequest, WriteMode
    from ..core.sql import parse_table

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
    source, table = call.text("--source"), call.text("--filter-table")
    auto = call.text("--chunk-hours") == AUTO
    mode = _choice(call, "--write-mode", [mode.value for mode in WriteMode])
    return PlanRequest(
        target=target,
        start=start,
        end=end,
        chunking=_chunking(call, options, auto),
        auto_chunks=auto,
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


def _select(call: Call) -> str | None:
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


def _plan(call: Call) -> Payload:
    from ..commands.plan import create_plan

    options = read_options(call)
    request = read_request(call, options)
    return create_plan(open_session(call, options), request)


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

    options = read_options(call)
    session = open_session(call, options)
    arguments = call.given(PLAN_FLAGS)
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
    with Stopper() as stopper:
        plan_id = str(create_plan(session, read_request(call, options))["planId"]) if arguments else need_plan_id(call)
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
    return payload if payload.get("noop") else {**payload, "seconds": round(time.monotonic() - began, 3)}


def _pace(call: Call) -> dict[str, Any]:
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


def need_plan_id(call: Call) -> str:
    """Return the plan's id, which must be given."""
    return call.need("--plan-id", f"write --plan-id with one of those that `{PROGRAM} list` shows")


def _status(call: Call) -> Payload:
    from ..commands.status import read_status

    session = open_session(call, read_options(call))
    plan_id = need_plan_id(call)
    if call.on("--watch"):
        watch_run(call, session, plan_id)
    return with_page(read_status(session, plan_id))


def _cancel(call: Call) -> Payload:
    from ..commands.cancel import cancel_plan

    session = open_session(call, read_options(call))
    return cancel_plan(session, need_plan_id(call), reason=call.text("--reason") or "")


def _doctor(call: Call) -> Payload:
    from ..commands.doctor import diagnose
    from ..core.sql import parse_table

    plan_id, target = call.text("--plan-id"), call.text("--target")
    if plan_id is not None and target is not None:
        raise RequestError("--plan-id and --target exclude each other.", hint="keep one")
    session = open_session(call, read_options(call))
    if target is not None:
        return diagnose(session, target=parse_table(target, "target"))
    return with_page(diagnose(session, need_plan_id(call)))


def _check(call: Call) -> Payload:
    from ..commands.check import check_backfills
    from ..core.sql import parse_table
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
        ci_reports.write_junit(pasteable(payload, call), Path(junit))
    return payload


def _age(text: str) -> "timedelta":
    from datetime import timedelta

    match = re.fullmatch(r"(\d+(?:\.\d+)?)([mhd])", text.strip())
    if match is None:
        raise RequestError(f"--max-age is {text!r}.", hint="write a number and its unit: 90m, 36h or 7d")
    return float(match[1]) * {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}[match[2]]


def _coverage(call: Call) -> Payload:
    from ..commands.coverage import read_coverage
    from ..core.instants import parse_instant
    from ..core.sql import parse_table

    target = parse_table(call.need("--target", "write --target database.table"), "target")
    start, end = (
        parse_instant(call.need(name, f"write {name} 2025-01-31, the window that must be filled"))
        for name in ("--from", "--to")
    )
    return read_coverage(open_session(call, read_options(call)), target, start, end)


def _verify(call: Call) -> Payload:
    from ..commands.verify import verify_plan

    return verify_plan(open_session(call, read_options(call)), need_plan_id(call))


def _undo(call: Call) -> Payload:
    from ..commands.undo import undo_plan

    return undo_plan(open_session(call, read_options(call)), need_plan_id(call))


def _set_pace(call: Call) -> Payload:
    from ..commands.set_parallel import set_parallel

    name = "--max-parallel-chunks"
    text = call.need(name, f"write {name} 4, or {name} off to leave it to each worker")
    if text != "off" and not (text.isdecimal() and int(text) > 0):
        raise RequestError(f"{name} is {text!r}.", hint=f"write {name} with a whole number from 1 on, or off")
    # Without the option of the same name: this is about a run, whatever workers here would do.
    options = read_options(Call(call.command, {**call.values, "max_parallel_chunks": None}))
    return set_parallel(open_session(call, options), need_plan_id(call), 0 if text == "off" else int(text))


def _waive(call: Call) -> Payload:
    from ..commands.waive import waive_plan
    from ..core.instants import parse_instant

    until = call.text("--until")
    return waive_plan(
        open_session(call, read_options(call)),
        need_plan_id(call),
        reason=call.need("--reason", 'write --reason "why it need not be finished"'),
        until=None if until is None else parse_instant(until),
        superseded_by=call.text("--superseded-by") or "",
    )


def _repair(call: Call) -> Payload:
    from ..commands.repair import repair_plan

    return repair_plan(open_session(call, read_options(call)), need_plan_id(call))


def _list(call: Call) -> Payload:
    from ..commands.list import list_plans

    return list_plans(open_session(call, read_options(call)))


CALLS: dict[str, Callable[[Call], Payload]] = {
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
