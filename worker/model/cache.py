"""Files that one process makes and all that share the cache use: whole or absent, made once."""

from __future__ import annotations

import fcntl
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from backlog.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that is there whole or not at all, also after a crash of the machine."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".part-", delete=False) as file:
        part = Path(file.name)
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            part.chmod(0o644)
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


@contextmanager
def exclusive(cache: Path, what: str) -> Iterator[None]:
    """Hold a lock among all processes that share the cache. The kernel frees it when its holder dies."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        lock = (cache / f".{what}.lock").open("wb")
    except OSError as error:
        raise UsageError(f"can't write to the cache {cache}: {error.strerror}") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
