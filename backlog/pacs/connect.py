"""Choose the PACS that an address names."""

from __future__ import annotations

from pathlib import Path

from backlog.pacs.address import checked_address, is_dicomweb, is_orthanc
from backlog.pacs.base import Pacs
from backlog.settings import Settings


def connect(settings: Settings, url: str = "") -> Pacs:
    """Return the PACS at an address (default: the settings'): ``http(s)://…``, ``dicomweb+http(s)://…`` or a folder.

    Raises
    ------
    UsageError
        The address is none of them.
    """
    address = checked_address(url or settings.pacs_url)
    if is_dicomweb(address):
        from backlog.pacs.dicomweb import Dicomweb

        return Dicomweb.from_settings(settings, address)
    if is_orthanc(address):
        from backlog.pacs.orthanc import Orthanc  # requests takes 60 ms to import

        return Orthanc.from_settings(settings, address)
    from backlog.pacs.folder import FolderPacs  # pydicom takes 150 ms to import

    return FolderPacs(Path(address))
