"""The ways that foreign bytes take through the program, each as one function of them.

A refusal by name is an answer. A rule that does not hold of what was read is a :class:`Broken`, and any other
exception is a bug as it is.
"""

from __future__ import annotations

import math
import os
import re
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np

from backlog.broker.job import ConversionSpec
from backlog.dicom.eligibility import Rules, flags
from backlog.dicom.file import DicomFile
from backlog.dicom.header import Screening, read_header, screen
from backlog.errors import InstanceRejected, UsageError
from backlog.inputs.conversion import Picture, opened, reason_of_other
from backlog.inputs.entries import SourceFile
from backlog.inputs.subject import Subject
from backlog.inputs.zip_archive import ZipArchive
from backlog.outcomes import Reason
from worker.ingest.identifiers import with_uids
from worker.ingest.secondary_capture import wrapped
from worker.model.torch_file import read_torch_file
from worker.model.torch_pickle import NotATorchFile
from worker.pixels.preprocess import model_input
from worker.sr.build import Model, Options, build, check, read_source, scores_of

#: What a zip member may inflate to here.
_MAX_MEMBER: Final = 1 << 20
_MAKE_ALL: Final[ConversionSpec] = {"make_uids": True, "wrap_images": True}
_UID: Final = re.compile(r"[0-9.]{3,64}")
#: How far the float32 of the resize may leave the model's range.
_ROUNDING: Final = 1e-2
_MODEL: Final = Model("densenet121-res224-all", "torchxrayvision 1.5.7", "5ca1ab1e" * 8, "3")
_OPTIONS: Final = Options()
_WHEN: Final = datetime(2025, 1, 2, 23, 4, 5, tzinfo=UTC)
_SCORES: Final = (*(n / 20 for n in range(1, 18)), math.nan)


class Broken(AssertionError):
    """What came out is not what was promised."""


def _insist(holds: bool, promise: str) -> None:
    if not holds:
        raise Broken(promise)


def _judged(file: bytes) -> Screening:
    found = screen(read_header(file), Rules())
    _insist(found.identity is not None or found.rejection is not None, "an image to be scored has its UIDs")
    if found.identity is not None:
        of = found.identity
        for uid in (
            of.study_instance_uid,
            of.series_instance_uid,
            of.sop_instance_uid,
            of.sop_class_uid,
        ):
            _insist(_UID.fullmatch(uid) is not None, "a UID holds digits and dots")
    return found


def header(file: bytes) -> None:
    """Read, judge, name: what the plan, the upload and the reader do with each file."""
    found = _judged(file)
    flags(found.attributes, Rules())


def pixels(file: bytes) -> None:
    """Decode to what the model sees."""
    seen = model_input(DicomFile(file))
    _insist(seen.image.shape == (224, 224) and seen.image.dtype == np.float32, "the picture has its form")
    _insist(bool(np.isfinite(seen.image).all()), "the picture is finite")
    _insist(float(abs(seen.image).max()) <= 1024 + _ROUNDING, "the picture is within [-1024, 1024]")


def archive(file: bytes) -> None:
    """List and read a zip as the producer and the upload do."""
    place = Path(tempfile.gettempdir()) / f"cxr-fuzz-{os.getpid()}.zip"
    place.write_bytes(file)
    try:
        with ZipArchive(place) as opened:
            for member in opened.members():
                _insist(opened.member(member.place) == member, "a member is found again by its place")
                try:
                    content = opened.read(member, limit=_MAX_MEMBER)
                except InstanceRejected:
                    continue
                _insist(len(content) == member.size <= _MAX_MEMBER, "a member has the size it declares")
    finally:
        place.unlink()


def entry(file: bytes) -> None:
    """Make of a source's file what an upload makes of it where everything was asked for."""
    read = opened(SourceFile("a file.zip", file), _MAKE_ALL)
    if isinstance(read, Picture):
        made = wrapped(read.content, Subject())
        _insist(made == wrapped(read.content, Subject()), "the same picture gives the same object")
        _insist(_judged(made).identity is not None, "a wrapped picture has its UIDs")
        return
    try:
        found = _judged(read.content)
    except InstanceRejected as rejected:
        raise reason_of_other(read, rejected) from None
    if (
        found.identity is None
        and found.rejection is not None
        and found.rejection.reason is Reason.INVALID_UID
    ):
        _judged(with_uids(DicomFile(read.content)))


def report(file: bytes) -> None:
    """Write a report by the file's header, and check it as the worker does before it is sent."""
    image = DicomFile(file)
    of, source = image.identity, read_source(image)
    made = build(source, _SCORES, (), model=_MODEL, options=_OPTIONS, when=_WHEN)
    again = build(source, _SCORES, (), model=_MODEL, options=_OPTIONS, when=_WHEN)
    _insist(made == again, "the same input gives the same report")
    try:
        check(made.dicom, of, scores=_SCORES, model=_MODEL, options=_OPTIONS)
    except InstanceRejected as refusal:
        raise Broken(f"a report that we wrote passes our own check: {refusal.detail}") from refusal
    _insist(len(scores_of(made.dicom)) == len(_SCORES), "a report gives its scores back")


def weights(file: bytes) -> None:
    """Read a file of weights."""
    try:
        found = read_torch_file(file)
    except NotATorchFile:
        return
    except MemoryError as error:
        raise Broken("a small file takes little memory") from error
    for tensor in found.tensors.values():
        _insist(isinstance(tensor, np.ndarray), "a state dict holds tensors")
        _insist(tensor.nbytes <= len(file), "a tensor is no larger than its file")
        tensor.sum()  # reads it all


#: By the name on the command line.
PATHS: Final[dict[str, Callable[[bytes], None]]] = {
    "header": header,
    "pixels": pixels,
    "zip": archive,
    "entry": entry,
    "report": report,
    "weights": weights,
}


def walk(path: str, file: bytes) -> Reason | None:
    """Send an input down a path.

    Returns
    -------
    Reason or None
        Why it was refused by name; None where it was not, or as a whole (a zip that is none).

    Raises
    ------
    Exception
        Whatever else comes of it: a finding.
    """
    try:
        PATHS[path](file)
    except InstanceRejected as refusal:
        return refusal.reason
    except UsageError as refusal:
        if path != "zip":  # only an archive as a whole is a user's to replace
            raise Broken("one image never asks the user to change something") from refusal
    except MemoryError:
        return Reason.OUT_OF_MEMORY
    return None
