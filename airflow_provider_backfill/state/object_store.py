"""
Keep plans, run checkpoints and event logs in an object store: S3 and compatible stores, GCS, Azure.

The store must support conditional puts, which succeed only if the name is free or the object is unchanged. Like Delta
Lake's log, a log is a folder of numbered objects, one line each. A commit puts the next number; a writer that finds the
number taken reads again. Log objects are never deleted or overwritten, so a writer that was frozen for an hour cannot
change the past. Import this module only for the URL of an object store, because obstore is an extra.
"""

import json
import os
import random
import re
import socket
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import timedelta
from itertools import islice
from typing import Any
from uuid import uuid4

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError, PreconditionError
from obstore.store import ObjectStore, from_url

from ..core.masking import mask_secrets, shorten_message
from ..errors import Advice, DamagedStateError, Flag, StateError
from .backend import LOG_CLOSED, ConflictError

_LEASE_SECONDS = 30.0
_GUESS = 4
_PARALLEL = 16
_BATCH = 1024
"""The maximum number of log objects per fetch, so that memory does not grow with the log."""
_MISSING = (FileNotFoundError, NotFoundError)
_AIRFLOW_NAMES = {
    "aws_endpoint": "endpoint",
    "endpoint_url": "endpoint",
    "region_name": "region",
    "aws_region": "region",
    "aws_access_key_id": "access_key_id",
    "aws_secret_access_key": "secret_access_key",
    "aws_session_token": "session_token",
}
_QUERY = re.compile(r"\?\S+")


def connect(url: str, config: Mapping[str, str]) -> "ObjectBackend":
    """
    Return the backend below *url*, such as ``s3://bucket/prefix``.

    Args:
        config: Options of the store beyond the environment, by obstore's names (``access_key_id``, ``endpoint``, …) or
            by the names in an Airflow connection's extras.

    Raises:
        StateError: obstore does not understand the URL or the configuration.
    """
    given: Any = {_AIRFLOW_NAMES.get(key, key): value for key, value in config.items()}
    endpoint = given.get("endpoint") or os.environ.get("AWS_ENDPOINT_URL") or os.environ.get("AWS_ENDPOINT") or ""
    with _explained("open", url):
        store = from_url(
            url,
            config=given,
            client_options={"allow_http": True} if endpoint.startswith("http://") else {},
            retry_config={"max_retries": 5, "retry_timeout": timedelta(seconds=30)},
        )
    return ObjectBackend(store, url.rstrip("/"))


class ObjectBackend:
    """A backend in an object store; :mod:`.backend` describes its guarantees."""

    parallel = _PARALLEL

    def __init__(self, store: ObjectStore, url: str) -> None:
        self.store = store
        self.url = url

    def where(self, name: str) -> str:
        """Return the path of *name* for messages."""
        return f"{self.url}/{name}"

    def read(self, name: str) -> bytes | None:
        """Return the bytes of *name*; None if there is no such object."""
        found = self._get(name)
        return found[0] if found else None

    def _get(self, name: str) -> tuple[bytes, dict[str, str]] | None:
        """Return the bytes of *name* and the version of the object; None if there is no such object."""
        with _explained("read", self.where(name)):
            try:
                found = obstore.get(self.store, name)
            except _MISSING:
                return None
            return bytes(found.bytes()), _version(found.meta)

    def stamp(self, name: str) -> object:
        """Return a value that changes with every write of *name*; None if there is no such object."""
        with _explained("read", self.where(name)):
            try:
                found = obstore.head(self.store, name)
            except _MISSING:
                return None
        return found["e_tag"], found["last_modified"], found["size"]

    def names(self, folder: str, suffix: str) -> list[str]:
        """Return the names of the objects in *folder* that end with *suffix*, sorted and without the suffix."""
        with _explained("list", self.where(folder)):
            found = obstore.list_with_delimiter(self.store, f"{folder}/")["objects"]
        return sorted(
            name.removesuffix(suffix)
            for name in (meta["path"].rpartition("/")[2] for meta in found)
            if name.endswith(suffix)
        )

    def create(self, name: str, data: bytes) -> bool:
        """Write *name* unless it exists; return False if it exists with other bytes, otherwise True."""
        with _explained("write", self.where(name)):
            try:
                obstore.put(self.store, name, data, mode="create")
            except (AlreadyExistsError, PreconditionError):
                # A request may have been sent twice because its answer was lost. An object with the same bytes is this
                # writer's object.
                return self.read(name) == data
        return True

    def replace(self, name: str, data: bytes) -> None:
        """Write *name* as a whole; readers see the old bytes or the new bytes."""
        with _explained("write", self.where(name)):
            obstore.put(self.store, name, data)

    def retire(self, name: str, tag: str) -> None:
        """Rename *name* to ``name.tag``; do nothing if it does not exist."""
        with _explained("rename", self.where(name)), suppress(*_MISSING):
            obstore.copy(self.store, name, f"{name}.{tag}")
            obstore.delete(self.store, name)

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """
        Hold the lock *name* against every thread, process and host.

        The lock expires after half a minute. A waiting process takes the lock over after it has seen the same holder
        for that time, by its own clock.

        Raises:
            StateError: The store cannot be read or written. On exit: another process took the lock over, because this
                process held it for too long. An error of the block takes precedence over an error on exit.
        """
        path, nonce = f"locks/{name}.lock", uuid4().hex
        version = self._acquire(path, nonce)
        try:
            yield
        except BaseException:
            with suppress(StateError):
                self._release(path, nonce, version)
            raise
        self._release(path, nonce, version)

    def _acquire(self, path: str, nonce: str) -> dict[str, str]:
        holder = {"holder": f"{socket.gethostname()}:{os.getpid()}", "nonce": nonce, "held": True}
        body = json.dumps(holder).encode()
        seen: tuple[bytes, float] = (b"", 0.0)
        while True:
            found = self._get(path)
            if found and found[0] == body:
                return found[1]
            if found and found[0] != seen[0]:
                seen = (found[0], time.monotonic())
            if found is None or _is_free(found[0]) or time.monotonic() - seen[1] > _LEASE_SECONDS:
                with suppress(AlreadyExistsError, PreconditionError), _explained("lock", self.where(path)):
                    mode: Any = found[1] if found else "create"
                    return _version(obstore.put(self.store, path, body, mode=mode))
            time.sleep(random.uniform(0.02, 0.2))  # noqa: S311 - spreads load, keeps no secret

    def _release(self, path: str, nonce: str, version: dict[str, str]) -> None:
        body = json.dumps({"nonce": nonce, "held": False}).encode()
        try:
            with _explained("unlock", self.where(path)):
                mode: Any = version
                obstore.put(self.store, path, body, mode=mode)
        except (AlreadyExistsError, PreconditionError):
            if self.read(path) != body:
                raise StateError(
                    f"The lock {self.where(path)} was held for more than {_LEASE_SECONDS:.0f} s "
                    "and taken over by another process.",
                    hint="try again; if it repeats, check the network to the object store",
                ) from None

    def log(self, plan_id: str, generation: str) -> "ObjectLog":
        """Return the log of a plan; each generation has a separate folder."""
        return ObjectLog(self, plan_id, re.sub("[^0-9TZ]", "", generation))


class ObjectLog:
    """One plan's event log as numbered objects. Positions count lines; each object has one line."""

    optimistic = True

    def __init__(self, backend: ObjectBackend, plan_id: str, generation: str) -> None:
        self._backend = backend
        self._store = backend.store
        self._folder = f"events/{plan_id}/{generation}/"
        self._published = f"events/{plan_id}.ndjson"
        self._known = False

    def _name(self, number: int) -> str:
        return f"{self._folder}{number:012d}.ndjson"

    def locked(self) -> AbstractContextManager[None]:
        """Return a context that does nothing: a commit that meets another commit finds its number taken."""
        return nullcontext()

    def read(self, position: int, last: bytes) -> list[bytes] | None:
        """
        Return lines after *position*, possibly not all; ignore *last*.

        The first read returns None if line *position* does not exist. Later reads do not check this.

        Raises:
            DamagedStateError: The next line is gone, although later lines exist; only the first read notices this.
            StateError: The store cannot be read.
        """
        del last
        if not self._known:
            # One listing starts the first read and shows whether a checkpoint's last line exists.
            numbers = self._numbers(max(position - 1, 0))
            if position and next(numbers, None) != position:
                return None
            self._known = True
            if not position and (published := self._published_lines()):
                return published
            following = list(islice(numbers, _BATCH))
            if following and following[0] != position + 1:
                raise self._gone(position + 1)
            return self._fetch(position, iter(following))
        line = self._backend.read(self._name(position + 1))
        if line is None:
            return []
        # Usually a few lines are new. Some failed reads cost less than a listing.
        guess = range(position + 2, position + 2 + _GUESS)
        lines = [line, *self._fetch(position + 1, iter(guess))]
        if len(lines) > _GUESS:
            lines += self._fetch(position + len(lines), self._numbers(position + len(lines)))
        return lines

    def _numbers(self, after: int) -> Iterator[int]:
        """Yield the numbers of the log objects above *after*, in order."""
        with _explained("list", self._backend.where(self._folder)):
            for batch in obstore.list(self._store, self._folder, offset=self._name(after), chunk_size=_BATCH):
                yield from sorted(int(meta["path"].rpartition("/")[2].partition(".")[0]) for meta in batch)

    def _fetch(self, position: int, numbers: Iterator[int]) -> list[bytes]:
        """Return the lines after *position*: at most a batch, and only up to a gap in *numbers* or a missing object."""
        wanted: list[int] = []
        for number in numbers:
            if number != position + len(wanted) + 1:
                break
            wanted.append(number)
            if len(wanted) == _BATCH:
                break
        if len(wanted) < 2:
            found = [self._backend.read(self._name(number)) for number in wanted]
        else:
            with ThreadPoolExecutor(min(_PARALLEL, len(wanted))) as pool:
                found = list(pool.map(self._backend.read, map(self._name, wanted)))
        lines = []
        for line in found:
            if line is None:
                break
            lines.append(line)
        return lines

    def _published_lines(self) -> list[bytes]:
        """Return the whole lines of the published log; empty without such a log of this generation."""
        data = self._backend.read(self._published)
        if not data or not (first := self._backend.read(self._name(1))) or not data.startswith(first):
            return []
        return data[: data.rfind(b"\n") + 1].splitlines(keepends=True)

    def _gone(self, number: int) -> DamagedStateError:
        path = self._backend.where(self._name(number))
        return DamagedStateError(
            f"{path} is gone, although later lines of the log are there.",
            path=path,
            hint="restore the object, and let no lifecycle rule delete what lies below the state folder",
        )

    def advance(self, position: int, line: bytes) -> int:
        """Return the position after *line*: the number of lines up to and including *line*."""
        del line
        return position + 1

    def append(self, position: int, line: bytes) -> None:
        """
        Put *line* as the log object after *position*.

        Raises:
            ConflictError: Another writer was first.
            StateError: The store did not confirm the object, which may exist nevertheless.
        """
        if not self._backend.create(self._name(position + 1), line):
            raise ConflictError

    def sync(self) -> None:
        """Do nothing: every readable object is durable."""

    def publish(self, position: int) -> None:
        """
        Write the lines up to *position* as one object, unless the published log has at least as many lines.

        The object is for people, and for a faster replay from the first line.

        Raises:
            DamagedStateError: A line up to *position* is gone.
        """
        lines = self._published_lines()
        if len(lines) >= position:
            return
        while len(lines) < position:
            more = self._fetch(len(lines), iter(range(len(lines) + 1, position + 1)))
            if not more:
                raise self._gone(len(lines) + 1)
            lines += more
        self._backend.replace(self._published, b"".join(lines))

    def set_aside(self, tag: str) -> None:
        """Add *tag* to the name of an older plan's published log; its log objects stay in their separate folder."""
        self._backend.retire(self._published, tag)

    def close(self) -> None:
        """Append the closing line, at which later writers stop, unless the log already ends with it."""
        while True:
            last = 0
            for number in self._numbers(0):
                last = number
            if last and self._backend.read(self._name(last)) == LOG_CLOSED:
                return
            if self._backend.create(self._name(last + 1), LOG_CLOSED):
                return


def _version(meta: Mapping[str, Any]) -> dict[str, str]:
    """Return an object's e-tag and version, as far as the store has them, for a conditional put."""
    return {key: meta[key] for key in ("e_tag", "version") if meta.get(key)}


def _is_free(lock: bytes) -> bool:
    try:
        return not json.loads(lock)["held"]
    except (ValueError, KeyError, TypeError):
        return False


@contextmanager
def _explained(verb: str, where: str) -> Iterator[None]:
    try:
        yield
    except (AlreadyExistsError, PreconditionError):
        raise
    except (BaseError, OSError, ValueError) as error:
        # The first line has the error, the other lines the library's structures. A URL's query may have a signature.
        text = shorten_message(str(error)).strip().partition("\n")[0]
        # Do not chain the library's error, because a log of the chain would show its text without the masks.
        raise StateError(
            f"Cannot {verb} {where}: {mask_secrets(_QUERY.sub('?…', text))}",
            remedy=Advice(
                "check the address, the credentials and the network, or choose another folder with {}",
                Flag("--state-dir"),
            ),
        ) from None
