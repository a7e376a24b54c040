"""A run is made: its source, its settings, its ledger. Nothing is sent yet."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from backlog.broker.job import (
    IN_PACS,
    ConversionSpec,
    Job,
    PredecessorSpec,
    SourceSpec,
    model_of,
    preprocessing_of,
)
from backlog.broker.messages import Stage
from backlog.dicom.eligibility import Rules
from backlog.errors import UsageError
from backlog.files import PrivateFolder
from backlog.inputs.conversion import NOTHING, names_of
from backlog.inputs.path_list import new_list_id
from backlog.model import PREPROCESSING
from backlog.pacs.address import checked_address, is_dicomweb, is_server
from backlog.pacs.connect import connect
from backlog.pacs.modality import is_pacs_word
from backlog.settings import Settings
from backlog.weights import is_seeded
from producer.dispatch.following import Day
from producer.ledger.ledger import EVICTS, FOLLOWS
from producer.ledger.run_database import Facts
from producer.results.labels import WANTED, check_labels
from producer.results.only_account import ONLY
from producer.run.check_image_table import checked_listing
from producer.run.check_pacs import check_pacs
from producer.run.delivery import AS_USUAL, Delivery
from producer.run.folder import Paths
from producer.run.make_run import begun_now, check_place, make_run, refuse_another, run_name
from producer.run.open import open_ledger
from producer.run.schedule import schedule_facts
from producer.run.wanted import check_selection, read_wanted
from producer.sources.open import Selection, check_followed, make_source
from producer.validation.operating_points import OperatingPoints, check_fits, read_operating_points
from producer.workers.choose_weights import choose_weights
from producer.workers.worker_inventory import check_workers_make


def create(
    word: str,
    settings: Settings,
    pacs: str,
    paths: Paths,
    selection: Selection,
    *,
    workers: int,
    read_back: bool = False,
    rescore: bool = False,
    predecessor: Path | None = None,
    operating_points: Path | None = None,
    label_findings: bool = False,
    conversion: ConversionSpec = NOTHING,
    weights: str = "",
    only: Path | None = None,
    only_by: str = "",
    delivery: Delivery = AS_USUAL,
    follow: Day | None = None,
) -> None:
    """Make a run's folder and ledger; nothing is sent yet.

    Parameters
    ----------
    word
        What names the source: a path, or the word for a PACS.
    settings
        Of this process.
    pacs
        Address of the PACS that reports go to.
    paths
        The run's folder; made where it is missing.
    selection
        Which images of the source.
    workers
        How many workers the embedded mode starts.
    read_back
        Whether each report is read back and compared.
    rescore
        Whether images are scored too whose report is there already.
    predecessor
        Folder of an earlier run, to whose reports this run's refer.
    operating_points
        File of thresholds from which findings count as present.
    label_findings
        Whether labels are put on studies.
    conversion
        What is made of files that are no DICOM object yet.
    weights
        What the run asks for: ``seeded``, a model's name, or the first digits of a SHA-256; empty for any.
    only
        A list of the images to be scored; the others are skipped by it.
    only_by
        The list's column that names images; empty: found by its name.
    delivery
        Where reports go besides the PACS, and what of the images stays there.
    follow
        The first day of a source that is followed from now on.

    Raises
    ------
    UsageError
        The folder holds a run already, or can't be written; or the PACS refuses us, or is none; or no worker that
        answers has the weights that the run asks for.
    ServiceUnavailable
        The PACS is unavailable. Nothing was made.
    """
    pacs, word = checked_address(pacs), checked_address(word) if is_dicomweb(word) else word
    check_place(settings, paths)
    if only is not None:
        check_selection(selection)  # before a PACS is asked anything
    schedule = schedule_facts(settings)
    refuse_another(paths)  # before anything is read; what counts is the look under the lock
    check_workers_make(settings, settings.derived_object_kinds)
    points = read_operating_points(operating_points) if operating_points is not None else None
    wanted = choose_weights(settings, weights or (points.weights_sha256 if points else ""))
    source = make_source(word, settings, pacs, paths.listing, selection, list_id=new_list_id())
    if follow is not None:
        check_followed(source, paths.out.parent, only, conversion)
    spec = _converting(source.spec, conversion)
    check_pacs(settings, pacs, source.first)
    # A wrong address or password ends here, and leaves nothing behind.
    identity = _identity(settings, pacs, label_findings=label_findings)
    now = begun_now()
    job: Job = {
        "run": run_name(now),
        "when": now.isoformat(),
        "source": spec,
        "pacs": identity,
        "language": settings.language,
        "coding": settings.coding,
        "regions": settings.regions,
        "rules": Rules.from_settings(settings).spec(),
        "model": wanted.model,
        "preprocessing": PREPROCESSING,
        "weights": wanted.sha256,
        "meaningful": not is_seeded(wanted.sha256),
        "engine": "",
        "rescore": rescore,
        "read_back": read_back,
    }
    if settings.derived_object_kinds:
        job = {**job, "derived_objects": settings.derived_object_kinds}
    if points is not None and operating_points is not None:
        job = _deciding_with(job, points, operating_points)
    if predecessor is not None:
        job = {**job, "predecessor": _predecessor(predecessor)}
    deliver = delivery.check(settings, pacs, source)
    if deliver:
        job = {**job, "deliver": deliver}
    if source.first is Stage.RETRIEVE:
        job = {**job, "keep": delivery.keep}
    facts: Facts = {
        "job": job,
        # The run may be gone on with, or verified, from another folder.
        "word": word if is_pacs_word(word) else str(Path(word).absolute()),
        "pacs": pacs if is_server(pacs) else str(Path(pacs).absolute()),
        "selection": vars(selection),
        "model": wanted.model,
        "workers": workers,
        "chunk_size": _chunk_size(settings, source.total, workers),
    }
    if label_findings:
        facts[WANTED] = True
    if follow is not None:
        facts[FOLLOWS] = asdict(follow)
    if source.first is Stage.RETRIEVE:
        facts[EVICTS] = not delivery.keep
    with PrivateFolder() as folder:
        listing = checked_listing(source, conversion, folder)
        if only is None:
            make_run(paths, facts | schedule, listing=listing)
            return
        listed = read_wanted(only, only_by, folder, source, selection, conversion)
        make_run(paths, facts | schedule | {ONLY: listed.facts}, listed.path, listing=listing)


def _converting(spec: SourceSpec, conversion: ConversionSpec) -> SourceSpec:
    """Return a source's spec with what is to be made of its files.

    Raises
    ------
    UsageError
        It is a PACS, or the pattern or the table of pictures is none.
    """
    if conversion == NOTHING:
        return spec
    if spec["kind"] in IN_PACS:
        raise UsageError(
            "--make-uids and --wrap-images are for a zip or a folder: a PACS holds DICOM objects"
        )
    names_of(conversion)  # what is wrong with them is told here, once
    return {**spec, "conversion": conversion}


def _identity(settings: Settings, address: str, *, label_findings: bool) -> str:
    """Return which PACS is at an address.

    Raises
    ------
    UsageError
        It is no address, holds a password, the PACS there refuses ours, or keeps no labels where they are wanted.
    ServiceUnavailable
        Nobody answers there.
    """
    pacs = connect(settings, address)
    try:
        identity = pacs.identity()
        if label_findings:
            check_labels(pacs)
        return identity
    finally:
        pacs.close()


def _predecessor(out: Path) -> PredecessorSpec:
    """Return which reports an earlier run wrote.

    Raises
    ------
    UsageError
        It wrote none yet.
    """
    ledger = open_ledger(out)
    earlier: Job = ledger.get("job")
    reported = ledger.tally().reported
    ledger.close()
    if not reported:
        raise UsageError(f"{out}: this run has scored nothing yet, so nothing can refer to it")
    spec: PredecessorSpec = {
        "weights": earlier["weights"],
        "meaningful": earlier["meaningful"],
        "language": earlier["language"],
        "coding": earlier["coding"],
        "model": model_of(earlier).name,
        "preprocessing": preprocessing_of(earlier),
    }
    if "regions" in earlier:
        spec["regions"] = earlier["regions"]
    if "operating_points" in earlier:
        spec["operating_points"] = earlier["operating_points"]
    return spec


def _deciding_with(job: Job, points: OperatingPoints, path: Path) -> Job:
    """Return the job of a run whose reports call findings present by the points of a file, made for its weights.

    Raises
    ------
    UsageError
        It is for another model, other weights or another preprocessing version.
    """
    check_fits(points, model=model_of(job).name, preprocessing=preprocessing_of(job), path=path)
    if job["weights"] != points.weights_sha256:
        raise UsageError(
            f"{path} is for the weights {points.weights_sha256[:12]}, and the run asks for"
            f" {job['weights'][:12]}: leave out --weights"
        )
    return {
        **job,
        "operating_points": {"sha256": points.sha256, "thresholds": points.thresholds},
        "meaningful": points.weights_meaningful,
    }


def _chunk_size(settings: Settings, total: int | None, workers: int) -> int:
    """Return a chunk's size: small for a small backlog, so that every worker gets some of it."""
    if total is None:
        return settings.chunk_size
    return max(1, min(settings.chunk_size, total // (4 * max(1, workers))))
