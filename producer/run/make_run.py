"""The folder of a new run, with its name and its ledger: a place that no other run has."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from backlog.broker.job import Job, preprocessing_of
from backlog.errors import StorageFull, UsageError
from backlog.files import private_files, replacing, touch
from backlog.model import PREPROCESSING
from backlog.settings import Settings
from producer.ledger.ledger import FOLLOWS, Ledger
from producer.ledger.run_database import Facts
from producer.run.folder import Paths, only_producer
from producer.run.place import place_facts
from producer.run.wanted import keep_wanted


def check_place(settings: Settings, paths: Paths) -> None:
    """Refuse a run's folder outside the one for all runs: in a container it would be gone with the container.

    Raises
    ------
    UsageError
        See above.
    """
    folder = settings.runs_folder
    if folder and Path(folder).resolve() not in paths.out.resolve().parents:
        raise UsageError(
            f"{paths.out}: runs are kept below {folder} only (CXR_RUNS_FOLDER): write --out {folder}/NAME"
        )


def prepared_anew(job: Job) -> Job:
    """Return the job of a run that follows another one, by the preprocessing version of this program.

    Raises
    ------
    UsageError
        It decides by operating points, which were chosen for scores of the other version.
    """
    if (version := preprocessing_of(job)) != PREPROCESSING and "operating_points" in job:
        raise UsageError(
            f"the operating points of this run are for preprocessing version {version}, and this program prepares"
            f" images by version {PREPROCESSING}: begin a new run with points for it"
        )
    return {**job, "preprocessing": PREPROCESSING}


def refuse_another(paths: Paths) -> None:
    """Refuse a folder that holds a run, or files that a run there would replace.

    Raises
    ------
    UsageError
        See above.
    """
    if paths.ledger.exists():
        raise UsageError(f"{paths.out}: holds a run already. Go on with it: cxr-backlog resume {paths.out}")
    for path in (
        paths.scores,
        paths.summary,
        paths.page,
        paths.audit,
        paths.listing,
        paths.only,
        paths.only_account,
        paths.pause,
        paths.cancel,
    ):
        if os.path.lexists(path):
            raise UsageError(
                f"{path}: this file exists, and the run would replace it: choose another folder for the run"
            )


def make_run(
    paths: Paths,
    facts: Facts,
    wanted: Path | None = None,
    taken: Iterable[bytes] = (),
    listing: Iterable[bytes] = (),
) -> None:
    """Make the folder and the ledger in it, as the only one who does.

    Parameters
    ----------
    paths
        The folder.
    facts
        What the ledger begins with.
    wanted
        A list of the images that are wanted, to be copied.
    taken
        Digests of a followed folder's files that earlier days have.
    listing
        What the run's list of files holds, where it is known from the first; else a folder is listed when it begins.

    Raises
    ------
    UsageError
        It holds a run already, or can't be made.
    StorageFull
        There is no room for what lies in it.
    """
    try:
        paths.out.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{paths.out}: can't be made ({error.strerror})") from error
    with private_files(), only_producer(paths):
        refuse_another(paths)
        if FOLLOWS in facts:
            touch(Paths(paths.out.parent).days)
        if wanted is not None:
            keep_wanted(wanted, paths.only)
        _write_list(paths.listing, listing)
        Ledger.create(paths.ledger, facts | place_facts(paths, str(facts["pacs"])), taken).close()


def _write_list(path: Path, listing: Iterable[bytes]) -> None:
    parts = iter(listing)
    if (first := next(parts, None)) is None:
        return
    try:
        with replacing(path, 0o600) as file:
            file.write(first)
            file.writelines(parts)
    except OSError as error:
        raise StorageFull(f"{path}: can't be written ({error.strerror})") from error


def begun_now() -> datetime:
    """Return the moment at which a run is made, to the microsecond.

    Its reports hold it, and tell by it which run wrote them: two runs with the same settings give an image's report the
    same UID, and may be made in one second.
    """
    return datetime.now(UTC)


def run_name(now: datetime) -> str:
    """Return the name of a run that is made at a moment."""
    return f"{now:%Y%m%d%H%M%S}-{secrets.token_hex(3)}"
