"""The window placed by the user: values of query parameters, and the chunk bounds that they can hold."""

from __future__ import annotations

import pytest

from airflow_provider_backfill.core.instants import from_ms, parse_instant, to_ms
from airflow_provider_backfill.core.parameters import (
    check_parameters,
    compared_zones,
    of_one_text,
    parameter_settings,
    read_formats,
    read_parameters,
    tell_chunks_by_text,
)
from airflow_provider_backfill.core.plan import Parameter
from airflow_provider_backfill.core.query_tree import parse_tree
from airflow_provider_backfill.core.select_text import Placeholder, find_call
from airflow_provider_backfill.errors import MisalignedError, RequestError


def _read(*types: str, unit: str = "", formats: dict[str, str] | None = None) -> tuple[Parameter, ...]:
    names = ("chunk_from", "chunk_to")
    found = [Placeholder(name, kind) for name, kind in zip(names, types, strict=False)]
    found += [Placeholder(name, "String") for name in formats or {}]
    return read_parameters(found, formats or {}, unit, "--select")


def _bounds(*texts: str) -> list[int]:
    return [to_ms(parse_instant(text)) for text in texts]


@pytest.mark.parametrize(
    ("kind", "unit", "start", "end"),
    [
        ("Date", "", "2025-03-01", "2025-03-02"),
        ("Date32", "", "2025-03-01", "2025-03-02"),
        ("DateTime", "", "1740787200", "1740873600"),
        ("DateTime('Europe/Berlin')", "", "1740787200", "1740873600"),
        ("DateTime64(3)", "", "1740787200.000", "1740873600.000"),
        ("DateTime64(9, 'Asia/Tokyo')", "", "1740787200.000", "1740873600.000"),
        ("Int64", "s", "1740787200", "1740873600"),
        ("UInt64", "ns", "1740787200000000000", "1740873600000000000"),
    ],
)
def test_a_bound_is_the_exact_instant_in_its_type(kind: str, unit: str, start: str, end: str) -> None:
    """Numbers are instants, independent of the zones of types, sessions and servers."""
    first, last = parse_instant("2025-03-01"), parse_instant("2025-03-02")
    sent = parameter_settings(_read(kind, kind, unit=unit), first, last)
    assert sent == {"param_chunk_from": start, "param_chunk_to": end}


def test_an_instant_before_1970() -> None:
    """The sign is the whole number's, fraction included."""
    at = parse_instant("1969-12-31T23:59:58.500Z")
    sent = parameter_settings(_read("DateTime64(3)", "DateTime64(3)"), at, parse_instant("1970-01-01"))
    assert sent["param_chunk_from"] == "-1.500"


@pytest.mark.parametrize(
    ("types", "formats", "message"),
    [
        (("DateTime",), {}, "only one end"),
        (("String", "String"), {}, "holds no instant"),
        (("UInt64", "UInt64"), {}, "holds no instant"),
    ],
)
def test_what_cannot_place_a_window(types: tuple[str, ...], formats: dict[str, str], message: str) -> None:
    """Half a window reads rows of other chunks."""
    with pytest.raises(RequestError, match=message):
        _read(*types, formats=formats)


def test_a_name_must_have_a_value_and_a_format_a_place() -> None:
    """A parameter without a value fails in ClickHouse; an unused format is a typing error."""
    with pytest.raises(RequestError, match="nothing gives a value") as refused:
        read_parameters([Placeholder("day", "String")], {}, "", "--select")
    assert "--param" in refused.value.hint
    assert "{chunk_from:DateTime64(3)}" in refused.value.hint
    with pytest.raises(RequestError, match="has no parameter"):
        read_parameters([], {"day": "%Y-%m-%d"}, "", "--select")
    with pytest.raises(RequestError, match="same text for every chunk"):
        read_formats({"day": "today"})


def test_bounds_lie_on_values_of_the_type() -> None:
    """A Date cannot say six o'clock: two chunks of a day would read the same rows."""
    check_parameters(_read("Date", "Date"), _bounds("2025-01-01", "2025-01-02", "2025-01-04"), "--select")
    with pytest.raises(MisalignedError, match=r"06:00:00\.000Z is none"):
        check_parameters(_read("Date", "Date"), _bounds("2025-01-01", "2025-01-01T06:00Z"), "--select")
    with pytest.raises(MisalignedError, match=r"500Z is none"):
        check_parameters(_read("DateTime", "DateTime"), _bounds("2025-01-01", "2025-01-01T06:00:00.500Z"), "--select")


@pytest.mark.parametrize(
    ("format_", "bounds", "message", "proposal"),
    [
        ("%Y-%m-%d", ("2025-01-01", "2025-01-03"), "several values", "--chunk-by day"),
        ("%Y-%m-%d", ("2025-01-01", "2025-01-01T12:00Z"), "only a part", "--chunk-by day"),
        ("%Y/%m/%d/%H", ("2025-01-01", "2025-01-01T02:00Z"), "several values", "--chunk-hours 1"),
        ("%Y%m", ("2025-01-01", "2025-01-15"), "only a part", "--chunk-by month"),
    ],
)
def test_a_path_covers_its_chunk_and_no_more(
    format_: str, bounds: tuple[str, str], message: str, proposal: str
) -> None:
    """A path of the start alone leaves out the second day, and a part of a day reads all of it twice."""
    parameters = _read(formats={"day": format_})
    with pytest.raises(MisalignedError, match=message) as refused:
        check_parameters(parameters, _bounds(*bounds), "--select")
    assert proposal in refused.value.hint


def test_several_formats_name_a_chunk_together() -> None:
    """Of year=…/month=…/day=…, no part alone distinguishes the chunks."""
    formats = {"year": "%Y", "month": "%m", "day": "%d"}
    check_parameters(_read(formats=formats), _bounds("2025-01-31", "2025-02-01", "2025-02-02"), "--select")
    with pytest.raises(MisalignedError, match=r"several values of \{year\} \{month\} \{day\}") as refused:
        check_parameters(_read(formats=formats), _bounds("2025-01-31", "2025-02-02"), "--select")
    assert "--chunk-by day" in refused.value.hint


def test_a_format_that_comes_again() -> None:
    """The files of the first of January would be read for the first of February as well."""
    days = _bounds(*(f"2025-01-{day:02}" for day in range(1, 32)), "2025-02-01", "2025-02-02")
    with pytest.raises(RequestError, match=r"2025-01-01T.* and 2025-02-01T.* have the same \{day\} = 01"):
        check_parameters(_read(formats={"day": "%d"}), days, "--select")


def test_a_statement_has_one_text_of_a_format() -> None:
    """To fill several chunks together, each text needs a statement; with bounds, neighbours share a statement."""
    days = _bounds("2025-01-01", "2025-01-01T12:00Z", "2025-01-02", "2025-01-03")
    whole = [(parse_instant("2025-01-01"), parse_instant("2025-01-03"))]
    first, noon, second, last = map(from_ms, days)
    formats = {"day": "%Y-%m-%d"}
    assert of_one_text(_read("Date", "Date"), days, whole) == [whole]
    alone, bounded = _read(formats=formats), _read("DateTime", "DateTime", formats=formats)
    assert of_one_text(bounded, days, whole) == [[(first, second)], [(second, last)]]
    assert of_one_text(alone, days, whole) == [[(first, noon)], [(noon, second)], [(second, last)]]
    assert (tell_chunks_by_text(alone, days), tell_chunks_by_text(alone, days[1:])) == (False, True)


def test_a_path_may_be_coarser_where_the_rows_are_limited() -> None:
    """Files of a day, chunks of hours: each chunk reads the files of its day and keeps its hours."""
    parameters = _read("DateTime", "DateTime", formats={"day": "%Y-%m-%d"})
    check_parameters(parameters, _bounds("2025-01-01", "2025-01-01T06:00Z", "2025-01-02"), "--select")
    with pytest.raises(MisalignedError, match="several values"):
        check_parameters(parameters, _bounds("2025-01-01T18:00Z", "2025-01-02T06:00Z"), "--select")


def test_the_call_of_a_table_function_is_found() -> None:
    """DESCRIBE needs the text of the call; parentheses in strings and comments do not end it."""
    text = "SELECT url FROM url('http://x/)', CSV, 'a String') -- )\n WHERE 1"
    assert find_call(text, "url") == "url('http://x/)', CSV, 'a String')"
    assert find_call("SELECT 1", "s3") is None


@pytest.mark.parametrize(
    ("column", "value", "zones"),
    [
        ("DateTime64(6)", "DateTime64(6, 'Europe/Berlin')", ("", "Europe/Berlin")),
        ("Nullable(DateTime64(6, 'UTC'))", "DateTime('Europe/Berlin')", ("UTC", "Europe/Berlin")),
        ("DateTime('UTC')", "DateTime", ("UTC", "")),
        ("DateTime", "DateTime64(3)", None),
        ("DateTime('UTC')", "DateTime64(3, 'UTC')", None),
        ("DateTime('UTC')", "Date", None),
        ("UInt64", "DateTime('UTC')", None),
    ],
)
def test_a_comparison_of_two_zones_is_found(column: str, value: str, zones: tuple[str, str] | None) -> None:
    """The type of a parameter, or of what a SELECT makes of it, has the zone in which ClickHouse writes the bound."""
    tree = parse_tree(
        [
            "FUNCTION id: 1, function_name: less, function_type: ordinary, result_type: UInt8",
            "  ARGUMENTS",
            "    LIST id: 2, nodes: 2",
            f"      CONSTANT id: 3, constant_value: DateTime64_'1735689600.000000', constant_value_type: {value}",
            f"      COLUMN id: 4, column_name: ts, result_type: {column}, source_id: 5",
        ]
    )
    assert [one.zones for one in compared_zones(tree)] == ([] if zones is None else [zones])
