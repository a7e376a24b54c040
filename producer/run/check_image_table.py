"""Whether a table of images says of each picture of a source whose it is, before the first of them is scored."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from backlog.broker.job import ConversionSpec
from backlog.errors import UsageError
from backlog.inputs.conversion import names_of
from backlog.inputs.file_names import path_key
from backlog.inputs.image_names import DICOM_NAME
from backlog.inputs.image_table import ImageTable
from backlog.log import warn
from producer.sources.base import Source
from producer.sources.folder import FolderSource
from producer.sources.zip import ZipSource

_PICTURE: Final = re.compile(r"\.(png|jpe?g)(\.gz)?\Z", re.IGNORECASE)


def checked_listing(source: Source, conversion: ConversionSpec, folder: Path) -> Iterator[bytes]:
    """Check a table of images; return what the list of a folder's files holds that was looked through.

    The run goes by that list: a picture that comes later would be held against the table by nobody.

    Parameters
    ----------
    source, conversion
        As :func:`check_image_table` takes them, which raises the same errors.
    folder
        Where the list is kept until it was read.
    """
    if "table" in conversion and isinstance(source, FolderSource):
        source = replace(source, listing=folder / source.listing.name)
        check_image_table(source, conversion)
        return _blocks(source.listing)
    check_image_table(source, conversion)
    return iter(())


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            yield block


def check_image_table(source: Source, conversion: ConversionSpec) -> None:
    """Refuse a table of images by which a picture could get another picture's patient; warn of what it leaves out.

    Parameters
    ----------
    source
        The source. All that lies in it is looked at, by its name alone.
    conversion
        What is made of its files; without a table nothing is looked at.

    Raises
    ------
    UsageError
        A row fits several pictures, a picture fits rows that differ, or no picture is in the table.
    SourceUnavailable
        The source or the table can't be read.
    """
    table = names_of(conversion).table
    if table is None or not isinstance(source, ZipSource | FolderSource):
        return
    for note in table.notes:
        warn("image_table.encoding", f"{table.path}: {note}")
    pictures = missing = 0
    #: By the line of a row, the checksum of the one path that fits it.
    paths = array("q", bytes(8 * (1 + max((row.line for row in table.rows.values()), default=0))))
    for name in source.names():
        if DICOM_NAME.search(name):
            continue  # scored as it is, and so may lie beside a picture of the same name
        known = _is_known(table, name, paths)
        if _PICTURE.search(name):
            pictures += 1
            missing += not known
    if pictures and missing == pictures:
        raise UsageError(
            f"{table.path}: names none of the {pictures} pictures of the source: its column of files has to hold their"
            " names, or their paths"
        )
    if missing:
        warn(
            "image_table.pictures_missing",
            f"{table.path}: says nothing of {missing} of {pictures} pictures; of these the path alone counts, and one"
            " whose path says nothing either becomes a patient of its own",
            count=missing,
        )


def _is_known(table: ImageTable, name: str, paths: array[int]) -> bool:
    """Return whether a row fits a file; raise as :func:`check_image_table`."""
    rows = table.rows_of(name)
    if len(rows) > 1:
        raise UsageError(
            f"{table.path}: lines {rows[0].line} and {rows[1].line} both fit one file of the source, and differ: write"
            " the files' paths into the table, with as many folders as tell them apart"
        )
    if not rows:
        return False
    line, path = rows[0].line, hash(path_key(name)) or 1
    if paths[line] not in (0, path):
        raise UsageError(
            f"{table.path}: line {line} fits several files of the source, but a row is about one file: write"
            " the files' paths into the table, with as many folders as tell them apart"
        )
    paths[line] = path
    return True
