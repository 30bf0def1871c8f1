"""Print payloads and errors as text or JSON, without secrets."""

import json
import os
import sys
from contextlib import suppress
from typing import Any
from urllib.parse import quote

from ..core.plain_text import plain_json, plain_line, plain_values
from ..errors import PROGRAM, BackfillError, ConfigError, Flag
from .console import print_line
from .environment import read_password, server_url
from .flags import Payload
from .parser import Call

# If the user gave one of these flags, the commands that the output advises need the same flag. The flags in
# _CARRIED_TO_SERVER are needed only by the commands in _ASKS_SERVER.
_CARRIED = ("--state-dir", "--config")
_CARRIED_TO_SERVER = ("--clickhouse-url", "--password-file")
_ASKS_SERVER = ("plan", "run", "resume", "cancel", "doctor", "verify", "undo", "report", "clean")


def show_payload(payload: Payload, call: Call) -> None:
    """
    Print a command's result on stdout, as text, JSON, GitHub annotations or plan ids.

    After --follow, print nothing, because the events are already printed; with --json, still print the result.
    """
    if call.on("--json"):
        print_json(payload)
        return
    # Escape before lines are built: a line break in a name would look like a line break of the program.
    payload = plain_values(payload)
    if call.command == "check" and call.text("--format") == "github":
        from .ci_reports import github_lines

        # These lines are CI commands on purpose.
        sys.stdout.writelines(f"{line}\n" for line in github_lines(payload))
        return
    if call.command in ("plan", "list") and call.on("--quiet"):
        plans = payload["plans"] if call.command == "list" else [payload]
        for plan in plans:
            print_line(sys.stdout, plan["planId"])
        return
    if payload.get("followed"):
        return
    from . import leftovers, plan_text, report, text

    show = {
        "plan": plan_text.show_plan,
        "doctor": text.show_doctor,
        "check": text.show_check,
        "coverage": text.show_coverage,
        "verify": text.show_verify,
        "list": text.show_list,
        "events": text.show_events,
        "report": report.show_markdown if call.text("--format") == "markdown" else report.show_report,
        "completion": text.show_completion,
        "set-parallel": text.show_parallel,
        "waive": text.show_waiver,
        "repair": text.show_repair,
        "clean": leftovers.show_clean,
    }.get(call.command, text.show_status)
    print_line(sys.stdout, show(payload, sys.stdout))


def print_json(payload: Any) -> None:
    """Print one JSON object as one line of ASCII on stdout."""
    sys.stdout.write(f"{plain_json(json.dumps(payload))}\n")


def report_error(words: list[str], call: Call | None, command: str, error: BackfillError) -> int:
    """Print an error and its remedy on stderr, with --json also as an object on stdout; return the exit code."""
    from ..core.masking import MESSAGE_LIMIT

    message, hint = (without_passwords(text, call)[:MESSAGE_LIMIT] for text in (error.message, error.hint))
    line = f"{PROGRAM}: {plain_line(message)}"
    print_line(sys.stderr, line + (f"\n  hint: {plain_line(hint)}" if hint else ""))
    if "--json" in words:
        payload = {"ok": False, "command": command, "error": message, "hint": hint, "exitCode": error.exit_code}
        print_json(payload)
    return error.exit_code


def without_passwords(text: str, call: Call | None) -> str:
    """Return *text* with the passwords of this call masked, except passwords of three characters or fewer."""
    from ..clickhouse.address import parse_address
    from ..core.masking import MASK

    url = (server_url(call) if call else os.environ.get("CLICKHOUSE_URL")) or ""
    secrets = {os.environ.get("CLICKHOUSE_PASSWORD") or ""}
    with suppress(ConfigError):
        secrets.add(parse_address(url).password or "" if url else "")
    with suppress(ConfigError):
        secrets.add(read_password(call) or "" if call else "")
    for secret in sorted(secrets, key=len, reverse=True):
        # Do not mask three characters or fewer: masking such a short word would garble the text.
        for form in {secret, quote(secret, safe="")} if len(secret) > 3 else ():
            text = text.replace(form, MASK)
    return text


def _shown(name: str, text: str) -> str:
    """Return a flag's value for display. An address of ClickHouse loses its password, or is masked if unreadable."""
    if name != "--clickhouse-url":
        return text
    from ..clickhouse.address import parse_address
    from ..core.masking import MASK

    try:
        return parse_address(text).shown
    except ConfigError:
        return MASK


def carried_flags(call: Call, verb: str) -> list[Flag]:
    """Return the flags of this call that an advised command *verb* also needs, without passwords."""
    names = (*_CARRIED, *_CARRIED_TO_SERVER) if verb in _ASKS_SERVER else _CARRIED
    return [Flag(name, _shown(name, text)) for name in names if (text := call.text(name)) is not None]
