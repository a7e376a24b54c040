"""What file meta information says beside the transfer syntax (PS3.10 7.1)."""

from __future__ import annotations

import struct
from typing import Final

from backlog.dicom.elements import LONG_VRS

_START: Final = 132  # 128 bytes and "DICM"
_MEDIA_STORAGE_SOP_CLASS: Final = 0x0002


def media_storage_sop_class_uid(dicom: bytes | memoryview) -> str:
    """Return Media Storage SOP Class UID (0002,0002) as it stands; empty when absent.

    Some archives took the SOP class out of their data sets and left it here.
    """
    at = _START
    while at + 12 <= len(dicom):
        group, element = struct.unpack_from("<HH", dicom, at)
        if group != 2:
            break
        if bytes(dicom[at + 4 : at + 6]) in LONG_VRS:
            length, value = struct.unpack_from("<I", dicom, at + 8)[0], at + 12
        else:
            length, value = struct.unpack_from("<H", dicom, at + 6)[0], at + 8
        if element == _MEDIA_STORAGE_SOP_CLASS:
            return bytes(dicom[value : value + min(length, 64)]).rstrip(b"\0 ").decode("latin-1")
        at = value + length
    return ""
