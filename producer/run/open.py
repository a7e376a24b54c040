"""Open what an earlier run left: its ledger, its source, its PACS."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from backlog.broker.job import Job, SourceSpec
from backlog.dicom.eligibility import Rules
from backlog.errors import BacklogError, UsageError
from backlog.inputs.path_list import PathList
from backlog.pacs.address import is_server
from backlog.pacs.base import Pacs
from backlog.pacs.connect import connect
from backlog.pacs.modality import is_pacs_word
from backlog.settings import Settings
from producer.ledger.ledger import Ledger
from producer.results.only_account import ONLY
from producer.run.folder import Paths
from producer.run.place import pacs_address
from producer.run.same_pacs import another_pacs, is_run_pacs
from producer.sources.base import ReplaySource, Source
from producer.sources.only_list import OnlyList
from producer.sources.open import Selection, make_source, only_source
from producer.sources.zip import check_same_source


def source_of(ledger: Ledger, settings: Settings, paths: Paths) -> Source:
    """Return the source of a run, as its ledger knows it.

    Parameters
    ----------
    ledger
        The run's ledger.
    settings
        Of this process.
    paths
        The run's folder.

    Raises
    ------
    SourceUnavailable
        It isn't there: its disk isn't mounted, say.
    UsageError
        It is another one than the run began with.
    """
    job: Job = ledger.get("job")
    replayed = ledger.get("replayed")
    listing = listing_of(ledger, paths)
    selection = Selection(**ledger.get("selection"))
    rules = Rules.from_spec(job["rules"])  # the settings may have changed since
    source = make_source(
        str(ledger.get("word")),
        settings,
        pacs_address(ledger, paths),
        listing.path,
        selection,
        rules,
        list_id=listing.list_id,
    )
    check_same_source(source, job["source"])
    listing.check_if_there()
    if "conversion" in job["source"]:
        source.spec["conversion"] = job["source"]["conversion"]
    if replayed is not None:
        return ReplaySource(source, replayed)
    only = ledger.get(ONLY)
    return source if only is None else only_source(source, OnlyList(paths.only, only))


def listing_of(ledger: Ledger, paths: Paths) -> PathList:
    """Return a run's list of the files of a folder: that which lies in its own folder, wherever this is now."""
    spec: SourceSpec = ledger.get("job")["source"]
    list_id = spec.get("list_id", "")
    if ledger.get("replayed") is not None and not list_id and spec["listing"]:
        return PathList(
            Path(spec["listing"])
        )  # earlier versions let a replay read the list of the run it repeats
    return PathList(paths.listing, list_id)


def open_ledger(out: Path, *, write: bool = False) -> Ledger:
    """Open the ledger of a run's folder.

    Raises
    ------
    UsageError
        The folder holds no run.
    """
    if not Paths(out).ledger.is_file():
        raise UsageError(f"{out}: no run here (a run's folder holds ledger.sqlite)")
    return Ledger(Paths(out).ledger, write=write)


def inputs_of(ledger: Ledger, paths: Paths) -> tuple[Path, ...]:
    """Return what no output of a command about a run may replace: the run, its source, a folder PACS."""
    word, pacs = str(ledger.get("word")), pacs_address(ledger, paths)
    inputs = [paths.ledger, paths.listing, paths.audit, paths.lock, paths.logs, paths.pacs]
    inputs += [] if is_pacs_word(word) else [Path(word)]
    inputs += [Path(pacs)] if not is_server(pacs) else []
    return tuple(inputs)


def pacs_of(ledger: Ledger, settings: Settings, paths: Paths) -> Pacs:
    """Return the PACS of a run, once it is sure that it is the same that the run wrote to.

    Asked of another one, everything would look as if it were missing, or gone already.

    Parameters
    ----------
    ledger
        The run's ledger.
    settings
        Of this process.
    paths
        The run's folder.

    Raises
    ------
    ServiceUnavailable, UsageError
        It is unavailable, refuses us, is another one, or its folder is not there.
    """
    url = pacs_address(ledger, paths)
    if is_server(url):
        pacs = connect(settings, url)
        identity = str(ledger.get("job")["pacs"])  # empty of an Orthanc that has none
        if identity and pacs.identity() != identity and not is_run_pacs(ledger, pacs):
            raise another_pacs(url)
        return pacs
    folder = Path(url)
    if ledger.tally().reported and not (folder.is_dir() and any(folder.iterdir())):
        raise UsageError(
            f"{folder}: this run's PACS, a folder, is not there or empty. Was it moved, or is its disk not mounted?"
        )
    return connect(settings, str(folder))


def reader_of(ledger: Ledger, settings: Settings, paths: Paths) -> Callable[[int | str], bytes] | None:
    """Return what reads an item's header from a run's source; None where that is gone or another one now.

    Parameters
    ----------
    ledger
        The run's ledger.
    settings
        Of this process.
    paths
        The run's folder.
    """
    try:
        return source_of(ledger, settings, paths).read
    except (BacklogError, OSError):
        return None
