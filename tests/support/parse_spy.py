"""Counts how often each file's header is parsed, in this process or in another."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from backlog.dicom import header, parser
from backlog.dicom.parser import ParsedFile


def install(log: Path, patch: Callable[[Any, str, Any], None]) -> None:
    """Have each walk over a file's elements, and each header that pydicom reads, write a line.

    Parameters
    ----------
    log
        The file that lines are added to.
    patch
        `setattr`, or pytest's, which undoes it.
    """
    walk, read = parser.walk, header.dataset_of

    def note(what: str, parsed: ParsedFile) -> None:
        digest = hashlib.sha256(parsed.body[: parsed.header_end]).hexdigest()
        with log.open("a") as file:
            file.write(f"{what} {digest}\n")

    def walked(*arguments: Any, **more: Any) -> ParsedFile:
        parsed = walk(*arguments, **more)
        note("walk", parsed)
        return parsed

    def was_read(parsed: ParsedFile) -> Any:
        note("read", parsed)
        return read(parsed)

    patch(parser, "walk", walked)
    patch(header, "dataset_of", was_read)


def counted(log: Path) -> dict[str, list[int]]:
    """Return how often each header was walked over and read since the last call."""
    lines = Counter(log.read_text().splitlines())
    log.write_text("")
    return {
        what: [count for line, count in lines.items() if line.startswith(what)] for what in ("walk", "read")
    }
