"""Build the errors for damaged state files, and for state files of other tools or versions, with a remedy."""

import json
from typing import Any

from pydantic import ValidationError

from ..core.model import FORMAT
from ..errors import Advice, DamagedStateError, Flag, Remedy, StateFormatError

_UPGRADE = "install a newer airflow-provider-backfill"


def plan_remedy(plan_id: str) -> Remedy:
    """Return the advice for a damaged plan file: restore the file, or plan again."""
    return Advice(
        "restore the file from a backup, or keep it aside and plan again with {} (plan {})", Flag("--force"), plan_id
    )


def damage_reason(data: bytes, error: ValidationError) -> str:
    """Return in a few words why the bytes are invalid."""
    if not data.strip(b"\0 \n"):
        return "it is empty"
    first = error.errors(include_url=False)[0]
    if first["type"] == "union_tag_invalid":
        return f"it is a {first['ctx']['tag']}, which this version does not know; a newer one may have written it"
    place = ".".join(str(part) for part in first["loc"])
    return f"{place}: {first['msg']}" if place else first["msg"]


def _object(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def refuse_other_format(path: str, data: bytes) -> None:
    """Raise a StateFormatError if *data* has the format number of another version."""
    number = _object(data).get("format")
    if isinstance(number, int) and number != FORMAT:
        raise other_format(path, number)


def refuse_foreign(path: str, data: bytes) -> None:
    """Raise a StateFormatError if another version or chkit's backfill plugin wrote the file that cannot be parsed."""
    refuse_other_format(path, data)
    if "format" not in (found := _object(data)) and isinstance(found.get("chunks"), list):
        raise StateFormatError(
            f"{path} was written by chkit's backfill plugin, whose runs this tool does not continue.",
            path=path,
            remedy=Advice("choose another folder with {}, and plan the window there", Flag("--state-dir")),
        )


def other_format(path: str, number: int) -> StateFormatError:
    """Return the error for a file that another version wrote."""
    if number > FORMAT:
        return StateFormatError(
            f"{path} was written by a newer version: it has format {number}, and this one reads format {FORMAT}.",
            path=path,
            hint=_UPGRADE,
        )
    return StateFormatError(
        f"{path} was written before the first release: it has format {number}, and this version reads format {FORMAT}.",
        path=path,
        remedy=Advice(
            "finish the run with the version that began it, or plan again in another folder with {}",
            Flag("--state-dir"),
        ),
    )


def damaged(path: str, line: int | None, reason: str, remedy: Remedy) -> DamagedStateError:
    """Return the error for a damaged state file; *line* is None if the file is not a log."""
    place = path if line is None else f"{path}, line {line}"
    return DamagedStateError(f"{place} is damaged: {reason}.", path=path, line=line, remedy=remedy)
