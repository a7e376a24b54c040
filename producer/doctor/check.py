"""One finding of the doctor, and the room on a disk, which several of its parts look for."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from producer.translation import decimal

#: Below this much room, in bytes, a run may end in the middle; below the other it is worth a word.
MIN_ROOM: Final = 1 << 30
LITTLE_ROOM: Final = 10 << 30


#: Seconds that a server which is asked may take to answer.
PATIENCE: Final = 5.0


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    state: Literal["ok", "look", "BAD"]
    what: str
    text: str
    remedy: str = ""


def room(what: str, path: Path) -> Check:
    """Look for room at a path, or at the nearest folder above it that exists."""
    folder = path.expanduser().absolute()
    while not folder.exists():
        folder = folder.parent
    if not os.access(folder, os.W_OK | os.X_OK):
        return Check("BAD", what, f"{folder}: can't be written", "choose another folder, or its permissions")
    free = shutil.disk_usage(folder).free
    text = f"{folder}: {decimal(free / 1e9, 1)} GB free"
    if free < MIN_ROOM:
        return Check(
            "BAD", what, text, "make room: a run keeps its ledger there, and without a PACS all else"
        )
    if free < LITTLE_ROOM:
        return Check("look", what, text, "is it enough for every image and its report?")
    return Check("ok", what, text)
