"""Whether a table and a source mean the same file, which each names by a path of its own.

Two paths mean the same file where one is the end of the other, folder by folder. Nothing less will do: in
``patient1/study1/view1.dcm`` the outermost folder alone tells the patient.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from typing import Final

#: Endings of files that hold the same image under another name: labels are often written for the PNG of a DICOM.
_ENDINGS: Final = frozenset({".dcm", ".dicom", ".png", ".jpg", ".jpeg", ".gz"})


def path_key(name: str) -> str:
    """Return a path from its end: the name without the endings of images, then the folders, each with a slash.

    So a path that is the end of another begins that one's key.
    """
    text = name.replace("\\", "/")
    if not text.isascii():
        # What is no UTF-8 stays apart from other such names, and can be kept as text.
        text = unicodedata.normalize("NFC", os.fsencode(text).decode("utf-8", "backslashreplace"))
    parts = [part for part in text.strip().split("/") if part not in ("", ".")]
    if not parts:
        return "/"
    last = parts[-1]
    while (at := last.rfind(".")) > 0 and last[at:].lower() in _ENDINGS:
        last = last[:at]
    parts[-1] = last
    parts.reverse()
    return "/".join(parts) + "/"


def behind(key: str) -> str:
    """Return the first text that sorts behind all keys that begin with one."""
    return key[:-1] + chr(ord("/") + 1)


def shorter(key: str) -> Iterator[str]:
    """Yield the keys of the ends of a path, the longest first and without itself."""
    at = len(key) - 1
    while (at := key.rfind("/", 0, at)) >= 0:
        yield key[: at + 1]
