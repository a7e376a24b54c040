"""Addresses of a PACS: checked before use, shown without passwords."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from backlog.errors import UsageError

#: What the address of a DICOMweb service begins with, before ``http`` or ``https``.
DICOMWEB: Final = "dicomweb+"

#: What addresses of servers begin with: an Orthanc's, a DICOMweb service's.
_ORTHANC: Final = ("http://", "https://")
_DICOMWEB: Final = ("dicomweb+http://", "dicomweb+https://")

#: A part of a path that is rather one of an address: ``ftp:``, ``localhost:8042``.
_OF_AN_ADDRESS: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:|.+:[0-9]{1,5}")


def checked_address(address: str) -> str:
    """Return a PACS's address, with its scheme in small letters, or the path of its folder as it is.

    Raises
    ------
    UsageError
        It looks like an address and isn't one that we speak to. Taken for a folder, it would be made, and filled.
    """
    scheme, separator, rest = address.partition("://")
    if separator and f"{scheme.lower()}://" in (*_ORTHANC, *_DICOMWEB):
        return f"{scheme.lower()}://{rest}"
    path = Path(address)
    for folder in (path, *path.parents):
        if _OF_AN_ADDRESS.fullmatch(folder.name) and not folder.is_dir():
            raise UsageError(
                f"{address.rpartition('@')[2]}: --pacs and CXR_PACS_URL take http(s)://host:port of an Orthanc,"
                " dicomweb+https://host/path of a DICOMweb service, or a folder. If a folder of this name is"
                " meant, make it first"
            )
    return address


def is_orthanc(address: str) -> bool:
    """Whether an address is one of an Orthanc."""
    return address.lower().startswith(_ORTHANC)


def is_dicomweb(address: str) -> bool:
    """Whether an address is one of a DICOMweb service."""
    return address.lower().startswith(_DICOMWEB)


def is_server(address: str) -> bool:
    """Whether an address is one of a server, and not a folder."""
    return is_orthanc(address) or is_dicomweb(address)


def without_password(url: str) -> str:
    """Return an address without the user and password that may stand in it."""
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
