"""Storing an image, so that the PACS holds that image afterwards: no other one under its UID, and no pixel changed."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Final

from backlog.dicom.comparison import Comparison, compare
from backlog.dicom.file import DicomFile
from backlog.dicom.header import Identity, Screening
from backlog.dicom.values import number, text
from backlog.errors import InstanceRejected
from backlog.outcomes import Reason
from backlog.pacs.base import Keeping, Pacs, StoreResult
from worker.tasks.withdraw import withdraw

#: Whether two files have the same pixels, decoded.
SamePixels = Callable[[bytes, bytes], bool]

#: What a server may go by when it transcodes one image and not the next, besides the transfer syntax.
_WORDS: Final = ("SOPClassUID", "PhotometricInterpretation")
_NUMBERS: Final = ("SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation")


class ImageStore:
    """Stores the images of one attempt at a chunk, and finds out whether their PACS transcodes what it is sent.

    Parameters
    ----------
    pacs
        Where they are stored.
    same_pixels
        Tells whether two files hold the same pixels, decoded.
    """

    def __init__(self, pacs: Pacs, same_pixels: SamePixels) -> None:
        self._pacs = pacs
        self._same_pixels = same_pixels
        self._kept_kinds: set[tuple[object, ...]] = set()
        self._transcodes = False  #: it did so to one of them

    @cached_property
    def _keeping(self) -> Keeping:
        """Asked once: a worker may live longer than a configuration of the PACS, a chunk hardly does."""
        return self._pacs.keeping()

    def store(self, file: DicomFile, found: Screening) -> StoreResult:
        """Store one file whose header was looked at, which keeps from the PACS what could stop it (deep nesting does).

        Parameters
        ----------
        file
            The whole file.
        found
            What its header is found to be: with an identity.

        Raises
        ------
        InstanceRejected
            The PACS holds another image under the same UID, kept this one under another, or changed its pixels.
        """
        assert found.identity is not None  # noqa: S101  # see worker.tasks.upload
        stored = self._pacs.store(file.content, found.identity)
        if stored.already:
            self._check_is_ours(stored.instance, file, found)
        else:
            self._check_kept_its_uid(stored.instance, found.identity)
            if file.parsed.has_pixels and self._is_transcoded(stored.instance, file):
                self._check_kept_its_pixels(stored.instance, file, found)
        return stored

    def _check_is_ours(self, instance: str, file: DicomFile, found: Screening) -> None:
        held = self._pacs.fetch(instance)
        # Only what is to be scored is worth decoding twice; the inference stage skips the rest.
        if same_image(file, held, self._same_pixels if not found.rejection else _ignored):
            return
        if DicomFile(held).parsed.transfer_syntax_uid == file.parsed.transfer_syntax_uid:
            raise InstanceRejected(
                Reason.UID_CONFLICT, "the PACS holds another image under the same SOP Instance UID"
            )
        raise InstanceRejected(
            Reason.UID_CONFLICT,
            "the PACS holds another image under the same SOP Instance UID, in another transfer syntax: if it is this"
            " one, the PACS changed its pixels (IngestTranscoding)",
        )

    def _check_kept_its_uid(self, instance: str, of: Identity) -> None:
        """Withdraw an image that the PACS has given another SOP Instance UID, as lossy compression on receipt does.

        Each delivery would add another copy, and the report would be of an image that nobody but this PACS knows.
        """
        if instance == self._pacs.expected_id(of):
            return
        if self._pacs.header(instance).identity.sop_instance_uid == of.sop_instance_uid:
            return  # it reads Patient ID in another character set
        raise InstanceRejected(
            Reason.REFUSED,
            "the PACS stored it under another SOP Instance UID (a lossy IngestTranscoding does);"
            f" {withdraw(self._pacs, instance)}",
        )

    def _is_transcoded(self, instance: str, file: DicomFile) -> bool:
        """Whether the PACS holds an image in another transfer syntax than it was sent in.

        Where only a file tells, the first image of each kind is looked at, until one is held in another syntax.
        """
        if self._keeping is Keeping.AS_SENT:
            return False
        kind = _kind(file)
        if self._keeping is Keeping.LOOK and kind in self._kept_kinds and not self._transcodes:
            return False
        if self._pacs.transfer_syntax(instance) == file.parsed.transfer_syntax_uid:
            self._kept_kinds.add(kind)
            return False
        self._transcodes = True
        return True

    def _check_kept_its_pixels(self, instance: str, file: DicomFile, found: Screening) -> None:
        """Withdraw an image whose pixels the PACS changed: encoders drop bits that Bits Stored does not declare.

        Its score would be that of another image, in a valid report. So also where it isn't scored: the PACS would keep
        a damaged image.
        """
        held = self._pacs.fetch(instance)
        if file.content == held or compare(file.parsed, DicomFile(held).parsed) is Comparison.SAME:
            return
        try:
            same = self._same_pixels(file.content, held)
        except InstanceRejected:
            if found.rejection:
                return  # nobody here can decode it, and nobody scores it
            raise
        if not same:
            raise InstanceRejected(
                Reason.REFUSED,
                "the PACS changes its pixels, since it stores it in another transfer syntax: set its IngestTranscoding"
                " to none, or to JPEG lossless (1.2.840.10008.1.2.4.70);"
                f" {withdraw(self._pacs, instance)}",
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


def _kind(file: DicomFile) -> tuple[object, ...]:
    header = file.header
    words = (text(header, keyword) for keyword in _WORDS)
    numbers = (number(header, keyword) for keyword in _NUMBERS)
    return file.parsed.transfer_syntax_uid, *words, *numbers
