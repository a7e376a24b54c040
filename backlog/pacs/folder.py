"""A folder as the PACS: the default of a run on one machine.

Layout: ``root/<study>/<instance>.dcm``. Both names are hashes, made of what Orthanc makes its identifiers of: no
header text becomes part of a path, and an instance is found again without an index.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from backlog.dicom.file import DicomFile
from backlog.dicom.header import Identity
from backlog.errors import InstanceRejected, ServiceUnavailable, StorageFull
from backlog.files import named_when_whole
from backlog.outcomes import Reason
from backlog.pacs.base import Keeping, StoreResult, fetch_each

_ID: Final = re.compile(r"[0-9a-f]{40}/[0-9a-f]{40}")
_STEP: Final = 1 << 16


class FolderPacs:
    """A PACS that is a folder. Made when something is first stored."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    def identity(self) -> str:
        """Return the folder's path: workers on one machine share it."""
        return str(self.root)

    def store(self, dicom: bytes, of: Identity | None = None) -> StoreResult:
        """Store one file, durably and whole or not at all; what is already there is left alone."""
        instance = instance_id(of or DicomFile(dicom).identity)
        path = self._path(instance)
        with _translated(self.root):
            if path.exists():
                return StoreResult(instance, already=True, study=_study(instance))
            if not path.parent.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                _sync(self.root)  # or the study's folder may be gone after a power cut, with its first image
            try:
                with named_when_whole(path) as temporary, temporary.open("xb") as file:
                    file.write(dicom)
                    file.flush()
                    os.fsync(file.fileno())
            except FileExistsError:
                return StoreResult(instance, already=True, study=_study(instance))
            _sync(path.parent)
        return StoreResult(instance, already=False, study=_study(instance))

    def keeping(self) -> Keeping:
        """Return that files lie here as they came."""
        return Keeping.AS_SENT

    def transfer_syntax(self, instance: str) -> str:
        """Return the transfer syntax of one instance's file."""
        return self.header(instance).parsed.transfer_syntax_uid

    def expected_id(self, of: Identity) -> str:
        """Return the id of an instance."""
        return instance_id(of)

    def study_of(self, instance: str, of: Identity) -> str:  # noqa: ARG002  # the name says it
        """Return the id of the study that an instance lies in."""
        return _study(instance)

    def fetch(self, instance: str) -> bytes:
        """Return one instance's file."""
        with _translated(self.root):
            return self._path(instance).read_bytes()

    def fetch_many(self, instances: Sequence[str]) -> list[bytes | None]:
        """Return the files of instances, in their order; None for each that is gone."""
        return fetch_each(self, instances)

    def header(self, instance: str) -> DicomFile:
        """Return the beginning of one instance's file, at least up to its pixel data."""
        with _translated(self.root), self._path(instance).open("rb") as file:
            return DicomFile.beginning(iter(lambda: file.read(_STEP), b""))

    def delete(self, instance: str) -> bool:
        """Delete one instance."""
        with _translated(self.root):
            try:
                self._path(instance).unlink()
            except FileNotFoundError:
                return False
        return True

    def delete_many(self, instances: Sequence[str]) -> None:
        """Delete instances."""
        for instance in instances:
            self.delete(instance)

    def find(self, sop_instance_uids: Sequence[str]) -> None:
        """Return None: a name tells an instance only to who knows its patient and study."""

    def studies_of(self, instances: Sequence[str]) -> dict[str, str]:
        """Return the studies of instances; their names say them."""
        return {one: _study(one) for one in instances if _ID.fullmatch(one)}

    def count_instances(self, sop_instance_uid: str, instance: str) -> int:  # noqa: ARG002  # the name says which instance it is
        """Return 1 when the instance is there, else 0: its name is its identifiers, so it can't be there twice."""
        with _translated(self.root):
            return int(self._path(instance).exists())

    def contains(self, of: Identity) -> bool:
        """Return whether the instance is there."""
        return self.count_instances(of.sop_instance_uid, instance_id(of)) > 0

    def close(self) -> None:
        """Nothing is held open."""

    def _path(self, instance: str) -> Path:
        if not _ID.fullmatch(instance):
            raise InstanceRejected(Reason.NOT_IN_PACS, "this is no identifier of a folder PACS")
        return self.root / f"{instance}.dcm"


def instance_id(of: Identity) -> str:
    """Return ``study/instance`` for an instance: hashes of its patient's and its own identifiers.

    Of the Patient ID the letters count, not how the file encodes them: an image may be in any character set, and its
    report, which is in UTF-8, lies in the same study.
    """
    patient_study = f"{of.patient_id}|{of.study_instance_uid}"
    whole = f"{patient_study}|{of.series_instance_uid}|{of.sop_instance_uid}"
    return "/".join(
        hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest() for text in (patient_study, whole)
    )


def _study(instance: str) -> str:
    return instance.partition("/")[0]


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _translated(root: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise InstanceRejected(Reason.NOT_IN_PACS, "the folder PACS doesn't hold it (any more)") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StorageFull(f"{root}: no room left on the disk") from error
        raise ServiceUnavailable(f"{root}: {error.strerror}") from error
