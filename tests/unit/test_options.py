"""The options: every rule and message, every source, and which of two sources wins."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from pydantic import ValidationError

from airflow_provider_backfill.errors import ConfigError
from airflow_provider_backfill.option_sources import Resolved, parse_options, resolve_options
from airflow_provider_backfill.options import Defaults, Limits, Options, describe_options

VECTORS = json.loads((Path(__file__).parents[1] / "conformance" / "options.json").read_text("utf-8"))
LENGTH = "number > 0 or a length such as 12h, 1d, 1mo, month, partition"
TABLE = {
    "stateDir": ("text that is not blank", None),
    "defaults.chunkHours": (LENGTH, 6),
    "defaults.maxParallelChunks": ("integer > 0", 1),
    "defaults.maxRetriesPerChunk": ("integer > 0", 3),
    "defaults.retryDelayMs": ("number >= 0", 1000),
    "defaults.requireIdempotencyToken": ("true or false", True),
    "defaults.timeColumn": ("text that is not blank", None),
    "defaults.maxChunkRows": ("integer > 0", None),
    "defaults.maxChunkBytes": ("integer > 0", None),
    "defaults.settings": ("table of names and values", None),
    "policy.requireDryRunBeforeRun": ("true or false", True),
    "policy.requireExplicitWindow": ("true or false", True),
    "policy.blockOverlappingRuns": ("true or false", True),
    "policy.failCheckOnRequiredPendingBackfill": ("true or false", True),
    "limits.maxWindowHours": ("number > 0", 720),
    "limits.minChunkMinutes": ("number > 0", 15),
    "limits.trialRows": ("integer > 0", 2_000_000),
    "limits.trialSeconds": ("number > 0", 20),
}
GOOD: dict[str, list[Any]] = {
    LENGTH: [1, 0.25, 6, 24.5, 1_000_000, "hour", "day", "week", "month", "3mo", "partition"],
    "number > 0": [1, 0.25, 6, 24.5, 1_000_000],
    "number >= 0": [0, 0.0, 0.5, 1_000_000],
    "integer > 0": [1, 3.0, 1_000_000],
    "true or false": [True, False],
    "table of names and values": [{"a": 1}, {"a": "x", "b": 0.5, "c": True}],
    "text that is not blank": ["a", " a ", "./x", "s3://bucket/x"],
}
NOT_A_NUMBER: list[Any] = [
    None,
    "",
    "6",
    "x",
    True,
    False,
    [],
    [1],
    {},
    float("nan"),
    float("inf"),
    float("-inf"),
    -1,
    10**400,
]
BAD: dict[str, list[Any]] = {
    LENGTH: [*NOT_A_NUMBER, 0, -0.0, -0.5, "0x6", "1m", "0d", "auto", "day@Mars/Olympus"],
    "number > 0": [*NOT_A_NUMBER, 0, -0.0, -0.5],
    "number >= 0": [*NOT_A_NUMBER, -0.5],
    "integer > 0": [*(bad for bad in NOT_A_NUMBER if bad != 10**400), 0, -0.0, 1.5],
    "true or false": [None, "", "true", "false", "yes", 0, 1, 1.0, [], {}],
    "table of names and values": [None, "", "x", 1, True, [], {"a": []}],
    "text that is not blank": [None, "", " ", "\t\n", "\u00a0", 0, 1, True, [], ["a"], {}, b"a"],
}


def nested(name: str, value: object) -> dict[str, Any]:
    group, _, leaf = name.rpartition(".")
    return {group: {leaf: value}} if group else {leaf: value}


def value_of(options: Options, name: str) -> Any:
    value: Any = options.model_dump(by_alias=True)
    for part in name.split("."):
        value = value[part]
    return value


def resolve(
    directory: Path,
    *,
    overrides: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    config_file: Path | None = None,
    airflow_section: Mapping[str, str] | None = None,
) -> Resolved:
    return resolve_options(
        overrides=overrides,
        environ=environ or {},
        config_file=config_file,
        directory=directory,
        airflow_section=airflow_section,
    )


def refusal(document: Any, source: str = "options") -> str:
    with pytest.raises(ConfigError) as caught:
        parse_options(document, source)
    assert caught.value.exit_code == 2
    assert "pydantic" not in str(caught.value)
    assert "Input should" not in str(caught.value)
    return str(caught.value)


# One document


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: f"{vector['id']} {vector['note']}")
def test_vector(vector: dict[str, Any]) -> None:
    if vector["ok"]:
        parse_options(vector["options"])
    else:
        refusal(vector["options"])


def test_no_document_gives_the_defaults_of_the_table() -> None:
    options = parse_options({})
    assert options == Options()
    assert {name: value_of(options, name) for name in TABLE} == {name: row[1] for name, row in TABLE.items()}


@pytest.mark.parametrize(("name", "value"), [(name, good) for name, row in TABLE.items() for good in GOOD[row[0]]])
def test_good_value_is_kept(name: str, value: object) -> None:
    # A long chunk keeps the rule between chunkHours and minChunkMinutes out of the way.
    roomy = {"defaults": {"chunkHours": 1_000_000}} if name == "limits.minChunkMinutes" else {}
    assert value_of(parse_options(roomy | nested(name, value)), name) == value


@pytest.mark.parametrize(("name", "value"), [(name, bad) for name, row in TABLE.items() for bad in BAD[row[0]]])
def test_bad_value_is_refused_by_name_value_source_and_what_is_allowed(name: str, value: object) -> None:
    message = refusal(nested(name, value), "team.toml")
    assert message.startswith(f"{name} is ")
    assert f" (from team.toml); allowed: {TABLE[name][0]}." in message


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "null"),
        (False, "false"),
        ("6", "'6'"),
        (-1, "-1"),
        (-2.0, "-2"),
        ([1], "[1]"),
        ("x" * 500, "'" + "x" * 76 + "..."),
    ],
)
def test_message_shows_the_value_as_it_was_typed(value: object, shown: str) -> None:
    assert refusal({"defaults": {"chunkHours": value}}).startswith(f"defaults.chunkHours is {shown} (from options)")


def test_message_tells_the_default() -> None:
    assert refusal({"defaults": {"chunkHours": 0}}).endswith(", or omit it for the default, which is 6)")
    assert refusal({"policy": {"blockOverlappingRuns": 0}}).endswith(", or omit it for the default, which is true)")
    assert refusal({"stateDir": ""}).endswith(", or omit it for the default)")


def test_whole_number_becomes_an_integer() -> None:
    """JSON has one type of number, so 3.0 is the integer 3; a thread pool must not be handed 3.0."""
    assert type(parse_options({"defaults": {"maxParallelChunks": 3.0}}).defaults.max_parallel_chunks) is int


@pytest.mark.parametrize("group", ["defaults", "policy", "limits"])
@pytest.mark.parametrize("value", [None, "x", "", 1, True, [], [{}]])
def test_group_must_be_a_table(group: str, value: object) -> None:
    message = refusal({group: value})
    assert message.startswith(f"{group} is ")
    assert "allowed: a table of options. (known here: " in message


@pytest.mark.parametrize("document", [None, [], "x", 1])
def test_document_must_be_a_table(document: object) -> None:
    assert refusal(document, "team.toml").startswith("team.toml is ")


def test_any_mapping_is_a_document() -> None:
    document = MappingProxyType({"limits": MappingProxyType({"maxWindowHours": 5})})
    assert parse_options(document).limits.max_window_hours == 5


def test_partly_given_group_keeps_its_other_defaults() -> None:
    assert parse_options({"defaults": {"maxParallelChunks": 4}}).defaults == Defaults(max_parallel_chunks=4)
    assert parse_options({"limits": {}, "defaults": {}, "policy": {}}) == Options()


def test_both_spellings_say_the_same() -> None:
    camel = {"stateDir": "/s", "defaults": {"chunkHours": 2, "timeColumn": "ts"}, "limits": {"maxWindowHours": 9}}
    snake = {"state_dir": "/s", "defaults": {"chunk_hours": 2, "time_column": "ts"}, "limits": {"max_window_hours": 9}}
    assert parse_options(camel) == parse_options(snake)
    # An error uses the names of the reference, for any spelling in the document.
    assert refusal({"defaults": {"chunk_hours": 0}}).startswith("defaults.chunkHours is 0 ")


@pytest.mark.parametrize(
    ("document", "name"),
    [
        ({"stateDir": "/a", "state_dir": "/a"}, "stateDir"),
        ({"defaults": {"chunk_hours": 6, "chunkHours": 6}}, "defaults.chunkHours"),
    ],
)
def test_both_spellings_at_once_are_refused(document: dict[str, Any], name: str) -> None:
    assert f"{name} is given twice" in refusal(document)


@pytest.mark.parametrize(
    ("document", "unknown", "hint"),
    [
        ({"defaults": {"chunkHour": 6}}, "defaults.chunkHour", "did you mean defaults.chunkHours?"),
        ({"defaults": {"chunk-hours": 6}}, "defaults.chunk-hours", "did you mean defaults.chunkHours?"),
        ({"chunkHours": 6}, "chunkHours", "did you mean defaults.chunkHours?"),
        ({"limits": {"chunkHours": 6}}, "limits.chunkHours", "did you mean defaults.chunkHours?"),
        ({"STATE_DIR": "/s"}, "STATE_DIR", "did you mean stateDir?"),
        ({"policies": {}}, "policies", "did you mean policy?"),
        ({"zzz": 1}, "zzz", "known here: stateDir, defaults, policy, limits"),
        ({"limits": {"zzz": 1}}, "limits.zzz", "known here: maxWindowHours, minChunkMinutes, trialRows, trialSeconds"),
        ({"defaults.chunkHours": 6}, "defaults.chunkHours", "did you mean defaults.chunkHours?"),
        ({"": 1}, "", "known here: stateDir"),
        ({7: 1}, "7", "known here: stateDir"),
    ],
)
def test_unknown_name_is_refused_with_the_closest_known_one(document: Any, unknown: str, hint: str) -> None:
    message = refusal(document, "team.toml")
    assert message.startswith(f"{unknown} is not an option (from team.toml).")
    assert hint in message


def test_first_bad_value_of_the_table_is_named_in_whatever_order_they_are_given() -> None:
    document: dict[str, Any] = {
        "limits": {"minChunkMinutes": 0, "maxWindowHours": 0},
        "policy": 1,
        "defaults": {"timeColumn": "", "chunkHours": 0},
        "stateDir": "",
    }
    named = []
    for part in ("stateDir", "defaults", "policy", "limits"):
        named.append(refusal(document).split()[0])
        del document[part]
    assert named == ["stateDir", "defaults.chunkHours", "policy", "limits.maxWindowHours"]


# The rule between two options


@pytest.mark.parametrize(
    ("hours", "minutes", "fits"),
    [
        (0.25, 15, True),
        (0.24, 15, False),
        (1, 60, True),
        (6, 360, True),
        (6, 361, False),
        (24, 1440, True),
        (1 / 3, 20, True),
    ],
)
def test_chunk_must_reach_the_shortest_chunk(hours: float, minutes: float, *, fits: bool) -> None:
    document = {"defaults": {"chunkHours": hours}, "limits": {"minChunkMinutes": minutes}}
    if fits:
        parse_options(document)
    else:
        assert "less than limits.minChunkMinutes" in refusal(document)


def test_chunk_is_compared_with_the_default_minimum_too() -> None:
    assert refusal({"defaults": {"chunkHours": 0.1}}, "team.toml") == (
        "defaults.chunkHours is 0.1, which is 6 minutes: less than limits.minChunkMinutes, 15. "
        "(chunkHours comes from team.toml and minChunkMinutes from default: raise the one or lower the other)"
    )
    assert "is 6, which is 360 minutes" in refusal({"limits": {"minChunkMinutes": 361}})


def test_model_made_in_code_keeps_the_rules() -> None:
    with pytest.raises(ValidationError):
        Options(defaults=Defaults(chunk_hours=1), limits=Limits(min_chunk_minutes=61))
    with pytest.raises(ValidationError):
        Defaults(chunk_hours=0)
    with pytest.raises(ValidationError):
        Options().state_dir = "/elsewhere"  # type: ignore[misc]


def test_rule_holds_between_sources_only_after_they_are_merged(tmp_path: Path) -> None:
    """A file may raise the minimum if a stronger source sets long chunks."""
    (tmp_path / "clickhouse-backfill.toml").write_text("limits.minChunkMinutes = 600\n")
    assert resolve(tmp_path, overrides={"--chunk-hours": 10}).options.defaults.chunk_hours == 10
    with pytest.raises(ConfigError) as caught:
        resolve(tmp_path, environ={"CLICKHOUSE_BACKFILL_CHUNK_HOURS": "9"})
    assert "chunkHours comes from environment variable CLICKHOUSE_BACKFILL_CHUNK_HOURS" in caught.value.hint
    assert f"minChunkMinutes from {tmp_path / 'clickhouse-backfill.toml'}" in caught.value.hint


# The sources and their order


def test_no_source_gives_defaults_and_says_so(tmp_path: Path) -> None:
    resolved = resolve(tmp_path)
    assert resolved.options == Options()
    assert resolved.sources == dict.fromkeys(TABLE, "default")


def test_each_option_comes_from_the_strongest_source_that_gives_it(tmp_path: Path) -> None:
    file = tmp_path / "clickhouse-backfill.toml"
    file.write_text("[defaults]\nchunkHours = 3\nmax_parallel_chunks = 3\nretryDelayMs = 3\n")
    resolved = resolve(
        tmp_path,
        overrides={"--chunk-hours": "1", "time_column": None},
        environ={"CLICKHOUSE_BACKFILL_CHUNK_HOURS": "2", "CLICKHOUSE_BACKFILL_MAX_PARALLEL_CHUNKS": "2", "HOME": "/x"},
        airflow_section={
            "chunk_hours": "4",
            "max_parallel_chunks": "4",
            "retry_delay_ms": "4",
            "state_dir": "/airflow",
            "time_column": "ts",
        },
    )
    assert resolved.options == Options(
        state_dir="/airflow",
        defaults=Defaults(chunk_hours=1, max_parallel_chunks=2, retry_delay_ms=3, time_column="ts"),
    )
    assert {name: source for name, source in resolved.sources.items() if source != "default"} == {
        "stateDir": "Airflow's [clickhouse_backfill] state_dir",
        "defaults.chunkHours": "--chunk-hours",
        "defaults.maxParallelChunks": "environment variable CLICKHOUSE_BACKFILL_MAX_PARALLEL_CHUNKS",
        "defaults.retryDelayMs": str(file),
        "defaults.timeColumn": "Airflow's [clickhouse_backfill] time_column",
    }


def test_overrides_take_flags_arguments_and_a_document_which_is_weaker(tmp_path: Path) -> None:
    overrides = {
        "defaults": {"chunkHours": 2, "max_parallel_chunks": 2},
        "chunk_hours": "3",
        "--no": None,
        "--state-dir": "/s",
    }
    options = resolve(tmp_path, overrides=overrides).options
    assert options == Options(state_dir="/s", defaults=Defaults(chunk_hours=3, max_parallel_chunks=2))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"--chunk-hours": "six"},
            "defaults.chunkHours is 'six' (from --chunk-hours); allowed: number > 0 or a length",
        ),
        ({"chunk_hours": 0}, "defaults.chunkHours is 0 (from argument chunk_hours); allowed: number > 0"),
        ({"state_dir": ""}, "stateDir is '' (from argument state_dir); allowed: text that is not blank."),
        ({"--chunk-hours": 1, "chunk_hours": 2}, "given twice (from --chunk-hours and from argument chunk_hours)"),
        ({"chunk_hour": 2}, "chunk_hour is not an option (from arguments). (did you mean defaults.chunkHours?)"),
        ({"defaults": {"chunkHours": "6"}}, "defaults.chunkHours is '6' (from arguments); allowed: number > 0"),
        ({"defaults": 1, "chunk_hours": 6}, "defaults is 1 (from arguments); allowed: a table of options."),
    ],
)
def test_bad_override_is_named_as_it_was_given(tmp_path: Path, overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(tmp_path, overrides=overrides)
    assert message in str(caught.value)


def test_bad_value_is_refused_even_where_a_stronger_source_wins(tmp_path: Path) -> None:
    """Else the mistake would come to light on the day the flag is left out."""
    with pytest.raises(ConfigError, match="CLICKHOUSE_BACKFILL_CHUNK_HOURS"):
        resolve(tmp_path, overrides={"chunk_hours": 6}, environ={"CLICKHOUSE_BACKFILL_CHUNK_HOURS": "0"})


# Texts: environment and Airflow's section


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("block_overlapping_runs", "False", False),
        ("block_overlapping_runs", "no", False),
        ("block_overlapping_runs", "0", False),
        ("block_overlapping_runs", "TRUE", True),
        ("block_overlapping_runs", "Yes", True),
        ("block_overlapping_runs", "1", True),
        ("chunk_hours", "0.25", 0.25),
        ("chunk_hours", " 6 ", 6),
        ("chunk_hours", "1E2", 100),
        ("chunk_hours", "12h", 12.0),
        ("chunk_hours", "1d", 24.0),
        ("chunk_hours", " 1mo ", "month"),
        ("chunk_hours", "day@Europe/Berlin", "day@Europe/Berlin"),
        ("max_chunk_rows", "5000000", 5_000_000),
        ("retry_delay_ms", "0", 0),
        ("max_parallel_chunks", "4", 4),
        ("max_parallel_chunks", "4.0", 4),
        ("time_column", "true", "true"),
        ("time_column", "2", "2"),
        ("state_dir", "gs://bucket/state", "gs://bucket/state"),
    ],
)
def test_text_is_read_by_the_options_type(tmp_path: Path, key: str, text: str, value: object) -> None:
    name = next(info.name for info in describe_options() if info.key == key)
    from_environment = resolve(tmp_path, environ={f"CLICKHOUSE_BACKFILL_{key.upper()}": text}).options
    assert from_environment == resolve(tmp_path, airflow_section={key: text}).options
    assert value_of(from_environment, name) == value
    assert type(value_of(from_environment, name)) in (type(value), float)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("block_overlapping_runs", "on"),
        ("block_overlapping_runs", "2"),
        ("chunk_hours", "six"),
        ("chunk_hours", "6x"),
        ("chunk_hours", "0x6"),
        ("chunk_hours", "1_0"),
        ("chunk_hours", "nan"),
        ("chunk_hours", "inf"),
        ("chunk_hours", "1e999"),
        ("chunk_hours", "0"),
        ("chunk_hours", "\u0666"),
        ("chunk_hours", "9" * 5000),
        ("max_parallel_chunks", "1.5"),
        ("max_parallel_chunks", "true"),
        ("state_dir", "  "),
    ],
)
def test_bad_text_names_where_it_stands_and_the_text(tmp_path: Path, key: str, text: str) -> None:
    variable = f"CLICKHOUSE_BACKFILL_{key.upper()}"
    with pytest.raises(ConfigError, match=rf"\(from environment variable {variable}\); allowed: "):
        resolve(tmp_path, environ={variable: text})
    with pytest.raises(ConfigError, match=rf"\(from Airflow's \[clickhouse_backfill\] {key}\); allowed: "):
        resolve(tmp_path, airflow_section={key: text})


def test_empty_text_means_not_set(tmp_path: Path) -> None:
    environ = {info.env: "" for info in describe_options()} | {"CLICKHOUSE_BACKFILL_ZZZ": ""}
    section = {info.key: "" for info in describe_options()}
    assert resolve(tmp_path, environ=environ, airflow_section=section).options == Options()


@pytest.mark.parametrize(
    ("variable", "hint"),
    [
        ("CLICKHOUSE_BACKFILL_CHUNK_HOUR", "did you mean CLICKHOUSE_BACKFILL_CHUNK_HOURS?"),
        ("CLICKHOUSE_BACKFILL_chunk_hours", "did you mean CLICKHOUSE_BACKFILL_CHUNK_HOURS?"),
        ("CLICKHOUSE_BACKFILL_DEFAULTS_CHUNK_HOURS", "did you mean CLICKHOUSE_BACKFILL_CHUNK_HOURS?"),
        ("CLICKHOUSE_BACKFILL_ZZZ", "known are CLICKHOUSE_BACKFILL_STATE_DIR, "),
    ],
)
def test_unknown_variable_is_refused_without_its_text(tmp_path: Path, variable: str, hint: str) -> None:
    """Its text may be a password that was put under the wrong name."""
    with pytest.raises(ConfigError) as caught:
        resolve(tmp_path, environ={variable: "hunter2"})
    assert f"environment variable {variable} is not an option." in str(caught.value)
    assert hint in caught.value.hint
    assert "hunter2" not in str(caught.value)


def test_unknown_key_of_airflows_section_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\[clickhouse_backfill\] chunk_hour is not an option.*mean chunk_hours\?"):
        resolve(tmp_path, airflow_section={"chunk_hour": "6"})


def test_variables_of_others_are_left_alone(tmp_path: Path) -> None:
    """Kubernetes puts the address of a service called clickhouse-backfill into every pod."""
    environ = {
        "CLICKHOUSE_URL": "x",
        "CLICKHOUSE_BACKFILL": "x",
        "CLICKHOUSE_BACKFILL_PORT": "tcp://10.0.0.1:80",
        "CLICKHOUSE_BACKFILL_PORT_80_TCP_ADDR": "10.0.0.1",
        "CLICKHOUSE_BACKFILL_SERVICE_HOST": "10.0.0.1",
        "CLICKHOUSE_BACKFILL_WEB_SERVICE_PORT_HTTP": "80",
    }
    assert resolve(tmp_path, environ=environ).options == Options()


# Files


def test_file_in_the_directory_beats_pyproject_which_is_not_opened(tmp_path: Path) -> None:
    pyproject = tmp_path / "pyproject.toml"
    pyproject.write_text("[tool.clickhouse-backfill.defaults]\nchunk_hours = 2\nmax_parallel_chunks = 2\n")
    resolved = resolve(tmp_path)
    assert resolved.options == Options(defaults=Defaults(chunk_hours=2, max_parallel_chunks=2))
    assert resolved.sources["defaults.chunkHours"] == f"{pyproject} [tool.clickhouse-backfill]"

    (tmp_path / "clickhouse-backfill.toml").write_text("[defaults]\nchunkHours = 3\n")
    pyproject.write_text("not TOML")
    assert resolve(tmp_path).options == Options(defaults=Defaults(chunk_hours=3))


@pytest.mark.parametrize("text", ["", "[tool.ruff]\n", "tool = 1\n", "[project]\nname = 'x'\n"])
def test_pyproject_without_our_table_gives_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    assert resolve(tmp_path).options == Options()


def test_our_table_of_pyproject_must_be_a_table(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool]\nclickhouse-backfill = 1\n")
    with pytest.raises(ConfigError, match=r"pyproject\.toml \[tool\.clickhouse-backfill\] is 1; allowed: a table"):
        resolve(tmp_path)


def test_config_file_replaces_the_search(tmp_path: Path) -> None:
    (tmp_path / "clickhouse-backfill.toml").write_text("defaults.chunkHours = 3\ndefaults.maxParallelChunks = 3\n")
    (tmp_path / "other.toml").write_bytes(b"\xef\xbb\xbfdefaults.chunkHours = 4\r\n")
    options = resolve(tmp_path, config_file=tmp_path / "other.toml").options
    assert options == Options(defaults=Defaults(chunk_hours=4))
    assert resolve(tmp_path, config_file=Path("other.toml")).options == options


def test_pyproject_given_as_config_file_needs_our_table(tmp_path: Path) -> None:
    pyproject = tmp_path / "pyproject.toml"
    pyproject.write_text("[project]\nname = 'x'\n")
    with pytest.raises(ConfigError, match=r"has no \[tool\.clickhouse-backfill\]"):
        resolve(tmp_path, config_file=pyproject)
    pyproject.write_text("[tool.clickhouse-backfill]\nstateDir = '/s'\n")
    assert resolve(tmp_path, config_file=pyproject).options.state_dir == "/s"


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"[defaults]\nchunkHours = \n", r"is not valid TOML: .*\(at line 2, column 14\)"),
        (b"[defaults]\nchunkHours = 6\nchunkHours = 7\n", r"is not valid TOML: .*\(at line 3, "),
        (b"a = 1\nb = [1,\n", r"is not valid TOML: .*\(at line 2, the end of the file\)"),
        (b"a = 1\nb = '\xff'\n", r"is not UTF-8 \(at line 2\)"),
        (b"[defaults]\nchunkHours = 0\n", r"defaults\.chunkHours is 0 \(from .*c\.toml\); allowed: number > 0"),
        (b"[defaults]\nchunkHours = 1979-05-27\n", r"defaults\.chunkHours is datetime\.date"),
        (b"[default]\n", r"default is not an option \(from .*c\.toml\)\. \(did you mean defaults\?\)"),
    ],
)
def test_bad_file_is_named_with_the_line(tmp_path: Path, content: bytes, what: str) -> None:
    (tmp_path / "c.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=what) as caught:
        resolve(tmp_path, config_file=tmp_path / "c.toml")
    assert str(tmp_path / "c.toml") in str(caught.value)


def test_config_file_must_exist_and_be_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"configuration file .*none\.toml does not exist"):
        resolve(tmp_path, config_file=tmp_path / "none.toml")
    with pytest.raises(ConfigError, match=r"cannot be read: Is a directory"):
        resolve(tmp_path, config_file=tmp_path)


# The reference


def test_reference_describes_the_table_in_its_order() -> None:
    infos = describe_options()
    assert {info.name: (info.type_text, info.default) for info in infos} == TABLE
    assert [info.name for info in infos] == list(TABLE)
    assert [info.default_text for info in infos][:3] == ["", "6", "1"]


def test_reference_names_are_unambiguous_and_every_help_is_one_sentence() -> None:
    infos = describe_options()
    assert len({info.key for info in infos}) == len({info.env for info in infos}) == len(infos)
    assert all(info.env == f"CLICKHOUSE_BACKFILL_{info.key.upper()}" for info in infos)
    assert all(info.help.endswith(".") and info.help.count(". ") == 0 for info in infos)


def test_import_brings_in_neither_airflow_nor_a_client() -> None:
    code = "import sys, airflow_provider_backfill.option_sources; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"airflow", "chdb", "pandas", "numpy", "clickhouse_connect", "tomllib"} & set(done.stdout.split())
