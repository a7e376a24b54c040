"""Which code this is: the version, and a digest of the code itself, which tells two builds of one version apart.

Printed by ``python backlog/version.py`` in a checkout too, which needs nothing but the standard library.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Final

#: The packages whose files make a build, and the files of them that matter.
_PACKAGES: Final = ("backlog", "producer", "worker")
_SUFFIXES: Final = (".py", ".j2", ".tsv")


@cache
def build(root: Path | None = None) -> str:
    """Return the digest of the code, twelve hexadecimal digits: the same of a checkout and of an image made from it.

    Parameters
    ----------
    root
        The folder that holds the packages; by default the one that this module was loaded from.
    """
    root = root or Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    files = (
        path for package in _PACKAGES for path in (root / package).rglob("*") if path.suffix in _SUFFIXES
    )
    for path in sorted(files, key=lambda path: path.relative_to(root).as_posix()):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:12]


if __name__ == "__main__":
    print(build())  # noqa: T201
