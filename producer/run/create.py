"""A run is made: its source, its settings, its ledger. Nothing is sent yet."""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from backlog.broker.messages import Job, PredecessorSpec
from backlog.dicom.eligibility import Rules
from backlog.errors import UsageError
from backlog.outcomes import Outcome
from backlog.pacs.base import checked_address, connect
from backlog.pacs.orthanc import Orthanc
from backlog.settings import Settings
from producer.ledger.ledger import Ledger
from producer.run.folder import Paths, only_producer, open_ledger
from producer.sources.base import Again, Source
from producer.sources.folder import Folder
from producer.sources.orthanc import OrthancSource
from producer.sources.zip import Zip, insist_on_same

MODEL: Final = "densenet121-res224-all"


@dataclass(frozen=True)
class Selection:
    """Which instances of an Orthanc."""

    since: str = ""
    modality: str = ""
    study_date: str = ""


def make_source(
    word: str, settings: Settings, pacs: str, paths: Paths, selection: Selection, rules: Rules | None = None
) -> Source:
    """Return the source that SOURCE means: a zip, a folder, or the word ``orthanc``.

    Parameters
    ----------
    rules
        What is eligible; a run's own where it has begun, else the settings'.

    Raises
    ------
    UsageError
        There is nothing of that name, or it doesn't go together with the other arguments.
    """
    if word == "orthanc":
        if not pacs.startswith(("http://", "https://")):
            raise UsageError("the source 'orthanc' needs the address of one: --pacs http://… or CXR_PACS_URL")
        return OrthancSource(
            Orthanc.from_settings(settings, pacs),
            rules or Rules.from_settings(settings),
            selection.since,
            selection.modality,
            selection.study_date,
        )
    if selection != Selection():
        raise UsageError(
            "--since, --modality and --study-date select from an Orthanc; a zip or a folder is taken whole"
        )
    path = Path(word)
    if path.is_dir():
        if not os.access(path, os.R_OK | os.X_OK):
            raise UsageError(f"{path}: this folder can't be read (permission denied)")
        return Folder(path, paths.listing)
    if not path.exists():
        raise UsageError(f"{path}: no such file or folder (SOURCE is a zip, a folder, or the word 'orthanc')")
    return Zip(path)


def source_of(ledger: Ledger, settings: Settings, paths: Paths) -> Source:
    """Return the source of a run, as its ledger knows it."""
    job: Job = ledger.fact("job")
    if job["source"]["listing"]:
        paths = Paths(
            Path(job["source"]["listing"]).parent
        )  # a replay reads the listing of the run that it repeats
    selection = Selection(**ledger.fact("selection"))
    rules = Rules.from_spec(job["rules"])  # the settings may have changed since
    source = make_source(
        str(ledger.fact("word")), settings, str(ledger.fact("pacs")), paths, selection, rules
    )
    insist_on_same(source, job["source"])
    replayed = ledger.fact("replayed")
    return source if replayed is None else Again(source, replayed)


def create(
    word: str,
    settings: Settings,
    pacs: str,
    paths: Paths,
    selection: Selection,
    *,
    workers: int,
    read_back: bool = False,
    predecessor: Path | None = None,
) -> None:
    """Make a run's folder and ledger; nothing is sent yet.

    Raises
    ------
    UsageError
        The folder holds a run already, or can't be written; or the PACS refuses us, or is none.
    ServiceUnavailable
        The PACS is away. Nothing was made.
    """
    pacs = checked_address(pacs)
    _refuse_another(paths)  # before anything is read; what counts is the look under the lock
    source = make_source(word, settings, pacs, paths, selection)
    identity = _identity(settings, pacs)  # a wrong address or password ends here, and leaves nothing behind
    now = datetime.now(UTC).replace(microsecond=0)
    job: Job = {
        "run": _name(now),
        "when": now.isoformat(),
        "source": source.spec,
        "pacs": identity,
        "language": settings.language,
        "coding": settings.coding,
        "rules": Rules.from_settings(settings).spec(),
        "weights": "",
        "meaningful": True,
        "engine": "",
        "read_back": read_back,
    }
    if settings.companion_kinds:
        job["companions"] = settings.companion_kinds
    if predecessor is not None:
        job["predecessor"] = _predecessor(predecessor)
    facts: dict[str, Any] = {
        "job": job,
        # The run may be gone on with, or verified, from another folder.
        "word": word if word == "orthanc" else str(Path(word).absolute()),
        "pacs": pacs if pacs.startswith(("http://", "https://")) else str(Path(pacs).absolute()),
        "selection": vars(selection),
        "model": MODEL,
        "workers": workers,
        "chunk_size": _chunk_size(settings, source.total, workers),
    }
    _make(paths, facts)


def _identity(settings: Settings, address: str) -> str:
    """Return which PACS is at an address.

    Raises
    ------
    UsageError
        It is no address, holds a password, or the PACS there refuses ours.
    ServiceUnavailable
        Nobody answers there.
    """
    pacs = connect(settings, address)
    try:
        return pacs.identity()
    finally:
        pacs.close()


def _refuse_another(paths: Paths) -> None:
    if paths.ledger.exists():
        raise UsageError(f"{paths.out}: holds a run already. Go on with it: cxr-backlog resume {paths.out}")


def _make(paths: Paths, facts: dict[str, Any]) -> None:
    """Make the folder and the ledger in it, as the only one who does."""
    try:
        paths.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{paths.out}: can't be made ({error.strerror})") from error
    with only_producer(paths):
        _refuse_another(paths)
        Ledger.create(paths.ledger, facts).close()


def create_replay(of: Paths, paths: Paths, reasons: frozenset[str], settings: Settings) -> int:
    """Make a new run of another run's quarantined items; returns their count.

    Raises
    ------
    UsageError
        Nothing of that kind is quarantined, or the new folder holds a run already.
    """
    _refuse_another(paths)
    ledger = open_ledger(of.out)
    items = [item for item in ledger.items(Outcome.QUARANTINED) if not reasons or item["reason"] in reasons]
    if not items:
        of_kind = f" for {', '.join(sorted(reasons))}" if reasons else ""
        raise UsageError(f"{of.out}: nothing is quarantined{of_kind}")
    facts = {key: ledger.fact(key) for key in ("word", "pacs", "selection", "model", "workers", "chunk_size")}
    job: Job = ledger.fact("job")
    ledger.close()
    now = datetime.now(UTC).replace(microsecond=0)
    job |= {"run": _name(now), "when": now.isoformat()}
    job |= {"language": settings.language, "coding": settings.coding}
    job["rules"] = Rules.from_settings(settings).spec()
    replayed = [json.loads(item["ref"]) for item in items]
    _make(paths, facts | {"job": job, "replayed": replayed, "replay_of": str(of.out)})
    return len(items)


def _name(now: datetime) -> str:
    return f"{now:%Y%m%d%H%M%S}-{secrets.token_hex(3)}"


def _predecessor(out: Path) -> PredecessorSpec:
    """Return which reports an earlier run wrote.

    Raises
    ------
    UsageError
        It wrote none yet.
    """
    ledger = open_ledger(out)
    earlier: Job = ledger.fact("job")
    ledger.close()
    if not earlier["weights"]:
        raise UsageError(f"{out}: this run has scored nothing yet, so nothing can refer to it")
    return {
        "weights": earlier["weights"],
        "meaningful": earlier["meaningful"],
        "language": earlier["language"],
        "coding": earlier["coding"],
    }


def _chunk_size(settings: Settings, total: int | None, workers: int) -> int:
    """Return a chunk's size: small for a small backlog, so that every worker gets some of it."""
    most = min(64, max(1, settings.chunk_size))
    if total is None:
        return most
    return max(1, min(most, total // (4 * max(1, workers))))
