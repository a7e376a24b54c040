"""Disks that go away: a file server's, a removable one."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Final

#: What the kernel says when it is the disk, its server or this process, and not the file. A bad sector is EIO too.
AWAY: Final = frozenset(
    {
        *(
            errno.EIO,
            errno.ESTALE,
            errno.ENODEV,
            errno.ENXIO,
            errno.ENOTCONN,
            errno.ECONNRESET,
            errno.ETIMEDOUT,
        ),
        *(errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH, errno.EMFILE, errno.ENFILE),
    }
)


def is_away(error: OSError, path: Path, root: Path) -> bool:
    """Tell a disk that is away from a file that is.

    Parameters
    ----------
    error
        Why the file couldn't be read.
    path, root
        The file, and the folder that it was found under. A folder on the way that is empty, or a root that isn't there,
        is a mount point without its disk.
    """
    if error.errno != errno.ENOENT:
        return error.errno in AWAY
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
