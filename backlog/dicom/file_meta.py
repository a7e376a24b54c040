"""What file meta information says beside the transfer syntax (PS3.10 7.1)."""

from __future__ import annotations

from typing import Final

from backlog.dicom.parser import file_meta_elements

_PREAMBLE: Final = 132  # 128 bytes and "DICM"
_MEDIA_STORAGE_SOP_CLASS: Final = 0x0002


def media_storage_sop_class_uid(dicom: bytes | memoryview) -> str:
    """Return Media Storage SOP Class UID (0002,0002) as it stands; empty when absent.

    Some archives took the SOP class out of their data sets and left it here.
    """
    data = memoryview(dicom)
    start = _PREAMBLE if bytes(data[_PREAMBLE - 4 : _PREAMBLE]) == b"DICM" else 0
    for element, value, length in file_meta_elements(data, start):
        if element == _MEDIA_STORAGE_SOP_CLASS:
            return bytes(data[value : value + min(length, 64)]).rstrip(b"\0 ").decode("latin-1")
    return ""
