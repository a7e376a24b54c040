"""The directory at a zip archive's end, read as a stream: what entries there are, and where (PKWARE APPNOTE 6.3.10)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from backlog.errors import InstanceRejected, UsageError
from backlog.outcomes import Reason

_END: Final = struct.Struct("<4s4H2LH")  # 4.3.16 end of central directory record
_END64_LOCATOR: Final = struct.Struct("<4sLQL")  # 4.3.15
_END64: Final = struct.Struct("<4sQ2H2L4Q")  # 4.3.14
_ENTRY: Final = struct.Struct("<4s4B4HL2L5H2L")  # 4.3.12 central directory header

_ENCRYPTED: Final = 0x1 | 0x40 | 0x2000  #: general purpose bits 0, 6 and 13 (4.4.4)
_UTF8: Final = 0x800  #: general purpose bit 11
_ENTRY_SIGNATURE: Final = b"PK\x01\x02"
_MAX16: Final = 0xFFFF
_MAX32: Final = 0xFFFFFFFF

#: How much of the directory is read at a time.
_BUFFER: Final = 1 << 20


@dataclass(frozen=True)
class Member:
    """One entry of the central directory."""

    place: int  #: offset of its entry in the file: what finds it again
    name: str  #: for the user at the producer only; holds patients' names often enough
    size: int  #: uncompressed, in bytes, as declared
    packed: int  #: compressed, in bytes
    method: int
    crc: int
    encrypted: bool
    header: int  #: offset of its local header
    next_place: int

    @property
    def is_folder(self) -> bool:
        """Whether the entry is only a folder's name. One with content is an item, whatever it is called.

        Some programs separate folders by backslashes (.NET before 4.6.1, Compress-Archive, CD writers).
        """
        return self.name.endswith(("/", "\\")) and self.size == 0


class ReadableFile(Protocol):
    """What is needed of an archive's file."""

    def read(self, size: int = -1, /) -> bytes:
        """Return the next bytes; fewer at the end."""

    def seek(self, place: int, whence: int = 0, /) -> int:
        """Go to a place."""


class ZipDirectory:
    """The central directory of a zip archive, zip64 included.

    Parameters
    ----------
    path
        What the archive is called in messages.
    file
        The archive.
    length
        Its length in bytes.

    Raises
    ------
    UsageError
        It is no zip, or its directory is damaged or missing.
    """

    def __init__(self, path: Path, file: ReadableFile, length: int) -> None:
        self._path, self._file, self._length = path, file, length
        self._shift = 0  #: how much stands before the zip itself
        self.wraps = 0  #: how often the offsets of a zip over 4 GiB without zip64 began anew at zero
        self.count, size, self.start = self._find()
        self.end = self.start + size  #: the offset behind its last entry

    def check_count(self, seen: int) -> None:
        """Refuse a directory that holds another number of entries than it says.

        Raises
        ------
        UsageError
            It does.
        """
        # Old programs write only the lower 16 bits of a larger count.
        if (seen - self.count) & _MAX16:
            raise UsageError(
                f"{self._path}: this zip is damaged: its directory holds {seen} entries, not {self.count}"
            )

    def _find(self) -> tuple[int, int, int]:
        """Return (number of entries, size and offset of the central directory)."""
        end, (_, disk, first_disk, _, count, size, start, _) = self._end_record()
        if (disk or first_disk) and disk != _MAX16:
            raise UsageError(f"{self._path}: one part of a zip in several parts; join them first")
        locator_at = end - _END64_LOCATOR.size
        if locator_at >= 0:
            self._file.seek(locator_at)
            signature, _, end64_at, _ = _END64_LOCATOR.unpack(self._file.read(_END64_LOCATOR.size))
            if signature == b"PK\x06\x07":
                end, count, size, start = self._end64_record(end64_at, locator_at)
        # What stands before the zip (a self-extracting archive's program) is not counted in its offsets.
        # Such an archive's directory stands right before its end; a signature of the archive may stand between.
        if start + size < end and (not size or self._begins(end - size, _ENTRY_SIGNATURE)):
            before = end - size - start
            # macOS writes no zip64: past 4 GiB its offsets begin anew at zero, and the count past 65,535.
            if before % (_MAX32 + 1):
                self._shift = before
            else:
                self.wraps = before // (_MAX32 + 1)
            start += before
        if start + size > end or (size and not self._begins(start, _ENTRY_SIGNATURE)):
            raise UsageError(f"{self._path}: this zip is damaged: its directory is not where it should be")
        if self._begins(start + size, _ENTRY_SIGNATURE):
            raise UsageError(f"{self._path}: this zip is damaged: its directory is longer than it says")
        return count, size, start

    def _end_record(self) -> tuple[int, tuple[Any, ...]]:
        """Return the offset and the fields of the end record; a comment may hold what looks like one."""
        tail_at = max(0, self._length - _END.size - _MAX16)
        self._file.seek(tail_at)
        tail = self._file.read()
        found: list[tuple[bool, bool, int, tuple[Any, ...]]] = []
        at = tail.find(b"PK\x05\x06")
        while 0 <= at <= len(tail) - _END.size:
            fields = _END.unpack_from(tail, at)
            *_, size, start, comment = fields
            to_the_end = at + _END.size + comment == len(tail)
            behind_directory = start + size == tail_at + at or _MAX32 in (start, size)
            found.append((to_the_end, behind_directory, tail_at + at, fields))
            at = tail.find(b"PK\x05\x06", at + 1)
        if found:
            return max(found)[2:]
        if self._begins(0, b"PK\x03\x04"):
            raise UsageError(
                f"{self._path}: this zip is cut off: its directory, at the end, is missing. Copy it again."
            )
        raise UsageError(f"{self._path}: this is no zip archive")

    def _end64_record(self, end64_at: int, locator_at: int) -> tuple[int, int, int, int]:
        """Return the zip64 end record's own offset, and (count, size, start) of the directory."""
        for at in (end64_at, locator_at - _END64.size):  # the second where something stands before the zip
            if 0 <= at <= locator_at - _END64.size:
                self._file.seek(at)
                signature, *_, count, size, start = _END64.unpack(self._file.read(_END64.size))
                if signature == b"PK\x06\x06":
                    return at, count, size, start
        raise UsageError(f"{self._path}: this zip is damaged: its zip64 directory record is missing")

    def _begins(self, at: int, signature: bytes) -> bool:
        if at >= self._length:
            return False
        self._file.seek(at)
        return self._file.read(len(signature)) == signature

    def members(self, place: int | None = None) -> Iterator[Member]:
        """Stream the directory's entries, folders included, from a place (default: the first).

        Raises
        ------
        UsageError
            The directory is damaged at some entry, or holds fewer or more than it says.
        """
        at = self.start if place is None else place
        buffer, base = b"", at
        seen = 0
        while at < self.end:
            need = at - base
            if len(buffer) - need < _ENTRY.size + 3 * _MAX16 and base + len(buffer) < self.end:
                self._file.seek(at)
                buffer, base, need = self._file.read(min(_BUFFER, self.end - at)), at, 0
            member = self._parse(buffer, need, at)
            if member is None:
                raise UsageError(f"{self._path}: the zip's directory is damaged at byte {at}")
            yield member
            seen += 1
            at = member.next_place
        if place is None:
            self.check_count(seen)

    def member(self, place: int) -> Member:
        """Return one entry by its place.

        Raises
        ------
        InstanceRejected
            There is no entry at that place: the file was changed.
        """
        if not self.start <= place < self.end:
            raise InstanceRejected(Reason.UNREADABLE, "the zip has changed since it was listed")
        self._file.seek(place)
        member = self._parse(self._file.read(min(_ENTRY.size + 3 * _MAX16, self.end - place)), 0, place)
        if member is None:
            raise InstanceRejected(Reason.UNREADABLE, "the zip has changed since it was listed")
        return member

    def _parse(self, buffer: bytes, at: int, place: int) -> Member | None:
        if at + _ENTRY.size > len(buffer):
            return None
        signature, *_, flags, method, _, _, crc, packed, size = _ENTRY.unpack_from(buffer, at)[:12]
        name_length, extra_length, comment_length, *_, header = _ENTRY.unpack_from(buffer, at)[12:]
        names_at = at + _ENTRY.size
        end = names_at + name_length + extra_length + comment_length
        if signature != _ENTRY_SIGNATURE or end > len(buffer):
            return None
        raw = buffer[names_at : names_at + name_length]
        extra = buffer[names_at + name_length : names_at + name_length + extra_length]
        size, packed, header = _zip64(extra, size, packed, header)
        return Member(
            place=place,
            name=_name(raw, is_utf8=bool(flags & _UTF8)),
            size=size,
            packed=packed,
            method=method,
            crc=crc,
            encrypted=bool(flags & _ENCRYPTED),
            header=header + self._shift,
            next_place=place + end - at,
        )


def _name(raw: bytes, *, is_utf8: bool) -> str:
    """Return a name as text; no two names become one. Many programs write UTF-8 without the flag for it (4.4.4)."""
    if is_utf8:
        return raw.decode("utf-8", "surrogateescape")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("cp437")


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
