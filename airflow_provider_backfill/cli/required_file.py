"""The backfills that a file under version control demands, for ``check --required``."""

import json
import tomllib
from pathlib import Path
from typing import Any

from ..core.findings.registry import RequiredBackfill
from ..core.instants import parse_instant, render_instant
from ..core.sql import parse_table, show_table
from ..errors import ConfigError, RequestError

_KEYS = {"target": True, "from": True, "to": True, "reason": False, "owner": False}
_EXPECTED = {
    "TOML": "start each entry with [[backfill]]",
    "YAML": "write backfill: and below it one entry with each -",
    "JSON": 'write {"backfill": [{"target": …}]}',
}


def read_required(path: Path) -> list[RequiredBackfill]:
    """
    The backfills that a TOML, YAML or JSON file declares, by its suffix (TOML when it has another).

    It holds a list ``backfill`` of entries with target, from, to, and reason, owner.

    Raises:
        ConfigError: The file cannot be read, or does not say that; names the entry.
    """
    kind = {".yaml": "YAML", ".yml": "YAML", ".json": "JSON"}.get(path.suffix.lower(), "TOML")
    try:
        document = _parse(path.read_text(encoding="utf-8-sig"), kind)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}.", hint="check the path given as --required"
        ) from None
    except ValueError as error:
        hint = "texts need quotes" if kind == "TOML" else f"{_EXPECTED[kind]}"
        raise ConfigError(f"{path} is not valid {kind}: {error}.", hint=hint) from None
    entries = document.get("backfill", []) if isinstance(document, dict) else None
    if not isinstance(document, dict) or set(document) - {"backfill"} or not isinstance(entries, list):
        holds = ", ".join(map(str, document)) if isinstance(document, dict) else f"a {type(document).__name__}"
        raise ConfigError(f"{path} holds {holds}; allowed: [[backfill]].", hint=_EXPECTED[kind])
    return [_declared(entry, f"{path} [[backfill]] {number}", kind) for number, entry in enumerate(entries, 1)]


def _parse(text: str, kind: str) -> Any:
    if kind == "TOML":
        return tomllib.loads(text)
    if kind == "JSON":
        return json.loads(text)
    try:
        import yaml
    except ImportError:
        raise ConfigError("A YAML file needs PyYAML.", hint="pip install pyyaml, or write the file as TOML") from None
    try:
        return yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None


def _declared(entry: Any, where: str, kind: str) -> RequiredBackfill:
    if not isinstance(entry, dict):
        raise ConfigError(f"{where} is {entry!r}.", hint=_EXPECTED[kind])
    unknown = sorted(str(key) for key in entry if key not in _KEYS)
    missing = [key for key, needed in _KEYS.items() if needed and key not in entry]
    if unknown or missing:
        what = f"has no {', '.join(missing)}" if missing else f"has {', '.join(unknown)}"
        raise ConfigError(f"{where} {what}.", hint=f"an entry has {', '.join(_KEYS)}")
    # A date or time of TOML or YAML needs no quotes.
    texts = {key: value if isinstance(value, str) else str(value).replace(" ", "T") for key, value in entry.items()}
    try:
        target = show_table(parse_table(texts["target"], "target"))
        start, end = parse_instant(texts["from"]), parse_instant(texts["to"])
    except RequestError as error:
        raise ConfigError(f"{where}: {error.message}", remedy=error.remedy) from None
    if start >= end:
        raise ConfigError(
            f"{where}: from {render_instant(start)} is not before to {render_instant(end)}.",
            hint="the end is exclusive",
        )
    return RequiredBackfill(target, start, end, texts.get("reason", ""), texts.get("owner", ""), where)
