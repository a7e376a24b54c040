"""What a run makes of files that no PACS would take as they are, and which files it makes it of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from backlog.broker.job import ConversionSpec
from backlog.errors import InstanceRejected, UsageError
from backlog.inputs.decompression import gunzip
from backlog.inputs.entries import MAX_BYTES, SourceFile, is_nested_zip
from backlog.inputs.foreign_files import foreign_reason, is_gzip, is_picture
from backlog.inputs.image_names import ImageNames, image_names
from backlog.inputs.zip_archive import ZipArchive
from backlog.outcomes import Reason

#: Of a run that was asked for nothing.
NOTHING: Final[ConversionSpec] = {"make_uids": False, "wrap_images": False}
#: The modality of a picture of which only is known that it is a radiograph: what projection radiographs mostly are.
WRAPPED_MODALITY: Final = "DX"
_INSIDE: Final = Path("a zip in the source")


@dataclass(frozen=True)
class Picture:
    """A PNG or JPEG file, to be wrapped."""

    name: str
    content: bytes


def names_of(spec: ConversionSpec) -> ImageNames:
    """Return how a run tells whose image a picture file is. Raises as :func:`image_names`."""
    return image_names(spec.get("names", ""), spec.get("table", ""), spec.get("table_sha256", ""))


def opened(file: SourceFile, spec: ConversionSpec) -> SourceFile | Picture:
    """Return what is to be read of an entry: the file itself, what a gzip file holds, or a picture to be wrapped.

    Raises
    ------
    InstanceRejected
        ``image_file``; ``unreadable``, ``too_large`` of a gzip file.
    """
    if is_gzip(file.content):
        inside = SourceFile(file.name.removesuffix(".gz"), gunzip(file.content, limit=MAX_BYTES))
        return opened(inside, spec) if not is_gzip(inside.content) else file
    if is_picture(file.content):
        if not spec["wrap_images"]:
            raise InstanceRejected(Reason.IMAGE_FILE, "a PNG or JPEG file; --wrap-images scores it")
        return Picture(file.name, file.content)
    return file


def reason_of_other(file: SourceFile, rejected: InstanceRejected) -> InstanceRejected:
    """Return why a file ends that is no DICOM file: what it is instead, where name and content tell."""
    reason = foreign_reason(file.name, file.content) if rejected.reason is Reason.NOT_DICOM else None
    if reason is None:
        return rejected
    if reason is Reason.ARCHIVE_FILE and is_nested_zip(file.name):
        try:
            ZipArchive(_INSIDE, file.content).close()
        except UsageError:
            return InstanceRejected(Reason.UNREADABLE, "a zip in the source that is damaged")
    return InstanceRejected(reason)
