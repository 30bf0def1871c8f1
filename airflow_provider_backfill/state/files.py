"""
Plans, run checkpoints and event logs on a POSIX file system.

Files are replaced as a whole (temporary file, fsync, rename, fsync of the folder). A log
line is acknowledged only after fsync, so a torn last line is a step nobody was told about:
readers skip it, and the next writer cuts it off. Locks are ``flock``, which the kernel drops
with the process and carries to NFSv4 servers.
Imports errors only; knows nothing of ClickHouse, Airflow, or what the bytes mean.
"""

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from ..errors import StateError


class FileBackend:
    """Named bytes and append-only logs below one folder, safe for many processes on many hosts."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __str__(self) -> str:
        return str(self.root)

    def where(self, name: str) -> str:
        """How to show *name* to a person."""
        return str(self.root / name)

    def read(self, name: str, offset: int = 0) -> bytes | None:
        """The bytes of *name* from *offset* to its end, or None when there is no such file."""
        with _explained("read", self.root / name):
            try:
                with (self.root / name).open("rb") as file:
                    file.seek(offset)
                    return file.read()
            except FileNotFoundError:
                return None

    def size(self, name: str) -> int:
        """The size of *name* in bytes; 0 when there is no such file."""
        with _explained("read", self.root / name):
            try:
                return (self.root / name).stat().st_size
            except FileNotFoundError:
                return 0

    def age(self, name: str) -> float:
        """Seconds since *name* was last written; infinite when there is no such file."""
        try:
            return max(0.0, time.time() - (self.root / name).stat().st_mtime)
        except OSError:
            return float("inf")

    def names(self, folder: str, suffix: str) -> list[str]:
        """The stems of the files *folder*/…*suffix*, sorted."""
        with _explained("list", self.root / folder):
            try:
                return sorted(path.name.removesuffix(suffix) for path in (self.root / folder).glob(f"*{suffix}"))
            except FileNotFoundError:
                return []

    def create(self, name: str, data: bytes) -> bool:
        """Write *name* unless it exists; False when somebody else was first."""
        with self._written(name, data) as temporary:
            try:
                os.link(temporary, self.root / name)
            except FileExistsError:
                return False
        return True

    def replace(self, name: str, data: bytes) -> None:
        """Write *name* as a whole; a reader sees the old bytes or the new ones."""
        with self._written(name, data) as temporary:
            temporary.replace(self.root / name)

    @contextmanager
    def _written(self, name: str, data: bytes) -> Iterator[Path]:
        path = self.root / name
        temporary = path.with_name(f".{path.name}.{uuid4().hex}")
        with _explained("write", path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with temporary.open("xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                yield temporary
                _sync_folder(path.parent)
            finally:
                temporary.unlink(missing_ok=True)

    def retire(self, name: str, tag: str) -> None:
        """Keep *name* beside itself under *tag*, so that the name is free; nothing when it does not exist."""
        path = self.root / name
        with _explained("rename", path), suppress(FileNotFoundError):
            path.rename(path.with_name(f"{path.name}.{tag}"))
            _sync_folder(path.parent)

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Hold the lock *name* against every thread, process and host; freed when the holder dies."""
        path = self.root / "locks" / f"{name}.lock"
        with _explained("lock", path):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            with _explained("lock", path):
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def append(self, name: str, offset: int, line: bytes) -> None:
        """
        Append *line* to *name* at *offset* and wait until it is on disk. Call it under the log's lock.

        What lies beyond *offset* is a torn line and is cut off. When the write fails, the log
        is cut back to *offset*, so that a full disk leaves no half of an event.

        Raises:
            StateError: The line is not on disk, such as when the disk is full.
        """
        path = self.root / name
        with _explained("write", path):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                size = os.fstat(handle).st_size
                if size > offset:
                    os.ftruncate(handle, offset)
                try:
                    written = os.pwrite(handle, line, offset)
                    if written != len(line):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                    os.fsync(handle)
                except OSError:
                    with suppress(OSError):
                        os.ftruncate(handle, offset)
                    raise
            finally:
                os.close(handle)
            if not offset:
                _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _explained(verb: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StateError(
            f"Cannot {verb} {path}: {error.strerror or error}.",
            hint="free or grant what is missing there, or choose another folder with --state-dir",
        ) from error
