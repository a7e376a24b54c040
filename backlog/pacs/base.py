"""A PACS as this system needs it: store, fetch, look into a header, delete its own reports.

``backlog/pacs/orthanc.py`` speaks to Orthanc over REST, ``backlog/pacs/folder.py`` keeps files in a folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from backlog.dicom.parser import survey
from backlog.errors import InstanceRejected, UsageError
from backlog.settings import Settings

if TYPE_CHECKING:
    from backlog.dicom.header import Identity

#: Tag (7FE0,0010) in little and in big endian.
_PIXEL_DATA: Final = (b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10")

#: A part of a path that is rather one of an address: ``ftp:``, ``localhost:8042``.
_OF_AN_ADDRESS: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:|.+:[0-9]{1,5}")


@dataclass(frozen=True)
class Stored:
    """What a PACS answers to a store."""

    instance: str  #: the PACS's own id of the instance
    already: bool  #: it was there before; nothing was changed


class Pacs(Protocol):
    """Where images come from and reports go to.

    Every method raises ServiceUnavailable when the PACS is away, UsageError when it refuses the credentials and
    InstanceRejected when the one instance is to blame.
    """

    def identity(self) -> str:
        """Return what tells this PACS from another, the same for everybody who speaks to it."""
        ...

    def store(self, dicom: bytes, of: Identity | None = None) -> Stored:
        """Store one DICOM file. What is already there is left alone and counts as success.

        Parameters
        ----------
        of
            Which object it is, where that is known: a report's header takes 5 ms to read.
        """
        ...

    def fetch(self, instance: str) -> bytes:
        """Return one instance's file, as it was stored. Rejected as ``not_in_pacs`` when it is gone."""
        ...

    def header(self, instance: str) -> bytes:
        """Return the beginning of one instance's file, at least up to its pixel data."""
        ...

    def delete(self, instance: str) -> bool:
        """Delete one instance; False when it was not there."""
        ...

    def holders(self, sop_instance_uid: str, instance: str) -> int:
        """Return how many instances with a SOP Instance UID the PACS holds; ``instance`` is the one known."""
        ...

    def holds(self, of: Identity) -> bool:
        """Return whether the PACS holds an instance."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


def connect(settings: Settings, url: str = "") -> Pacs:
    """Return the PACS at an address (default: the settings'): ``http(s)://…`` or a folder.

    Raises
    ------
    UsageError
        The address is neither.
    """
    address = checked_address(url or settings.pacs_url)
    if address.startswith(("http://", "https://")):
        from backlog.pacs.orthanc import Orthanc  # requests takes 60 ms to import

        return Orthanc.from_settings(settings, address)
    from backlog.pacs.folder import Folder  # pydicom takes 150 ms to import

    return Folder(Path(address))


def checked_address(address: str) -> str:
    """Return a PACS's address, with its scheme in small letters, or the path of its folder as it is.

    Raises
    ------
    UsageError
        It looks like an address and isn't one that we speak to. Taken for a folder, it would be made, and filled.
    """
    scheme, separator, rest = address.partition("://")
    if separator and scheme.lower() in ("http", "https"):
        return f"{scheme.lower()}://{rest}"
    path = Path(address)
    for folder in (path, *path.parents):
        if _OF_AN_ADDRESS.fullmatch(folder.name) and not folder.is_dir():
            raise UsageError(
                f"{address.rpartition('@')[2]}: --pacs and CXR_PACS_URL take http(s)://host:port of an Orthanc, or a"
                " folder; one of that name make first"
            )
    return address


def until_pixels(steps: Iterator[bytes]) -> bytes:
    """Read steps of a file until its pixel data has begun, or to its end.

    The tag of pixel data may stand elsewhere too, in an icon or a private element: where it was seen, a walk over the
    elements tells whether it is the right one.
    """
    held = bytearray()
    seen = False
    for step in steps:
        start = max(0, len(held) - 3)
        held += step
        seen = seen or any(held.find(mark, start) >= 0 for mark in _PIXEL_DATA)
        if seen and _has_pixels(bytes(held)):
            break
    return bytes(held)


def _has_pixels(start: bytes) -> bool:
    try:
        return survey(start).has_pixels
    except InstanceRejected:
        return False  # cut within an element
