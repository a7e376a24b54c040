"""The upload stage: an entry of the source → an image in the PACS."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from backlog.broker.messages import InferItem, Job, SourceSpec, UploadItem
from backlog.dicom.eligibility import Rules
from backlog.dicom.header import dataset_of, read_header, screen
from backlog.dicom.parser import parse_file
from backlog.errors import InstanceRejected, SourceUnavailable
from backlog.files import is_storage_unavailable
from backlog.inputs.zip_archive import ZipArchive
from backlog.outcomes import Reason
from backlog.pacs.base import Pacs, StoreResult
from worker.tasks.attempt import Attempt, Records
from worker.tasks.resources import WorkerResources

#: Most bytes of one input file: eight times the largest detector's image.
MAX_BYTES: Final = 1 << 28


def upload(
    process: WorkerResources, job: Job, attempt: Attempt, items: list[UploadItem]
) -> tuple[Records, list[InferItem]]:
    """Store each entry of the source in the PACS; what is there already is as good."""
    attempt.retry_while_unavailable(lambda: process.check(job))
    rules = Rules.from_spec(job["rules"])
    with _Opened(job["source"]) as read:

        def one(item: UploadItem) -> str:
            stored = _store(process.pacs, rules, read(item["entry"]))
            if not stored.already:
                attempt.record_write()
            return stored.instance

        failed, done = attempt.each(items, one)
    return failed, [{"i": item["i"], "instance": instance} for item, instance in done]


def _store(pacs: Pacs, rules: Rules, dicom: bytes) -> StoreResult:
    """Store one file after a look at its header, which keeps from the PACS what could stop it (deep nesting does)."""
    found = screen(read_header(dicom), rules)
    if found.identity is None and found.rejection is not None:
        raise found.rejection
    stored = pacs.store(dicom, found.identity)
    if stored.already and not _same(dicom, pacs.fetch(stored.instance)):
        raise InstanceRejected(
            Reason.UID_CONFLICT, "the PACS holds another file under the same SOP Instance UID"
        )
    return stored


def _same(ours: bytes, held: bytes) -> bool:
    """Whether the PACS holds our image: the same bytes, or the same header where it keeps another transfer syntax.

    An Orthanc with ``IngestTranscoding`` compresses what it gets. Lossy compression gives an image another UID.
    """
    if ours == held:
        return True
    here, there = parse_file(ours), parse_file(held)
    if here.transfer_syntax_uid == there.transfer_syntax_uid:
        return False
    return dataset_of(here) == dataset_of(there)


class _Opened:
    """A function that reads one entry of a source."""

    def __init__(self, source: SourceSpec) -> None:
        self._source = source
        self._archive: ZipArchive | None = None

    def __enter__(self) -> Callable[[int], bytes]:
        if self._source["kind"] == "zip":
            self._archive = archive = ZipArchive(Path(self._source["path"]))
            try:
                archive.check_fingerprint(self._source.get("fingerprint", ""))
            except BaseException:
                archive.close()
                raise
            return lambda entry: archive.read(archive.member(entry), limit=MAX_BYTES)
        return self._file

    def __exit__(self, *_: object) -> None:
        if self._archive is not None:
            self._archive.close()

    def _file(self, entry: int) -> bytes:
        try:
            with Path(self._source["listing"]).open("rb") as listing:
                listing.seek(entry)
                name = listing.read(1 << 16).split(b"\0", 1)[0]
        except OSError as error:
            raise SourceUnavailable(
                f"the run's list of files can't be read on this worker ({error.strerror}): it needs the run's folder"
                " under the same path as the producer"
            ) from error
        root = Path(self._source["path"])
        path = root / os.fsdecode(name)
        try:
            with path.open("rb") as file:
                if os.fstat(file.fileno()).st_size > MAX_BYTES:
                    raise InstanceRejected(Reason.TOO_LARGE, f"the limit is {MAX_BYTES} bytes")
                return file.read()
        except OSError as error:
            if is_storage_unavailable(error, path, root):
                raise SourceUnavailable(
                    f"the source's folder, or a part of it, is unavailable ({error.strerror}): is everything mounted?"
                ) from error
            raise InstanceRejected(Reason.UNREADABLE, f"the file can't be read: {error.strerror}") from error
