"""Entries of a zip or a folder, those of a zip inside it included: found again by their reference, read whole.

A reference is a place: of a member's entry in the zip's directory, of a path in the run's listing. One level of
nesting is read in place: studies are exported as one zip each. In a zip such an entry is ``outer:inner``, of two
places; in a listing its path has the inner place before it, ``/inner/path`` (no other path there begins with ``/``).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

from backlog.dicom.partial_file import read_until_pixel_data
from backlog.errors import InstanceRejected, SourceUnavailable, UsageError
from backlog.files import is_storage_unavailable
from backlog.inputs.path_list import PathList, parse_record
from backlog.inputs.zip_archive import ZipArchive
from backlog.inputs.zip_directory import Member
from backlog.outcomes import Reason

#: Most bytes of one input file: eight times the largest detector's image.
MAX_BYTES: Final = 1 << 28
_ZIP_IN_FOLDER: Final = Path("a zip in the folder")


def is_nested_zip(name: str) -> bool:
    """Whether an entry calls itself a zip."""
    return name.lower().endswith(".zip")


def zip_in_folder(path: Path) -> ZipArchive:
    """Open a zip that lies in a source's folder: no message names it, for it may be named after a patient.

    Raises
    ------
    UsageError, SourceUnavailable
        As :class:`~backlog.inputs.zip_archive.ZipArchive`.
    """
    return ZipArchive(path, called=_ZIP_IN_FOLDER)


def nested_entries(archive: ZipArchive) -> Iterator[Member]:
    """Yield the members of a zip inside another source, without its folders."""
    return (member for member in archive.members() if not member.is_folder)


@dataclass(frozen=True)
class SourceFile:
    """One entry of a source."""

    name: str  #: for the operator, and to tell what it is; may hold a patient's name
    content: bytes


class ZipEntries:
    """The entries of a zip archive. A context; closes its file."""

    def __init__(self, path: Path, fingerprint: str = "") -> None:
        self.archive = ZipArchive(path)
        self._inner: tuple[int, ZipArchive] | None = None  #: the last one; entries come in order
        try:
            self.archive.check_fingerprint(fingerprint)
        except BaseException:
            self.archive.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.archive.close()

    def read(self, ref: int | str) -> SourceFile:
        """Return one entry. Raises as :meth:`~backlog.inputs.zip_archive.ZipArchive.read`."""
        name, archive, member = self._found(ref)
        return SourceFile(name, archive.read(member, limit=MAX_BYTES))

    def read_header(self, ref: int | str) -> SourceFile:
        """Return one entry up to its pixel data. Raises as :meth:`read`."""
        name, archive, member = self._found(ref)
        return SourceFile(name, archive.read_header(member, limit=MAX_BYTES))

    def name(self, ref: int | str) -> str:
        """Return what an entry is called, in a zip inside after that one's name."""
        return self._found(ref)[0]

    def _found(self, ref: int | str) -> tuple[str, ZipArchive, Member]:
        outer, _, inner = str(ref).partition(":")
        member = self.archive.member(int(outer))
        if not inner:
            return member.name, self.archive, member
        if self._inner is None or self._inner[0] != member.place:
            self._inner = member.place, self.archive.open_member(member, limit=MAX_BYTES)
        nested = self._inner[1].member(int(inner))
        return f"{member.name}/{nested.name}", self._inner[1], nested


class FolderEntries:
    """The entries of a folder, by the run's listing. A context; closes a zip that it has open."""

    def __init__(self, root: Path, listing: PathList) -> None:
        self.root, self.listing = root, listing
        self._inner: tuple[Path, ZipArchive] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._inner is not None:
            self._inner[1].close()
            self._inner = None

    def read(self, ref: int | str) -> SourceFile:
        """Return one entry.

        Raises
        ------
        InstanceRejected
            ``unreadable``, ``too_large``; as :meth:`~backlog.inputs.zip_archive.ZipArchive.read` in a zip inside.
        SourceUnavailable
            The listing or the folder can't be read.
        UsageError
            The listing is another run's.
        """
        return self._read(ref, ZipArchive.read, lambda file: file.read())

    def read_header(self, ref: int | str) -> SourceFile:
        """Return one entry up to its pixel data. Raises as :meth:`read`."""
        return self._read(ref, ZipArchive.read_header, _header_of)

    def _read(
        self,
        ref: int | str,
        of_member: Callable[..., bytes],
        of_file: Callable[[BinaryIO], bytes],
    ) -> SourceFile:
        path, name, inner = self.located(ref)
        try:
            if inner is not None:
                archive = self._opened(path)
                member = archive.member(inner)
                return SourceFile(f"{name}/{member.name}", of_member(archive, member, limit=MAX_BYTES))
            with path.open("rb") as file:
                if os.fstat(file.fileno()).st_size > MAX_BYTES:
                    raise InstanceRejected(Reason.TOO_LARGE, f"the limit is {MAX_BYTES} bytes")
                return SourceFile(name, of_file(file))
        except OSError as error:
            if is_storage_unavailable(error, path, self.root):
                raise SourceUnavailable(
                    f"the source's folder, or a part of it, is unavailable ({error.strerror}): is everything mounted?"
                ) from error
            raise InstanceRejected(Reason.UNREADABLE, f"the file can't be read: {error.strerror}") from error

    def name(self, ref: int | str) -> str:
        """Return what an entry is called below the folder."""
        path, name, inner = self.located(ref)
        if inner is None:
            return name
        try:
            return f"{name}/{self.nested(path, inner).name}"
        except (InstanceRejected, SourceUnavailable):
            return f"{name}/?"  # the zip is gone; its name is all that is left

    def nested(self, path: Path, inner: int) -> Member:
        """Return a member of a zip in the folder, by that file and its place in it."""
        return self._opened(path).member(inner)

    def located(self, ref: int | str) -> tuple[Path, str, int | None]:
        """Return an entry's file, its path below the folder, and its place in that file where this is a zip."""
        inner, relative = parse_record(self.listing.record(int(ref)))
        name = os.fsdecode(relative)
        return self.root / name, name, inner

    def _opened(self, path: Path) -> ZipArchive:
        if self._inner is None or self._inner[0] != path:
            self.__exit__(None, None, None)
            try:
                self._inner = path, zip_in_folder(path)
            except UsageError as error:
                cause = error.__cause__
                if isinstance(cause, OSError) and is_storage_unavailable(cause, path, self.root):
                    raise SourceUnavailable(
                        "the source's folder, or a part of it, is unavailable: is everything mounted?"
                    ) from error
                raise InstanceRejected(
                    Reason.UNREADABLE, "the zip in the folder has changed or is gone"
                ) from error
        return self._inner[1]


def _header_of(file: BinaryIO) -> bytes:
    """Read a file up to its pixel data in ever larger steps: each may have all before it looked through again."""

    def steps() -> Iterator[bytes]:
        size = 1 << 16
        while step := file.read(size):
            yield step
            size *= 2

    return read_until_pixel_data(steps())
