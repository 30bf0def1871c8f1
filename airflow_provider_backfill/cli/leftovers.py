"""Show the result of ``clean`` as text."""

from typing import IO, Any

from ..core.plain_text import show_number
from ..errors import Command, Flag
from .console import paint


def show_clean(payload: dict[str, Any], out: IO[str]) -> str:
    """Return a summary, each table with its fate and the reason, skipped places, and the next command if any."""
    lines = [_summary(payload)]
    for table in payload["tables"]:
        colour = {"removed": "completed", "removable": "warn", "kept": "planned"}[table["fate"]]
        rows = "rows not counted" if table["rows"] is None else show_number(table["rows"], "row")
        lines.append(f"  {paint(table['fate'], colour, out)}  {table['table']} ({table['kind']}, {rows})")
        lines.append(f"    {table['reason']}")
    lines += [f"Skipped: {what}" for what in payload["notLookedAt"]]
    if payload["removable"]:
        target = [Flag("--target", payload["target"])] if payload["target"] else []
        lines += ["", f"Next: {Command('clean', payload['planId'] or '', (*target, Flag('--yes')))}"]
    return "\n".join(lines)


def _summary(payload: dict[str, Any]) -> str:
    kept = f"; {payload['kept']:,} kept" if payload["kept"] else ""
    if payload["removed"]:
        return f"{show_number(payload['removed'], 'table')} dropped{kept}."
    if payload["removable"]:
        return f"{show_number(payload['removable'], 'table')} can be dropped, and nothing was{kept}."
    return f"Nothing is left to drop{kept}."
