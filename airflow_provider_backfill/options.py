"""
The options: which there are, what each may hold, and where a value came from.

The models' fields are the one list of options: the environment names, Airflow's
``[clickhouse_backfill]`` keys, the reference page and every message are derived from them.
Read only at the edges; below, an :class:`Options` is passed in. Imports pydantic, errors and core,
never Airflow, and reads neither the environment nor the working directory by itself.
"""

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from .core.chunking import Chunking, parse_length
from .core.window import parse_chunk_hours, render_chunk_hours
from .errors import ConfigError, RequestError

ENV_PREFIX = "CLICKHOUSE_BACKFILL_"
CONFIG_FILE = "clickhouse-backfill.toml"
PYPROJECT_SECTION = "clickhouse-backfill"
DEFAULT_SOURCE = "default"
_LONGEST = 4 << 20


def _whole(value: object) -> object:
    """3.0 as 3: a document has one type of number."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _length(value: object) -> object:
    """
    Return a chunk length: a number of hours as it is, a text as its hours or its unit.

    A number in quotes is neither.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("no length")
    if not isinstance(value, str):
        if not 0 < value <= sys.float_info.max:
            raise ValueError("not above zero, or not finite")
        return float(value)
    with suppress(RequestError):
        parse_chunk_hours(value)
        raise ValueError("a number in quotes")
    try:
        chunking = parse_length(value)
    except RequestError as error:
        raise ValueError(error.message) from None
    return chunking.length if chunking.hours is None else chunking.hours


_Number = Annotated[float, Field(gt=0)]
_Length = Annotated[float | str, BeforeValidator(_length)]
_Count = Annotated[int, BeforeValidator(_whole), Field(gt=0)]
_Delay = Annotated[float, Field(ge=0)]
_Text = Annotated[str, Field(pattern=r"\S")]


def _pairs(value: object) -> object:
    """``a=1, b=x`` as a table; a document has one."""
    if not isinstance(value, str):
        return value
    pairs = [part.partition("=") for part in value.split(",") if part.strip()]
    return (
        {name.strip(): text.strip() for name, sign, text in pairs}
        if pairs and all(pair[1] for pair in pairs)
        else value
    )


_Table = Annotated[dict[str, bool | int | float | str], BeforeValidator(_pairs)]


class _Group(BaseModel):
    # strict: "6" is not a number and 1 is not a bool, whoever wrote the document.
    model_config = ConfigDict(
        strict=True, frozen=True, extra="forbid", allow_inf_nan=False, alias_generator=to_camel, populate_by_name=True
    )


class Defaults(_Group):
    """What a plan or a run uses when it is not told otherwise."""

    chunk_hours: _Length = Field(
        6.0, description="Length of a chunk: hours, or text such as 12h, 1d, month, day@Europe/Berlin, partition."
    )
    max_parallel_chunks: _Count = Field(1, description="Chunks that run at the same time.")
    max_retries_per_chunk: _Count = Field(3, description="Attempts per chunk in total, the first one included.")
    retry_delay_ms: _Delay = Field(
        1000.0, description="Milliseconds before a second attempt; doubled for each further."
    )
    require_idempotency_token: bool = Field(True, description="Send each insert with a token, as a second belt.")
    time_column: _Text | None = Field(None, description="Column that the window applies to; found when not set.")
    max_chunk_rows: _Count | None = Field(
        None, description="Most rows of the source that a chunk reads; heavier ones are cut, lighter ones joined."
    )
    max_chunk_bytes: _Count | None = Field(None, description="The same in uncompressed bytes of the source.")

    def chunking(self, length: float | str | None = None, zone: str | None = None) -> Chunking:
        """
        How a window is cut, where *length* is what a user typed, and None leaves it to the option.

        Raises:
            RequestError: No such length, or no such zone.
        """
        text = length if isinstance(length, str) else render_chunk_hours(length) if length is not None else None
        own = self.chunk_hours if isinstance(self.chunk_hours, str) else render_chunk_hours(self.chunk_hours)
        return replace(parse_length(text or own, zone), rows=self.max_chunk_rows, size=self.max_chunk_bytes)

    settings: _Table | None = Field(
        None, description="ClickHouse settings for the statements that read the source and fill, part of the plan."
    )


class Policy(_Group):
    """What is refused unless it is relaxed on purpose."""

    require_dry_run_before_run: bool = Field(True, description="Run stored plans only; false: run may plan first.")
    require_explicit_window: bool = Field(
        True, description="Both ends of the window must be given; false: a missing one is read from the source."
    )
    block_overlapping_runs: bool = Field(
        True, description="Refuse a run while another one of the same target has an intersecting window."
    )
    fail_check_on_required_pending_backfill: bool = Field(
        True, description="Make check fail while a plan is not completed; false: it only warns."
    )


class Limits(_Group):
    """How large a window and how small a chunk may be."""

    max_window_hours: _Number = Field(720.0, description="Longest window in hours that is planned without force.")
    min_chunk_minutes: _Number = Field(15.0, description="Shortest chunk in minutes, also when a chunk is split.")
    trial_rows: _Count = Field(2_000_000, description="About how many rows a trial reads; a quarter if rules suffice.")
    trial_seconds: _Number = Field(20.0, description="How long a statement of a trial may take, in seconds.")


class Options(_Group):
    """Every option, validated. Lengths are in the unit that ends the field's name."""

    state_dir: _Text | None = Field(
        None, description="Folder or URL of plans, runs and events; the command line's is ./.clickhouse-backfill."
    )
    defaults: Defaults = Defaults()
    policy: Policy = Policy()
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _chunk_reaches_minimum(self) -> Self:
        hours, minimum = self.defaults.chunking().nominal_hours, self.limits.min_chunk_minutes
        if hours and hours * 60 < minimum:
            raise ValueError(
                f"defaults.chunkHours is {_show(self.defaults.chunk_hours)}, which is {_show(hours * 60)} minutes: "
                f"less than limits.minChunkMinutes, {_show(minimum)}."
            )
        return self


class OptionInfo(NamedTuple):
    """One option as a reference describes it: ``key`` is its name in Airflow's section, ``default`` may be None."""

    name: str
    key: str
    env: str
    kind: type[bool | int | float | str]
    type_text: str
    default: bool | int | float | str | None
    help: str

    @property
    def default_text(self) -> str:
        """The default as a user types it: ``6``, ``true``; empty when there is no fixed one."""
        return "" if self.default is None else _show(self.default)


class Resolved(NamedTuple):
    """Options, and for every option's name where its value came from (``default`` when nobody gave it)."""

    options: Options
    sources: dict[str, str]


class _Given(NamedTuple):
    value: Any
    source: str


_Kind = tuple[type[bool | int | float | str], str]
# Name of an option as in the table -> what one source, or all of them together, gave for it.
_Layer = dict[str, _Given]


def describe_options() -> list[OptionInfo]:
    """Every option in the order of the table: ``stateDir``, then defaults, policy, limits."""
    return list(_OPTIONS.values())


def parse_options(document: Mapping[str, Any], source: str = "options") -> Options:
    """
    Validate one document, such as the content of a JSON or TOML file; *source* names it in messages.

    Names may be spelled ``chunkHours`` or ``chunk_hours``. What a group leaves out keeps its default.

    Raises:
        ConfigError: An unknown name, an option given in both spellings, or a value that is not
            allowed; null and quoted numbers are not. Of several bad values the first of the table is named.
    """
    return _resolve([_document(document, source)]).options


def load_options(
    *,
    overrides: Mapping[str, Any] | None = None,
    environ: Mapping[str, str],
    config_file: Path | None,
    directory: Path,
    airflow_section: Mapping[str, str] | None = None,
) -> Options:
    """Return the options of :func:`resolve_options`, for a caller that does not ask where they came from."""
    return resolve_options(
        overrides=overrides,
        environ=environ,
        config_file=config_file,
        directory=directory,
        airflow_section=airflow_section,
    ).options


def resolve_options(
    *,
    overrides: Mapping[str, Any] | None = None,
    environ: Mapping[str, str],
    config_file: Path | None,
    directory: Path,
    airflow_section: Mapping[str, str] | None = None,
) -> Resolved:
    """
    Merge the sources option by option and validate every one of them, also where a stronger one wins.

    Args:
        overrides: Strongest. Keys are flags (``--chunk-hours``) or arguments (``chunk_hours``), whose value
            may be text; or ``stateDir`` and the groups as in a document, which flags and arguments beat.
            None means not given.
        environ: ``CLICKHOUSE_BACKFILL_CHUNK_HOURS`` and so on, as text; empty means not set. Variables that
            Kubernetes makes for a service called clickhouse-backfill are left alone.
        directory: Where files are looked for; the command line's working directory.
        config_file: The file to read; it must exist, a relative path starts at *directory*. When None,
            ``clickhouse-backfill.toml`` in *directory*, else ``[tool.clickhouse-backfill]`` of the
            ``pyproject.toml`` beside it, which is not opened when the former exists.
        airflow_section: Weakest. Airflow's ``[clickhouse_backfill]`` as text, keyed ``chunk_hours`` and so on;
            empty means not set.

    Raises:
        ConfigError: A file that cannot be read (names the line of bad TOML), or what :func:`parse_options` refuses.
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
    """Merge *layers*, the strongest first. Raises ConfigError for the first bad value of the strongest bad one."""
    for layer in layers:
        try:
            _validate(layer)
        except ValidationError as exc:
            # No place means the rule between two options, which only the merged values must keep.
            if place := exc.errors()[0]["loc"]:
                name = _NAMES[".".join(map(str, place[:2]))]
                raise _refused(name, layer[name]) from None
    merged = {name: given for layer in reversed(layers) for name, given in layer.items()}
    sources = {name: merged[name].source if name in merged else DEFAULT_SOURCE for name in _OPTIONS}
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
        # null is no value of any option, though None is a default: an object that no field takes stands in.
        value = object() if given.value is None else given.value
        (document.setdefault(group, {}) if group else document)[leaf] = value
    return Options.model_validate(document)


def _layer(entries: Iterable[tuple[str, _Given]]) -> _Layer:
    layer: _Layer = {}
    for name, given in entries:
        if name in layer:
            raise ConfigError(
                f"{name} is given twice (from {layer[name].source} and from {given.source}).",
                hint=f"keep one; {_OPTIONS[name].key} is another spelling of the same option",
            )
        layer[name] = given
    return layer


def _document(document: Mapping[str, Any], source: str) -> _Layer:
    if not isinstance(document, Mapping):
        raise ConfigError(f"{source} is {_show(document)}; allowed: a table of options.", hint=_known())
    return _layer(_entries(document, source))


def _entries(document: Mapping[str, Any], source: str, group: str = "") -> Iterator[tuple[str, _Given]]:
    for key, value in document.items():
        # A dot belongs to our names, not to a document's keys.
        name = None if "." in str(key) else _NAMES.get(f"{group}{key}")
        if name is None:
            hint = _closest(str(key), _NAMES.values()) or _known(group)
            raise ConfigError(f"{group}{key} is not an option (from {source}).", hint=hint)
        if name in _GROUPS and isinstance(value, Mapping):
            yield from _entries(value, source, f"{name}.")
        else:
            yield name, _Given(value, source)


def _texts(texts: Mapping[str, str], infos: Mapping[str, OptionInfo], where: str) -> _Layer:
    for key, text in texts.items():
        if text and key not in infos:
            hint = _closest(key, infos) or f"known are {', '.join(infos)}"
            # Without its text, which may be a password.
            raise ConfigError(f"{where} {key} is not an option.", hint=hint)
    given = ((key, infos[key], text) for key, text in texts.items() if text)
    return {info.name: _Given(_from_text(info, text), f"{where} {key}") for key, info, text in given}


def _environment(environ: Mapping[str, str]) -> _Layer:
    ours = {name: text for name, text in environ.items() if name.startswith(ENV_PREFIX) and not _LINK.search(name)}
    return _texts(ours, {info.env: info for info in _OPTIONS.values()}, "environment variable")


def _split_overrides(overrides: Mapping[str, Any]) -> tuple[_Layer, dict[str, Any]]:
    """Split the values of flags and arguments from the rest, which must be a document."""
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
        from .core.masking import mask_secrets  # Its patterns cost each start of the program.

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
        raise ConfigError(f"{path} has no [tool.{PYPROJECT_SECTION}].", hint="add it, or leave --config out")
    return _document({} if section is None else section, f"{path} [tool.{PYPROJECT_SECTION}]")


def _read_toml(path: Path) -> dict[str, Any] | None:
    """Return the tables of a TOML file in UTF-8, None when there is no such file. Raises ConfigError otherwise."""
    data = b""
    try:
        with path.open("rb") as file:
            data = file.read(_LONGEST + 1)
        if len(data) > _LONGEST:
            raise ConfigError(f"{path} is longer than {_LONGEST >> 20} MiB.", hint="check the path")
        import tomllib  # late: most commands find no file, and start-up is counted in milliseconds

        # Editors on Windows put a byte order mark in front.
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
    """Parse *value* if it is text from a flag, a variable or a template; return other values unchanged."""
    if not isinstance(value, str) or info.type_text == _TEXT[1]:
        return value
    word = value.strip().lower()
    if info.kind is bool:
        return _WORDS.get(word, value)
    return float(word) if _DECIMAL.fullmatch(word) else value


def _refused(name: str, given: _Given) -> ConfigError:
    info = _OPTIONS.get(name)
    message = f"{name} is {_show(given.value)} (from {given.source}); allowed: "
    if info is None:
        return ConfigError(f"{message}a table of options.", hint=_known(f"{name}."))
    default = info.default_text and f", which is {info.default_text}"
    return ConfigError(
        f"{message}{info.type_text}.",
        hint=f"write {_example(info, given.value)}, or leave it out to get the default{default}",
    )


def _example(info: OptionInfo, value: Any) -> str:
    """Return an allowed value for the place of a refused *value*."""
    if isinstance(value, str) and (match := _THOUSANDS.fullmatch(value.strip())):
        return str(int(match[1]) * 1000 ** ("kmg".index(match[2].lower()) + 1))
    return info.type_text


def _closest(key: str, spellings: Iterable[str]) -> str:
    """Return a hint that offers the spelling most like *key*, or nothing."""
    import difflib  # late: only a mistake needs it

    plain = {_plain(spelling): spelling for spelling in spellings}
    found = difflib.get_close_matches(_plain(key), plain, n=1)
    return f"did you mean {plain[found[0]]}?" if found else ""


def _plain(spelling: str) -> str:
    leaf = spelling.removeprefix(ENV_PREFIX).rpartition(".")[2]
    return leaf.replace("_", "").replace("-", "").lower()


def _known(group: str = "") -> str:
    names = [name.removeprefix(group) for name in _NAMES.values() if name.startswith(group)]
    return f"known here: {', '.join(dict.fromkeys(name for name in names if '.' not in name))}"


def _show(value: object) -> str:
    """Return a value as it is typed in a document, cut to a length that a message can bear."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    text = repr(value).removesuffix(".0") if isinstance(value, float) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _describe() -> Iterator[OptionInfo]:
    models: dict[str, type[_Group]] = {"": Options} | {f"{name}.": group for name, group in _GROUPS.items()}
    for prefix, model in models.items():
        for key, field in model.model_fields.items():
            if key in _GROUPS:
                continue
            kind, noun = next((found[1:] for found in _KINDS if field.annotation == found[0]), _TEXT)
            bounds = [f" {sign} {getattr(m, at)}" for m in field.metadata for at, sign in _SIGNS if hasattr(m, at)]
            name, env, type_text = f"{prefix}{to_camel(key)}", f"{ENV_PREFIX}{key.upper()}", "".join([noun, *bounds])
            yield OptionInfo(name, key, env, kind, type_text, field.default, field.description or "")


_GROUPS: dict[str, type[_Group]] = {"defaults": Defaults, "policy": Policy, "limits": Limits}
# What a field holds, and what the table calls it.
_KINDS: tuple[tuple[Any, type[bool | int | float | str], str], ...] = (
    (_Table | None, str, "table of names and values"),
    (bool, bool, "true or false"),
    (int, int, "integer"),
    (_Count | None, int, "integer > 0"),
    (float, float, "number"),
    (float | str, str, "number > 0 or a length such as 12h, 1d, 1mo, month, partition"),
)
_TEXT: _Kind = (str, "text that is not blank")
_SIGNS = (("gt", ">"), ("ge", ">="))
_OPTIONS = {info.name: info for info in _describe()}
_BY_KEY = {info.key: info for info in _OPTIONS.values()}
# Every spelling a document may use -> the name of the table.
_NAMES = {name: name for name in (*_OPTIONS, *_GROUPS)} | {
    f"{name.rpartition('.')[0]}.{info.key}".removeprefix("."): name for name, info in _OPTIONS.items()
}
_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_THOUSANDS = re.compile(r"([0-9]{1,9})([kmgKMG])")
_DECIMAL = re.compile(r"[+-]?([0-9]+([.][0-9]*)?|[.][0-9]+)(e[+-]?[0-9]+)?")
# What Kubernetes sets in every pod beside a service called clickhouse-backfill or clickhouse-backfill-web.
_LINK = re.compile(r"_(SERVICE_HOST|SERVICE_PORT|PORT)(_|$)")
