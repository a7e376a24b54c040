"""Options and exit statuses that several commands share."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from backlog.broker.job import ConversionSpec
    from backlog.settings import Settings
    from producer.sources.open import Selection


OK = 0


FAILED = 1


USAGE = 2


QUARANTINED = 3


INTERRUPTED = 4


#: Redis, the PACS, the source or a disk can't be reached now: the same command may work later.
UNAVAILABLE = 5


SOURCE = click.argument("source")


def _latest_day(_ctx: click.Context, _parameter: click.Parameter, out: Path) -> Path:
    """Return a run's folder; of the folder of a followed source the latest day's."""
    from producer.run.folder import latest_day

    return latest_day(out) or out


OUT = click.argument("out", type=click.Path(path_type=Path, file_okay=False), callback=_latest_day)


PACS = click.option(
    "--pacs",
    metavar="URL",
    help="http(s)://… of an Orthanc, dicomweb+https://…, or a folder. Default: CXR_PACS_URL, else OUT/pacs.",
)


FORCE = click.option(
    "--force", is_flag=True, help="Replace a file that is no earlier output of this command."
)


COPY = click.option("--copy", is_flag=True, help="Work on this folder though it is a copy of a run.")


SINCE = click.option(
    "--since",
    metavar="DATE",
    default="",
    help="Orthanc: only what has changed since this time, YYYY-MM-DD[THH:MM].",
)


MODALITY = click.option(
    "--modality",
    metavar="CS",
    multiple=True,
    help="PACS: only this modality, as CR; may be given more than once, or as CR,DX.",
)


STUDY_DATE = click.option(
    "--study-date", metavar="RANGE", default="", help="PACS: only these study dates, as 20240101-20241231."
)


FOLLOW = click.option(
    "--follow",
    is_flag=True,
    help="Orthanc, folder: after the backlog score what arrives, new images first; each day has a"
    " folder below OUT.",
)


BETWEEN = click.option(
    "--between",
    metavar="HOURS",
    help="Send work at these hours only, as 20:00-06:00; work in flight is finished. Instead of CXR_BETWEEN.",
)


TIME_ZONE = click.option(
    "--time-zone",
    metavar="ZONE",
    help="Time zone of --between, as America/Sao_Paulo. Default: CXR_TIME_ZONE, else this machine's.",
)


STOP_WHEN_QUARANTINED = click.option(
    "--stop-when-quarantined",
    metavar="PERCENT",
    help="Pause the run when this percentage of its ended items is quarantined, as 5%; counted from 100 items on.",
)


NOTIFY = click.option(
    "--notify",
    metavar="URL",
    help="Send a message to this apprise address when the run ends, pauses by itself, or nothing moves. Put an address"
    " with a password into the file of CXR_NOTIFY_FILE instead.",
)


MAKE_UIDS = click.option(
    "--make-uids",
    is_flag=True,
    help="Zip, folder: make UIDs for files that have none, from their content.",
)


WRAP_IMAGES = click.option(
    "--wrap-images",
    is_flag=True,
    help="Zip, folder: make DICOM objects of PNG and JPEG radiographs, and score them.",
)


IMAGE_NAMES = click.option(
    "--image-names",
    metavar="PATTERN",
    default="",
    help="How patient and study stand in a picture's path, as '{patient}/{study}/*'. Default: as in NIH ChestX-ray14, "
    "CheXpert and MIMIC-CXR-JPG.",
)


IMAGE_TABLE = click.option(
    "--image-table",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="A CSV with the columns 'file' and 'patient_id', and if known 'study_id', 'view' and 'body_part'.",
)


ONLY = click.option(
    "--only",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    metavar="LIST.csv",
    help="Only the images that this list names by file name, UID, accession number or patient ID.",
)


ONLY_BY = click.option(
    "--only-by",
    metavar="COLUMN",
    default="",
    help="Which column of the list counts, or COLUMN=KIND, as exam=accession_number.",
)


def check_only_by(only: Path | None, only_by: str) -> None:
    """Refuse ``--only-by`` without a list. Raises UsageError."""
    if only_by and only is None:
        raise click.UsageError("--only-by names a column of the list of --only: give both")


def with_schedule(
    settings: Settings, between: str | None, time_zone: str | None, percent: str | None
) -> Settings:
    """Return the settings with what the options say of when a run sends work, and when it pauses by itself.

    Parameters
    ----------
    settings
        The settings of the environment.
    between
        Hours, as ``20:00-06:00``; None where the option was not given.
    time_zone
        Their IANA zone; None as above.
    percent
        Share of quarantined items, 0 to 100, with or without its sign; None as above.

    Raises
    ------
    click.BadParameter
        The share is no percentage.
    """
    from dataclasses import replace

    if between is not None:
        settings = replace(settings, between=between)
    if time_zone is not None:
        settings = replace(settings, time_zone=time_zone)
    if percent is not None:
        try:
            share = float(percent.strip().removesuffix("%"))
        except ValueError:
            share = -1.0
        if not 0 <= share <= 100:
            raise click.BadParameter(
                f"{percent!r} is no percentage; write it as 5%", param_hint="--stop-when-quarantined"
            )
        settings = replace(settings, stop_when_quarantined=share)
    return settings


def conversion_of(make_uids: bool, wrap_images: bool, names: str, table: Path | None) -> ConversionSpec:
    """Return what is to be made of files that are no DICOM objects yet.

    Parameters
    ----------
    make_uids
        Whether files without UIDs get some.
    wrap_images
        Whether PNG and JPEG files become DICOM objects.
    names
        How patient and study stand in a picture's path; empty: as the known archives have it.
    table
        The archive's table, if it has one.
    """
    from backlog.inputs.image_table import table_sha256

    if (names or table) and not wrap_images:
        raise click.UsageError(
            "--image-names and --image-table say whose PNG and JPEG files are: add --wrap-images"
        )
    spec: ConversionSpec = {"make_uids": make_uids, "wrap_images": wrap_images}
    if names:
        spec["names"] = names
    if table is not None:
        spec["table"], spec["table_sha256"] = str(table.absolute()), table_sha256(table)
    return spec


def selection_of(since: str, modality: Sequence[str], study_date: str) -> Selection:
    """Return the selection that the options name; one that only an Orthanc can make is refused elsewhere later.

    Parameters
    ----------
    since
        As ``--since`` gives it; empty for all.
    modality
        As ``--modality`` gives them; none for all.
    study_date
        As ``--study-date`` gives it; empty for all.
    """
    from producer.sources.open import Selection

    if since:
        try:
            since = f"{datetime.fromisoformat(since).astimezone(UTC):%Y%m%dT%H%M%S}"  # Orthanc's clock is UTC
        except ValueError:
            raise click.BadParameter(
                f"{since!r} is no date; write it as 2024-12-31 or 2024-12-31T08:00", param_hint="--since"
            ) from None
    # A query that no series can match scores nothing, and looks like a run that found nothing to do.
    modalities = [
        one.strip().upper() for given in modality for one in re.split(r"[,\\]", given) if one.strip()
    ]
    if modality and not modalities:
        raise click.BadParameter("it names no modality; write it as CR, or CR,DX", param_hint="--modality")
    for one in modalities:
        if not re.fullmatch(r"[A-Z0-9_ ]{1,16}", one):
            raise click.BadParameter(
                f"{one!r} is no modality; write it as CR, or CR,DX", param_hint="--modality"
            )
    if study_date and not _is_range(study_date):
        raise click.BadParameter(
            f"{study_date!r} is no date; write it as 20240101, 20240101-20241231, 20240101- or -20241231",
            param_hint="--study-date",
        )
    return Selection(since, "\\".join(dict.fromkeys(modalities)), study_date)


def _is_range(study_date: str) -> bool:
    """Whether a text is one date, or a range of two of which one may be missing, as DICOM writes them."""
    first, dash, last = study_date.partition("-")
    for date in (first, last):
        try:
            if date and not (re.fullmatch("[0-9]{8}", date) and datetime.strptime(date, "%Y%m%d")):  # noqa: DTZ007
                return False
        except ValueError:
            return False
    return bool(first or last) and bool(first or dash) and not (first and last and last < first)
