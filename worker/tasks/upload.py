"""The upload stage: an entry of the source → an image in the PACS."""

from __future__ import annotations

from pathlib import Path

from backlog.broker.job import ConversionSpec, Job, SourceSpec
from backlog.broker.messages import InferItem, UploadItem
from backlog.dicom.eligibility import Rules
from backlog.dicom.file import DicomFile
from backlog.dicom.header import Screening, screen
from backlog.errors import InstanceRejected
from backlog.fault_attribution import Operation
from backlog.inputs.conversion import NOTHING, Picture, names_of, opened, reason_of_other
from backlog.inputs.entries import FolderEntries, SourceFile, ZipEntries
from backlog.inputs.path_list import PathList
from backlog.outcomes import Reason
from worker.tasks.attempt import Attempt
from worker.tasks.image_store import ImageStore
from worker.tasks.resources import WorkerResources


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
    store = ImageStore(process.pacs, process.same_pixels)
    with _opened(job["source"]) as source:

        def one(item: UploadItem) -> None:
            attempt.faults.operation = Operation.WRITE
            file = source.read(item["entry"])
            attempt.faults.record_success(Operation.SOURCE)
            image, found = _prepared(file, rules, spec)
            stored = store.store(image, found)
            attempt.faults.record_success(Operation.READ if stored.already else Operation.WRITE)
            following: InferItem = {"i": item["i"], "instance": stored.instance}
            attempt.following[item["i"]] = following

        attempt.each(items, one)


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
