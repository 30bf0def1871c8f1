"""A disk whose power can be cut: an ext4 image on a loop device, of which a copy holds what was really written."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

# The kernel writes a journal of its own every five seconds; far apart, what nobody has synced stays in memory.
_OPTIONS = "loop,noatime,commit=3600"


@contextlib.contextmanager
def _mounted(image: Path, folder: Path) -> Iterator[Path]:
    folder.mkdir()
    mount = ["mount", "-t", "ext4", "-o", _OPTIONS, str(image), str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"this user may not mount a file system: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


class Disk:
    """
    A file system in an image.

    Attributes:
        folder: Where it is mounted.
    """

    def __init__(self, place: Path, folder: Path) -> None:
        self._place = place
        self.folder = folder

    def sync(self) -> None:
        """Write all that waits in memory."""
        subprocess.run(["sync", "--file-system", str(self.folder)], check=True)

    @contextlib.contextmanager
    def after_a_power_cut(self) -> Iterator[Path]:
        """
        Give what a disk holds whose power is cut now, mounted as after a start.

        Whoever writes must stand still (SIGSTOP). What the kernel keeps in memory for the image is not in the copy.
        """
        copy = self._place / "after.img"
        subprocess.run(["cp", "--sparse=always", str(self._place / "disk.img"), str(copy)], check=True)
        try:
            with _mounted(copy, self._place / "after") as folder:
                yield folder
        finally:
            (self._place / "after").rmdir()
            copy.unlink()


@contextlib.contextmanager
def new_disk(place: Path) -> Iterator[Disk]:
    """Make and mount an empty file system; skip the test where the user may not mount."""
    place.mkdir()
    image = place / "disk.img"
    with image.open("wb") as file:
        # Sparse, and large enough for a server that is asked for its free space.
        file.truncate(64 * 2**30)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
    with _mounted(image, place / "mounted") as folder:
        yield Disk(place, folder)
