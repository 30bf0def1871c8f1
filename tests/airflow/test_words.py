"""Errors in Airflow name the arguments of an operator; a command for a shell stays one."""

from __future__ import annotations

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from airflow_provider_backfill.airflow_support.session import airflow_errors, operator_words
from airflow_provider_backfill.errors import (
    Advice,
    BackfillError,
    Command,
    Flag,
    RequestError,
    ServerUnreachableError,
    StatementRefusedError,
)

REMEDY = Advice(
    "pass {} and {}, leave {} away, or run `{}` with {}",
    Flag("--write-mode", "replace"),
    Flag("--from", "2025-01-01"),
    Flag("--keep-outside"),
    Command("resume", "0123456789abcdef", (Flag("--force-overlap"),)),
    Flag("--clickhouse-url"),
)
WORDS = (
    "pass write_mode='replace' and window_from='2025-01-01', leave keep_outside away, or run "
    "`clickhouse-backfill resume --plan-id 0123456789abcdef --force-overlap` with --clickhouse-url"
)


def test_a_remedy_names_arguments() -> None:
    with pytest.raises(AirflowFailException) as raised, airflow_errors():
        raise RequestError("It cannot be.", remedy=REMEDY)
    assert str(raised.value) == f"It cannot be. ({WORDS})"
    with pytest.raises(RequestError) as parsed, operator_words():
        raise RequestError("It cannot be.", remedy=REMEDY)
    assert parsed.value.hint == WORDS


@pytest.mark.parametrize(
    ("error", "final"),
    [
        (ServerUnreachableError("gone"), False),
        (StatementRefusedError("busy", code=202, name="TOO_MANY_SIMULTANEOUS_QUERIES"), False),
        (StatementRefusedError("wrong", code=62, name="SYNTAX_ERROR"), True),
        (RequestError("no"), True),
        (BackfillError("broken"), False),
    ],
)
def test_what_a_retry_cannot_mend_spends_none(error: BackfillError, final: bool) -> None:
    with pytest.raises(AirflowException) as raised, airflow_errors():
        raise error
    assert isinstance(raised.value, AirflowFailException) is final
