"""What the client makes of ClickHouse's answers: errors by name, and an answer that has no row."""

from __future__ import annotations

import pytest

from airflow_provider_backfill.core.retry import ERROR_NAMES, RetryDecision, classify_error
from airflow_provider_backfill.errors import ServerError, ServerUnreachableError, StatementRefusedError
from tests.clickhouse.lab import Lab


def test_errors_have_clickhouses_own_names(lab: Lab) -> None:
    """A name that the server does not know would never be retried."""
    with lab.session.connected() as server:
        listed = ", ".join(map(str, ERROR_NAMES))
        known = dict(
            server.rows(f"SELECT code, errorCodeToName(toInt32(code)) FROM (SELECT arrayJoin([{listed}]) AS code)")
        )
    assert {number: known[number] for number in ERROR_NAMES} == ERROR_NAMES


def test_a_refusal_has_a_name_and_the_servers_reason(lab: Lab) -> None:
    with lab.session.connected() as server, pytest.raises(StatementRefusedError) as refused:
        server.command("SELECT * FROM nowhere.nothing")
    assert (refused.value.code, refused.value.name) == (81, "UNKNOWN_DATABASE")
    assert refused.value.reason.startswith("Database nowhere does not exist")
    assert classify_error(refused.value) is RetryDecision.FINAL


def test_an_answer_without_a_row(lab: Lab) -> None:
    """An aggregate that is broken off may answer so; nothing may take its first row for granted."""
    with lab.session.connected() as server:
        assert server.row("SELECT 1, 2") == (1, 2)
        assert server.value("SELECT 3, 4") == 3
        assert server.value("SELECT 1 WHERE 0", default=None) is None
        for ask in (server.row, server.value):
            with pytest.raises(ServerError, match="gave no answer to: SELECT 1 WHERE 0") as raised:
                ask("SELECT 1 WHERE 0")
            assert not isinstance(raised.value, ServerUnreachableError | StatementRefusedError)
