"""Files: whole or not at all, private, never through a link; disks that go away, and disks that know no hard links."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final

from backlog.errors import UsageError

#: What the kernel says when it is the disk, its server or this process, and not the file. A bad sector is EIO too.
UNAVAILABLE_ERRNOS: Final = frozenset(
    getattr(errno, name)
    for name in (
        "EIO ESTALE ENODEV ENXIO ENOTCONN ECONNRESET ETIMEDOUT EHOSTDOWN EHOSTUNREACH ENETDOWN ENETUNREACH "
        "EMFILE ENFILE"
    ).split()
)

#: What file systems answer that have no hard links: FAT and exFAT, as removable disks have them.
_NO_LINKS: Final = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})


def is_storage_unavailable(error: OSError, path: Path, root: Path) -> bool:
    """Tell a disk that is unavailable from a file that is.

    Parameters
    ----------
    error
        Why the file couldn't be read.
    path, root
        The file, and the folder that it was found under. A folder on the way that is empty, or a root that isn't there,
        is a mount point without its disk.
    """
    if error.errno != errno.ENOENT:
        return error.errno in UNAVAILABLE_ERRNOS
    for folder in path.parents:
        try:
            with os.scandir(folder) as entries:
                return next(entries, None) is None
        except FileNotFoundError:
            if folder == root:
                return True
        except OSError:
            return True
    return True


def rename_exclusively(temporary: Path, path: Path) -> None:
    """Give a whole file its name, unless another has it: nothing is ever overwritten.

    Raises
    ------
    FileExistsError
        Another has.
    """
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
    else:
        return
    handle = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)  # the kernel gives it back when we die
        if path.exists():
            raise FileExistsError(errno.EEXIST, "another was first")
        temporary.rename(path)
    finally:
        os.close(handle)


def touch(path: Path) -> None:
    """Make an empty file, where there is none.

    Raises
    ------
    UsageError
        It can't be made, or a link stands there.
    """
    try:
        os.close(open_without_link(path, os.O_WRONLY))
    except OSError as error:
        raise UsageError(f"{path}: can't be written ({error.strerror})") from error


def remove(*paths: Path) -> None:
    """Remove files, where they are.

    Raises
    ------
    UsageError
        One can't be removed.
    """
    for path in paths:
        if not os.path.lexists(path):
            continue  # on a read-only file system to remove what is not there is an error too
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise UsageError(f"{path}: can't be written ({error.strerror})") from error


@contextmanager
def private_files() -> Iterator[None]:
    """Make every new file and folder the user's own (0600, 0700), those of the processes started meanwhile included."""
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def open_without_link(path: Path, flags: int) -> int:
    """Return a descriptor of a regular file that is the user's own; a link there is refused, not followed.

    Parameters
    ----------
    path
        The file; it is made with mode 0600 where it is missing.
    flags
        Of `os.open`, beside O_CREAT, O_NOFOLLOW and O_CLOEXEC.

    Raises
    ------
    OSError
        ELOOP: it is a link.
    """
    return os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


@contextmanager
def named_when_whole(path: Path) -> Iterator[Path]:
    """Yield the path of a new file beside another's, which gets its name at the end: whole, or not at all, and once.

    What is to be on the disk by then, the block has to see to.

    Raises
    ------
    FileExistsError
        There is a file of that name. It is left alone.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        yield temporary
        rename_exclusively(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing(target: Path, mode: int, *, durable: bool = True) -> Iterator[IO[bytes]]:
    """Write beside a file, under a name that nothing has, and move it there at the end: whole, or not at all.

    Parameters
    ----------
    target
        The file to replace; its folder exists.
    mode
        The new file's permissions.
    durable
        Whether it is on the disk at the end: a crash of the machine then leaves the one or the other.
    """
    handle, name = tempfile.mkstemp(prefix=".cxr-", suffix=".part", dir=target.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fchmod(handle, mode)
            if durable:
                os.fsync(handle)
        try:
            temporary.replace(target)
        except OSError:
            if not target.exists():
                raise
            # A file that is a mount of its own, as containers have them, can be written but not replaced.
            if stat.S_IMODE(target.stat().st_mode) != mode:
                target.chmod(mode)
            with temporary.open("rb") as source, target.open("wb") as there:
                shutil.copyfileobj(source, there)
    finally:
        temporary.unlink(missing_ok=True)


class PrivateFolder:
    """A folder of this process's own below the temporary one.

    Those that killed processes left behind are removed first: each holds a file that its process keeps locked, and the
    kernel ends that lock with the process.
    """

    _PREFIX: Final = "cxr-"
    _LOCK: Final = ".in-use"

    def __init__(self) -> None:
        self._remove_abandoned()
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=self._PREFIX))
            self._lock = os.open(self.path / self._LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            if os.fstat(self._lock).st_nlink:
                return
            # Another process was first to lock it, took it for abandoned, and removed it.
            os.close(self._lock)

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        self.remove()

    def remove(self) -> None:
        """Remove it with all that it holds."""
        shutil.rmtree(self.path, ignore_errors=True)
        with suppress(OSError):
            os.close(self._lock)

    def _remove_abandoned(self) -> None:
        for folder in Path(tempfile.gettempdir()).glob(f"{self._PREFIX}*"):
            # Another's, a link, or one that is just being made is left alone.
            with suppress(OSError):
                if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                    continue
                lock = os.open(folder / self._LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
                finally:
                    os.close(lock)


def check_is_file(path: Path) -> None:
    """Refuse what is no regular file and would be read without an end, as a pipe or a device; links are followed.

    Raises
    ------
    UsageError
        It is one, a folder, or not there.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise UsageError(f"{path}: can't be read ({error.strerror})") from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise UsageError(f"{path}: can't be read ({kind}, and no file)")
