"""The upload stage: an entry of the source → an image in the PACS."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from backlog.broker.messages import InferItem, Job, SourceSpec, UploadItem
from backlog.dicom.comparison import Comparison, compare
from backlog.dicom.eligibility import Rules
from backlog.dicom.header import Identity, identity, read_header, screen
from backlog.dicom.parser import parse_file
from backlog.errors import InstanceRejected, SourceUnavailable
from backlog.files import is_storage_unavailable
from backlog.inputs.zip_archive import ZipArchive
from backlog.outcomes import Reason
from backlog.pacs.base import Pacs, StoreResult
from worker.tasks.attempt import Attempt, Records
from worker.tasks.resources import WorkerResources

#: Whether two files have the same pixels, decoded.
SamePixels = Callable[[bytes, bytes], bool]

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
            stored = _store(process.pacs, rules, read(item["entry"]), process.same_pixels)
            if not stored.already:
                attempt.record_write()
            return stored.instance

        failed, done = attempt.each(items, one)
    return failed, [{"i": item["i"], "instance": instance} for item, instance in done]


def _store(pacs: Pacs, rules: Rules, dicom: bytes, same_pixels: SamePixels) -> StoreResult:
    """Store one file after a look at its header, which keeps from the PACS what could stop it (deep nesting does)."""
    found = screen(read_header(dicom), rules)
    if found.identity is None:
        assert found.rejection is not None, "without an identity there is a reason"  # noqa: S101
        raise found.rejection
    stored = pacs.store(dicom, found.identity)
    if not stored.already:
        _check_kept_its_uid(pacs, stored.instance, found.identity)
    # Only what is to be scored is worth decoding twice; the inference stage skips the rest.
    elif not _same_image(
        dicom, pacs.fetch(stored.instance), same_pixels if not found.rejection else _ignored
    ):
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
    if identity(read_header(pacs.header(instance))).sop_instance_uid == of.sop_instance_uid:
        return  # it reads Patient ID in another character set
    pacs.delete(instance)
    raise InstanceRejected(
        Reason.REFUSED,
        "the PACS stored it under another SOP Instance UID (a lossy IngestTranscoding does); that copy was deleted",
    )


def _same_image(ours: bytes, held: bytes, same_pixels: SamePixels) -> bool:
    """Whether the PACS holds our image, however it encodes it."""
    if ours == held:
        return True
    found = compare(parse_file(ours), parse_file(held))
    return found is Comparison.SAME or (found is Comparison.PIXELS_UNDECIDED and same_pixels(ours, held))


def _ignored(ours: bytes, held: bytes) -> bool:  # noqa: ARG001
    return True


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
