"""What becomes of an attempt, by the kind and the name of its error."""

from __future__ import annotations

import pytest

from airflow_provider_backfill.core.retry import ERROR_NAMES, RetryDecision, classify_error, retry_delay
from airflow_provider_backfill.errors import (
    BackfillError,
    RequestError,
    ServerError,
    ServerUnreachableError,
    StatementRefusedError,
    VerificationError,
)


def refused(name: str, reason: str = "") -> StatementRefusedError:
    return StatementRefusedError("refused", code=1, name=name, reason=reason)


@pytest.mark.parametrize("name", ["MEMORY_LIMIT_EXCEEDED", "TIMEOUT_EXCEEDED", "TOO_SLOW"])
def test_what_is_too_heavy_is_split(name: str) -> None:
    assert classify_error(refused(name)) is RetryDecision.SPLIT


@pytest.mark.parametrize(
    "name",
    [
        *("TOO_MANY_SIMULTANEOUS_QUERIES", "NO_FREE_CONNECTION", "SOCKET_TIMEOUT", "NETWORK_ERROR", "NO_ZOOKEEPER"),
        *("QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING", "ABORTED", "TABLE_IS_READ_ONLY", "TOO_MANY_PARTS"),
        *("ALL_CONNECTION_TRIES_FAILED", "TOO_FEW_LIVE_REPLICAS", "UNSATISFIED_QUORUM_FOR_PREVIOUS_WRITE"),
        *("UNKNOWN_STATUS_OF_INSERT", "SESSION_IS_LOCKED", "QUERY_WAS_CANCELLED", "SYSTEM_ERROR"),
        *("CANNOT_SCHEDULE_TASK", "DEADLOCK_AVOIDED", "SERVER_OVERLOADED", "KEEPER_EXCEPTION"),
        *("NOT_A_LEADER", "DATABASE_REPLICATION_FAILED"),
    ],
)
def test_what_passes_by_itself_is_tried_again(name: str) -> None:
    assert classify_error(refused(name)) is RetryDecision.RETRY


@pytest.mark.parametrize("name", ["SYNTAX_ERROR", "UNKNOWN_TABLE", "TABLE_ALREADY_EXISTS", "TYPE_MISMATCH", ""])
def test_what_does_not_pass_is_final(name: str) -> None:
    assert classify_error(refused(name)) is RetryDecision.FINAL


def test_too_many_partitions_of_one_insert_do_not_pass() -> None:
    """ClickHouse uses the same name for too many parts in a table, which merges reduce."""
    reason = "Too many partitions for single INSERT block (more than 100)."
    assert classify_error(refused("TOO_MANY_PARTS", reason)) is RetryDecision.FINAL


@pytest.mark.parametrize(
    ("error", "decision"),
    [
        (ServerUnreachableError("gone"), RetryDecision.RETRY),
        (ServerError("not at rest"), RetryDecision.RETRY),
        (VerificationError("other rows"), RetryDecision.RETRY),
        (RequestError("wrong"), RetryDecision.FINAL),
    ],
)
def test_errors_that_are_no_answer_of_the_server(error: BackfillError, decision: RetryDecision) -> None:
    assert classify_error(error) is decision


def test_names_by_number() -> None:
    """An answer that was cut off before the name is known by its number."""
    assert (ERROR_NAMES[241], ERROR_NAMES[252], ERROR_NAMES[57]) == (
        *("MEMORY_LIMIT_EXCEEDED", "TOO_MANY_PARTS", "TABLE_ALREADY_EXISTS"),
    )


@pytest.mark.parametrize(
    ("tries", "seconds"), [(0, 1.0), (1, 1.0), (2, 2.0), (3, 4.0), (9, 256.0), (10, 300.0), (99, 300.0)]
)
def test_the_wait_doubles_up_to_five_minutes(tries: int, seconds: float) -> None:
    assert retry_delay(1000, tries) == seconds


def test_no_wait_stays_none() -> None:
    assert retry_delay(0, 5) == 0
