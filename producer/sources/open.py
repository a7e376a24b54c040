"""Open the source that a run names."""

from __future__ import annotations

import itertools
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from backlog.broker.job import ConversionSpec
from backlog.dicom.eligibility import Rules
from backlog.errors import SourceUnavailable, UsageError
from backlog.inputs.key_table import Key
from backlog.pacs.address import checked_address, is_dicomweb, is_orthanc, without_password
from backlog.pacs.dicomweb import Dicomweb
from backlog.pacs.modality import Modality, modality_named
from backlog.pacs.orthanc import Orthanc
from backlog.settings import Settings
from producer.sources.base import Source, reading
from producer.sources.dicomweb import DicomwebSource
from producer.sources.folder import FolderSource
from producer.sources.modality import ModalitySource
from producer.sources.only import OnlySource
from producer.sources.only_dicomweb import DicomwebFinder
from producer.sources.only_list import OnlyList
from producer.sources.only_modality import ModalityFinder, check_can_be_asked
from producer.sources.only_orthanc import OrthancFinder
from producer.sources.only_pacs import OnlyPacsSource
from producer.sources.orthanc import OrthancSource
from producer.sources.zip import ZipSource


@dataclass(frozen=True)
class Selection:
    """Which instances of a PACS."""

    since: str = ""
    modality: str = ""
    study_date: str = ""


def make_source(
    word: str,
    settings: Settings,
    pacs: str,
    listing: Path,
    selection: Selection,
    rules: Rules | None = None,
    *,
    list_id: str = "",
) -> Source:
    """Return the source that SOURCE means: a zip, a folder, or a PACS in one of its three forms.

    Parameters
    ----------
    word
        SOURCE of the command line: a path, ``orthanc``, ``modality:NAME``, or the address of a DICOMweb service.
    settings
        The settings of this process.
    pacs
        The address of the PACS, or its folder; empty for the settings' own.
    listing
        The file that a folder's listing is kept in.
    selection
        Which part of a PACS is taken.
    rules
        What is eligible; a run's own where it has begun, else the settings'.
    list_id
        What a folder's listing begins with, so that another run's is known; empty: nothing.

    Raises
    ------
    UsageError
        There is nothing of that name, or it doesn't go together with the other arguments.
    SourceUnavailable
        Its disk doesn't answer; or a run that has begun finds nothing of that name: its disk may come back.
    """
    if is_dicomweb(word):
        return _dicomweb(word, settings, pacs, selection, rules)
    if word == "orthanc":
        if not is_orthanc(pacs):
            raise UsageError("the source 'orthanc' needs the address of one: --pacs http://… or CXR_PACS_URL")
        return OrthancSource(
            Orthanc.from_settings(settings, pacs),
            rules or Rules.from_settings(settings),
            selection.since,
            selection.modality,
            selection.study_date,
        )
    if (name := modality_named(word)) is not None:
        if not is_orthanc(pacs):
            raise UsageError(
                f"the source {word!r} is reached through an Orthanc: --pacs http://… or CXR_PACS_URL"
            )
        if selection.since:
            raise UsageError("--since selects from an Orthanc; a modality knows no such time: --study-date")
        return ModalitySource(
            Modality(Orthanc.from_settings(settings, pacs), name, seconds=settings.pacs_seconds),
            rules or Rules.from_settings(settings),
            settings.find_limit,
            selection.modality,
            selection.study_date,
        )
    if selection != Selection():
        raise UsageError(
            "--since, --modality and --study-date select from a PACS; a zip or a folder is taken whole"
        )
    if not word.strip():
        raise UsageError(
            "SOURCE is empty: name a zip, a folder, the word 'orthanc', modality:NAME, or dicomweb+https://…"
        )
    path = Path(word)
    if _is_folder(path, begun=rules is not None):
        if rules is None:  # a run that has begun has read them, or follows what arrives
            _refuse_folder_of_zips(path)
        return FolderSource(path, listing, list_id=list_id)
    return ZipSource(path)


def _is_folder(path: Path, *, begun: bool) -> bool:
    """Whether a source is a folder, which can be read then, or a file.

    A share that doesn't answer may still tell what it is, from what the kernel remembers. So a folder is opened, and
    the error of that tells a share that is unavailable from a missing permission, which ``os.access`` doesn't.

    Raises
    ------
    SourceUnavailable, UsageError
        See :func:`make_source`.
    """
    try:
        with reading(path):
            if not stat.S_ISDIR(path.stat().st_mode):
                return False
            with os.scandir(path):
                (path / os.pardir).stat()  # needs the permission to reach what is in it
            return True
    except SourceUnavailable as error:
        if begun or not isinstance(error.__cause__, FileNotFoundError):
            raise
        raise UsageError(
            f"{path}: no such file or folder (SOURCE is a zip, a folder, the word 'orthanc', modality:NAME, or"
            " dicomweb+https://…)"
        ) from error


def _dicomweb(
    word: str, settings: Settings, pacs: str, selection: Selection, rules: Rules | None
) -> DicomwebSource:
    if selection.since:
        raise UsageError(
            "--since asks an Orthanc what changed; DICOMweb has no such question: use --study-date"
        )
    if checked_address(word) != pacs:
        raise UsageError(
            f"images of {without_password(word)} get their reports there: leave --pacs out, or give the same address"
        )
    return DicomwebSource(
        Dicomweb.from_settings(settings, pacs),
        rules or Rules.from_settings(settings),
        selection.modality,
        selection.study_date,
    )


def only_source(source: Source, wanted: OnlyList) -> Source:
    """Return the images of a source that a list names.

    Raises
    ------
    UsageError
        The list names files, which a PACS has none of, or what a modality can't be asked for.
    """
    if isinstance(source, ZipSource | FolderSource):
        return OnlySource(source, wanted)
    if wanted.key is Key.FILE_NAME:
        raise UsageError("a PACS has no file names: give a list of UIDs, accession numbers or patient IDs")
    if isinstance(source, ModalitySource):
        check_can_be_asked(wanted.key)
        return OnlyPacsSource(source, wanted, ModalityFinder(source))
    if isinstance(source, DicomwebSource):
        return OnlyPacsSource(source, wanted, DicomwebFinder(source))
    if isinstance(source, OrthancSource):
        return OnlyPacsSource(source, wanted, OrthancFinder(source))
    raise AssertionError(f"a list does not go together with {type(source).__name__}")


def check_followed(source: Source, out: Path, only: Path | None, conversion: ConversionSpec) -> None:
    """Refuse to follow a source that tells nobody what is new.

    Parameters
    ----------
    source
        The source.
    out
        The folder that is to hold the days.
    only
        A list of the images that are wanted.
    conversion
        What is made of its files.

    Raises
    ------
    UsageError
        It is a zip, a modality or a DICOMweb server; or a list or a table of images is given, which names what is there
        already.
    """
    if only is not None:
        raise UsageError("--only names images that are there, and --follow waits for others: leave one out")
    if "table" in conversion:
        raise UsageError(
            "--image-table names pictures that are there, and --follow waits for others: say by --image-names how their"
            " paths tell whose they are"
        )
    if isinstance(source, FolderSource):
        if source.path.resolve() == out.resolve():
            raise UsageError(
                f"{out}: the days can't lie in the folder that is followed itself: choose another --out"
            )
        return
    if not isinstance(source, OrthancSource):
        raise UsageError(
            "--follow needs the word 'orthanc' or a folder: a zip is complete, and a modality or a DICOMweb server"
            " tells nobody what is new (have it send its images to an Orthanc)"
        )


#: How many zips a message names.
_NAMED_ZIPS: Final = 10


def _refuse_folder_of_zips(path: Path) -> None:
    """Refuse a folder that holds zips and nothing else, as an inbox does: each is a run of its own.

    Raises
    ------
    UsageError
        It does. Names them.
    """
    with os.scandir(os.fsencode(path)) as entries:
        names = sorted(os.fsdecode(entry.name) for entry in itertools.islice(entries, 1000))
    zips = [name for name in names if name.lower().endswith(".zip")]
    if not zips or len(zips) < len(names):
        return
    named = ", ".join(_printable(name) for name in zips[:_NAMED_ZIPS])
    more = f" and {len(zips) - _NAMED_ZIPS} more" if len(zips) > _NAMED_ZIPS else ""
    raise UsageError(f"{path}: holds zips, and each is a run of its own. Name one of them: {named}{more}")


def _printable(name: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in name)
