"""Orthanc as a PACS, over its REST API (Orthanc Book, "REST API of Orthanc")."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from backlog.dicom.file import DicomFile
from backlog.dicom.parser import parse_file
from backlog.errors import InstanceRejected, ServiceUnavailable, UsageError
from backlog.outcomes import Reason
from backlog.pacs.base import StoreResult, fetch_each
from backlog.pacs.http_errors import translated
from backlog.pacs.orthanc_find import Level
from backlog.pacs.orthanc_resources import OrthancResources
from backlog.pacs.orthanc_rest import OrthancRest, checked_id, is_orthanc_id
from backlog.settings import Settings

if TYPE_CHECKING:
    from backlog.dicom.header import Identity

_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

#: Files up to this size are read whole for their header: a kept connection is worth more than the bytes.
_SMALL: Final = 1 << 20
_STEP: Final = 1 << 16


class Orthanc(OrthancResources):
    """A PACS that is an Orthanc. One per process: the session's connection is kept alive.

    Parameters
    ----------
    url
        Address without user and password.
    username
        Of HTTP basic authentication; empty for none.
    password
        Of the same user.
    ca
        Path of a file of certificate authorities (PEM); empty for the system's.
    storage
        Orthanc's storage folder, where it can be read on this machine.
    more
        Further arguments of `HttpSession`: a token, a client's certificate, time.
    """

    def __init__(
        self,
        url: str,
        *,
        username: str = "",
        password: str = "",
        ca: str = "",
        storage: Path | None = None,
        **more: Any,
    ) -> None:
        super().__init__(OrthancRest(url, username=username, password=password, ca=ca, **more))
        self.storage = storage
        #: Before 1.12 Orthanc doesn't say whether it overwrites; then, and before it was asked, we look first.
        self._check_before_store = True

    @classmethod
    def from_settings(cls, settings: Settings, url: str) -> Orthanc:
        """Build from the settings; the address may come from the command line."""
        return cls(
            url,
            username=settings.pacs_username,
            password=settings.pacs_password,
            ca=settings.pacs_ca,
            storage=Path(settings.pacs_storage) if settings.pacs_storage else None,
            token_file=settings.pacs_token_file,
            certificate=settings.pacs_certificate,
            key=settings.pacs_key,
            seconds=settings.pacs_seconds,
        )

    # -- the protocol ------------------------------------------------------------------------------------------

    def identity(self) -> str:
        """Return Orthanc's own identifier of its database; empty before Orthanc 1.11, which has none.

        Raises
        ------
        UsageError
            It overwrites what it has.
        """
        try:
            system = self.rest.json("/system")
        except InstanceRejected as error:
            raise self.rest.not_orthanc() from error
        overwrites = system.get("OverwriteInstances")
        if overwrites:
            raise UsageError(
                f"the Orthanc at {self.url} overwrites images that it has with others of the same UID: set"
                " OverwriteInstances to false in its configuration"
            )
        self._check_before_store = overwrites is None
        return str(system.get("DatabaseServerIdentifier", ""))

    def store(self, dicom: bytes, of: Identity | None = None) -> StoreResult:
        """Store one file. Orthanc answers ``AlreadyStored`` for a known SOP Instance UID and changes nothing."""
        if self._check_before_store:
            known = of or DicomFile(dicom).identity
            if held := self._held(known):
                return StoreResult(held, already=True, study=self.study_of(held, known))
        try:
            answer = self.rest.parsed(self.rest.call("POST", "/instances", data=dicom))
        except InstanceRejected as rejected:
            if rejected.reason is Reason.NOT_DICOM and _is_readable(dicom):
                raise InstanceRejected(
                    Reason.REFUSED, "the PACS can't read it, though it is readable DICOM: see the PACS's log"
                ) from None
            raise
        if (
            not isinstance(answer, dict)
            or answer.get("Status") not in ("Success", "AlreadyStored")
            or not is_orthanc_id(str(answer.get("ID")))
        ):
            raise InstanceRejected(Reason.REFUSED, "Orthanc gave no status of one stored instance")
        return StoreResult(
            str(answer["ID"]),
            already=answer["Status"] == "AlreadyStored",
            study=str(answer.get("ParentStudy", "")),
        )

    def expected_id(self, of: Identity) -> str:
        """Return the id of an instance whose header Orthanc reads as we do (Orthanc Book, "Orthanc identifiers")."""
        return _hashed(of.patient_id, of.study_instance_uid, of.series_instance_uid, of.sop_instance_uid)

    def study_of(self, instance: str, of: Identity) -> str:
        """Return Orthanc's id of the study that an instance lies in; it derives from the Patient ID too."""
        if instance == self.expected_id(of):
            return _hashed(of.patient_id, of.study_instance_uid)
        return str(self.rest.json(f"/instances/{checked_id(instance)}/study").get("ID", ""))

    def fetch(self, instance: str) -> bytes:
        """Return one instance's file, from the storage folder where it is readable, else over REST."""
        path = self._stored_file(instance)
        if path is not None:
            with suppress(OSError):  # moved since: REST knows
                held = path.read_bytes()
                if _is_dicom(held):
                    return held
        return self.rest.file(f"/instances/{checked_id(instance)}/file")

    def fetch_many(self, instances: Sequence[str]) -> list[bytes | None]:
        """Return the files of instances, in their order; None for each that is gone."""
        return fetch_each(self, instances)

    def header(self, instance: str) -> DicomFile:
        """Return the beginning of one instance's file, at least up to its pixel data."""
        path = self._stored_file(instance)
        if path is not None:
            with suppress(OSError), path.open("rb") as file:
                first = file.read(_STEP)
                if _is_dicom(first):
                    return DicomFile.beginning(chain([first], iter(lambda: file.read(_STEP), b"")))
        with self.rest.call("GET", f"/instances/{checked_id(instance)}/file", stream=True) as response:
            if int(response.headers.get("Content-Length", _SMALL + 1)) <= _SMALL:
                body = self.rest.body(response)
                self.rest.check_is_dicom(body)
                return DicomFile(body)
            with translated(self.url):
                steps = response.iter_content(_STEP)
                first = next(steps, b"")
                self.rest.check_is_dicom(first)
                return DicomFile.beginning(chain([first], steps))

    def delete(self, instance: str) -> bool:
        """Delete one instance."""
        try:
            self.rest.parsed(self.rest.call("DELETE", f"/instances/{checked_id(instance)}"))
        except InstanceRejected as rejected:
            if rejected.reason is Reason.NOT_IN_PACS:
                return False
            raise
        return True

    def delete_many(self, instances: Sequence[str]) -> None:
        """Delete instances in one request, and see that one of them is gone: a proxy's page says 200 too.

        Raises
        ------
        ServiceUnavailable
            It is not.
        """
        if not instances:
            return
        self.rest.call(
            "POST", "/tools/bulk-delete", json={"Resources": [checked_id(one) for one in instances]}
        )
        try:
            self.rest.json(f"/instances/{instances[-1]}")
        except InstanceRejected as rejected:
            if rejected.reason is Reason.NOT_IN_PACS:
                return
            raise
        raise ServiceUnavailable(f"the PACS at {self.url} says that it deleted an instance, and has it still")

    def find(self, sop_instance_uids: Sequence[str]) -> dict[str, list[str]]:
        """Return the ids of all instances that have one of the UIDs, asking for many at a time.

        A question walks over the whole index where SQLite has no statistics of it: so few questions, of many UIDs each.
        """
        found: dict[str, list[str]] = {}
        for one in self.find_all(Level.INSTANCE, "SOPInstanceUID", sop_instance_uids):
            found.setdefault(str(one["MainDicomTags"]["SOPInstanceUID"]), []).append(str(one["ID"]))
        return found

    def studies_of(self, instances: Sequence[str]) -> dict[str, str]:
        """Return the studies of instances, in two requests for many."""
        series_of = self._parents([checked_id(one) for one in instances], "ParentSeries")
        study_of = self._parents(sorted(set(series_of.values())), "ParentStudy")
        return {one: study_of[series] for one, series in series_of.items() if series in study_of}

    def _parents(self, resources: Sequence[str], parent: str) -> dict[str, str]:
        if not resources:
            return {}
        body = {"Resources": list(resources), "Short": True}
        answer = self.rest.parsed(self.rest.call("POST", "/tools/bulk-content", json=body))
        return {str(one["ID"]): str(one[parent]) for one in answer if parent in one}

    def count_instances(self, sop_instance_uid: str, instance: str) -> int:  # noqa: ARG002  # Orthanc knows by the UID
        """Return how many instances have this UID, in whatever study."""
        return len(self.lookup(Level.INSTANCE, sop_instance_uid))

    def contains(self, of: Identity) -> bool:
        """Return whether Orthanc holds an instance with this SOP Instance UID."""
        return self.count_instances(of.sop_instance_uid, "") > 0

    def close(self) -> None:
        """Close the connections."""
        self.rest.close()

    # -- how -----------------------------------------------------------------------------------------------------

    def _held(self, of: Identity) -> str:
        """Return the id under which Orthanc holds an instance; empty when it doesn't."""
        instance = self.expected_id(of)
        try:
            names = self.rest.parsed(self.rest.call("GET", f"/instances/{instance}/metadata"))
        except InstanceRejected as rejected:
            if rejected.reason is Reason.NOT_IN_PACS:
                return ""
            raise
        return instance if isinstance(names, list) and all(isinstance(name, str) for name in names) else ""

    def _stored_file(self, instance: str) -> Path | None:
        if self.storage is None:
            return None
        uuid = str(self.rest.json(f"/instances/{checked_id(instance)}").get("FileUuid", ""))
        if not _UUID.fullmatch(uuid):
            return None
        return self.storage / uuid[:2] / uuid[2:4] / uuid


def _hashed(*identifiers: str) -> str:
    name = hashlib.sha1("|".join(identifiers).encode(), usedforsecurity=False).hexdigest()
    return "-".join(name[at : at + 8] for at in range(0, 40, 8))


def _is_readable(dicom: bytes) -> bool:
    """Whether the walk over the elements, which asks less than Orthanc, finds pixel data behind them."""
    try:
        return parse_file(dicom).has_pixels
    except InstanceRejected:
        return False


def _is_dicom(start: bytes) -> bool:
    """Tell a DICOM file (PS3.10 7.1) from one that Orthanc has compressed (StorageCompression)."""
    return start[128:132] == b"DICM"
