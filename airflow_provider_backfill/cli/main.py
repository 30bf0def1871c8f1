"""
Run the console script ``clickhouse-backfill``.

Commands raise errors, and only this module reports the errors. No command asks for input. Modules are imported when a
command needs them, so ``--version`` loads no other package, and no command loads Airflow.
"""

import gc
import io
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial

from ..errors import BackfillError, RequestError, carrying
from .console import print_line
from .flags import COMMANDS
from .parser import Call, parse


def main(arguments: Sequence[str] | None = None, *, airflow_section: Mapping[str, str] | None = None) -> int:
    """
    Run one command with *arguments*; None means the arguments of the process.

    Args:
        airflow_section: Airflow's ``[clickhouse_backfill]`` section, if Airflow's command line calls this function.

    Returns:
        0 for success; 1 for a runtime error or a negative answer; 2 for a configuration or usage error; 3 for an
        inconclusive ``verify``; 128 plus a signal's number if the signal paused a run or ended the command.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if arguments is None:
        # pydantic would search all installed packages for plugins, which slows down each start.
        os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
        # The start creates hundreds of thousands of objects that stay; each search for garbage would visit all of them.
        gc.set_threshold(50_000)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Escape characters that the encoding of the terminal or pipe lacks, instead of failing.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = _main(words, airflow_section)
        sys.stdout.flush()
    except BrokenPipeError:
        from .console import mute

        # The reader has closed the pipe (`… | head`); buffered output must not fail again at exit.
        mute(sys.stdout)
        mute(sys.stderr)
        code = 1
    if arguments is None:
        # Do not search for garbage at the exit of the process, which would take longer than the rest of the exit.
        gc.freeze()
    return code


def _is_no_text(word: str) -> bool:
    """Return whether *word* contains a null character, or bytes that Python could not decode."""
    return not word.isprintable() and any(letter == "\0" or "\ud800" <= letter <= "\udfff" for letter in word)


def _main(words: list[str], airflow_section: Mapping[str, str] | None) -> int:
    with ExitStack() as carried:
        return _call(words, airflow_section, carried)


def _call(words: list[str], airflow_section: Mapping[str, str] | None, carried: ExitStack) -> int:
    command, call = next((word for word in words if word in COMMANDS), ""), None
    try:
        if any(_is_no_text(word) for word in words):
            raise RequestError("An argument is not UTF-8 text.", hint="set a locale of UTF-8, such as LC_ALL=C.UTF-8")
        call = parse(words)._replace(airflow_section=airflow_section)
        from .calls import CALLS
        from .output import carried_flags, show_payload

        carried.enter_context(carrying(partial(carried_flags, call)))
        payload = CALLS[call.command](call)
        code = int(payload.pop("exitCode", 0 if payload["ok"] else 1))
        show_payload(payload, call)
    except SystemExit as end:
        return int(end.code or 0)
    except BrokenPipeError:
        raise
    except BackfillError as error:
        return _report(words, call, command, error)
    except KeyboardInterrupt:
        _report(words, call, command, BackfillError("Interrupted."))
        # The exit code that shells use for SIGINT.
        return 130
    except Exception as error:  # noqa: BLE001 - the last place to catch it; --verbose shows where it came from
        from ..core.masking import mask_message, mask_secrets

        if "--verbose" in words:
            import traceback

            from .output import without_passwords

            print_line(sys.stderr, mask_secrets(without_passwords(traceback.format_exc(), call)).rstrip())
        text = mask_message(f"Unexpected error: {type(error).__name__}: {error}")
        return _report(
            words, call, command, BackfillError(text, hint="--verbose shows the traceback; please report it")
        )
    return code


def _report(words: list[str], call: Call | None, command: str, error: BackfillError) -> int:
    from .output import report_error

    return report_error(words, call, command, error)
