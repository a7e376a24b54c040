"""A lock among the processes that share a cache: what one makes, all use (`backlog.files.replacing` writes it)."""

from __future__ import annotations

import fcntl
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from backlog.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator


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
