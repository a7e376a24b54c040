"""How much disk a run takes, and how much is free: estimated from what reports and runs were measured to take."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from backlog.inputs.entries import MAX_BYTES
from backlog.pacs.address import is_server

#: Bytes of a run's folder for each item: ledger, audit and scores (docs/scaling.md).
_RUN: Final = 1_700
#: Bytes of a report, and of what is stored beside it (docs/scaling.md, docs/conformance.md).
_REPORT: Final = 50_000
_DERIVED: Final[Mapping[str, int]] = {"capture": 4_800_000, "pdf": 45_000, "pdf-picture": 150_000}

_PNG: Final = b"\x89PNG"
#: Up to columns, rows and the bits of a sample (PNG, section 11.2.1).
_PNG_HEAD: Final = struct.Struct(">16sIIB")


@dataclass(frozen=True)
class DiskNeed:
    """What a run needs on this machine, and in the PACS, in bytes."""

    folder: Path  #: where the run's folder is made, or the PACS that is one
    free: int | None  #: there; None where it can't be told
    here: int  #: needed there
    pacs: int  #: needed by a PACS that is a server: images that the run stores, reports and the rest

    @property
    def enough(self) -> bool:
        """Whether there is room for what is needed here; a server's room nobody here knows."""
        return self.free is None or self.here <= self.free


def disk_need(
    *, items: int, images: int, stored_bytes: int, derived: Iterable[str], pacs: str, runs_folder: str
) -> DiskNeed:
    """Return what a run needs.

    Parameters
    ----------
    items
        Of the source.
    images
        That are scored.
    stored_bytes
        Of the images that the run stores in the PACS; 0 where they are there.
    derived
        Kinds of objects stored beside each report.
    pacs
        The address of the PACS, or its folder; empty for one in the run's own folder.
    runs_folder
        Where runs are kept; empty for the current folder.
    """
    written = stored_bytes + images * (_REPORT + sum(_DERIVED[kind] for kind in derived))
    server = is_server(pacs)
    folder = _existing(Path(pacs if pacs and not server else runs_folder or "."))
    try:
        free: int | None = shutil.disk_usage(folder).free
    except OSError:
        free = None
    return DiskNeed(folder, free, items * _RUN + (0 if server else written), written if server else 0)


def picture_bytes(picture: bytes) -> int:
    """Return about how many bytes a PNG or JPEG takes as a DICOM object.

    A PNG becomes pixels of one channel, of 8 or 16 bits; a JPEG mostly stays as it is. A PNG without a header, or with
    one that no radiograph has, is not stored.
    """
    if not (picture.startswith(_PNG) and len(picture) >= _PNG_HEAD.size):
        return len(picture)
    _, columns, rows, bits = _PNG_HEAD.unpack_from(picture)
    pixels = columns * rows * (2 if bits > 8 else 1)
    return pixels if 0 < pixels <= MAX_BYTES else len(picture)


def _existing(path: Path) -> Path:
    """Return the folder itself, or the first above it that is there."""
    whole = path.absolute()
    return next((one for one in (whole, *whole.parents) if one.is_dir()), Path("/"))
