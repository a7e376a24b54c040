"""Members of a zip archive by place, never extracted (PKWARE APPNOTE 6.3.10).

The standard library's ``zipfile`` keeps half a kilobyte for every member: a gigabyte for two million images,
in the producer and in every upload worker. Here the central directory is read as a stream, and a member is
found again by the offset of its entry, which is all that travels in a message.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Self

from backlog.dicom.parser import read_until_pixel_data
from backlog.errors import InstanceRejected, SourceUnavailable, UsageError
from backlog.files import UNAVAILABLE_ERRNOS
from backlog.inputs.decompression import crc32, inflate, inflate64, inflate_steps
from backlog.outcomes import Reason

_END: Final = struct.Struct("<4s4H2LH")  # 4.3.16 end of central directory record
_END64_LOCATOR: Final = struct.Struct("<4sLQL")  # 4.3.15
_END64: Final = struct.Struct("<4sQ2H2L4Q")  # 4.3.14
_ENTRY: Final = struct.Struct("<4s4B4HL2L5H2L")  # 4.3.12 central directory header
_LOCAL: Final = struct.Struct("<4s2B4HL2L2H")  # 4.3.7 local file header

_STORED: Final = 0
_DEFLATED: Final = 8
_DEFLATED64: Final = 9
_UNPACK: Final = {_DEFLATED: inflate, _DEFLATED64: inflate64}
_ENCRYPTED: Final = 0x1 | 0x40 | 0x2000  #: general purpose bits 0, 6 and 13 (4.4.4)
_ENTRY_SIGNATURE: Final = b"PK\x01\x02"
_MAX16: Final = 0xFFFF
_MAX32: Final = 0xFFFFFFFF

#: How much of the file's end goes into its fingerprint: hundreds of directory entries, each with a checksum.
_TAIL: Final = 1 << 16

#: How much of a member is read at a time where its header only is needed.
_STEP: Final = 1 << 16

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


class _Disk:
    """A file whose disk may not answer: EIO of a soft NFS mount, say, at any read. Then the work waits."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._held = file

    def read(self, size: int = -1) -> bytes:
        with self._waited_for():
            return self._held.read(size)

    def seek(self, place: int, whence: int = 0) -> int:
        with self._waited_for():
            return self._held.seek(place, whence)

    def tell(self) -> int:
        return self._held.tell()

    def stat(self) -> os.stat_result:
        with self._waited_for():
            return os.fstat(self._held.fileno())

    def close(self) -> None:
        self._held.close()

    @contextmanager
    def _waited_for(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in UNAVAILABLE_ERRNOS:
                raise _unavailable(self._path, error) from error
            raise


def _unavailable(path: Path, error: OSError) -> SourceUnavailable:
    return SourceUnavailable(f"{path}: the zip can't be read ({error.strerror}): is its disk there?")


class ZipArchive:
    """A zip archive, zip64 included, opened for reading. A context; closes its file.

    Parameters
    ----------
    path
        Where it lies, or what it is called in messages.
    content
        The archive itself, where it is no file: a member of another.

    Raises
    ------
    UsageError
        There is no such file, it is no zip, or it ends early.
    """

    def __init__(self, path: Path, content: bytes | None = None) -> None:
        self.path = path
        try:
            self._file: _Disk | BytesIO = (
                _Disk(path, path.open("rb")) if content is None else BytesIO(content)
            )
        except FileNotFoundError as error:
            raise UsageError(f"{path}: no such file") from error
        except OSError as error:
            if error.errno in UNAVAILABLE_ERRNOS:
                raise _unavailable(path, error) from error
            raise UsageError(f"{path}: can't be read ({error.strerror})") from error
        try:
            self._file.seek(0, 2)
            self._length = self._file.tell()
            self._shift = 0  #: how much stands before the zip itself
            self._wraps = 0  #: how often the offsets of a zip over 4 GiB without zip64 began anew at zero
            self.count, self._size, self._start = self._directory()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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

    @property
    def fingerprint(self) -> str:
        """Return what tells this file from another that takes its place: its size, its time, its end's checksum.

        Whole seconds: not every file system that shares it keeps finer ones.
        """
        self._file.seek(max(0, self._length - _TAIL))
        checksum = crc32(self._file.read(_TAIL))
        assert isinstance(self._file, _Disk)  # noqa: S101  # a zip in a zip has no fingerprint of its own
        return f"{self._length}-{int(self._file.stat().st_mtime)}-{checksum:08x}"

    def check_fingerprint(self, fingerprint: str) -> None:
        """Refuse a file that is not the one with a fingerprint; an empty one is every file's.

        Raises
        ------
        UsageError
            It is another.
        """
        if fingerprint and fingerprint != self.fingerprint:
            raise UsageError(
                f"{self.path}: this zip is not the one that the run began with: it was replaced or changed since. "
                "Put that one back, with its time, or begin a new run"
            )

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
                f"{self.path}: this zip is damaged: its directory holds {seen} entries, not {self.count}"
            )

    def _directory(self) -> tuple[int, int, int]:
        """Return (number of entries, size and offset of the central directory)."""
        end, (_, disk, first_disk, _, count, size, start, _) = self._end_record()
        if (disk or first_disk) and disk != _MAX16:
            raise UsageError(f"{self.path}: one part of a zip in several parts; join them first")
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
                self._wraps = before // (_MAX32 + 1)
            start += before
        if start + size > end or (size and not self._begins(start, _ENTRY_SIGNATURE)):
            raise UsageError(f"{self.path}: this zip is damaged: its directory is not where it should be")
        if self._begins(start + size, _ENTRY_SIGNATURE):
            raise UsageError(f"{self.path}: this zip is damaged: its directory is longer than it says")
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
                f"{self.path}: this zip is cut off: its directory, at the end, is missing. Copy it again."
            )
        raise UsageError(f"{self.path}: this is no zip archive")

    def _end64_record(self, end64_at: int, locator_at: int) -> tuple[int, int, int, int]:
        """Return the zip64 end record's own offset, and (count, size, start) of the directory."""
        for at in (end64_at, locator_at - _END64.size):  # the second where something stands before the zip
            if 0 <= at <= locator_at - _END64.size:
                self._file.seek(at)
                signature, *_, count, size, start = _END64.unpack(self._file.read(_END64.size))
                if signature == b"PK\x06\x06":
                    return at, count, size, start
        raise UsageError(f"{self.path}: this zip is damaged: its zip64 directory record is missing")

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
        at = self._start if place is None else place
        buffer, base = b"", at
        seen = 0
        while at < self.end_place:
            need = at - base
            if len(buffer) - need < _ENTRY.size + 3 * _MAX16 and base + len(buffer) < self.end_place:
                self._file.seek(at)
                buffer, base, need = self._file.read(min(_BUFFER, self.end_place - at)), at, 0
            member = self._parse(buffer, need, at)
            if member is None:
                raise UsageError(f"{self.path}: the zip's directory is damaged at byte {at}")
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
        if not self._start <= place < self.end_place:
            raise InstanceRejected(Reason.UNREADABLE, "the zip has changed since it was listed")
        self._file.seek(place)
        member = self._parse(self._file.read(min(_ENTRY.size + 3 * _MAX16, self.end_place - place)), 0, place)
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
            name=raw.decode("utf-8" if flags & 0x800 else "cp437", "replace"),
            size=size,
            packed=packed,
            method=method,
            crc=crc,
            encrypted=bool(flags & _ENCRYPTED),
            header=header + self._shift,
            next_place=place + end - at,
        )

    def read(self, member: Member, *, limit: int) -> bytes:
        """Return a member's content, checked against its CRC-32.

        Parameters
        ----------
        member
            The member, from this archive's directory.
        limit
            Most bytes that a member may have, whatever it declares: an archive can hold a bomb.

        Raises
        ------
        InstanceRejected
            Encrypted, an unknown method, too large, or damaged.
        SourceUnavailable
            The disk doesn't give it.
        """
        _refuse(member, limit)
        # Where offsets began anew at zero, the first place at which the content has its checksum is the member's.
        for wrap in range(self._wraps + 1):
            try:
                return self._content(member, member.header + wrap * (_MAX32 + 1))
            except InstanceRejected as rejected:
                if wrap == self._wraps or rejected.reason is not Reason.UNREADABLE:
                    raise
        raise AssertionError("the last attempt returns or raises")

    def read_header(self, member: Member, *, limit: int) -> bytes:
        """Return a member's content up to its pixel data, unchecked; all of no DICOM. Raises as :meth:`read`."""
        if member.method not in (_STORED, _DEFLATED) or self._wraps:
            return self.read(member, limit=limit)
        _refuse(member, limit)
        self._to_content(member.header)
        packed = self._steps(member.packed)
        return read_until_pixel_data(
            packed if member.method == _STORED else inflate_steps(packed, member.size)
        )

    def _steps(self, length: int) -> Iterator[bytes]:
        while length > 0:
            try:
                step = self._file.read(min(_STEP, length))
            except OSError as error:
                raise _unreadable(error) from error
            if not step:
                raise InstanceRejected(Reason.UNREADABLE, "the zip ends inside this member")
            length -= len(step)
            yield step

    def open_member(self, member: Member, *, limit: int) -> ZipArchive:
        """Open a member that is a zip itself.

        Raises
        ------
        InstanceRejected
            As :meth:`read`; or it is no zip, or a damaged one.
        """
        content = self.read(member, limit=limit)
        try:
            return ZipArchive(Path("a zip in the zip"), content)
        except UsageError as error:
            raise InstanceRejected(Reason.UNREADABLE, "the zip inside is damaged or none") from error

    def _content(self, member: Member, header: int) -> bytes:
        """Return the content whose local header stands at a place."""
        self._to_content(header)
        try:
            packed = self._file.read(min(member.packed, self._length))
        except (OSError, ValueError, OverflowError) as error:
            raise _unreadable(error) from error
        if len(packed) < member.packed:
            raise InstanceRejected(Reason.UNREADABLE, "the zip ends inside this member")
        content = packed if member.method == _STORED else _UNPACK[member.method](packed, member.size)
        if len(content) != member.size or crc32(content) != member.crc:
            raise InstanceRejected(Reason.UNREADABLE, "the zip member is damaged: its checksum is wrong")
        return content

    def _to_content(self, header: int) -> None:
        """Go to the content whose local header stands at a place."""
        try:
            self._file.seek(header)
            local = self._file.read(_LOCAL.size)
            if len(local) < _LOCAL.size or local[:4] != b"PK\x03\x04":
                raise InstanceRejected(Reason.UNREADABLE, "the zip member's local header is damaged")
            *_, name_length, extra_length = _LOCAL.unpack(local)
            self._file.seek(name_length + extra_length, 1)
        except (OSError, ValueError, OverflowError) as error:
            raise _unreadable(error) from error


def _refuse(member: Member, limit: int) -> None:
    """Refuse a member that can't be read, by what the directory says of it. Raises as :meth:`ZipArchive.read`."""
    if member.encrypted:
        raise InstanceRejected(Reason.ENCRYPTED, "the zip member needs a password; unpack it first")
    if member.method != _STORED and member.method not in _UNPACK:
        raise InstanceRejected(Reason.UNSUPPORTED_COMPRESSION, f"zip method {member.method}")
    declared = max(member.size, member.packed)
    if declared > limit:
        raise InstanceRejected(Reason.TOO_LARGE, f"declares {declared} bytes; the limit is {limit}")


def _unreadable(error: Exception) -> InstanceRejected:
    return InstanceRejected(Reason.UNREADABLE, f"the zip can't be read: {error.__class__.__name__}")


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
