"""
Read the options' values from arguments, environment, files and Airflow's section.

Only the interfaces use this module; lower layers receive an :class:`.Options`. The caller passes the environment and
the working directory.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from .errors import ConfigError
from .options import ENV_PREFIX, GROUPS, OPTIONS, OptionInfo, Options, show_value

CONFIG_FILE = "clickhouse-backfill.toml"
PYPROJECT_SECTION = "clickhouse-backfill"
DEFAULT_SOURCE = "default"
# The maximum length of an options file, in bytes.
_LONGEST = 4 << 20


class Resolved(NamedTuple):
    """Options, and the source of each value by option name (``default`` if no source has it)."""

    options: Options
    sources: dict[str, str]


class _Given(NamedTuple):
    value: Any
    source: str


# By option name: the values of one source, or of all sources together.
_Layer = dict[str, _Given]


def parse_options(document: Mapping[str, Any], source: str = "options") -> Options:
    """
    Return the options of one document, such as the content of a JSON or TOML file; messages call the document *source*.

    Names may be spelled ``chunkHours`` or ``chunk_hours``. Omitted options keep their defaults.

    Raises:
        ConfigError: A name is unknown, an option appears in both spellings, a value is not allowed, or the chunk length
            is shorter than the minimum. Null is never allowed, and text is not accepted as a number. The message names
            the first bad value in the order of the reference.
    """
    return _resolve([_document(document, source)]).options


def resolve_options(
    *,
    overrides: Mapping[str, Any] | None = None,
    environ: Mapping[str, str],
    config_file: Path | None,
    directory: Path,
    airflow_section: Mapping[str, str] | None = None,
) -> Resolved:
    """
    Merge the sources option by option, and return the options with the source of each value.

    Values that a stronger source overrides are validated, too.

    Args:
        overrides: The strongest source. A key is a flag (``--chunk-hours``) or an argument (``chunk_hours``), and its
            value may be text. Other keys are ``stateDir`` and the groups, as in a document; their values are weaker
            than the values of flags and arguments. A value of None counts as omitted.
        environ: The environment, with variables such as ``CLICKHOUSE_BACKFILL_CHUNK_HOURS``; an empty value counts as
            omitted. Variables that Kubernetes sets for a service called clickhouse-backfill are ignored.
        directory: The folder of the files; for the command line, the working directory.
        config_file: The file to read; it must exist, and a relative path starts at *directory*. If None, read
            ``clickhouse-backfill.toml`` in *directory*; without this file, ``[tool.clickhouse-backfill]`` of
            ``pyproject.toml`` there.
        airflow_section: The weakest source: Airflow's ``[clickhouse_backfill]`` as text, with keys such as
            ``chunk_hours``; empty means not set.

    Raises:
        ConfigError: A file cannot be read (the message has the line of bad TOML), or a name or value is refused, as by
            :func:`parse_options`.
    """
    named, document = _split_overrides(overrides or {})
    return _resolve(
        [
            named,
            _document(document, "arguments"),
            _environment(environ),
            _file(config_file, directory),
            _texts(airflow_section or {}, _BY_KEY, "Airflow's [clickhouse_backfill]"),
        ]
    )


def _resolve(layers: list[_Layer]) -> Resolved:
    """
    Merge *layers*, the strongest first.

    Raises:
        ConfigError: A layer has a bad value, or the merged chunk length is shorter than the minimum. The message names
            the first bad value of the strongest bad layer.
    """
    for layer in layers:
        try:
            _validate(layer)
        except ValidationError as exc:
            # An error without a place comes from a rule about two options. This rule applies only to the merged values.
            if place := exc.errors()[0]["loc"]:
                name = _NAMES[".".join(map(str, place[:2]))]
                raise _refused(name, layer[name]) from None
    merged = {name: given for layer in reversed(layers) for name, given in layer.items()}
    sources = {name: merged[name].source if name in merged else DEFAULT_SOURCE for name in OPTIONS}
    try:
        return Resolved(_validate(merged), sources)
    except ValidationError as exc:
        raise ConfigError(
            str(exc.errors()[0]["ctx"]["error"]),
            hint=f"chunkHours comes from {sources['defaults.chunkHours']} and minChunkMinutes from "
            f"{sources['limits.minChunkMinutes']}: raise the one or lower the other",
        ) from None


def _validate(layer: _Layer) -> Options:
    document: dict[str, Any] = {}
    for name, given in layer.items():
        group, _, leaf = name.rpartition(".")
        # Reject an explicit null even where None is the default: pass a value that no field accepts.
        value = object() if given.value is None else given.value
        (document.setdefault(group, {}) if group else document)[leaf] = value
    return Options.model_validate(document)


def _layer(entries: Iterable[tuple[str, _Given]]) -> _Layer:
    layer: _Layer = {}
    for name, given in entries:
        if name in layer:
            raise ConfigError(
                f"{name} is given twice (from {layer[name].source} and from {given.source}).",
                hint=f"keep one; {OPTIONS[name].key} is another spelling of the same option",
            )
        layer[name] = given
    return layer


def _document(document: Mapping[str, Any], source: str) -> _Layer:
    if not isinstance(document, Mapping):
        raise ConfigError(f"{source} is {show_value(document)}; allowed: a table of options.", hint=_known())
    return _layer(_entries(document, source))


def _entries(document: Mapping[str, Any], source: str, group: str = "") -> Iterator[tuple[str, _Given]]:
    for key, value in document.items():
        # Names with a dot are the product's own spelling, not a document's.
        name = None if "." in str(key) else _NAMES.get(f"{group}{key}")
        if name is None:
            hint = _closest(str(key), _NAMES.values()) or _known(group)
            raise ConfigError(f"{group}{key} is not an option (from {source}).", hint=hint)
        if name in GROUPS and isinstance(value, Mapping):
            yield from _entries(value, source, f"{name}.")
        else:
            yield name, _Given(value, source)


def _texts(texts: Mapping[str, str], infos: Mapping[str, OptionInfo], where: str) -> _Layer:
    for key, text in texts.items():
        if text and key not in infos:
            hint = _closest(key, infos) or f"known are {', '.join(infos)}"
            # Omit the text, which may be a password.
            raise ConfigError(f"{where} {key} is not an option.", hint=hint)
    given = ((key, infos[key], text) for key, text in texts.items() if text)
    return {info.name: _Given(_from_text(info, text), f"{where} {key}") for key, info, text in given}


def _environment(environ: Mapping[str, str]) -> _Layer:
    ours = {name: text for name, text in environ.items() if name.startswith(ENV_PREFIX) and not _LINK.search(name)}
    return _texts(ours, {info.env: info for info in OPTIONS.values()}, "environment variable")


def _split_overrides(overrides: Mapping[str, Any]) -> tuple[_Layer, dict[str, Any]]:
    """Return the values of flags and arguments, and the other keys as a document; None values are left out."""
    named: list[tuple[str, _Given]] = []
    document: dict[str, Any] = {}
    for key, value in overrides.items():
        info = _BY_KEY.get(key.removeprefix("--").replace("-", "_"))
        if value is not None and info:
            source = key if key.startswith("--") else f"argument {key}"
            named.append((info.name, _Given(_from_text(info, value), source)))
        elif value is not None:
            document[key] = value
    return _layer(named), document


def _file(config_file: Path | None, directory: Path) -> _Layer:
    path = directory / (config_file or CONFIG_FILE)
    tables = _read_toml(path)
    if tables is None and config_file is not None:
        from .core.masking import mask_secrets  # Its patterns slow down each start of the program.

        raise ConfigError(
            f"The configuration file {mask_secrets(str(path))} does not exist.", hint="check the path given as --config"
        )
    if tables is None:
        path = directory / "pyproject.toml"
        tables = _read_toml(path) or {}
    if path.name != "pyproject.toml":
        return _document(tables, str(path))
    tool = tables.get("tool")
    section = tool.get(PYPROJECT_SECTION) if isinstance(tool, dict) else None
    if section is None and config_file is not None:
        raise ConfigError(f"{path} has no [tool.{PYPROJECT_SECTION}].", hint="add it, or omit --config")
    return _document({} if section is None else section, f"{path} [tool.{PYPROJECT_SECTION}]")


def _read_toml(path: Path) -> dict[str, Any] | None:
    """
    Return the tables of a TOML file in UTF-8; None if the file does not exist.

    Raises:
        ConfigError: The file cannot be read, is longer than 4 MiB, is nested too deeply, or is not valid TOML in UTF-8.
    """
    data = b""
    try:
        with path.open("rb") as file:
            data = file.read(_LONGEST + 1)
        if len(data) > _LONGEST:
            raise ConfigError(f"{path} is longer than {_LONGEST >> 20} MiB.", hint="check the path")
        import tomllib  # imported late, because most commands find no file

        # Some editors put a byte order mark at the beginning.
        return tomllib.loads(data.decode("utf-8-sig"))
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise ConfigError(f"{path} cannot be read: {exc.strerror}.", hint="it must be a file you may read") from exc
    except UnicodeDecodeError as exc:
        line = data[: exc.start].count(b"\n") + 1
        raise ConfigError(f"{path} is not UTF-8 (at line {line}).", hint="save it as UTF-8") from exc
    except RecursionError:
        raise ConfigError(f"{path} is nested too deeply.", hint="a table of options has two levels") from None
    except ValueError as exc:
        last = len(data.splitlines())
        what = str(exc).replace("at end of document", f"at line {last}, the end of the file")
        raise ConfigError(f"{path} is not valid TOML: {what}.", hint="texts need quotes, numbers do not") from exc


def _from_text(info: OptionInfo, value: Any) -> Any:
    """Convert text to the option's bool or number; return other values, and text that is neither, unchanged."""
    if not isinstance(value, str) or info.is_text:
        return value
    word = value.strip().lower()
    if info.kind is bool:
        return _WORDS.get(word, value)
    return float(word) if _DECIMAL.fullmatch(word) else value


def _refused(name: str, given: _Given) -> ConfigError:
    info = OPTIONS.get(name)
    message = f"{name} is {show_value(given.value)} (from {given.source}); allowed: "
    if info is None:
        return ConfigError(f"{message}a table of options.", hint=_known(f"{name}."))
    default = info.default_text and f", which is {info.default_text}"
    return ConfigError(
        f"{message}{info.type_text}.",
        hint=f"write {_example(info, given.value)}, or omit it for the default{default}",
    )


def _example(info: OptionInfo, value: Any) -> str:
    """Return a replacement for a refused *value*: ``5000`` for ``5k``, otherwise the allowed values in words."""
    if isinstance(value, str) and (match := _THOUSANDS.fullmatch(value.strip())):
        return str(int(match[1]) * 1000 ** ("kmg".index(match[2].lower()) + 1))
    return info.type_text


def _closest(key: str, spellings: Iterable[str]) -> str:
    """Return a hint with the spelling closest to *key*; empty if no spelling is close."""
    import difflib  # imported late, because only a mistake needs it

    plain = {_plain(spelling): spelling for spelling in spellings}
    found = difflib.get_close_matches(_plain(key), plain, n=1)
    return f"did you mean {plain[found[0]]}?" if found else ""


def _plain(spelling: str) -> str:
    leaf = spelling.removeprefix(ENV_PREFIX).rpartition(".")[2]
    return leaf.replace("_", "").replace("-", "").lower()


def _known(group: str = "") -> str:
    names = [name.removeprefix(group) for name in _NAMES.values() if name.startswith(group)]
    return f"known here: {', '.join(dict.fromkeys(name for name in names if '.' not in name))}"


_BY_KEY = {info.key: info for info in OPTIONS.values()}
# By spelling in a document: the name of the option or group.
_NAMES = {name: name for name in (*OPTIONS, *GROUPS)} | {
    f"{name.rpartition('.')[0]}.{info.key}".removeprefix("."): name for name, info in OPTIONS.items()
}
_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_THOUSANDS = re.compile(r"([0-9]{1,9})([kmgKMG])")
_DECIMAL = re.compile(r"[+-]?([0-9]+([.][0-9]*)?|[.][0-9]+)(e[+-]?[0-9]+)?")
# The pattern of the variables that Kubernetes sets in pods for a service such as clickhouse-backfill-web.
_LINK = re.compile(r"_(SERVICE_HOST|SERVICE_PORT|PORT)(_|$)")
