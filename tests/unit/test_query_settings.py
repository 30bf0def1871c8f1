"""Settings that a user may give for reading and filling, and those that an exact result rests on."""

from __future__ import annotations

from pathlib import Path

import pytest

from airflow_provider_backfill.core.query_settings import check_setting_values, check_settings, settings_as_text
from airflow_provider_backfill.errors import ConfigError, RequestError
from airflow_provider_backfill.option_sources import parse_options, resolve_options


@pytest.mark.parametrize(
    "name",
    [
        *("additional_table_filters", "insert_deduplicate", "deduplicate_insert_select", "insert_deduplication_token"),
        *("async_insert", "limit", "param_chunk_from", "read_overflow_mode", "timeout_overflow_mode", "log_comment"),
    ],
)
def test_what_an_exact_result_rests_on_is_refused(name: str) -> None:
    """Each of them can lose rows, double them, or cut a result short without an error."""
    with pytest.raises(RequestError, match=name):
        check_settings([name], "--setting")


def test_a_zone_belongs_into_the_functions() -> None:
    """Some functions of time follow it, and others do not, whatever the zone of a column."""
    with pytest.raises(RequestError, match="moves the buckets") as refused:
        check_settings(["session_timezone"], "--setting")
    assert "toStartOfDay(ts, 'Europe/Berlin')" in refused.value.hint


def test_others_are_sent_as_text() -> None:
    """They are part of the plan, so they have one spelling and one order."""
    check_settings(["max_threads", "join_algorithm", "s3_max_connections"], "--setting")
    assert settings_as_text({"b": True, "a": 4, "c": "x"}) == {"a": "4", "b": "1", "c": "x"}


@pytest.mark.parametrize("value", ["http://u:m4rk3r@registry:8081", "token=m4rk3r", "u:m4rk3r@registry"])
def test_a_value_with_a_credential_is_refused_unseen(value: str) -> None:
    """The plan's file and the query_log keep settings as they are."""
    with pytest.raises(RequestError, match="format_avro_schema_registry_url") as refused:
        check_setting_values({"format_avro_schema_registry_url": value}, "--setting")
    assert "m4rk3r" not in f"{refused.value} {refused.value.remedy}"


def test_a_value_without_one_is_taken() -> None:
    check_setting_values({"force_primary_key": 1, "format_avro_schema_registry_url": "http://registry:8081"}, "it")


def test_the_option_is_a_table_or_a_text(tmp_path: Path) -> None:
    """A file has a table; an environment variable and Airflow's section have text only."""
    assert parse_options({"defaults": {"settings": {"max_threads": 4}}}).defaults.settings == {"max_threads": 4}
    environ = {"CLICKHOUSE_BACKFILL_SETTINGS": "max_threads=4, join_algorithm=hash"}
    options = resolve_options(environ=environ, config_file=None, directory=tmp_path).options
    assert options.defaults.settings == {"max_threads": "4", "join_algorithm": "hash"}
    with pytest.raises(ConfigError, match="table of names and values"):
        parse_options({"defaults": {"settings": "max_threads"}})
