"""Name workers, and judge whether a worker that holds claims is alive."""

import os
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

from ..core.run_state import Run

# Seconds for which a worker's claims hold after the last heartbeat, unless a different lease is given.
LEASE_SECONDS = 60.0
# Seconds that are added to the lease of a worker on a different host, whose clock may be behind.
_CLOCK_SECONDS = 30.0


def utc_now() -> datetime:
    """Return the current UTC time by this machine's clock."""
    return datetime.now(UTC)


def new_owner() -> str:
    """Return a new worker name: host, process id, start of the process and a nonce, separated by colons."""
    return f"{os.uname().nodename}:{os.getpid()}:{_process_start(os.getpid())}:{uuid4().hex[:8]}"


def owner_is_dead(run: Run, owner: str, moment: datetime) -> bool:
    """
    Return whether a worker has no valid claim on a chunk of the run.

    Such a worker never had a claim, its lease has expired, or its process on this host has ended.

    A worker on a different host has 30 seconds more, because its clock may be behind. With a larger clock difference, a
    live worker can lose a chunk. The worker's work on the chunk is then wasted, but no row is lost, because the log
    refuses later events of that worker on the chunk.
    """
    worker = run.workers.get(owner)
    if worker is None:
        return True
    host, _, rest = owner.partition(":")
    here = host == os.uname().nodename
    lease = timedelta(seconds=worker.lease_seconds + (0 if here else _CLOCK_SECONDS))
    if moment > worker.seen_at + lease:
        return True
    pid, _, rest = rest.partition(":")
    start = rest.partition(":")[0]
    return here and start != "" and _process_start(int(pid)) != start


def has_live_worker(run: Run, moment: datetime) -> bool:
    """Return whether any worker that has claimed chunks of the run may still be alive and hold its claims."""
    return any(not owner_is_dead(run, owner, moment) for owner in run.workers)


def _process_start(pid: int) -> str:
    """Return the start of a process on this host in kernel ticks; empty if the process has ended, or without /proc."""
    with suppress(OSError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        # A killed process stays as a zombie until its parent has read the exit status.
        return "" if fields[0] in "ZX" else fields[19]
    return ""
