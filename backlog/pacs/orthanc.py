"""Orthanc over its REST API (Orthanc Book, "REST API of Orthanc").

One retry layer: this module has timeouts and says what failed; waiting and trying again is the tasks' work.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from http.client import RemoteDisconnected
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import ProtocolError

from backlog.dicom.parser import parse_file, read_until_pixel_data
from backlog.errors import InstanceRejected, ServiceUnavailable, StorageFull, UsageError
from backlog.outcomes import Reason
from backlog.pacs.base import StoreResult
from backlog.pacs.configuration import OrthancConfiguration
from backlog.pacs.http_errors import credentials, translated
from backlog.settings import Settings

if TYPE_CHECKING:
    from backlog.dicom.header import Identity

#: Orthanc's public identifiers: a SHA-1 in five groups of eight.
_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{8}){4}")
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

#: OrthancStatus of errors that are the file's own fault (Orthanc's Enumerations.h).
_BAD_FILE_FORMAT: Final = 15
_INEXISTENT_TAG: Final = 21
_FULL_STORAGE: Final = 11

_UNKNOWN: Final = "the PACS doesn't know it (any more)"

#: SOP Instance UIDs of one query: a few kilobytes.
_FOUND_AT_ONCE: Final = 100

#: Files up to this size are read whole for their header: a kept connection is worth more than the bytes.
_SMALL: Final = 1 << 20
_STEP: Final = 1 << 16


class Orthanc:
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
    seconds
        How long to wait for an answer.
    """

    def __init__(
        self,
        url: str,
        *,
        username: str = "",
        password: str = "",
        ca: str = "",
        storage: Path | None = None,
        seconds: float = 60.0,
    ) -> None:
        if "@" in url.partition("://")[2].partition("/")[0]:
            raise UsageError(
                "the PACS's user and password belong in CXR_PACS_USERNAME and CXR_PACS_PASSWORD, not in its address"
            )
        self.url = url.rstrip("/")
        self.storage = storage
        #: Before 1.12 Orthanc doesn't say whether it overwrites; then, and before it was asked, we look first.
        self._check_before_store = True
        self._longest_answer = 0  #: to a query for instances; a limit, if there is one, is not below it
        self._timeout = (min(5.0, seconds), seconds)
        self._session = requests.Session()
        self._session.mount(self.url, HTTPAdapter(pool_connections=1, pool_maxsize=32))
        # Orthanc compresses for whoever offers it, as requests does by default: 450 ms instead of 9 for 10 MB.
        self._session.headers["Accept-Encoding"] = "identity"
        self._session.auth = credentials(username, password)
        self._session.trust_env = False  # no proxy and no netrc between a hospital's worker and its PACS
        if ca:
            if not Path(ca).is_file():
                raise UsageError(f"CXR_PACS_CA names no file: {ca}")
            self._session.verify = ca

    @classmethod
    def from_settings(cls, settings: Settings, url: str) -> Orthanc:
        """Build from the settings; the address may come from the command line."""
        return cls(
            url,
            username=settings.pacs_username,
            password=settings.pacs_password,
            ca=settings.pacs_ca,
            storage=Path(settings.pacs_storage) if settings.pacs_storage else None,
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
            system = self._json("/system")
        except InstanceRejected as error:
            raise self._stranger() from error
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
        if self._check_before_store and (held := self._held(of or _identity(dicom))):
            return StoreResult(held, already=True, study=self.study_of(held, of or _identity(dicom)))
        try:
            answer = self._parsed(self._call("POST", "/instances", data=dicom))
        except InstanceRejected as rejected:
            if rejected.reason is Reason.NOT_DICOM and _is_readable(dicom):
                raise InstanceRejected(
                    Reason.REFUSED, "the PACS can't read it, though it is readable DICOM: see the PACS's log"
                ) from None
            raise
        if (
            not isinstance(answer, dict)
            or answer.get("Status") not in ("Success", "AlreadyStored")
            or not _ID.fullmatch(str(answer.get("ID")))
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
        return str(self._json(f"/instances/{_checked(instance)}/study").get("ID", ""))

    def fetch(self, instance: str) -> bytes:
        """Return one instance's file, from the storage folder where it is readable, else over REST."""
        path = self._stored_file(instance)
        if path is not None:
            with suppress(OSError):  # moved since: REST knows
                held = path.read_bytes()
                if _is_dicom(held):
                    return held
        with self._call("GET", f"/instances/{_checked(instance)}/file", stream=True) as response:
            return self._body(response)

    def header(self, instance: str) -> bytes:
        """Return the beginning of one instance's file, at least up to its pixel data."""
        path = self._stored_file(instance)
        if path is not None:
            with suppress(OSError), path.open("rb") as file:
                first = file.read(_STEP)
                if _is_dicom(first):
                    return read_until_pixel_data(chain([first], iter(lambda: file.read(_STEP), b"")))
        with self._call("GET", f"/instances/{_checked(instance)}/file", stream=True) as response:
            if int(response.headers.get("Content-Length", _SMALL + 1)) <= _SMALL:
                return self._body(response)
            with translated(self.url):
                return read_until_pixel_data(response.iter_content(_STEP))

    def delete(self, instance: str) -> bool:
        """Delete one instance."""
        try:
            self._call("DELETE", f"/instances/{_checked(instance)}")
        except InstanceRejected as rejected:
            if rejected.reason is Reason.NOT_IN_PACS:
                return False
            raise
        return True

    def delete_many(self, instances: Sequence[str]) -> None:
        """Delete instances in one request."""
        self._call("POST", "/tools/bulk-delete", json={"Resources": [_checked(one) for one in instances]})

    def find(self, sop_instance_uids: Sequence[str]) -> dict[str, list[str]]:
        """Return the ids of all instances that have one of the UIDs, asking for many at a time.

        A query's answer may be limited (LimitFindInstances) without a word. An answer that is shorter than one that
        was given before is not; for any other, each UID is looked up by itself, which nothing limits.
        """
        found: dict[str, list[str]] = {}
        waiting = list(sop_instance_uids)
        while waiting:
            # The first is a little longer, so that the answers after it are shorter.
            count = _FOUND_AT_ONCE + 4 * (self._longest_answer <= _FOUND_AT_ONCE + 1)
            uids, waiting = waiting[:count], waiting[count:]
            query = {"SOPInstanceUID": "\\".join(uids)}
            body = {"Level": "Instance", "Query": query, "Expand": True}
            answer = self._parsed(self._call("POST", "/tools/find", json=body))
            if (
                answer and len(answer) >= self._longest_answer - 1
            ):  # Orthanc 1.10 gives one more than its limit
                self._longest_answer = max(self._longest_answer, len(answer))
                found |= {uid: self._lookup(uid) for uid in uids}
                continue
            for one in answer:
                found.setdefault(str(one["MainDicomTags"]["SOPInstanceUID"]), []).append(str(one["ID"]))
        return {uid: ids for uid, ids in found.items() if ids}

    def studies_of(self, instances: Sequence[str]) -> dict[str, str]:
        """Return the studies of instances, in two requests for many."""
        series_of = self._parents([_checked(one) for one in instances], "ParentSeries")
        study_of = self._parents(sorted(set(series_of.values())), "ParentStudy")
        return {one: study_of[series] for one, series in series_of.items() if series in study_of}

    def _parents(self, resources: Sequence[str], parent: str) -> dict[str, str]:
        if not resources:
            return {}
        body = {"Resources": list(resources), "Short": True}
        answer = self._parsed(self._call("POST", "/tools/bulk-content", json=body))
        return {str(one["ID"]): str(one[parent]) for one in answer if parent in one}

    def count_instances(self, sop_instance_uid: str, instance: str) -> int:  # noqa: ARG002  # Orthanc knows by the UID
        """Return how many instances have this UID, in whatever study."""
        return len(self._lookup(sop_instance_uid))

    def _lookup(self, sop_instance_uid: str) -> list[str]:
        found = self._parsed(self._call("POST", "/tools/lookup", data=sop_instance_uid.encode()))
        return [str(one["ID"]) for one in found if one.get("Type") == "Instance"]

    def contains(self, of: Identity) -> bool:
        """Return whether Orthanc holds an instance with this SOP Instance UID."""
        return self.count_instances(of.sop_instance_uid, "") > 0

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    # -- what only Orthanc can do ------------------------------------------------------------------------------

    def series(self, since: int, limit: int, query: Mapping[str, str]) -> list[dict[str, Any]]:
        """Return a page of series with their main tags and instances, in Orthanc's own order.

        Parameters
        ----------
        since
            Offset of the first series.
        limit
            Most series to return.
        query
            DICOM keywords and what they have to match; empty for everything, which Orthanc answers faster.
        """
        if not query:
            answer = self._parsed(self._call("GET", f"/series?expand&since={since}&limit={limit}"))
        else:
            body = {"Level": "Series", "Query": dict(query), "Expand": True, "Since": since, "Limit": limit}
            answer = self._parsed(self._call("POST", "/tools/find", json=body))
        return list(answer)

    def configuration(self) -> OrthancConfiguration:
        """Return what its configuration does to what is stored, as far as it tells. Stores nothing."""
        system = self._json("/system")
        try:
            # A body that is no DICOM file: an Orthanc that stores finds it malformed, one that doesn't refuses earlier.
            self._call("POST", "/instances", data=b"")
            writable = True
        except InstanceRejected as rejected:
            writable = rejected.reason is Reason.NOT_DICOM
        except UsageError:
            writable = False  # it has let us read /system
        except ServiceUnavailable:
            writable = True  # an error without an Orthanc error body, or an outage: a run waits for its end
        return OrthancConfiguration.from_system(system, writable=writable)

    def last_change(self) -> int:
        """Return the number of the last change."""
        return int(self._json("/changes?last")["Last"])

    def new_patients(self, since: int) -> tuple[int, int]:
        """Return the number of the last change, and how many patients are new since one; deleted ones don't count."""
        new = 0
        while True:
            answer = self._json(f"/changes?since={since}&limit=1000")
            new += sum(one.get("ChangeType") == "NewPatient" for one in answer["Changes"])
            since = max(since, int(answer["Last"]))
            if answer["Done"]:
                return since, new

    def count_series(self, query: Mapping[str, str]) -> int | None:
        """Return how many series match a query; None before Orthanc 1.12.5, which counts no matches."""
        try:
            body = {"Level": "Series", "Query": dict(query)}
            answer = self._parsed(self._call("POST", "/tools/count-resources", json=body))
        except InstanceRejected:
            return None  # it knows no such address
        return int(answer["Count"])

    def statistics(self) -> dict[str, int]:
        """Return how much it holds: ``CountPatients``, ``CountStudies``, ``CountSeries``, ``CountInstances``."""
        found = self._json("/statistics")
        return {name: int(value) for name, value in found.items() if name.startswith("Count")}

    def study(self, study: str) -> dict[str, Any]:
        """Return one study with its main tags. Rejected as ``not_in_pacs`` when it is gone."""
        return self._json(f"/studies/{_checked(study)}")

    def has_labels(self) -> bool:
        """Return whether it and its database keep labels: since Orthanc 1.12 (Orthanc Book, "Labels")."""
        return self._json("/system").get("HasLabels") is True

    def labels(self, study: str) -> list[str]:
        """Return a study's labels. Rejected as ``not_in_pacs`` when the study is gone."""
        answer = self._parsed(self._call("GET", f"/studies/{_checked(study)}/labels"))
        if not isinstance(answer, list):
            raise self._stranger()
        return [str(label) for label in answer]

    def put_label(self, study: str, label: str) -> None:
        """Put a label (letters, digits, ``-`` and ``_``) on a study; one that is there stays."""
        self._call("PUT", f"/studies/{_checked(study)}/labels/{label}")

    def remove_label(self, study: str, label: str) -> None:
        """Take a label off a study; one that is not there is no error."""
        self._call("DELETE", f"/studies/{_checked(study)}/labels/{label}")

    def simplified_tags(self, instance: str) -> dict[str, Any]:
        """Return one instance's header as keywords and text."""
        return self._json(f"/instances/{_checked(instance)}/simplified-tags")

    def tags_of_instances(self, series: str) -> dict[str, dict[str, Any]]:
        """Return the headers of a series' instances, as keywords and text, by their ids."""
        answer = self._json(f"/series/{_checked(series)}/instances-tags?simplify")
        return {str(instance): tags for instance, tags in answer.items() if isinstance(tags, dict)}

    def shared_tags(self, series: str) -> dict[str, Any]:
        """Return what the headers of all instances of a series have in common, as keywords and text."""
        return self._json(f"/series/{_checked(series)}/shared-tags?simplify")

    # -- how -----------------------------------------------------------------------------------------------------

    def _held(self, of: Identity) -> str:
        """Return the id under which Orthanc holds an instance; empty when it doesn't."""
        instance = self.expected_id(of)
        try:
            names = self._parsed(self._call("GET", f"/instances/{instance}/metadata"))
        except InstanceRejected as rejected:
            if rejected.reason is Reason.NOT_IN_PACS:
                return ""
            raise
        return instance if isinstance(names, list) and all(isinstance(name, str) for name in names) else ""

    def _stored_file(self, instance: str) -> Path | None:
        if self.storage is None:
            return None
        uuid = str(self._json(f"/instances/{_checked(instance)}").get("FileUuid", ""))
        if not _UUID.fullmatch(uuid):
            return None
        return self.storage / uuid[:2] / uuid[2:4] / uuid

    def _body(self, response: requests.Response) -> bytes:
        """Read a body in one go; `requests` would read it in steps of 10 kB."""
        with translated(self.url):
            body: bytes = response.raw.read()
        announced = response.headers.get("Content-Length")
        if announced is not None and len(body) != int(announced):
            raise ServiceUnavailable(f"the PACS at {self.url} broke off an answer")
        return body

    def _json(self, path: str) -> dict[str, Any]:
        answer = self._parsed(self._call("GET", path))
        if not isinstance(answer, dict):
            raise self._stranger()
        return answer

    def _parsed(self, response: requests.Response) -> Any:
        try:
            return response.json()
        except ValueError as error:
            raise self._stranger() from error

    def _stranger(self) -> UsageError:
        return UsageError(f"what answers at {self.url} is no Orthanc: see CXR_PACS_URL")

    def _call(self, method: str, path: str, **more: Any) -> requests.Response:
        with translated(self.url):
            # A redirected POST would arrive as a GET, and look like a refusal of every image.
            ask = partial(
                self._session.request,
                method,
                self.url + path,
                timeout=self._timeout,
                allow_redirects=False,
                **more,
            )
            try:
                response = ask()
            except requests.ConnectionError as error:
                if not _was_idle(error):
                    raise
                response = ask()
        if response.is_redirect:
            response.close()
            raise UsageError(f"the PACS at {self.url} redirects elsewhere: give its own address")
        if response.ok:
            return response
        try:
            status = int(response.json().get("OrthancStatus", 0))
        except (ValueError, AttributeError, TypeError):
            status = 0
        finally:
            response.close()
        if response.status_code == 404 and path == "/system":
            raise self._stranger()
        if response.status_code == 404 and not response.content:
            # Orthanc 1.10 says no more of an instance that it doesn't know, and some proxies of one that is starting.
            with suppress(UsageError):
                self._json("/system")
                raise InstanceRejected(Reason.NOT_IN_PACS, _UNKNOWN)
        raise _error(self.url, method, response.status_code, status)


def _hashed(*identifiers: str) -> str:
    name = hashlib.sha1("|".join(identifiers).encode(), usedforsecurity=False).hexdigest()
    return "-".join(name[at : at + 8] for at in range(0, 40, 8))


def _was_idle(error: requests.ConnectionError) -> bool:
    """Whether a server closed a connection as the request was on its way, without an answer (RFC 9112 section 9.3.1).

    Orthanc closes an idle connection after a second. Where its answers take that long, every second request would
    fail, and with it all that needs more than one. None of our requests does harm when it is made twice.
    """
    cause = error.args[0] if error.args else None
    inner = cause.args[1] if isinstance(cause, ProtocolError) and len(cause.args) > 1 else None
    return isinstance(inner, (RemoteDisconnected, ConnectionResetError, BrokenPipeError))


def _identity(dicom: bytes) -> Identity:
    from backlog.dicom.header import identity, read_header  # pydicom takes 150 ms to import

    return identity(read_header(dicom))


def _is_readable(dicom: bytes) -> bool:
    """Whether the walk over the elements, which asks less than Orthanc, finds pixel data behind them."""
    try:
        return parse_file(dicom).has_pixels
    except InstanceRejected:
        return False


def _is_dicom(start: bytes) -> bool:
    """Tell a DICOM file (PS3.10 7.1) from one that Orthanc has compressed (StorageCompression)."""
    return start[128:132] == b"DICM"


def _error(url: str, method: str, http: int, status: int) -> Exception:
    if http in (401, 403):
        return UsageError(
            f"the PACS at {url} refuses the user or the password: see CXR_PACS_USERNAME, CXR_PACS_PASSWORD"
        )
    if status == _FULL_STORAGE or http == 507:
        return StorageFull(f"the PACS at {url} has no room left")
    if http == 413:
        return InstanceRejected(Reason.TOO_LARGE, "the PACS finds it too large")
    if http == 405 and method == "POST":
        return UsageError(f"the PACS at {url} stores nothing: is it read-only?")
    if http < 500 and not status:
        # A proxy whose Orthanc is just starting; with HttpDescribeErrors off Orthanc's own errors look the same.
        return ServiceUnavailable(f"what answers at {url} says {http}, and no mention of Orthanc's")
    if http == 404 and method == "POST" and status == _INEXISTENT_TAG:
        return InstanceRejected(Reason.INVALID_UID, "the PACS finds no UIDs in it")
    if http == 404:
        return InstanceRejected(Reason.NOT_IN_PACS, _UNKNOWN)
    if http == 400 and status == _BAD_FILE_FORMAT:
        return InstanceRejected(Reason.NOT_DICOM, "the PACS can't read it as DICOM")
    if http >= 500 or http in (408, 425, 429):
        return ServiceUnavailable(f"the PACS at {url} answers {http}")
    return InstanceRejected(Reason.REFUSED, f"the PACS answers {http} (OrthancStatus {status})")


def _checked(instance: str) -> str:
    if not _ID.fullmatch(instance):
        raise InstanceRejected(Reason.NOT_IN_PACS, "this is no identifier of Orthanc's")
    return instance
