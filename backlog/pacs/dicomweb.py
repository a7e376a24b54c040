"""A PACS that speaks DICOMweb (PS3.18): QIDO-RS to find, WADO-RS to fetch, STOW-RS to store.

An instance is called by its three UIDs, ``study/series/instance``: the standard has no other name for it, and none is
found by the last alone. Nothing is transcoded or parsed on the way: a report's bytes are compared by their hash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from backlog.dicom.file import DicomFile
from backlog.errors import DeletionUnsupported, InstanceRejected, ServiceUnavailable
from backlog.outcomes import Reason
from backlog.pacs.address import DICOMWEB
from backlog.pacs.base import Keeping, StoreResult, fetch_each
from backlog.pacs.dicomweb_rest import JSON, DicomwebRest
from backlog.pacs.multipart import encode
from backlog.pacs.stow import DUPLICATE, DicomJson, failure, store_answer, value
from backlog.settings import Settings

if TYPE_CHECKING:
    from backlog.dicom.header import Identity

#: Tags in DICOM JSON.
STUDY: Final = "0020000D"
SERIES: Final = "0020000E"
INSTANCE: Final = "00080018"
_PATIENT_ID: Final = "00100020"

#: Most bytes of one instance, as of a file in a zip or folder.
_MAX_BYTES: Final = 1 << 28

#: Files up to this size are read whole for their header: a kept connection is worth more than the bytes.
_SMALL: Final = 1 << 20

#: No object has it: a server that finds one by it doesn't search.
_NOBODY: Final = "2.25.0"


class Dicomweb:
    """A PACS that speaks DICOMweb. One per process: its connections are kept alive.

    Parameters
    ----------
    url
        The service's root, ``dicomweb+http(s)://host/path``: ``/studies`` lies below it.
    more
        Arguments of `HttpSession`: credentials, certificates, time.
    """

    def __init__(self, url: str, **more: Any) -> None:
        self.rest = DicomwebRest(url.removeprefix(DICOMWEB), **more)
        self._searches_everywhere: bool | None = None

    @classmethod
    def from_settings(cls, settings: Settings, url: str) -> Dicomweb:
        """Build from the settings; the address may come from the command line."""
        return cls(
            url,
            username=settings.pacs_username,
            password=settings.pacs_password,
            token_file=settings.pacs_token_file,
            certificate=settings.pacs_certificate,
            key=settings.pacs_key,
            ca=settings.pacs_ca,
            seconds=settings.pacs_seconds,
        )

    def identity(self) -> str:
        """Return the service's address: the standard gives it no other name.

        Raises
        ------
        ServiceUnavailable, UsageError
            No DICOMweb service answers here, or it refuses us.
        """
        self.rest.check()
        parts = urlsplit(self.rest.url)
        port = (
            f":{parts.port}" if parts.port not in (None, {"http": 80, "https": 443}.get(parts.scheme)) else ""
        )
        return f"{DICOMWEB}{parts.scheme}://{(parts.hostname or '').lower()}{port}{parts.path.rstrip('/')}"

    def store(self, dicom: bytes, of: Identity | None = None) -> StoreResult:
        """Store one file, unless an instance of these UIDs is there: whether a server overwrites it doesn't tell."""
        of = of or DicomFile(dicom).identity
        instance = self.expected_id(of)
        if self.contains(of):
            return StoreResult(instance, already=True, study=self.study_of(instance, of))
        body, kind = encode(dicom)
        response = self.rest.request(
            "POST", "/studies", data=body, headers={"Content-Type": kind, "Accept": JSON}
        )
        with closing(response):
            status = response.status_code
            try:
                said = store_answer(response.json(), of.sop_instance_uid)
            except ValueError:
                said = None
            if said is None and status == 400 and b"00081198" in response.content:
                raise InstanceRejected(Reason.REFUSED, "the PACS can't read it (400)")
        if said is None and status not in (200, 202, 409):
            raise self.rest.error("POST", status)
        if (said is None or said.duplicate) and self.contains(of):
            # Another worker was faster, or the answer doesn't say how it ended: the PACS has it, which is what counts.
            return StoreResult(instance, already=status == 409, study=self.study_of(instance, of))
        if said is None:
            raise InstanceRejected(
                Reason.REFUSED, "the PACS gave no status of the instance, and doesn't have it"
            )
        if said.failure == DUPLICATE:
            raise InstanceRejected(
                Reason.UID_CONFLICT, "the PACS holds an instance of this UID in another series or study"
            )
        if not said.stored:
            raise failure(self.rest.url, said.failure)
        if not self.contains(of):
            # Some lose what they take in parallel, and say 200; others list it a moment later.
            raise ServiceUnavailable(
                f"the PACS at {self.rest.url} says that it stored an instance, and does not have it"
            )
        return StoreResult(instance, already=False, study=self.study_of(instance, of), changed=said.changed)

    def keeping(self) -> Keeping:
        """Return that only a file tells: the standard has no word for what a server makes of what it receives."""
        return Keeping.LOOK

    def transfer_syntax(self, instance: str) -> str:
        """Return the transfer syntax that one instance is given back in; what was just stored may take a moment."""
        try:
            return self.header(instance).parsed.transfer_syntax_uid
        except InstanceRejected as rejected:
            if rejected.reason is not Reason.NOT_IN_PACS:
                raise
            raise ServiceUnavailable(
                f"the PACS at {self.rest.url} lists an instance, and does not give it"
            ) from None

    def expected_id(self, of: Identity) -> str:
        """Return the id of an instance: its UIDs."""
        return f"{of.study_instance_uid}/{of.series_instance_uid}/{of.sop_instance_uid}"

    def study_of(self, instance: str, of: Identity) -> str:
        """Return which study an instance lies in, and of whom, where the letters of its Patient ID leave a doubt.

        Servers read text without a declared character set in their own ways. Of a Patient ID in ASCII they can't.
        """
        study, series, sop = _uids(instance)
        if of.patient_id.isascii():
            return study
        patient = next((value(one, _PATIENT_ID) for one in self._at(study, series, sop)), None)
        hashed = hashlib.sha1(str(patient or "").encode(), usedforsecurity=False).hexdigest()
        return f"{study}/{hashed}"

    def fetch(self, instance: str) -> bytes:
        """Return one instance's file, as the PACS keeps it."""
        with closing(self.rest.retrieve(_path(instance))) as response:
            held = bytearray()
            for step in self.rest.content(response):
                held += step
                if len(held) > _MAX_BYTES:
                    raise InstanceRejected(Reason.TOO_LARGE, f"the limit is {_MAX_BYTES} bytes")
        return _checked_file(bytes(held), self.rest.url)

    def fetch_many(self, instances: Sequence[str]) -> list[bytes | None]:
        """Return the files of instances, in their order; None for each that is gone."""
        return fetch_each(self, instances)

    def header(self, instance: str) -> DicomFile:
        """Return the beginning of one instance's file, at least up to its pixel data."""
        with closing(self.rest.retrieve(_path(instance))) as response:
            steps = self.rest.content(response)
            if int(response.headers.get("Content-Length", _SMALL + 1)) <= _SMALL:
                return DicomFile(_checked_file(b"".join(steps), self.rest.url))
            file = DicomFile.beginning(steps)
            _checked_file(file.content, self.rest.url)
            return file

    def delete(self, instance: str) -> bool:
        """Delete one instance, where the server does that: the standard has no such service.

        Raises
        ------
        DeletionUnsupported
            It doesn't.
        """
        response = self.rest.request("DELETE", _path(instance))
        response.close()
        if response.ok:
            return True
        study, series, sop = _uids(instance)
        if response.status_code in (404, 410) and not self._at(study, series, sop):
            return False
        if response.status_code in (400, 403, 404, 405, 501):
            raise DeletionUnsupported(
                f"the PACS at {self.rest.url} deletes nothing by DICOMweb ({response.status_code})"
            )
        raise self.rest.error("DELETE", response.status_code)

    def delete_many(self, instances: Sequence[str]) -> None:
        """Delete instances, one by one."""
        for instance in instances:
            self.delete(instance)

    def find(self, sop_instance_uids: Sequence[str]) -> dict[str, list[str]] | None:
        """Return the ids of all instances that have one of the UIDs; None where it is not searched everywhere."""
        if not self._is_searched_everywhere():
            return None
        found = {uid: self._everywhere(uid) for uid in sop_instance_uids}
        return {uid: instances for uid, instances in found.items() if instances}

    def studies_of(self, instances: Sequence[str]) -> dict[str, str]:
        """Return the studies of instances; their names say them."""
        return {one: _uids(one)[0] for one in instances}

    def count_instances(self, sop_instance_uid: str, instance: str) -> int:
        """Return how many instances have this UID, in whatever study; where it can't be searched, in this one."""
        if self._is_searched_everywhere():
            return len(self._everywhere(sop_instance_uid))
        return int(bool(self._at(*_uids(instance))))

    def contains(self, of: Identity) -> bool:
        """Return whether the PACS holds an instance."""
        return bool(self._at(of.study_instance_uid, of.series_instance_uid, of.sop_instance_uid))

    def close(self) -> None:
        """Close the connections."""
        self.rest.close()

    def _at(self, study: str, series: str, sop: str) -> list[DicomJson]:
        """Return what the server has of an instance in its series. What it finds is compared: some ignore a query."""
        query = {"SOPInstanceUID": sop, "includefield": _PATIENT_ID}
        found = self.rest.search_if_known(f"/studies/{study}/series/{series}/instances", query)
        if found is None:  # there is no such series, or no DICOMweb here
            self.rest.check()
            return []
        return [one for one in found if value(one, INSTANCE) == sop]

    def _everywhere(self, sop: str) -> list[str]:
        found = self.rest.search("/instances", {"SOPInstanceUID": sop})
        ids = [
            f"{value(one, STUDY)}/{value(one, SERIES)}/{sop}" for one in found if value(one, INSTANCE) == sop
        ]
        return sorted(set(ids))

    def _is_searched_everywhere(self) -> bool:
        """Whether all instances are a resource here (PS3.18 10.6.1 leaves it open) that a query narrows down."""
        if self._searches_everywhere is None:
            found = self.rest.search_if_known("/instances", {"SOPInstanceUID": _NOBODY, "limit": "1"})
            self._searches_everywhere = found == []
        return self._searches_everywhere


def _uids(instance: str) -> tuple[str, str, str]:
    """Return the three UIDs of an id, each of which may stand in a path.

    Raises
    ------
    InstanceRejected
        As ``not_in_pacs``: it is no such id.
    """
    uids = instance.split("/")
    if len(uids) == 3 and all(uid.replace(".", "").isdecimal() and uid.isascii() for uid in uids):
        return uids[0], uids[1], uids[2]
    raise InstanceRejected(Reason.NOT_IN_PACS, "this is no identifier of a DICOMweb PACS")


def _path(instance: str) -> str:
    study, series, sop = _uids(instance)
    return f"/studies/{study}/series/{series}/instances/{sop}"


def _checked_file(held: bytes, url: str) -> bytes:
    """Tell a DICOM file (PS3.10 7.1) from an empty answer, or a page of a proxy's."""
    if held[128:132] != b"DICM":
        raise ServiceUnavailable(f"the PACS at {url} answers with something that is no DICOM file")
    return held
