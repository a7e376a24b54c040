"""Members of a zip archive by place, never extracted (PKWARE APPNOTE 6.3.10).

The standard library's ``zipfile`` keeps half a kilobyte for every member: a gigabyte for two million images,
in the producer and in every upload worker. Here the central directory is read as a stream, and a member is
found again by the offset of its entry, which is all that travels in a message.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from backlog.dicom.partial_file import read_until_pixel_data
from backlog.errors import InstanceRejected, UsageError
from backlog.files import UNAVAILABLE_ERRNOS
from backlog.inputs.decompression import crc32, inflate, inflate64, inflate_steps
from backlog.inputs.disk_file import DiskFile, unavailable
from backlog.inputs.zip_directory import Member, ZipDirectory
from backlog.outcomes import Reason

_LOCAL: Final = struct.Struct("<4s2B4HL2L2H")  # 4.3.7 local file header

_STORED: Final = 0
_DEFLATED: Final = 8
_DEFLATED64: Final = 9
_UNPACK: Final = {_DEFLATED: inflate, _DEFLATED64: inflate64}
#: Other methods that archives are met with (APPNOTE.TXT 6.3.10, 4.4.5).
_NAMES: Final = {1: "Shrink", 6: "Implode", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 95: "xz", 98: "PPMd"}
#: So many places a 32-bit offset can tell apart.
_OFFSETS: Final = 1 << 32

#: How much of the file's end goes into its fingerprint: hundreds of directory entries, each with a checksum.
_TAIL: Final = 1 << 16

#: How much of a member is read at a time where its header only is needed.
_STEP: Final = 1 << 16


class ZipArchive:
    """A zip archive, zip64 included, opened for reading. A context; closes its file.

    Parameters
    ----------
    path
        Where it lies.
    content
        The archive itself, where it is no file: a member of another.
    called
        What it is called in messages; its path where nothing else is said. Messages reach logs, Redis and
        notifications, and only a path that the user gave may stand there: others may be named after patients.

    Raises
    ------
    UsageError
        There is no such file, it is no zip, or it ends early.
    """

    def __init__(self, path: Path, content: bytes | None = None, called: Path | None = None) -> None:
        file, self.path = path, called or path
        path = self.path
        try:
            self._file: DiskFile | BytesIO = (
                DiskFile(path, file.open("rb")) if content is None else BytesIO(content)
            )
        except FileNotFoundError as error:
            raise UsageError(f"{path}: no such file") from error
        except OSError as error:
            if error.errno in UNAVAILABLE_ERRNOS:
                raise unavailable(path, error) from error
            raise UsageError(f"{path}: can't be read ({error.strerror})") from error
        try:
            self._file.seek(0, 2)
            self._length = self._file.tell()
            self._directory = ZipDirectory(path, self._file, self._length)
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
    def count(self) -> int:
        """How many entries the directory says that it holds."""
        return self._directory.count

    @property
    def first_place(self) -> int:
        """Where the first entry stands: the cursor to begin with."""
        return self._directory.start

    @property
    def end_place(self) -> int:
        """Where the directory ends."""
        return self._directory.end

    @property
    def fingerprint(self) -> str:
        """Return what tells this file from another that takes its place: its size, its time, its end's checksum.

        Whole seconds: not every file system that shares it keeps finer ones.
        """
        self._file.seek(max(0, self._length - _TAIL))
        checksum = crc32(self._file.read(_TAIL))
        assert isinstance(self._file, DiskFile)  # noqa: S101  # a zip in a zip has no fingerprint of its own
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
        self._directory.check_count(seen)

    def members(self, place: int | None = None) -> Iterator[Member]:
        """Stream the directory's entries, folders included, from a place (default: the first).

        Raises
        ------
        UsageError
            The directory is damaged at some entry, or holds fewer or more than it says.
        """
        return self._directory.members(place)

    def member(self, place: int) -> Member:
        """Return one entry by its place.

        Raises
        ------
        InstanceRejected
            There is no entry at that place: the file was changed.
        """
        return self._directory.member(place)

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
        for wrap in range(self._directory.wraps + 1):
            try:
                return self._content(member, member.header + wrap * _OFFSETS)
            except InstanceRejected as rejected:
                if wrap == self._directory.wraps or rejected.reason is not Reason.UNREADABLE:
                    raise
        raise AssertionError("the last attempt returns or raises")

    def read_header(self, member: Member, *, limit: int) -> bytes:
        """Return a member's content up to its pixel data, unchecked; all of no DICOM. Raises as :meth:`read`."""
        if member.method not in (_STORED, _DEFLATED) or self._directory.wraps:
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
        number = member.method
        if name := _NAMES.get(number):
            detail = f"compressed with {name} (zip method {number}): unpack the zip and give the folder"
        else:
            detail = f"compressed with zip method {number}: unpack the zip and give the folder"
        raise InstanceRejected(Reason.UNSUPPORTED_COMPRESSION, detail)
    declared = max(member.size, member.packed)
    if declared > limit:
        raise InstanceRejected(Reason.TOO_LARGE, f"declares {declared} bytes; the limit is {limit}")


def _unreadable(error: Exception) -> InstanceRejected:
    return InstanceRejected(Reason.UNREADABLE, f"the zip can't be read: {error.__class__.__name__}")
