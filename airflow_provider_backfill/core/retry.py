"""
Decide after an error of ClickHouse: retry, give up, or split the chunk.

The names are ClickHouse's own (``ErrorCodes.cpp``). Whether a condition is temporary was observed on servers or read in
their source. The number serves for answers that were cut off before the name.
"""

from enum import StrEnum

from ..errors import BackfillError, RequestError, StatementRefusedError

# Smaller chunks avoid these errors.
_TOO_HEAVY = {
    "TIMEOUT_EXCEEDED": 159,
    "TOO_SLOW": 160,
    "MEMORY_LIMIT_EXCEEDED": 241,
}
# Too many queries or parts, network, Keeper, read-only or lost replicas, an earlier query of the product that is still
# running, a session or user at its limit.
_PASSING = {
    "TOO_MANY_SIMULTANEOUS_QUERIES": 202,
    "NO_FREE_CONNECTION": 203,
    "SOCKET_TIMEOUT": 209,
    "NETWORK_ERROR": 210,
    "QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING": 216,
    "NO_ZOOKEEPER": 225,
    "ABORTED": 236,
    "TABLE_IS_READ_ONLY": 242,
    "TOO_MANY_PARTS": 252,
    "ALL_CONNECTION_TRIES_FAILED": 279,
    "TOO_FEW_LIVE_REPLICAS": 285,
    "UNSATISFIED_QUORUM_FOR_PREVIOUS_WRITE": 286,
    "UNKNOWN_STATUS_OF_INSERT": 319,
    "SESSION_IS_LOCKED": 373,
    "QUERY_WAS_CANCELLED": 394,
    "SYSTEM_ERROR": 425,
    "CANNOT_SCHEDULE_TASK": 439,
    "DEADLOCK_AVOIDED": 473,
    "SERVER_OVERLOADED": 745,
    "KEEPER_EXCEPTION": 999,
}
# Other errors that some statements expect.
_EXPECTED = {
    "TABLE_ALREADY_EXISTS": 57,
    "UNKNOWN_TABLE": 60,
    "NO_SUCH_DATA_PART": 232,
    "SESSION_NOT_FOUND": 372,
    "UNFINISHED": 341,
}
ERROR_NAMES = {number: name for name, number in {**_TOO_HEAVY, **_PASSING, **_EXPECTED}.items()}
"""ClickHouse's names by number, for every error that affects a decision."""

# The same name is used for too many parts in a table (temporary) and in one INSERT (final).
_PARTITIONS_PER_INSERT = "partitions for single INSERT"


class RetryDecision(StrEnum):
    """What follows a failed attempt: another attempt, a split, or the failure of the chunk."""

    RETRY = "retry"
    FINAL = "final"
    SPLIT = "split"


def classify_error(error: BackfillError) -> RetryDecision:
    """
    Judge the error that an attempt ended with.

    Memory and time limits call for smaller chunks. Unknown server errors and wrong requests are final, because
    repeating a wrong statement does not help. Interrupted requests and conflicts with concurrent changes are retried.
    """
    if isinstance(error, RequestError):
        return RetryDecision.FINAL
    if not isinstance(error, StatementRefusedError):
        return RetryDecision.RETRY
    if error.name in _TOO_HEAVY:
        return RetryDecision.SPLIT
    if error.name in _PASSING and _PARTITIONS_PER_INSERT not in error.reason:
        return RetryDecision.RETRY
    return RetryDecision.FINAL


def retry_delay(base_ms: float, tries: int) -> float:
    """Return the seconds to wait after the *tries*-th failure: doubling from *base_ms*, at most 5 minutes."""
    return float(min(base_ms / 1000 * 2.0 ** max(tries - 1, 0), 300.0))
