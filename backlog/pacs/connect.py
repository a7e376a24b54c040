"""Choose the PACS that an address names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from backlog.pacs.address import checked_address
from backlog.pacs.base import Pacs
from backlog.settings import Settings

if TYPE_CHECKING:
    pass


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
    from backlog.pacs.folder import FolderPacs  # pydicom takes 150 ms to import

    return FolderPacs(Path(address))
