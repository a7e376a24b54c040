"""The list of ``--only``, from the user's table to the run's folder."""

from __future__ import annotations

import shutil
from pathlib import Path

from backlog.broker.job import ConversionSpec
from backlog.errors import StorageFull, UsageError
from backlog.files import replacing
from backlog.inputs.conversion import NOTHING
from backlog.inputs.key_table import Key
from producer.sources.base import Source
from producer.sources.only_list import OnlyList, read_only_list
from producer.sources.open import Selection, only_source


def read_wanted(
    table: Path, by: str, folder: Path, source: Source, selection: Selection, conversion: ConversionSpec
) -> OnlyList:
    """Read the list of the images that are wanted into a folder.

    Parameters
    ----------
    table, by
        As :func:`producer.sources.only_list.read_only_list` takes them.
    folder
        Where the list is kept.
    source, selection, conversion
        What the list has to go together with.

    Raises
    ------
    UsageError
        It is no such list, or doesn't go together with the source or with what else selects or converts.
    """
    check_selection(selection)
    path = folder / "only.sqlite"
    wanted = OnlyList(path, read_only_list(table, by, path))
    if conversion != NOTHING and wanted.key is not Key.FILE_NAME:
        raise UsageError(
            "--make-uids and --wrap-images are for files without such headers, which a list can't name by"
            f" {wanted.key.value}: give a list of file names"
        )
    only_source(source, wanted)
    return wanted


def check_selection(selection: Selection) -> None:
    """Refuse what else selects beside a list. Raises UsageError."""
    if selection != Selection():
        raise UsageError(
            "--only names what is wanted: it doesn't go together with --since, --modality and --study-date"
        )


def keep_wanted(wanted: Path, path: Path) -> None:
    """Copy a list into a run's folder, for its owner alone. Raises StorageFull."""
    try:
        with replacing(path, 0o600) as file, wanted.open("rb") as read:
            shutil.copyfileobj(read, file)
    except OSError as error:
        raise StorageFull(f"{path}: can't be written ({error.strerror})") from error
