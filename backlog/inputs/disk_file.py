"""An archive's file on a disk that may not answer for a while."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from backlog.errors import SourceUnavailable
from backlog.files import UNAVAILABLE_ERRNOS


class DiskFile:
    """A file whose disk may not answer: EIO of a soft NFS mount, say, at any read. Then the work waits.

    Parameters
    ----------
    path
        What it is called in messages.
    file
        The file, opened.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._held = file

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes."""
        with self._waited_for():
            return self._held.read(size)

    def seek(self, place: int, whence: int = 0) -> int:
        """Go to a place, and return it."""
        with self._waited_for():
            return self._held.seek(place, whence)

    def tell(self) -> int:
        """Return the place."""
        return self._held.tell()

    def stat(self) -> os.stat_result:
        """Return what the file system says of the file."""
        with self._waited_for():
            return os.fstat(self._held.fileno())

    def close(self) -> None:
        """Close the file."""
        self._held.close()

    @contextmanager
    def _waited_for(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in UNAVAILABLE_ERRNOS:
                raise unavailable(self._path, error) from error
            raise


def unavailable(path: Path, error: OSError) -> SourceUnavailable:
    """Return the error of an archive whose disk does not answer; `path` is what messages call it."""
    return SourceUnavailable(f"{path}: the zip can't be read ({error.strerror}): is its disk there?")
