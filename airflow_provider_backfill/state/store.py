"""
Read and write plans and runs through one interface for all backends.

The event log is the truth. The run file is a checkpoint of the log's replay and may lag. A run file is written again
when the log has grown by a fair part of the run file's size, so that the cost of a commit does not grow with the plan.
A commit applies the events of other writers, lets the caller decide, judges the new event, and appends the event
durably. On a file system, a lock excludes other writers meanwhile. On object stores, a conflict reveals other writers,
and the commit starts again.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from pydantic import ValidationError

from ..core.events import Event
from ..core.instants import render_instant
from ..core.plan import Plan
from ..core.run_state import Run
from ..errors import Advice, BackfillError, Command, ConfigError, DamagedStateError, Flag, PlanNotFoundError, StateError
from .backend import Backend
from .damage import damage_reason, damaged, plan_remedy, refuse_foreign
from .layout import PLAN_ID, check_plan_id, event_file, plan_file, run_file
from .log_lines import event_line, log_header
from .posix import FileBackend
from .run_log import Checkpoint, RunLog
from .seal import seal, unseal

if TYPE_CHECKING:
    from .recovery import RecoveredRun

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "az": "azure", "abfs": "azure", "abfss": "azure"}
"""The extra of the package for each scheme of a state folder's URL."""


def open_store(state_dir: str, *, config: Mapping[str, str] | None = None) -> "StateStore":
    """
    Return the store in *state_dir*: a folder, its ``file://`` URL, or an object store's URL (``s3://``, ``gs://`` …).

    Args:
        config: Credentials and addresses of an object store, in addition to the environment.

    Raises:
        ConfigError: The folder is a file, the kind of URL is unknown, the URL contains credentials or parameters, or
            the extra for the object store is not installed.
        StateError: obstore does not understand the URL or the configuration of the object store.
    """
    scheme, separator, rest = state_dir.partition("://")
    if not separator or scheme == "file":
        folder = Path(unquote(rest) if separator else state_dir).expanduser().absolute()
        if folder.is_file():
            raise ConfigError(f"stateDir is {folder}, which is a file.", hint="name a folder with --state-dir")
        return StateStore(FileBackend(folder))
    if scheme not in _EXTRAS:
        # Import masking here, because it is slow to load and rarely needed.
        from ..core.masking import mask_message

        raise ConfigError(
            f"stateDir is {mask_message(state_dir)!r}, which is not a place to keep state in.",
            hint=f"pass a folder, or a URL with {', '.join(f'{known}://' for known in _EXTRAS)}",
        )
    user, at, _ = rest.rpartition("@")
    # In abfss://container@account.dfs.core.windows.net/path the part before "@" is a container.
    container = scheme.startswith("abfs") and user and ":" not in user and "/" not in user
    secret = f"credentials in its URL ({scheme}://…@…)" if at and not container else ""
    if secret or "?" in rest or "#" in rest:
        raise ConfigError(
            f"stateDir has {secret or f'parameters in its URL ({scheme}://…?…)'}, which would be shown and logged.",
            hint="give them in the environment, or in the Airflow connection",
        )
    try:
        from .object_store import connect
    except ImportError:
        raise ConfigError(
            f"stateDir is an {scheme}:// URL, and obstore is not installed.",
            hint=f"run pip install 'airflow-provider-backfill[{_EXTRAS[scheme]}]'",
        ) from None
    return StateStore(connect(state_dir, config or {}))


class StateStore:
    """The plans, runs and event logs of one state folder."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    def plan_path(self, plan_id: str) -> str:
        """Return the path of the plan, for messages."""
        return self.backend.where(plan_file(plan_id))

    def run_path(self, plan_id: str) -> str:
        """Return the path of the run's checkpoint, for messages."""
        return self.backend.where(run_file(plan_id))

    def event_path(self, plan_id: str) -> str:
        """Return the path of the run's events, for messages."""
        return self.backend.where(event_file(plan_id))

    def plan_ids(self) -> list[str]:
        """Return the ids of all plans, sorted."""
        return [name for name in self.backend.names("plans", ".json") if PLAN_ID.fullmatch(name)]

    def find_plan(self, plan_id: str) -> Plan | None:
        """
        Return the stored plan with this id; None if there is none.

        Raises:
            DamagedStateError: The file is unreadable or was changed, contains a different plan, or another version or
                tool wrote it.
            StateError: The state folder cannot be read.
        """
        data = self.backend.read(plan_file(plan_id))
        if data is None:
            return None
        path = self.plan_path(plan_id)
        text, sealed = unseal(data)
        try:
            plan = Plan.model_validate_json(text)
        except ValidationError as error:
            refuse_foreign(path, data)
            raise damaged(path, None, damage_reason(data, error), plan_remedy(plan_id)) from None
        if plan.plan_id != plan_id:
            raise damaged(path, None, f"it holds plan {plan.plan_id}", plan_remedy(plan_id))
        if not sealed or plan.computed_id() != plan_id:
            # The seal is checked, too, because the id does not cover the whole plan, for example not the SELECT.
            raise damaged(path, None, "its text was changed since it was planned", plan_remedy(plan_id))
        return plan

    def load_plan(self, plan_id: str) -> Plan:
        """
        Return the stored plan with this id.

        Raises:
            PlanNotFoundError: The state folder has no such plan.
            RequestError: *plan_id* is not a plan id.
            DamagedStateError: The file is unreadable or was changed, contains a different plan, or another version or
                tool wrote it.
            StateError: The state folder cannot be read.
        """
        plan = self.find_plan(check_plan_id(plan_id))
        if plan is None:
            raise PlanNotFoundError(
                f"There is no plan {plan_id} in {self.backend.where('')}.",
                remedy=Advice("`{}` shows the plans; {} chooses another folder", Command("list"), Flag("--state-dir")),
            )
        return plan

    def save_plan(self, plan: Plan) -> bool:
        """
        Write the plan's file and return True.

        Return False without writing if another writer has already created the file of this plan.
        """
        return self.backend.create(
            plan_file(plan.plan_id), seal(plan.model_dump_json(by_alias=True, indent=2).encode())
        )

    def retire_plan(self, plan_id: str, tag: str) -> None:
        """
        Rename the plan's files by adding *tag*, so that the plan can be created again.

        Workers of the old plan notice at their next commit.

        Raises:
            DamagedStateError: The plan's file is damaged, or another version or tool wrote it.
            StateError: The state folder cannot be read or written.
        """
        plan = self.find_plan(plan_id)
        with self.backend.locked(plan_id):
            if plan is not None:
                self.backend.log(plan_id, render_instant(plan.created_at)).close()
            # Rename the plan first. After a crash, the planning date in the other files shows that they are outdated.
            for name in (plan_file(plan_id), run_file(plan_id), event_file(plan_id)):
                self.backend.retire(name, tag)

    def open_run(self, plan: Plan) -> "RunLog":
        """
        Return the log of the plan's run, with all lines applied.

        Raises:
            DamagedStateError: The run file or the log is damaged; the message names the file, and the line of a log.
            StateError: The plan was removed or planned again meanwhile, or a file cannot be read.
        """
        log = RunLog(self, plan)
        log.refresh()
        return log

    def readable_runs(self, wanted: Callable[[Plan], bool]) -> Iterator[tuple[Plan, Run]]:
        """
        Yield the plans that *wanted* accepts, each with its run, in the order of their ids.

        Plans that cannot be read are omitted: ``check`` reports them.
        """
        for plan_id in self.plan_ids():
            try:
                plan = self.load_plan(plan_id)
                if wanted(plan):
                    yield plan, self.open_run(plan).run
            except BackfillError:
                continue

    def runs(
        self, plan_ids: Sequence[str], *, brief: bool = False
    ) -> Iterator[tuple[str, tuple[Plan, Run] | StateError]]:
        """
        Yield each plan's id, in the order of *plan_ids*, with the plan and its run, or with the error of the read.

        On an object store, several plans are read in parallel, because each takes several round trips. A plan that was
        removed meanwhile is omitted.

        Args:
            brief: Whether to omit the details of done chunks where the run file is up to date. Status, counts and
                workers are complete; ``done`` may be empty.
        """
        read = partial(self._read, brief=brief)
        # Reads of local files hardly wait, so threads would only slow each other down.
        if self.backend.parallel <= 1:
            yield from ((name, one) for name in plan_ids if (one := read(name)) is not None)
            return
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(self.backend.parallel) as pool:
            found = pool.map(read, plan_ids)
            yield from ((name, one) for name, one in zip(plan_ids, found, strict=True) if one is not None)

    def _read(self, plan_id: str, *, brief: bool) -> tuple[Plan, Run] | StateError | None:
        try:
            plan = self.find_plan(plan_id)
            return None if plan is None else (plan, RunLog(self, plan, brief=brief).refresh())
        except StateError as error:
            return error

    def retire_run_file(self, plan_id: str, tag: str) -> str:
        """Rename the run file by adding *tag*, so that it is written again; return the new path."""
        self.backend.retire(run_file(plan_id), tag)
        return f"{self.run_path(plan_id)}.{tag}"

    def salvage_run(self, plan: Plan) -> "RecoveredRun":
        """
        Recover a run from the plan's damaged log and an intact run file, if there is one.

        Raises:
            DamagedStateError: The log file is unreadable, or the state is in an object store, where only the store
                itself can restore a log object.
            StateError: The state folder cannot be read.
        """
        if not isinstance(self.backend, FileBackend):
            raise DamagedStateError(
                f"{self.event_path(plan.plan_id)} is kept as many objects, of which one is damaged or gone.",
                path=self.event_path(plan.plan_id),
                hint="restore the object from an earlier version in the object store",
            )
        from .recovery import recover_run

        checkpoint: Checkpoint | None = None
        with suppress(DamagedStateError):
            checkpoint = RunLog.read_checkpoint(self, plan)
        log = self.backend.read(event_file(plan.plan_id)) or b""
        if checkpoint is None:
            return recover_run(plan, log, None, b"", 0)
        return recover_run(plan, log, checkpoint.run, checkpoint.last.encode() + b"\n", checkpoint.lines)

    def restore_run(self, plan: Plan, events: Sequence[Event], tag: str) -> str:
        """
        Replace the plan's log by a log of *events*; add *tag* to the names of the old log and of the run file.

        Returns:
            The new path of the old log, for messages; no file is there if the plan had no log.
        """
        name = event_file(plan.plan_id)
        lines = [log_header(plan), *map(event_line, events)]
        with self.backend.locked(plan.plan_id):
            if (old := self.backend.read(name)) is not None:
                self.backend.create(f"{name}.{tag}", old)
            # Rename the run file before the log is replaced. After a crash in between, the log is as damaged as before.
            self.backend.retire(run_file(plan.plan_id), tag)
            self.backend.replace(name, b"".join(lines))
        return f"{self.event_path(plan.plan_id)}.{tag}"

    def exclusive(self, name: str) -> AbstractContextManager[None]:
        """Return a context that holds the lock *name*: a plan's id, or a name for several plans, such as a target's."""
        return self.backend.locked(name)
