"""Whether a table and a source mean the same file, which each names by a path of its own."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Final

#: Endings of files that hold the same image under another name: labels are often written for the PNG of a DICOM.
_ENDINGS: Final = frozenset({".dcm", ".dicom", ".png", ".jpg", ".jpeg", ".gz"})


def file_stem(name: str) -> str:
    """Return a file's name without its folders and the endings of images."""
    path = PurePosixPath(name.replace("\\", "/").strip())
    while path.suffix.lower() in _ENDINGS:
        path = path.with_suffix("")
    return path.name


def folders_above(name: str) -> list[str]:
    """Return the folders of a path, the innermost first."""
    return [part for part in PurePosixPath(name.replace("\\", "/")).parts[:-1] if part not in ("/", ".")][
        ::-1
    ]


def shared_folders(one: list[str], other: list[str]) -> int | None:
    """Return how many folders two paths share from their ends, or None where they part before either ends."""
    shared = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            # A data set's own top folder is often another one here: the names below it decide.
            return shared or None
        shared += 1
    return shared
