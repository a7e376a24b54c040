"""Messages of type ``multipart/related`` (RFC 2387, PS3.18 8.6.1.2): one part written, one part read as it arrives."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from email.message import Message
from typing import Final

from backlog.errors import ServiceUnavailable

DICOM: Final = "application/dicom"

#: Most bytes of what may stand before a part's content: a preamble and the part's header lines.
_MAX_HEAD: Final = 1 << 16


def encode(dicom: bytes) -> tuple[bytes, str]:
    """Return a message with one DICOM file as its only part, and its Content-Type.

    Parameters
    ----------
    dicom
        The file (PS3.10).
    """
    boundary = secrets.token_hex(24).encode()  # so many random letters stand in no file
    head = b"--%s\r\nContent-Type: application/dicom\r\n\r\n" % boundary
    body = b"".join((head, dicom, b"\r\n--%s--\r\n" % boundary))
    return body, f'multipart/related; type="{DICOM}"; boundary={boundary.decode()}'


def boundary_of(content_type: str) -> bytes | None:
    """Return the boundary that a Content-Type names, quoted or not; None where the body is no multipart message."""
    header = Message()
    header["Content-Type"] = content_type
    if header.get_content_maintype() != "multipart":
        return None
    boundary = header.get_boundary()
    return boundary.encode("latin-1", "replace") if boundary else None


def only_part(steps: Iterator[bytes], boundary: bytes) -> Iterator[bytes]:
    """Yield the content of a message's only part as it arrives; holds back no more than a boundary's length.

    Parameters
    ----------
    steps
        The message, in pieces of any size.
    boundary
        What its Content-Type names.

    Yields
    ------
    bytes
        The content in pieces; none of a message without parts.

    Raises
    ------
    ServiceUnavailable
        The message ends before its closing boundary, is no such message, or holds more than one part.
    """
    mark = b"\r\n--" + boundary
    held = bytearray(b"\r\n")  # the first boundary may stand at the very beginning
    if not _content_begins(held, steps, mark):
        return
    while (end := held.find(mark)) < 0:
        if len(held) > len(mark):
            keep = len(mark) - 1
            yield bytes(held[:-keep])
            del held[:-keep]
        if not _more(held, steps):
            raise ServiceUnavailable("the PACS broke off an answer: its closing boundary is missing")
    yield bytes(held[:end])
    del held[: end + len(mark)]
    while len(held) < 2 and _more(held, steps):  # the two dashes of a closing boundary
        pass
    if not held.startswith(b"--"):
        raise ServiceUnavailable("the PACS answers with several instances where one was asked for")
    for _ in steps:  # what follows is ignored (RFC 2046 5.1.1), but the connection is used again
        pass


def _content_begins(held: bytearray, steps: Iterator[bytes], mark: bytes) -> bool:
    """Read up to the content of the first part; False where there is none."""
    while True:
        start = held.find(mark)
        if start >= 0:
            line = held.find(b"\r\n", start + len(mark))
            if held[start + len(mark) :].startswith(b"--"):
                return False
            head = held.find(b"\r\n\r\n", line) if line >= 0 else -1
            if head >= 0:
                del held[: head + 4]
                return True
        if len(held) > _MAX_HEAD or not _more(held, steps):
            raise ServiceUnavailable("the PACS's answer is no multipart message, though it says so")


def _more(held: bytearray, steps: Iterator[bytes]) -> bool:
    step = next(steps, b"")
    held += step
    return bool(step)
