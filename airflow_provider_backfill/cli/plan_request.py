"""Read the flags of ``plan`` as a request."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import RequestError
from .environment import read_file
from .flags import ALL_FLAGS
from .parser import Call

if TYPE_CHECKING:
    from ..core.chunking import Chunking
    from ..core.request import PlanRequest
    from ..options import Options


def read_request(call: Call, options: "Options") -> "PlanRequest":
    """
    Return the request that the flags of ``plan`` and the options describe.

    Raises:
        RequestError: A flag is missing, has a bad value, or excludes another given flag.
    """
    from ..clickhouse.shards import read_shard_urls
    from ..core.chunking import AUTO
    from ..core.instants import parse_instant
    from ..core.names import parse_table
    from ..core.parameters import read_formats
    from ..core.plan import RowProof, WriteMode
    from ..core.query_settings import settings_as_text
    from ..core.request import PlanRequest
    from ..core.sql import parse_filter
    from ..core.tables import TIME_UNITS

    sources = call.given([ALL_FLAGS[name] for name in ("--source", "--select", "--select-file")])
    if len(sources) > 1:
        raise RequestError(
            f"{' and '.join(sources)} exclude each other: rows come from one place.", hint=f"keep one of {len(sources)}"
        )
    target = parse_table(call.need("--target", "write --target database.table"), "target")
    bounds = [call.text(name) for name in ("--from", "--to")]
    if options.policy.require_explicit_window and None in bounds:
        missing = ("--from", "--to")[bounds.index(None)]
        raise RequestError(
            f"{missing} is missing.",
            hint=f"write {missing} 2025-01-31, or set policy.requireExplicitWindow to false to take it from the source",
        )
    start, end = (None if text is None else parse_instant(text) for text in bounds)
    source = call.text("--source")
    auto = call.text("--chunk-hours") == AUTO
    mode = read_choice(call, "--write-mode", [mode.value for mode in WriteMode])
    return PlanRequest(
        target=target,
        start=start,
        end=end,
        chunking=_chunking(call, options, auto),
        auto_chunks=auto,
        time_column=options.defaults.time_column,
        time_unit=read_choice(call, "--time-unit", list(TIME_UNITS)) or "",
        source=None if source is None else parse_table(source, "source"),
        select=_select(call),
        formats=read_formats(dict(name_pairs(call, "--param"))),
        settings=settings_as_text({**(options.defaults.settings or {}), **dict(name_pairs(call, "--setting"))}),
        filter_tables=tuple(map(parse_filter, call.texts("--filter-table"))),
        whole_tables=tuple(parse_table(text, "whole-table") for text in call.texts("--whole-table")),
        write_mode=None if mode is None else WriteMode(mode),
        accept_at_least_once=call.on("--accept-at-least-once"),
        keep_outside=call.on("--keep-outside"),
        backup=call.on("--backup"),
        row_proof=RowProof(read_choice(call, "--proof", [proof.value for proof in RowProof]) or RowProof.WRITTEN),
        allow_existing_rows=call.on("--allow-existing-rows"),
        accept_partial_groups=read_reason(call, "--accept-partial-groups"),
        trial=not call.on("--no-trial"),
        force_large_window=call.on("--force-large-window"),
        force=call.on("--force"),
        one_shard=call.on("--one-shard"),
        staging_database=call.text("--staging-database") or "",
        cluster=call.text("--cluster") or "",
        shard_urls=read_shard_urls(call.texts("--shard-url")),
        reason=call.text("--reason") or "",
        owner=call.text("--owner") or "",
    )


def _chunking(call: Call, options: "Options", auto: bool) -> "Chunking":
    """Return the chunking from the flags, otherwise from the options; with *auto*, without limits on rows and bytes."""
    lengths = [name for name in ("--chunk-hours", "--chunk-by") if call.text(name) is not None]
    zone = call.text("--chunk-zone")
    if len(lengths) > 1 or (auto and zone is not None):
        names = " and ".join([*lengths, *(["--chunk-zone"] if zone is not None else [])])
        raise RequestError(f"{names} exclude each other: a chunk has one length.", hint="keep one of them")
    limits = [name for name in ("--max-chunk-rows", "--max-chunk-bytes") if call.text(name) is not None]
    if auto and limits:
        raise RequestError(
            f"--chunk-hours auto and {limits[0]} exclude each other: with a limit, the rows decide anyway.",
            hint="leave --chunk-hours away",
        )
    chunking = options.defaults.chunking(None if auto or not lengths else call.text(lengths[0]), zone)
    return chunking.without_limits() if auto else chunking


def read_choice(call: Call, name: str, allowed: list[str]) -> str | None:
    """Return the value of a flag, None if omitted; raise a RequestError for a value that is not in *allowed*."""
    value = call.text(name)
    if value is not None and value not in allowed:
        raise RequestError(f"{name} is {value!r}.", hint=f"write {name} with one of {', '.join(allowed)}")
    return value


def name_pairs(call: Call, name: str) -> Iterator[tuple[str, str]]:
    """Yield names and values of a repeatable flag ``NAME=VALUE``; raise a RequestError for a value without a name."""
    for text in call.texts(name):
        left, sign, right = text.partition("=")
        if not sign or not left.strip():
            raise RequestError(f"{name} is {text!r}.", hint=f"write {name} {ALL_FLAGS[name].value}")
        yield left.strip(), right


def _select(call: Call) -> str | None:
    name = "--select"
    text, path = call.text(name), call.text("--select-file")
    if path is not None:
        name = "--select-file"
        try:
            text = read_file(Path(path)).decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            reason, hint = "it is not UTF-8", "save it as UTF-8"
            if isinstance(error, OSError):
                reason, hint = error.strerror or "", "check the path"
            raise RequestError(f"{name} {path} cannot be read: {reason}.", hint=hint) from error
    if text is not None and not text.strip():
        hint = f"write a SELECT into {path}" if path is not None else f"write {name} 'SELECT …'"
        raise RequestError(f"{name} {path or ''}".rstrip() + " holds no SELECT.", hint=hint)
    return text


def read_reason(call: Call, name: str) -> str:
    """Return a stripped reason; empty if the flag is omitted. Raise a RequestError for a blank reason."""
    reason = call.text(name)
    if reason is not None and not reason.strip():
        raise RequestError(f"{name} gives no reason.", hint=f"write {name} 'why parts of groups are fine'")
    return (reason or "").strip()
