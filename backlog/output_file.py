"""One writer for every file that a command makes for its user.

It replaces only what it may: an earlier output of the same kind, an empty file, or, with ``force``, another regular
file. It never replaces an input. Links are followed to the file that they name; a device, a pipe, or a file that this
process has open already (``/dev/stdout``, ``/dev/fd/3``) is written to, not replaced; ``-`` is standard output.
"""

from __future__ import annotations

import codecs
import errno
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from backlog.errors import StorageFull, UsageError
from backlog.files import replacing

#: Standard output, where a file's name is expected.
STDOUT: Final = Path("-")

_STDOUT_DESCRIPTOR: Final = 1

#: How many links lead on from one name: as many as Linux follows (path_resolution(7)).
_MAX_LINKS: Final = 40

#: What trying again doesn't help with: no such folder, no permission. A disk that fails has other numbers.
_FOR_ITS_USER: Final = frozenset(
    (
        *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR),
        *(errno.EEXIST, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL),
    )
)

#: Whether an existing file is an earlier output of a kind.
IsOwn = Callable[[IO[bytes]], bool]


@dataclass(frozen=True)
class OutputFile:
    """Where a user wants a file.

    Parameters
    ----------
    path
        The file, a link to it, a device, a pipe, or ``-`` for standard output.
    inputs
        Files that are never replaced, and folders of which nothing is that is not an earlier output of this kind.
    force
        Replace another regular file too.
    private
        For its owner alone, mode 0600, whatever it was before: it identifies patients.
    """

    path: Path
    inputs: tuple[Path, ...] = ()
    force: bool = False
    private: bool = False

    @classmethod
    def of(cls, path: Path | OutputFile) -> OutputFile:
        """Return a path as an output that protects no inputs; an output as it is."""
        return path if isinstance(path, OutputFile) else cls(path)

    @property
    def is_open(self) -> bool:
        """Whether it is standard output or another file that this process has open, whatever it is called."""
        return self.path == STDOUT or _open_file(self.path) is not None

    @property
    def is_stdout(self) -> bool:
        """Whether it is standard output, whatever it is called."""
        return self.path == STDOUT or _open_file(self.path) == _STDOUT_DESCRIPTOR

    def check(self, is_own: IsOwn) -> None:
        """Refuse at once what :meth:`open` would refuse after the work is done.

        Raises
        ------
        UsageError, StorageFull
            As in :meth:`open`.
        """
        if self.path == STDOUT:
            return
        descriptor = _open_file(self.path)
        if descriptor is None:
            self._check(self._target(), is_own)
        else:
            self._check_open(descriptor)

    @contextmanager
    def open(self, is_own: IsOwn) -> Iterator[IO[bytes]]:
        """Open for writing: a regular file has its new content when the block ends without an error, else its old one.

        Raises
        ------
        UsageError
            It is a folder, an input, or another file than this command's, or its place can't be written to.
        StorageFull
            It can't be written now.
        """
        if self.path == STDOUT:
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
            return
        descriptor = _open_file(self.path)
        if descriptor is not None:
            self._check_open(descriptor)
            sys.stdout.flush()  # what was printed before stands before it
            with self._translated(), os.fdopen(os.dup(descriptor), "wb") as opened:
                yield opened
            return
        target = self._target()
        existing = self._check(target, is_own)
        with self._translated():
            if existing is None or stat.S_ISREG(existing.st_mode):
                mode = stat.S_IMODE(existing.st_mode) if existing else _mode_of_new_files()
                with replacing(target, 0o600 if self.private else mode) as file:
                    yield file
            else:
                with target.open("wb") as device:
                    yield device

    @contextmanager
    def open_text(self, is_own: IsOwn) -> Iterator[codecs.StreamWriter]:
        """Open for text in UTF-8, of which no line end is changed; see :meth:`open`."""
        with self.open(is_own) as file:
            yield codecs.getwriter("utf-8")(file)

    def _target(self) -> Path:
        target = Path(os.path.realpath(self.path))
        if os.path.islink(target):  # noqa: PTH114  # Path.is_symlink raises on a name that is too long
            raise UsageError(f"{self.path}: can't be written ({os.strerror(errno.ELOOP)})")
        return target

    def _check(self, target: Path, is_own: IsOwn) -> os.stat_result | None:
        """Return what is there now, if anything."""
        try:
            existing = target.stat()
        except OSError:
            return None  # what is wrong with it, writing tells
        if stat.S_ISDIR(existing.st_mode):
            raise UsageError(f"{self.path}: this is a folder; name a file")
        if not stat.S_ISREG(existing.st_mode):
            return existing
        with self._translated(), target.open("rb") as file:
            own = existing.st_size == 0 or is_own(file)
        if any(_is_input(target, one, own=own) for one in self.inputs):
            raise UsageError(
                f"{self.path}: this is an input, or lies in one, and is never replaced: name another"
            )
        if not own and not self.force:
            raise UsageError(
                f"{self.path}: this file exists, and this command did not write it: name another, or add --force"
            )
        return existing

    def _check_open(self, descriptor: int) -> None:
        """Refuse a file that was opened for us, as by ``>>`` of a shell, where it is an input."""
        with self._translated():
            opened = os.fstat(descriptor)
        for one in self.inputs:
            with suppress(OSError):
                if stat.S_ISREG(opened.st_mode) and os.path.samestat(opened, one.stat()):
                    raise UsageError(
                        f"{self.path}: this is an input, or lies in one, and is never replaced: name another"
                    )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or error.__class__.__name__
            raise unwritable(error)(f"{self.path}: can't be written ({reason})") from error


def unwritable(error: OSError) -> type[UsageError | StorageFull]:
    """Return the kind of error of a file that can't be written: whether its user has to change something first."""
    return UsageError if error.errno in _FOR_ITS_USER else StorageFull


def begins_with(*starts: bytes) -> IsOwn:
    """Return the question whether a file begins with one of these bytes."""
    longest = max(map(len, starts))
    return lambda file: file.read(longest).startswith(starts)


def _open_file(path: Path) -> int | None:
    """Return the descriptor that a name leads to, as ``/dev/stdout`` does; None where it leads to none.

    What such a name resolves to is no file that could be opened or replaced: a pipe has no path, and a file behind
    ``>`` or ``>>`` is at the shell's place in it.
    """
    name = str(path)
    with suppress(OSError):
        for _ in range(_MAX_LINKS):
            folder = os.path.realpath(os.path.dirname(name))  # noqa: PTH120  # Path drops what links need
            last = os.path.basename(name)  # noqa: PTH119
            if folder == f"/proc/{os.getpid()}/fd" and last.isascii() and last.isdigit():
                return int(last)
            if not os.path.islink(name):  # noqa: PTH114
                return None
            name = os.path.join(folder, os.readlink(name))  # noqa: PTH115, PTH118
    return None


def _is_input(target: Path, one: Path, *, own: bool) -> bool:
    with suppress(OSError):
        real = Path(os.path.realpath(one))
        return target.samefile(real) or (not own and real.is_dir() and target.is_relative_to(real))
    return False


def _mode_of_new_files() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
