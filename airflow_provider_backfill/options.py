"""
Define the options and their allowed values.

The models' fields define the options. Environment names, Airflow's ``[clickhouse_backfill]`` keys, the reference page
and all messages are derived from the fields. The package's ``__init__`` repeats the keys and defaults for Airflow.
:mod:`.option_sources` reads the values.
"""

import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Annotated, Any, NamedTuple, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from .core.chunking import Chunking, parse_length
from .core.window import parse_chunk_hours, render_chunk_hours
from .errors import RequestError

ENV_PREFIX = "CLICKHOUSE_BACKFILL_"


def _whole(value: object) -> object:
    """Convert a float without a fraction to an int, such as 3.0 to 3; return other values unchanged."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _length(value: object) -> object:
    """
    Return a chunk length: a number or text such as ``12h`` as hours; a calendar unit or ``partition`` as text.

    Raises:
        ValueError: The value is not a length, is a number in quotes, or is not positive and finite.
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
    """Convert text such as ``a=1, b=x`` to a table; return other values and other text unchanged."""
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
    # With strict, "6" is not a number and 1 is not a bool, in any document. With defer_build, pydantic builds the
    # schema at the first validation, not at the import.
    model_config = ConfigDict(
        strict=True,
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        alias_generator=to_camel,
        populate_by_name=True,
        defer_build=True,
    )


class Defaults(_Group):
    """Values for plans and runs without the corresponding argument."""

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
        Return the chunking for a length and a time zone, with the options' limits on rows and bytes.

        Args:
            length: Hours, or text such as ``1d`` or ``month``; the option's length if None.
            zone: The time zone of calendar units; if None, the zone in the length, otherwise UTC.

        Raises:
            RequestError: The length or the zone does not exist, or they do not go together.
        """
        text = length if isinstance(length, str) else render_chunk_hours(length) if length is not None else None
        own = self.chunk_hours if isinstance(self.chunk_hours, str) else render_chunk_hours(self.chunk_hours)
        return replace(parse_length(text or own, zone), rows=self.max_chunk_rows, size=self.max_chunk_bytes)

    settings: _Table | None = Field(
        None, description="ClickHouse settings for the statements that read the source and fill, part of the plan."
    )


class Policy(_Group):
    """Safety rules of the product that a user may relax."""

    require_dry_run_before_run: bool = Field(True, description="Run stored plans only; false: run may plan first.")
    require_explicit_window: bool = Field(
        True, description="Both ends of the window must be given; false: a missing one is read from the source."
    )
    block_overlapping_runs: bool = Field(
        True, description="Refuse a run while another fills its window of the target, or has to fill it in the source."
    )
    fail_check_on_required_pending_backfill: bool = Field(
        True, description="Make check fail while a plan is not completed; false: it only warns."
    )


class Limits(_Group):
    """The maximum window, the minimum chunk, and the size and duration of trials."""

    max_window_hours: _Number = Field(720.0, description="Longest window in hours that is planned without force.")
    min_chunk_minutes: _Number = Field(15.0, description="Shortest chunk in minutes, also when a chunk is split.")
    trial_rows: _Count = Field(2_000_000, description="About how many rows a trial reads; a quarter if rules suffice.")
    trial_seconds: _Number = Field(20.0, description="How long a statement of a trial may take, in seconds.")


class Options(_Group):
    """All options, validated. The name of a field with a unit ends with the unit, such as ``_ms`` or ``_hours``."""

    state_dir: _Text | None = Field(
        None, description="Folder or URL of plans, runs and events; the command line's is ./.clickhouse-backfill."
    )
    defaults: Defaults = Defaults.model_construct()
    policy: Policy = Policy.model_construct()
    limits: Limits = Limits.model_construct()

    @model_validator(mode="after")
    def _chunk_reaches_minimum(self) -> Self:
        hours, minimum = self.defaults.chunking().nominal_hours, self.limits.min_chunk_minutes
        if hours and hours * 60 < minimum:
            raise ValueError(
                f"defaults.chunkHours is {show_value(self.defaults.chunk_hours)}, which is "
                f"{show_value(hours * 60)} minutes: less than limits.minChunkMinutes, {show_value(minimum)}."
            )
        return self


class OptionInfo(NamedTuple):
    """
    One option as the reference shows it.

    Attributes:
        name: The name in a document, with its group: ``defaults.chunkHours``.
        key: The name in Airflow's section and as an argument: ``chunk_hours``.
        env: The name of the environment variable.
        kind: The type of a plain value.
        type_text: The allowed values, in words.
        default: The default; None if the option has no fixed default.
    """

    name: str
    key: str
    env: str
    kind: type[bool | int | float | str]
    type_text: str
    default: bool | int | float | str | None
    help: str

    @property
    def default_text(self) -> str:
        """The default as a user types it: ``6``, ``true``; empty if there is no fixed default."""
        return "" if self.default is None else show_value(self.default)

    @property
    def is_text(self) -> bool:
        """Whether the option's value may be any text that is not blank."""
        return self.type_text == _TEXT[1]


def describe_options() -> list[OptionInfo]:
    """Return all options in the order of the reference: ``stateDir``, then defaults, policy, limits."""
    return list(OPTIONS.values())


def show_value(value: object) -> str:
    """Return a value for a message, much as a document writes the value, in at most 80 characters."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    text = repr(value).removesuffix(".0") if isinstance(value, float) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _describe() -> Iterator[OptionInfo]:
    models: dict[str, type[_Group]] = {"": Options} | {f"{name}.": group for name, group in GROUPS.items()}
    for prefix, model in models.items():
        for key, field in model.model_fields.items():
            if key in GROUPS:
                continue
            kind, noun = next((found[1:] for found in _KINDS if field.annotation == found[0]), _TEXT)
            bounds = [f" {sign} {getattr(m, at)}" for m in field.metadata for at, sign in _SIGNS if hasattr(m, at)]
            name, env, type_text = f"{prefix}{to_camel(key)}", f"{ENV_PREFIX}{key.upper()}", "".join([noun, *bounds])
            yield OptionInfo(name, key, env, kind, type_text, field.default, field.description or "")


GROUPS: dict[str, type[_Group]] = {"defaults": Defaults, "policy": Policy, "limits": Limits}
# The annotation of a field, the type of a plain value, and the words for this type in the reference.
_KINDS: tuple[tuple[Any, type[bool | int | float | str], str], ...] = (
    (_Table | None, str, "table of names and values"),
    (bool, bool, "true or false"),
    (int, int, "integer"),
    (_Count | None, int, "integer > 0"),
    (float, float, "number"),
    (float | str, str, "number > 0 or a length such as 12h, 1d, 1mo, month, partition"),
)
_TEXT: tuple[type[bool | int | float | str], str] = (str, "text that is not blank")
_SIGNS = (("gt", ">"), ("ge", ">="))
OPTIONS = {info.name: info for info in _describe()}
