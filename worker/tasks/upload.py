"""The upload stage: an entry of the source → an image in the PACS."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from backlog.broker.messages import ConversionSpec, InferItem, Job, SourceSpec, UploadItem
from backlog.dicom.comparison import Comparison, compare
from backlog.dicom.eligibility import Rules
from backlog.dicom.file import DicomFile
from backlog.dicom.header import Identity, Screening, screen
from backlog.errors import InstanceRejected
from backlog.fault_attribution import Operation
from backlog.inputs.conversion import NOTHING, Picture, names_of, opened, reason_of_other
from backlog.inputs.entries import FolderEntries, SourceFile, ZipEntries
from backlog.inputs.path_list import PathList
from backlog.outcomes import Reason
from backlog.pacs.base import Pacs, StoreResult
from worker.tasks.attempt import Attempt
from worker.tasks.resources import WorkerResources
from worker.tasks.withdraw import withdraw

#: Whether two files have the same pixels, decoded.
SamePixels = Callable[[bytes, bytes], bool]


def upload(process: WorkerResources, job: Job, attempt: Attempt, items: list[UploadItem]) -> None:
    """Store each entry of the source in the PACS; what is there already is as good.

    Parameters
    ----------
    process
        What this worker process holds: PACS, engine, settings.
    job
        The run, as its messages carry it.
    attempt
        This attempt at the chunk; it takes the records of items that end here.
    items
        The chunk's items that have not ended yet.
    """
    attempt.retry.while_unavailable(lambda: process.check(job))
    rules = Rules.from_spec(job["rules"])
    spec = job["source"].get("conversion", NOTHING)
    with _opened(job["source"]) as source:

        def one(item: UploadItem) -> None:
            attempt.faults.operation = Operation.WRITE
            file = source.read(item["entry"])
            attempt.faults.record_success(Operation.SOURCE)
            image, found = _prepared(file, rules, spec)
            stored = store_image(process.pacs, image, found, process.same_pixels)
            attempt.faults.record_success(Operation.READ if stored.already else Operation.WRITE)
            following: InferItem = {"i": item["i"], "instance": stored.instance}
            attempt.following[item["i"]] = following

        attempt.each(items, one)


def store_image(pacs: Pacs, file: DicomFile, found: Screening, same_pixels: SamePixels) -> StoreResult:
    """Store one file whose header was looked at, which keeps from the PACS what could stop it (deep nesting does).

    Parameters
    ----------
    pacs
        Where it is stored.
    file
        The whole file.
    found
        What its header is found to be: with an identity.
    same_pixels
        Tells whether two files hold the same pixels, decoded.

    Raises
    ------
    InstanceRejected
        The PACS holds another image under the same UID, or kept this one under another.
    """
    assert found.identity is not None  # noqa: S101  # see _prepared
    stored = pacs.store(file.content, found.identity)
    if not stored.already:
        _check_kept_its_uid(pacs, stored.instance, found.identity)
    # Only what is to be scored is worth decoding twice; the inference stage skips the rest.
    elif not same_image(file, pacs.fetch(stored.instance), same_pixels if not found.rejection else _ignored):
        raise InstanceRejected(
            Reason.UID_CONFLICT, "the PACS holds another image under the same SOP Instance UID"
        )
    return stored


def _check_kept_its_uid(pacs: Pacs, instance: str, of: Identity) -> None:
    """Withdraw an image that the PACS has given another SOP Instance UID, as lossy compression on receipt does.

    Each delivery would add another copy, and the report would be of an image that nobody but this PACS knows.

    Raises
    ------
    InstanceRejected
        ``refused``: it has.
    """
    if instance == pacs.expected_id(of):
        return
    if pacs.header(instance).identity.sop_instance_uid == of.sop_instance_uid:
        return  # it reads Patient ID in another character set
    raise InstanceRejected(
        Reason.REFUSED,
        "the PACS stored it under another SOP Instance UID (a lossy IngestTranscoding does);"
        f" {withdraw(pacs, instance)}",
    )


def same_image(ours: DicomFile, held: bytes, same_pixels: SamePixels) -> bool:
    """Whether the PACS holds our image, however it encodes it.

    Parameters
    ----------
    ours
        The file of the source.
    held
        What the PACS holds under its UID.
    same_pixels
        Asked where only the decoded pixels tell.
    """
    if ours.content == held:
        return True
    found = compare(ours.parsed, DicomFile(held).parsed)
    return found is Comparison.SAME or (
        found is Comparison.PIXELS_UNDECIDED and same_pixels(ours.content, held)
    )


def _ignored(ours: bytes, held: bytes) -> bool:  # noqa: ARG001
    return True


def _opened(source: SourceSpec) -> ZipEntries | FolderEntries:
    path = Path(source["path"])
    if source["kind"] == "zip":
        return ZipEntries(path, source.get("fingerprint", ""))
    return FolderEntries(path, PathList(Path(source["listing"]), source.get("list_id", "")))


def _prepared(file: SourceFile, rules: Rules, spec: ConversionSpec) -> tuple[DicomFile, Screening]:
    """Return an entry as a DICOM file, made one where the run asks for it, and what its header is found to be.

    Raises
    ------
    InstanceRejected
        It can't be stored: it is no DICOM file, or it has no identity.
    """
    read = opened(file, spec)
    if isinstance(read, Picture):
        from worker.ingest.secondary_capture import wrapped  # pydicom's writer; few runs need it

        made = DicomFile(wrapped(read.content, names_of(spec).subject(read.name)))
        return made, _named(screen(made.header, rules))
    dicom = DicomFile(read.content)
    try:
        found = screen(dicom.header, rules)
    except InstanceRejected as rejected:
        raise reason_of_other(read, rejected) from None
    nameless = found.rejection is not None and found.rejection.reason is Reason.INVALID_UID
    if nameless and spec["make_uids"]:
        from worker.ingest.identifiers import with_uids

        made = DicomFile(with_uids(dicom))
        return made, _named(screen(made.header, rules))
    return dicom, _named(found)


def _named(found: Screening) -> Screening:
    if found.identity is None:
        assert found.rejection is not None, "without an identity there is a reason"  # noqa: S101
        raise found.rejection
    return found
