"""Files that one process makes and all that share the cache use: whole or absent, made once.

What needs PyTorch to be made is made in a Python process of its own, so that a CPU worker never imports it.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from backlog.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Importing torchxrayvision and exporting take 20 s on two cores.
_SECONDS_FOR_TORCH: Final = 900


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


def run_with_torch(module: str, *arguments: str) -> None:
    """Run a module that needs PyTorch in a process of its own, so that this one never imports it.

    Raises
    ------
    UsageError
        PyTorch isn't installed, or the module ended with such an error itself.
    RuntimeError
        The module failed in another way.
    """
    for package in ("torch", "torchxrayvision", "onnx"):
        if importlib.util.find_spec(package) is None:
            raise UsageError(
                f"{package} isn't installed here, and the cache holds no model that runs without it. Start"
                " one worker once where cxr-backlog[model] is installed, with the same weights and cache"
            )
    result = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=Path(__file__).resolve().parents[2],  # where ``-m`` finds this package, installed or not
        capture_output=True,
        text=True,
        timeout=_SECONDS_FOR_TORCH,
        check=False,
    )
    if result.returncode == os.EX_USAGE:
        raise UsageError(result.stderr.strip().splitlines()[-1])
    if result.returncode != 0:
        raise RuntimeError(f"python -m {module} ended with {result.returncode}:\n{result.stderr[-2000:]}")
