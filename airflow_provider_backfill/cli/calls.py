"""Translate the flags of each command to arguments, call the command, and return its payload."""

import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.plain_text import plain_values
from ..errors import PROGRAM, Advice, Command, RequestError
from .console import print_line
from .environment import open_session, read_options, with_page
from .flags import PLAN_FLAGS, Payload
from .notify import check_address, notify
from .parser import Call
from .plan_request import read_choice, read_request
from .signals import Stopper
from .watch import RunDisplay, follow_events, watch_run

if TYPE_CHECKING:
    from datetime import timedelta

    from ..commands.run import RunFlags
    from ..commands.session import Session
    from ..core.hours import Schedule
    from ..core.plan import Plan
    from ..core.run_state import Run


_COUNT = re.compile("[1-9][0-9]{0,5}")


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
    """Execute or resume a stored plan. With the flags of ``plan``, and if the policy allows, first create the plan."""
    from ..commands.run import run_plan
    from ..commands.session import Session
    from ..core.run_state import RunStatus

    options = read_options(call)
    session = open_session(call, options)
    resume = call.command == "resume"
    arguments = [] if resume else call.given(PLAN_FLAGS)
    if arguments == ["--target"]:
        # --target alone names an existing plan; planning first also needs a window.
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
    read_choice(call, "--log-format", ["text", "json"])
    address = call.text("--notify")
    if address is not None:
        check_address(address)
    with Stopper() as stopper:
        plan_id = _planned(call, session) if arguments else named_plan(call, session)
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
        # The exit code that shells use for a program ended by a signal.
        payload["exitCode"] = 128 + stopper.signal
    return payload


def _planned(call: Call, session: "Session") -> str:
    """Create the plan of a ``run`` with the flags of ``plan``, and return the plan's id."""
    # Import late, because the rules of planning would slow down each run of a stored plan.
    from ..commands.plan import create_plan

    return str(create_plan(session, read_request(call, session.options))["planId"])


def _pace(call: Call) -> dict[str, Any]:
    """
    Return the arguments of the run for load, failures, schedule and order; omitted limits are left out.

    Raises:
        RequestError: A value is not allowed.
    """
    given: dict[str, Any] = {}
    if (load := call.text("--max-load")) is not None:
        # Refuse a value such as 0.8: as a percentage, it would stop the run forever.
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
    """Return the times at which chunks may start, from --hours, --stop-at and --zone; any time without these flags."""
    from datetime import UTC, datetime

    from ..core.hours import read_schedule

    return read_schedule(call.text("--hours"), call.text("--stop-at"), call.text("--zone"), datetime.now(UTC))


def named_plan(call: Call, session: "Session") -> str:
    """
    Return the id of the plan that this call names: by id or its beginning, by ``--last``, or by ``--target``.

    A complete id is returned as it is, whether or not its plan exists.

    Raises:
        PlanNotFoundError: No plan fits the name.
        DamagedStateError: No readable plan fits the name, but a damaged plan may.
        RequestError: The call names no plan or names a plan in several ways, or the name fits several plans.
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
    from ..commands.chunks import chunk_statements, list_chunks
    from ..commands.status import read_status
    from ..core.run_state import ChunkStatus

    session = open_session(call, read_options(call))
    status = read_choice(call, "--chunks", [status.value for status in ChunkStatus])
    plan_id = named_plan(call, session)
    if call.on("--watch"):
        watch_run(call, session, plan_id)
    payload = with_page(read_status(session, plan_id))
    if status is not None:
        payload["chunks"] = [chunk.payload() for chunk in list_chunks(session, plan_id, ChunkStatus(status))]
    if (chunk_id := call.text("--sql")) is not None:
        payload["statements"] = chunk_statements(session, plan_id, chunk_id)
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

    read_choice(call, "--format", ["text", "github"])
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
        status=read_choice(call, "--status", [status.value for status in RunStatus]),
    )


def _report(call: Call) -> Payload:
    from ..commands.report import report_plan

    read_choice(call, "--format", ["text", "markdown"])
    session = open_session(call, read_options(call))
    return report_plan(session, named_plan(call, session), verify=call.on("--verify"))


def _completion(call: Call) -> Payload:
    from .completion import SHELLS, completion_script

    shell = call.need("--shell", f"write `{PROGRAM} completion bash`, zsh or fish")
    read_choice(call, "--shell", list(SHELLS))
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
