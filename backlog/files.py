"""Disks that go away, a file server's or a removable one, and disks that know no hard links."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Final

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
