"""Read the backfills that a version-controlled file demands, for ``check --required``."""

import json
import tomllib
from pathlib import Path
from typing import Any

from ..core.findings.registry import RequiredBackfill
from ..core.instants import parse_instant, render_instant
from ..core.masking import shorten_message
from ..core.names import parse_table
from ..errors import ConfigError, RequestError
from .environment import read_file

_KEYS = {"target": True, "from": True, "to": True, "reason": False, "owner": False}
_EXPECTED = {
    "TOML": "start each entry with [[backfill]]",
    "YAML": "write backfill: and below it one entry with each -",
    "JSON": 'write {"backfill": [{"target": …}]}',
}


def read_required(path: Path) -> list[RequiredBackfill]:
    """
    Return the backfills that a TOML, YAML or JSON file declares; the suffix decides, and other suffixes mean TOML.

    The file has a list ``backfill`` of entries with target, from, to, and optionally reason and owner.

    Raises:
        ConfigError: The file cannot be read, has another structure, or needs PyYAML, which is not installed. The
            message names a bad entry.
    """
    kind = {".yaml": "YAML", ".yml": "YAML", ".json": "JSON"}.get(path.suffix.lower(), "TOML")
    try:
        document = _parse(read_file(path).decode("utf-8-sig"), kind)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}.", hint="check the path given as --required"
        ) from None
    except RecursionError:
        raise ConfigError(f"{path} is nested too deeply.", hint=_EXPECTED[kind]) from None
    except ValueError as error:
        hint = "texts need quotes" if kind == "TOML" else f"{_EXPECTED[kind]}"
        raise ConfigError(f"{path} is not valid {kind}: {shorten_message(str(error))}.", hint=hint) from None
    entries = document.get("backfill", []) if isinstance(document, dict) else None
    if not isinstance(document, dict) or set(document) - {"backfill"} or not isinstance(entries, list):
        holds = ", ".join(map(str, document)) if isinstance(document, dict) else f"a {type(document).__name__}"
        raise ConfigError(f"{path} holds {holds[:200]}; allowed: [[backfill]].", hint=_EXPECTED[kind])
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

    class Loader(yaml.SafeLoader):
        """A YAML loader without aliases: a few hundred bytes with aliases could expand beyond the memory."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                event: Any = self.peek_event()  # type: ignore[no-untyped-call]
                raise ValueError(
                    f"line {event.start_mark.line + 1} has an alias (*{event.anchor}); write the entry out"
                )
            return super().compose_node(parent, index)

    try:
        return yaml.load(text, Loader) or {}  # noqa: S506 - a safe loader that takes even less
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None


def _declared(entry: Any, where: str, kind: str) -> RequiredBackfill:
    if not isinstance(entry, dict):
        shown = repr(entry[:80]) if isinstance(entry, str) else f"a {type(entry).__name__}"
        raise ConfigError(f"{where} is {shown}.", hint=_EXPECTED[kind])
    unknown = sorted(str(key) for key in entry if key not in _KEYS)
    missing = [key for key, needed in _KEYS.items() if needed and key not in entry]
    if unknown or missing:
        what = f"has no {', '.join(missing)}" if missing else f"has {', '.join(unknown)[:200]}"
        raise ConfigError(f"{where} {what}.", hint=f"an entry has {', '.join(_KEYS)}")
    # TOML and YAML parse unquoted dates and times; turn such values back into text.
    try:
        texts = {key: value if isinstance(value, str) else str(value).replace(" ", "T") for key, value in entry.items()}
        target = parse_table(texts["target"], "target")
        start, end = parse_instant(texts["from"]), parse_instant(texts["to"])
    except RequestError as error:
        raise ConfigError(f"{where}: {error.message}", remedy=error.remedy) from None
    except (ValueError, RecursionError):
        raise ConfigError(f"{where} has a value that is no text, date or time.", hint="write it in quotes") from None
    if start >= end:
        raise ConfigError(
            f"{where}: from {render_instant(start)} is not before to {render_instant(end)}.",
            hint="the end is exclusive",
        )
    return RequiredBackfill(target, start, end, texts.get("reason", ""), texts.get("owner", ""), where)
