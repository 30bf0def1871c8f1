"""
Check before each chunk whether the server has capacity for another chunk.

A backfill must not disturb other work of the server. So the run waits while inserts are close to being delayed, while
memory or disk is short, or while the replica lags or is read-only. Afterwards the run continues automatically.
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress

from ..core.facts import TableFacts
from ..core.sql import table_condition
from ..errors import ServerError, ServerUnreachableError
from .client import ClickHouse
from .table_health import part_limits

_LAG_SECONDS = 300
# The seconds for which an answer is reused, per second that the check took. A busy server answers slowly, and each
# check adds to the load.
_PAUSE_FOR_EACH_SECOND = 20
_FREE_SHARE = 0.02
_FREE_BYTES = 2**30


class LoadThrottle:
    """
    A callable that returns why the next chunk has to wait. Threads may share it.

    Values that the user may not read, or that this version of ClickHouse does not have, never make a chunk wait.

    Args:
        max_load: The usable share of the server's memory limit, and of the number of parts in a partition at which
            inserts are delayed. While every merge thread is busy, half of this share of the parts is usable.
        pause: The minimum number of seconds for which an answer is reused. A slow server's answer is reused longer.
    """

    def __init__(self, server: ClickHouse, target: TableFacts, *, max_load: float = 0.8, pause: float = 1.0) -> None:
        self._server, self._target, self._max_load, self._pause = server, target, max_load, pause
        self._probes: list[Callable[[], str]] = [self._parts, self._memory, self._disk, self._replica]
        self._lock = threading.Lock()
        self._answer, self._until = "", 0.0

    def __call__(self) -> str:
        """
        Return why the next chunk has to wait, with the measured values; empty if the chunk may start.

        The answer is also empty if the server cannot be reached. The last answer is reused for *pause*
        seconds, or for 20 times the duration of the last check if this is longer.
        """
        with self._lock:
            if (asked := time.monotonic()) >= self._until:
                self._answer = self._ask()
                now = time.monotonic()
                self._until = now + max(self._pause, (now - asked) * _PAUSE_FOR_EACH_SECOND)
            return self._answer

    def _ask(self) -> str:
        for probe in list(self._probes):
            try:
                reason = probe()
            except ServerUnreachableError:
                # Do not wait: the attempt meets the same error and handles it.
                return ""
            except ServerError:
                with suppress(ValueError):
                    self._probes.remove(probe)
                continue
            if reason:
                return reason
        return ""

    def _parts(self) -> str:
        storage = self._target.storage
        where = table_condition(storage)
        partition, parts = self._server.row(
            "SELECT argMax(partition_id, parts), max(parts) FROM (SELECT partition_id, count() AS parts"
            f" FROM system.parts WHERE active AND {where} GROUP BY partition_id)"
        )
        if not parts:
            return ""
        named = table_condition(storage, "name")
        engine = self._server.value(f"SELECT engine_full FROM system.tables WHERE {named}", default="")
        delay, _, _ = part_limits(self._server, str(engine))
        share = self._max_load
        if parts >= delay * share / 2 and self._merges_are_behind():
            return (
                f"partition {partition} of {storage} has {parts} parts and every merge thread is busy; "
                f"inserts are slowed down from {delay} parts on"
            )
        if parts >= delay * share:
            return f"partition {partition} of {storage} has {parts} parts; inserts are slowed down from {delay} on"
        return ""

    def _merges_are_behind(self) -> bool:
        found = dict(
            self._server.rows(
                "SELECT metric, value FROM system.metrics WHERE startsWith(metric, 'BackgroundMergesAndMutationsPool')"
            )
        )
        size = int(found.get("BackgroundMergesAndMutationsPoolSize", 0))
        return bool(size) and int(found.get("BackgroundMergesAndMutationsPoolTask", 0)) >= size

    def _memory(self) -> str:
        used, limit = self._server.row(
            "SELECT (SELECT value FROM system.metrics WHERE metric = 'MemoryTracking'),"
            " (SELECT toUInt64(value) FROM system.server_settings WHERE name = 'max_server_memory_usage')"
        )
        if limit and used and used > limit * self._max_load:
            return f"the server uses {used / 2**30:.1f} of the {limit / 2**30:.1f} GiB of memory that it may use"
        return ""

    def _disk(self) -> str:
        storage = self._target.storage
        found = self._server.rows(
            "SELECT name, least(free_space, unreserved_space), total_space FROM system.disks WHERE name IN"
            " (SELECT arrayJoin(disks) FROM system.storage_policies WHERE policy_name = (SELECT storage_policy"
            f" FROM system.tables WHERE {table_condition(storage, 'name')}))"
            " ORDER BY 2 DESC LIMIT 1"
        )
        for name, free, total in found:
            if free < _FREE_BYTES or free < total * _FREE_SHARE:
                return f"the disk {name} of {storage} has {free / 2**30:.1f} GiB free"
        return ""

    def _replica(self) -> str:
        storage = self._target.storage
        if not self._target.engine.startswith("Replicated"):
            return ""
        found = self._server.rows(
            f"SELECT is_readonly, absolute_delay FROM system.replicas WHERE {table_condition(storage)}"
        )
        for readonly, delay in found:
            if readonly:
                return f"the replica of {storage} on this server is read-only"
            if delay > _LAG_SECONDS:
                return f"the replica of {storage} on this server is {delay} s behind"
        return ""
