"""Run the workers of one run: one worker for a single table, otherwise one for each shard, each at its own pace."""

import math
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

from ..clickhouse.fence import Fence
from ..clickhouse.shards import why_unreachable
from ..core.events import RunThrottled
from ..core.facts import TableFacts
from ..core.plan import Plan
from ..core.tables import TableName
from ..core.window import Window
from ..errors import Advice, ServerError, ServerUnreachableError
from ..state.run_log import RunLog
from .chunks import chunks_between
from .lease import has_live_worker, utc_now
from .session import Session
from .sites import Site, on_site
from .waiting import wait_for
from .worker import Worker

# Seconds of silence after which a run gives up a shard. While another unfinished shard answers, the run waits longer.
PATIENCE_SECONDS = 120.0
# Seconds between two checks of a shard that was silent at the start of the run.
_PAUSE_SECONDS = 1.0


class Ready(NamedTuple):
    """
    A site whose chunks may be executed.

    Attributes:
        replicated: The replicated tables among sources and target, each with its cluster.
        fence: The fence that keeps other runs out of the plan's window; None if no fence is possible or needed.
    """

    site: Site
    target: TableFacts
    replicated: tuple[tuple[TableName, str], ...]
    fence: Fence | None


class Crew:
    """
    The workers of a run in this process.

    If a shard does not answer, its chunks wait, and other shards continue. Where rows are divided among the shards,
    all chunks wait.

    Args:
        prepare: A function that inspects one site and keeps other runs out of the plan's window there.
        hire: A function that creates the worker of a site.

    Attributes:
        ready: The inspected sites.
    """

    def __init__(
        self,
        session: Session,
        plan: Plan,
        sites: Sequence[Site],
        prepare: Callable[[Site], Ready],
        hire: Callable[[Ready], Worker],
    ) -> None:
        self._session, self._plan, self._sites = session, plan, sites
        self._prepare, self._hire = prepare, hire
        self._only: frozenset[str] = frozenset()
        self._lock = threading.Lock()
        self._workers: dict[int, Worker] = {}
        self._busy: set[int] = set()
        # By shard number: the monotonic time, in seconds, since which the shard's chunks have to wait, because a shard
        # that these chunks read does not answer.
        self._silent: dict[int, float] = {}
        self._stopping = threading.Event()
        self._reason = ""
        self._error: Exception | None = None
        self.ready: list[Ready] = []

    @property
    def reason(self) -> str:
        """The reason why the run stopped before all chunks ended; empty if it did not stop early."""
        return self._reason or next((worker.reason for worker in self._workers.values() if worker.reason), "")

    def stop(self, reason: str) -> None:
        """Tell all workers to release their chunks and end soon. A signal handler must call this in a new thread."""
        with self._lock:
            self._reason = self._reason or reason
            self._stopping.set()
            for worker in self._workers.values():
                worker.stop(reason)

    def prepare(self) -> None:
        """
        Inspect every site before anything is written; :meth:`run` inspects shards that do not answer now.

        Raises:
            RequestError: The run may not begin on one of the sites.
            ServerUnreachableError: No site can be reached, or rows are divided among the shards and a shard is silent.
        """
        silent = []
        for site in self._sites:
            try:
                with on_site(site.plan.shard):
                    if self._plan.dealing is not None and (why := self._why_silent(site)):
                        raise ServerUnreachableError(why, remedy=Advice("every chunk reads all shards; wait for it"))
                    self.ready.append(self._prepare(site))
            except ServerUnreachableError as error:
                if not site.name:
                    raise
                silent.append(error)
        if not self.ready:
            raise silent[0]

    def run(self, window: Window | None, parallel: int, only: frozenset[str] = frozenset()) -> None:
        """
        Execute the chunks of *window* (None for all chunks) on every site, *parallel* chunks at a time on each.

        Args:
            only: The ids of the only chunks to execute; empty for all.

        Raises:
            BackfillError: The first error of a worker or of a late inspection, raised after all workers have ended.
        """
        self._only = only
        if not self._plan.shards:
            self._work(self.ready[0], window, parallel)
            return
        found = {ready.site.plan.shard: ready for ready in self.ready}
        ends = []
        for site in self._sites:
            end = threading.Event()
            ends.append(end)
            self._busy.add(site.plan.shard)
            arguments = (site, found.get(site.plan.shard), window, parallel, end)
            threading.Thread(target=self._shard, args=arguments, name=f"backfill-{site.name}", daemon=True).start()
        try:
            wait_for(ends)
        except BaseException as error:
            self.stop(f"interrupted by {type(error).__name__}")
            wait_for(ends)
            raise
        if self._error is not None:
            raise self._error

    def _shard(
        self,
        site: Site,
        ready: Ready | None,
        window: Window | None,
        parallel: int,
        end: threading.Event,
    ) -> None:
        """
        Run one shard's worker; first wait for a shard that was silent at the start.

        An error is kept for :meth:`run`, and the other shards continue.
        """
        try:
            with on_site(site.plan.shard):
                ready = ready or self._waited_for(site)
                if ready is not None:
                    self._work(ready, window, parallel)
        except Exception as error:  # noqa: BLE001 - raised again by run(); a thread that just died would hide it
            with self._lock:
                self._error = self._error or error
        finally:
            with self._lock:
                self._busy.discard(site.plan.shard)
            end.set()

    def _work(self, ready: Ready, window: Window | None, parallel: int) -> None:
        site = ready.site
        worker = self._hire(ready)
        with self._lock:
            self._workers[site.plan.shard] = worker
            if self._stopping.is_set():
                worker.stop(self._reason)
        worker.run(chunks_between(site.plan, window, self._only), parallel)

    def gate(self, site: Site, throttle: Callable[[], str]) -> str:
        """
        Return why the next chunk of a site has to wait: a shard that it reads is silent, or *throttle* has a reason.

        The text is empty if the chunk may start. Without shards, the attempt itself notices an unreachable server. When
        every unfinished shard is silent, a shard that was silent for over :data:`PATIENCE_SECONDS` is given up.
        """
        if not site.name:
            return throttle()
        why = self._why_silent(site)
        if why and self._is_hopeless(site):
            self._workers[site.plan.shard].stop(why)
        return why or throttle()

    def _why_silent(self, site: Site) -> str:
        # If rows are divided among shards, each shard reads from the other shards.
        places = self._sites if self._plan.dealing is not None else (site,)
        silent = ((place.name, why_unreachable(place.server)) for place in places)
        name, why = next(((name, why) for name, why in silent if why), ("", ""))
        with self._lock:
            if why:
                self._silent.setdefault(site.plan.shard, time.monotonic())
            else:
                self._silent.pop(site.plan.shard, None)
        return f"{name} does not answer: {why}" if why else ""

    def _is_hopeless(self, site: Site) -> bool:
        with self._lock:
            alone = self._busy <= self._silent.keys()
            since = self._silent.get(site.plan.shard, math.inf)
        return alone and time.monotonic() - since > PATIENCE_SECONDS

    def _waited_for(self, site: Site) -> Ready | None:
        """
        Wait until a shard that was silent at the start answers, then inspect the shard and return it.

        Return None if the run stops, or gives up the shard, before the shard answers.
        """
        log, said = self._session.store.open_run(self._plan), False
        while not self._stopping.wait(_PAUSE_SECONDS):
            if why := self._why_silent(site):
                if not said:
                    log.append(RunThrottled(at=utc_now(), by=self._session.user, reason=why))
                    said = True
                if self._is_hopeless(site):
                    with self._lock:
                        self._reason = self._reason or why
                    return None
                continue
            with suppress(ServerUnreachableError):
                ready = self._prepare(site)
                with self._lock:
                    self.ready.append(ready)
                return ready
        return None

    def drop_staged(self) -> None:
        """Drop the remaining staging tables of done and refused chunks. Call this after all workers have ended."""
        for worker in self._workers.values():
            worker.drop_staged()

    def release(self, log: RunLog) -> None:
        """Remove the fences, unless a worker of the run may be alive; a fence that cannot be removed expires."""
        if has_live_worker(log.refresh(), utc_now()):
            return
        for ready in self.ready:
            if ready.fence is not None:
                with suppress(ServerError):
                    ready.fence.release()
