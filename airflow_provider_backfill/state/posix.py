"""
Keep plans, run checkpoints and event logs on a POSIX file system.

Files are replaced as a whole (temporary file, fsync, rename, fsync of the folder). A log line is acknowledged only
after fsync, so nobody knows of an incomplete last line: readers skip it, and the next writer removes it. Locks are
``flock``; the kernel releases them with the process and supports them on NFSv4. Files are private to their owner,
unless the state folder is writable for its group or for others. No write follows a symbolic link below the state
folder.
"""

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from ..errors import Advice, DamagedStateError, Flag, StateError

_BLOCK = 4 << 20
"""The number of bytes per read of a log, so that memory does not grow with the log."""
# Error numbers that usually concern only the file that is read, not the whole folder.
_UNREADABLE = (errno.EISDIR, errno.EACCES, errno.EPERM, errno.ELOOP)
_CREATE = os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


class FileBackend:
    """A backend in a folder of a local or NFSv4 file system; :mod:`.backend` describes its guarantees."""

    parallel = 1

    def __init__(self, root: Path) -> None:
        self.root = root

    def where(self, name: str) -> str:
        """Return the path of *name* for messages."""
        return str(self.root / name)

    def read(self, name: str) -> bytes | None:
        """Return the bytes of *name*; None if there is no such file."""
        path = self.root / name
        with _explained("read", path):
            try:
                return path.read_bytes()
            except FileNotFoundError:
                return None

    def stamp(self, name: str) -> object:
        """Return a value that changes with every write of *name*; None if the file is missing or inaccessible."""
        try:
            found = (self.root / name).stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    def names(self, folder: str, suffix: str) -> list[str]:
        """Return the names of the files in *folder* that end with *suffix*, sorted and without the suffix."""
        with _explained("list", self.root / folder):
            try:
                found = [path.name for path in (self.root / folder).iterdir()]
            except FileNotFoundError:
                return []
        return sorted(name.removesuffix(suffix) for name in found if name.endswith(suffix))

    def create(self, name: str, data: bytes) -> bool:
        """Write *name* and return True; return False without writing if *name* exists."""
        with self._written(name, data) as temporary:
            try:
                os.link(temporary, self.root / name)
            except FileExistsError:
                return False
        return True

    def replace(self, name: str, data: bytes) -> None:
        """Write *name* as a whole; readers see the old bytes or the new bytes."""
        with self._written(name, data) as temporary:
            temporary.replace(self.root / name)

    @contextmanager
    def _written(self, name: str, data: bytes) -> Iterator[Path]:
        path = self.root / name
        temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
        with _explained("write", path):
            _make_folder(self.root, path.parent)
            try:
                with os.fdopen(_create(self.root, temporary, os.O_WRONLY | os.O_EXCL), "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                yield temporary
                _sync_folder(path.parent)
            finally:
                with suppress(OSError):
                    temporary.unlink(missing_ok=True)

    def retire(self, name: str, tag: str) -> None:
        """Rename *name* to ``name.tag``; do nothing if it does not exist."""
        _set_aside(self.root / name, tag)

    @contextmanager
    def locked(self, name: str) -> Iterator[None]:
        """Hold the lock *name* against every thread, process and host; the holder's death releases it."""
        lock = _Lock(self.root, name)
        lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def log(self, plan_id: str, generation: str) -> "FileLog":
        """Return the log of a plan; *generation* is ignored, because the log of an earlier plan is renamed."""
        del generation
        return FileLog(self.root, plan_id)


class _Handle:
    """A file descriptor, closed with the last reference to this object. Child processes must not use it; see *ours*."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._process = os.getpid()

    @property
    def ours(self) -> bool:
        """Whether this process opened the file; a child process shares the parent's position and locks."""
        return self._process == os.getpid()

    def is_at(self, path: Path) -> bool:
        """Return whether *path* still names the opened file."""
        try:
            found = os.stat(path)  # noqa: PTH116 - on the way of every commit
        except FileNotFoundError:
            return False
        own = os.fstat(self.number)
        return (own.st_ino, own.st_dev) == (found.st_ino, found.st_dev)

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        # Use no helper of this module: at interpreter exit, module names are deleted before objects.
        try:
            close(self.number)
        except OSError:
            return


class _Lock:
    """
    An advisory lock on a file, for one thread at a time; the file stays open between uses.

    The product never deletes the lock file. A lock on a file that another program deleted protects nothing, so
    :meth:`acquire` then creates the file again.
    """

    def __init__(self, root: Path, name: str) -> None:
        self._root, self._path = root, root / "locks" / f"{name}.lock"
        self._handle: _Handle | None = None

    def acquire(self) -> None:
        with _explained("lock", self._path):
            while True:
                if self._handle is None or not self._handle.ours:
                    _make_folder(self._root, self._path.parent)
                    self._handle = _Handle(_create(self._root, self._path, os.O_RDWR))
                fcntl.flock(self._handle.number, fcntl.LOCK_EX)
                if self._handle.is_at(self._path):
                    return
                self._handle = None

    def release(self) -> None:
        if self._handle is not None:
            fcntl.flock(self._handle.number, fcntl.LOCK_UN)


class FileLog:
    """
    One plan's event log in one file. Positions count bytes.

    Under the lock, reads and writes use a handle that stays open. Without the lock, each read opens the file again,
    because NFS shows the writes of other hosts only on open.
    """

    optimistic = False

    def __init__(self, root: Path, plan_id: str) -> None:
        self._root, self._path = root, root / "events" / f"{plan_id}.ndjson"
        self._lock = _Lock(root, plan_id)
        self._handle: _Handle | None = None
        self._named = False
        self._held = False
        self._looked = False

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the plan's lock against every thread, process and host."""
        self._lock.acquire()
        try:
            self._held, self._looked = True, False
            yield
        finally:
            self._held = False
            self._lock.release()

    def _opened(self) -> _Handle | None:
        """Return a handle of the current log file; None if there is no file."""
        if not self._held:
            return self._open(os.O_RDONLY)
        # Check the handle once per hold of the lock, because only the holder of the lock renames the file.
        if not self._looked:
            if self._handle is None or not self._handle.ours or not self._handle.is_at(self._path):
                self._handle, self._named = self._open(os.O_RDWR), False
            self._looked = True
        return self._handle

    def _open(self, flags: int) -> _Handle | None:
        try:
            if flags & os.O_CREAT:
                return _Handle(_create(self._root, self._path, flags))
            return _Handle(os.open(self._path, flags | os.O_CLOEXEC | (os.O_NOFOLLOW if flags & os.O_RDWR else 0)))
        except FileNotFoundError:
            return None

    def read(self, position: int, last: bytes) -> list[bytes] | None:
        """
        Return whole lines after *position*, possibly not all; None if *last* does not end at *position*.

        Return None also if the file is gone although *position* is not 0. Skip an incomplete last line. Return a file
        that consists only of NUL bytes as one line.
        """
        with _explained("read", self._path):
            handle = self._opened()
            if handle is None:
                return None if position else []
            there = os.fstat(handle.number).st_size - position
            wanted = min(_BLOCK, max(there, 0))
            while True:
                data = _read_at(handle.number, wanted + len(last), position - len(last))
                if not data.startswith(last):
                    return None
                end = data.rfind(b"\n", len(last)) + 1
                if end or wanted >= there:
                    break
                # The line is longer than a block.
                wanted = min(wanted * 2, there)
        if not end and not position and data and not data.strip(b"\0"):
            # No writer writes only NUL bytes. Return them as a line, so that the reader reports the damage.
            return [data]
        return data[len(last) : end].splitlines(keepends=True)

    def advance(self, position: int, line: bytes) -> int:
        """Return the position after *line*, in bytes."""
        return position + len(line)

    def append(self, position: int, line: bytes) -> None:
        """
        Append *line* at *position* and wait until the line is on disk. Call this under the lock.

        Bytes after *position* are an incomplete line and are removed. After a failed write, the log is truncated to
        *position*, so that a full disk leaves no partial event.

        Raises:
            StateError: The line is not on disk, for example because the disk is full.
        """
        with _explained("write", self._path):
            handle = self._opened()
            if handle is None:
                _make_folder(self._root, self._path.parent)
                handle = self._open(os.O_RDWR | os.O_CREAT)
                assert handle is not None  # noqa: S101 - the folder was just made
                self._handle, self._named = handle, False
            if os.fstat(handle.number).st_size > position:
                os.ftruncate(handle.number, position)
            try:
                if os.pwrite(handle.number, line, position) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(handle.number)
                if not self._named:
                    # The process that created the file may have died before its name was on disk.
                    _sync_folder(self._path.parent)
                    self._named = True
            except OSError:
                with suppress(OSError):
                    os.ftruncate(handle.number, position)
                raise

    def sync(self) -> None:
        """
        Make all lines that were read durable. Call this under the lock.

        The writer of a line may have died before its fsync.
        """
        with _explained("write", self._path):
            if (handle := self._opened()) is not None:
                os.fsync(handle.number)

    def publish(self, position: int) -> None:
        """Do nothing: the log is already the file that people read."""

    def set_aside(self, tag: str) -> None:
        """Add *tag* to the name of an older plan's log. Call this under the lock."""
        _set_aside(self._path, tag)
        self._handle = None

    def close(self) -> None:
        """Do nothing: the caller renames the file, and every writer notices the new name under the lock."""


def _set_aside(path: Path, tag: str) -> None:
    with _explained("rename", path), suppress(FileNotFoundError):
        path.rename(path.with_name(f"{path.name}.{tag}"))
        _sync_folder(path.parent)


def _read_at(handle: int, size: int, position: int) -> bytes:
    """Return *size* bytes from *position*, fewer only at the end of the file; a single system call may return fewer."""
    data = os.pread(handle, size, position)
    while len(data) < size and (more := os.pread(handle, size - len(data), position + len(data))):
        data += more
    return data


def _shared(root: Path) -> int:
    """Return the bits ``070`` if the group may write in the state folder, plus ``007`` if others may; otherwise 0."""
    mode = root.stat().st_mode
    return (0o070 if mode & 0o020 else 0) | (0o007 if mode & 0o002 else 0)


def _create(root: Path, path: Path, flags: int) -> int:
    """
    Open or create a file, and return its descriptor.

    A new file is readable and writable for its owner, and for the group and others if they may write in the state
    folder.

    Raises:
        OSError: The file is a symbolic link or cannot be opened, or *flags* has ``O_EXCL`` and the file exists.
    """
    shared = _shared(root) & 0o066
    try:
        handle = os.open(path, flags | _CREATE | os.O_EXCL, 0o600)
    except FileExistsError:
        if flags & os.O_EXCL:
            raise
        return os.open(path, flags | _CREATE, 0o600)
    if shared:
        os.fchmod(handle, 0o600 | shared)
    return handle


def _make_folder(root: Path, path: Path) -> None:
    """
    Create the state folder or a folder in it, with all missing parents, durably.

    The state folder is private to its owner. Folders in it are also open to the group and others if they may write in
    the state folder. Parents of the state folder get the usual permissions.

    Raises:
        OSError: A folder in the state folder is a symbolic link, or a part of the path is not a folder.
    """
    inner = root in path.parents
    if inner and path.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    if path.is_dir():
        return
    if path == path.parent:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    _make_folder(root, path.parent)
    with suppress(FileExistsError):
        path.mkdir(0o700 if inner or path == root else 0o777)
        if inner and (shared := _shared(root)):
            path.chmod(path.stat().st_mode | shared)
    if not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
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
        reason = "it is a symbolic link" if error.errno == errno.ELOOP else error.strerror or error
        if verb == "read" and error.errno in _UNREADABLE and os.access(path.parent, os.X_OK):
            # Usually only this file is unreadable, so commands can continue with other files.
            raise DamagedStateError(
                f"{path} cannot be read: {reason}.",
                path=str(path),
                hint="put the file back there, or grant what is missing",
            ) from error
        raise StateError(
            f"Cannot {verb} {path}: {reason}.",
            remedy=Advice("free or grant what is missing there, or choose another folder with {}", Flag("--state-dir")),
        ) from error
