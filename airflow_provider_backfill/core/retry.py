"""
Decide the consequence of an error: a retry, the failure of the chunk, or a split of the chunk.

The names of the errors are ClickHouse's own (``ErrorCodes.cpp``). Whether an error is temporary was observed on servers
or read in their source. The error number identifies the error in an answer that was cut off before the name.
"""

from enum import StrEnum

from ..errors import BackfillError, RequestError, StatementRefusedError

# Errors that smaller chunks avoid: ClickHouse's name and number of each.
_TOO_HEAVY = {
    "TIMEOUT_EXCEEDED": 159,
    "TOO_SLOW": 160,
    "MEMORY_LIMIT_EXCEEDED": 241,
}
# Errors of temporary conditions, such as too many queries or parts, a failure of the network or of Keeper, a read-only
# or lost replica, a cancelled query, an earlier query of the product that is still running, or an overloaded server.
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
    # In a Replicated database, a replica that has just returned takes no DDL until the replica has caught up.
    "NOT_A_LEADER": 529,
    "DATABASE_REPLICATION_FAILED": 571,
    "SERVER_OVERLOADED": 745,
    "KEEPER_EXCEPTION": 999,
}
# Other errors, which the product expects from some of its statements: ClickHouse's name and number of each.
_EXPECTED = {
    "TABLE_ALREADY_EXISTS": 57,
    "UNKNOWN_TABLE": 60,
    "NO_SUCH_DATA_PART": 232,
    "SESSION_NOT_FOUND": 372,
    "UNFINISHED": 341,
}
ERROR_NAMES = {number: name for name, number in {**_TOO_HEAVY, **_PASSING, **_EXPECTED}.items()}
"""ClickHouse's names by number, for every error that affects a decision."""

# The text by which a final error is recognised. Servers use the name TOO_MANY_PARTS for too many parts in a table (a
# temporary error) and for too many partitions in one INSERT (a final error).
_PARTITIONS_PER_INSERT = "partitions for single INSERT"


class RetryDecision(StrEnum):
    """The consequence of a failed attempt: another attempt, a split, or the failure of the chunk."""

    RETRY = "retry"
    FINAL = "final"
    SPLIT = "split"


def classify_error(error: BackfillError) -> RetryDecision:
    """
    Return the decision that follows from the error of an attempt.

    Memory and time limits call for smaller chunks. Other refusals of the server are retried only if they are known to
    be temporary. Wrong requests are final, because repeating a wrong statement does not help. All other errors are
    retried, such as an interrupted request.
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
    """
    Return the seconds to wait after failure number *tries*.

    The wait is *base_ms* milliseconds after the first failure, doubles with each failure, and is at most 5 minutes.
    """
    return float(min(base_ms / 1000 * 2.0 ** max(tries - 1, 0), 300.0))
