"""The workers of one run: one worker for one table, else one for each shard, each at its own pace."""

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
from .worker import Worker, wait_for

# How long a shard that nobody answers on is waited for, once the others have done their chunks.
PATIENCE_SECONDS = 120.0
_PAUSE_SECONDS = 1.0


class Ready(NamedTuple):
    """A place whose chunks may be done; *fence* keeps other runs out of it, where anything can."""

    site: Site
    target: TableFacts
    replicated: tuple[tuple[TableName, str], ...]
    fence: Fence | None


class Crew:
    """
    The workers of a run in this process.

    A shard that does not answer makes its own chunks wait; the others go on.

    Args:
        prepare: Looks at one place and keeps other runs out of it.
        hire: Makes the worker of a place.

    Attributes:
        ready: The places that could be looked at.
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
        self._lock = threading.Lock()
        self._workers: dict[int, Worker] = {}
        self._busy: set[int] = set()
        # Since when nobody answers on a shard, by its number.
        self._silent: dict[int, float] = {}
        self._stopping = threading.Event()
        self._reason = ""
        self._error: Exception | None = None
        self.ready: list[Ready] = []

    @property
    def reason(self) -> str:
        """Why the run stopped before its work was done; empty when it did not."""
        return self._reason or next((worker.reason for worker in self._workers.values() if worker.reason), "")

    def stop(self, reason: str) -> None:
        """Give every chunk back and end soon; safe to call from a signal handler's thread."""
        with self._lock:
            self._reason = self._reason or reason
            self._stopping.set()
            for worker in self._workers.values():
                worker.stop(reason)

    def prepare(self) -> None:
        """
        Inspect every place before anything is written; silent shards are inspected later.

        Raises:
            RequestError: The run may not begin at one of them.
            ServerUnreachableError: No place can be reached.
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

    def run(self, window: Window | None, parallel: int) -> None:
        """
        Do the chunks of *window* everywhere, *parallel* at once in each place.

        Raises:
            BackfillError: As :meth:`Worker.run`; the first one, once all have ended.
        """
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
        """Run one shard's part; an error there ends the wait of other shards, not their work."""
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
        worker.run(chunks_between(site.plan, window), parallel)

    def gate(self, site: Site, throttle: Callable[[], str]) -> str:
        """
        Return why the next chunk of a place has to wait: nobody answers on its shard, or *throttle* says so.

        Where there are no shards, an attempt by itself finds out who answers. A shard that was silent for
        :data:`PATIENCE_SECONDS` is given up when no other shard has anything to do any more.
        """
        if not site.name:
            return throttle()
        why = self._why_silent(site)
        if why and self._is_hopeless(site):
            self._workers[site.plan.shard].stop(why)
        return why or throttle()

    def _why_silent(self, site: Site) -> str:
        # Where rows are dealt out, each shard reads what the others have.
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
        """Return a shard that was silent at the start, as soon as it answers; None when waiting ends."""
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
        """Drop the unneeded staging tables of done chunks on replicas."""
        for worker in self._workers.values():
            worker.drop_staged()

    def release(self, log: RunLog) -> None:
        """Release the windows, unless another worker of the run needs them; those of a dead worker expire."""
        if has_live_worker(log.refresh(), utc_now()):
            return
        for ready in self.ready:
            if ready.fence is not None:
                with suppress(ServerError):
                    ready.fence.release()
