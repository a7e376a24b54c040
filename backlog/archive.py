"""Members of a zip archive by place, never extracted (PKWARE APPNOTE 6.3.10).

The standard library's ``zipfile`` keeps half a kilobyte for every member: a gigabyte for two million images, in the
producer and in every upload worker. Here the central directory is read as a stream, and a member is found again by
the offset of its entry, which is all that travels in a message.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

from isal import isal_zlib

from backlog.errors import InstanceRejected, UsageError
from backlog.outcomes import Reason

_END: Final = struct.Struct("<4s4H2LH")  # 4.3.16 end of central directory record
_END64_LOCATOR: Final = struct.Struct("<4sLQL")  # 4.3.15
_END64: Final = struct.Struct("<4sQ2H2L4Q")  # 4.3.14
_ENTRY: Final = struct.Struct("<4s4B4HL2L5H2L")  # 4.3.12 central directory header
_LOCAL: Final = struct.Struct("<4s2B4HL2L2H")  # 4.3.7 local file header

_STORED: Final = 0
_DEFLATED: Final = 8
_ENCRYPTED: Final = 0x1 | 0x40 | 0x2000  #: general purpose bits 0, 6 and 13 (4.4.4)
_MAX16: Final = 0xFFFF
_MAX32: Final = 0xFFFFFFFF

#: How much of the directory is read at a time.
_BUFFER: Final = 1 << 20


@dataclass(frozen=True)
class Member:
    """One entry of the central directory."""

    place: int  #: offset of its entry in the file: what finds it again
    name: str  #: for the person at the producer only; holds patients' names often enough
    size: int  #: uncompressed, in bytes, as declared
    packed: int  #: compressed, in bytes
    method: int
    crc: int
    encrypted: bool
    header: int  #: offset of its local header
    next_place: int

    @property
    def is_folder(self) -> bool:
        """Whether the entry is only a folder's name."""
        return self.name.endswith("/")


class Archive:
    """A zip archive, zip64 included, opened for reading. A context; closes its file.

    Raises
    ------
    UsageError
        There is no such file, it is no zip, or it ends early.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file: BinaryIO = path.open("rb")
        except FileNotFoundError as error:
            raise UsageError(f"{path}: no such file") from error
        except OSError as error:
            raise UsageError(f"{path}: can't be read ({error.strerror})") from error
        try:
            self._file.seek(0, 2)
            self._length = self._file.tell()
            self.count, self._size, self._start = self._directory()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @property
    def first_place(self) -> int:
        """Where the first entry stands: the cursor to begin with."""
        return self._start

    @property
    def end_place(self) -> int:
        """Where the directory ends."""
        return self._start + self._size

    def _directory(self) -> tuple[int, int, int]:
        """Return (number of entries, size and offset of the central directory)."""
        tail_at = max(0, self._length - _END.size - _MAX16)
        self._file.seek(tail_at)
        tail = self._file.read()
        at = tail.rfind(b"PK\x05\x06")
        if at < 0 or at + _END.size > len(tail):
            self._file.seek(0)
            if self._file.read(4) == b"PK\x03\x04":
                raise UsageError(f"{self.path}: this zip is cut off: its directory, at the end, is missing. Copy it again.")
            raise UsageError(f"{self.path}: this is no zip archive")
        _, disk, first_disk, _, count, size, start, _ = _END.unpack_from(tail, at)
        if disk or first_disk:
            if disk not in (0, _MAX16):
                raise UsageError(f"{self.path}: one part of a zip in several parts; join them first")
        end = tail_at + at
        locator_at = end - _END64_LOCATOR.size
        if locator_at >= 0:
            self._file.seek(locator_at)
            signature, _, end64_at, _ = _END64_LOCATOR.unpack(self._file.read(_END64_LOCATOR.size))
            if signature == b"PK\x06\x07":
                self._file.seek(end64_at)
                record = self._file.read(_END64.size)
                if len(record) < _END64.size or record[:4] != b"PK\x06\x06":
                    raise UsageError(f"{self.path}: this zip is damaged: its zip64 directory record is missing")
                *_, count, size, start = _END64.unpack(record)
                end = end64_at
        if start + size > end:
            raise UsageError(f"{self.path}: this zip is damaged: its directory lies outside the file")
        return count, size, start

    def members(self, place: int | None = None) -> Iterator[Member]:
        """Stream the directory's entries, folders included, from a place (default: the first).

        Raises
        ------
        UsageError
            The directory is damaged at some entry.
        """
        at = self._start if place is None else place
        buffer, base = b"", at
        while at < self.end_place:
            need = at - base
            if len(buffer) - need < _ENTRY.size + 3 * _MAX16 and base + len(buffer) < self.end_place:
                self._file.seek(at)
                buffer, base, need = self._file.read(min(_BUFFER, self.end_place - at)), at, 0
            member = self._parse(buffer, need, at)
            if member is None:
                raise UsageError(f"{self.path}: the zip's directory is damaged at byte {at}")
            yield member
            at = member.next_place

    def member(self, place: int) -> Member:
        """Return one entry by its place.

        Raises
        ------
        InstanceRejected
            There is no entry at that place: the file was changed.
        """
        if not self._start <= place < self.end_place:
            raise InstanceRejected(Reason.UNREADABLE, "the zip has changed since it was listed")
        self._file.seek(place)
        member = self._parse(self._file.read(_ENTRY.size + 3 * _MAX16), 0, place)
        if member is None:
            raise InstanceRejected(Reason.UNREADABLE, "the zip has changed since it was listed")
        return member

    @staticmethod
    def _parse(buffer: bytes, at: int, place: int) -> Member | None:
        if at + _ENTRY.size > len(buffer):
            return None
        (signature, _, _, _, _, flags, method, _, _, crc, packed, size,
         name_length, extra_length, comment_length, _, _, _, header) = _ENTRY.unpack_from(buffer, at)  # fmt: skip
        names_at = at + _ENTRY.size
        end = names_at + name_length + extra_length + comment_length
        if signature != b"PK\x01\x02" or end > len(buffer):
            return None
        raw = buffer[names_at : names_at + name_length]
        extra = buffer[names_at + name_length : names_at + name_length + extra_length]
        size, packed, header = _zip64(extra, size, packed, header)
        return Member(
            place=place,
            name=raw.decode("utf-8" if flags & 0x800 else "cp437", "replace"),
            size=size,
            packed=packed,
            method=method,
            crc=crc,
            encrypted=bool(flags & _ENCRYPTED),
            header=header,
            next_place=place + end - at,
        )

    def read(self, member: Member, *, limit: int) -> bytes:
        """Return a member's content, checked against its CRC-32.

        Parameters
        ----------
        limit
            Most bytes that a member may have, whatever it declares: an archive can hold a bomb.

        Raises
        ------
        InstanceRejected
            Encrypted, an unknown method, too large, damaged, or unreadable.
        """
        if member.encrypted:
            raise InstanceRejected(Reason.ENCRYPTED, "the zip member needs a password; unpack it first")
        if member.method not in (_STORED, _DEFLATED):
            raise InstanceRejected(Reason.UNSUPPORTED_COMPRESSION, f"zip method {member.method}")
        if member.size > limit:
            raise InstanceRejected(Reason.TOO_LARGE, f"declares {member.size} bytes; the limit is {limit}")
        try:
            self._file.seek(member.header)
            local = self._file.read(_LOCAL.size)
            if len(local) < _LOCAL.size or local[:4] != b"PK\x03\x04":
                raise InstanceRejected(Reason.UNREADABLE, "the zip member's local header is damaged")
            *_, name_length, extra_length = _LOCAL.unpack(local)
            self._file.seek(name_length + extra_length, 1)
            packed = self._file.read(min(member.packed, self._length))
        except (OSError, ValueError) as error:
            raise InstanceRejected(Reason.UNREADABLE, f"the zip can't be read: {error.__class__.__name__}") from error
        if len(packed) < member.packed:
            raise InstanceRejected(Reason.UNREADABLE, "the zip ends inside this member")
        content = packed if member.method == _STORED else _inflate(packed, member.size)
        if len(content) != member.size or zlib.crc32(content) != member.crc:
            raise InstanceRejected(Reason.UNREADABLE, "the zip member is damaged: its checksum is wrong")
        return content


def _zip64(extra: bytes, size: int, packed: int, header: int) -> tuple[int, int, int]:
    """Take the values that don't fit 32 bits from the zip64 extra field (4.5.3)."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            values = iter(struct.unpack_from(f"<{min(length, len(extra) - at - 4) // 8}Q", extra, at + 4))
            size = next(values, size) if size == _MAX32 else size
            packed = next(values, packed) if packed == _MAX32 else packed
            header = next(values, header) if header == _MAX32 else header
            break
        at += 4 + length
    return size, packed, header


def _inflate(packed: bytes, size: int) -> bytes:
    """Inflate at most one byte more than declared: a member that holds more is damaged or a bomb."""
    try:
        inflater = isal_zlib.decompressobj(-15)
        return inflater.decompress(packed, size + 1)
    except (isal_zlib.error, ValueError, OverflowError, MemoryError) as error:
        raise InstanceRejected(Reason.UNREADABLE, "the zip member is damaged: it can't be inflated") from error
