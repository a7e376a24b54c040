"""How Orthanc's REST API answers: JSON, identifiers, errors (Orthanc Book, "REST API of Orthanc").

One retry layer: this module has timeouts and says what failed; waiting and trying again is the tasks' work.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from typing import Any, Final

import requests

from backlog.errors import (
    BacklogError,
    ForeignAnswer,
    InstanceRejected,
    ModalityFailed,
    ServiceUnavailable,
    StorageFull,
    UsageError,
)
from backlog.log import printable
from backlog.outcomes import Reason
from backlog.pacs.http_errors import TOO_LARGE_A_REQUEST
from backlog.pacs.http_session import HttpSession

#: Orthanc's public identifiers: a SHA-1 in five groups of eight.
_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{8}){4}")
#: One of them in a path, or a label at its end: what is forbidden is told without them.
_IN_PATH: Final = re.compile(rf"{_ID.pattern}|(?<=/labels/).+")

#: OrthancStatus of errors that are the file's own fault (Orthanc's Enumerations.h).
_BAD_FILE_FORMAT: Final = 15
_INEXISTENT_TAG: Final = 21
_FULL_STORAGE: Final = 11
#: The same of what another application answers to Orthanc over DICOM: wrong, or not in time.
_NETWORK_PROTOCOL: Final = 9

#: Where a data set begins, the high byte of its first group or element or of the length is zero.
_TAG_AND_LENGTH: Final = 12

_UNKNOWN: Final = "the PACS doesn't know it (any more)"


class OrthancRest(HttpSession):
    """Requests to one Orthanc; a bad answer is raised as what it means for the run."""

    def json(self, path: str) -> dict[str, Any]:
        """Return the JSON object at a path."""
        answer = self.parsed(self.call("GET", path))
        if not isinstance(answer, dict):
            raise self.not_orthanc()
        return answer

    def parsed(self, response: requests.Response) -> Any:
        """Return the JSON that an answer holds."""
        try:
            return response.json()
        except ValueError as error:
            raise self.not_orthanc() from error

    def not_orthanc(self) -> ForeignAnswer:
        """Return the error of what answers otherwise than Orthanc."""
        return ForeignAnswer(f"what answers at {self.url} is no Orthanc: see CXR_PACS_URL")

    def call(self, method: str, path: str, **more: Any) -> requests.Response:
        """Send one request and return its answer where it is a good one.

        Parameters
        ----------
        method
            ``GET``, ``POST``, ``PUT`` or ``DELETE``.
        path
            What follows the address, with its slash and query.
        more
            Arguments of `requests.request`: ``data``, ``json``, ``headers``, ``stream``.

        Raises
        ------
        InstanceRejected
            The one instance is to blame; ``not_in_pacs`` where what the path names is gone.
        ModalityFailed
            A DICOM modality that Orthanc asked did not do it.
        ServiceUnavailable
            There is no answer, or it is an error of the server's.
        UsageError
            It refuses the user, or is no Orthanc.
        """
        response = self.request(method, path, **more)
        if response.ok:
            if response.headers.get("Content-Type", "").lower().startswith("text/html"):
                response.close()
                raise self.not_orthanc()  # a page of a proxy's, as to log in: nothing was done
            return response
        with response:
            try:
                content = response.content
            except requests.RequestException:
                content = b""
        raise self._failure(method, path, response.status_code, content)

    def file(self, path: str) -> bytes:
        """Return the DICOM file at a path. Raises what `call` does."""
        status, body = self.get(path)
        if status >= 400:
            raise self._failure("GET", path, status, body)
        self.check_is_dicom(body)
        return body

    def check_is_dicom(self, start: bytes) -> None:
        """Tell what Orthanc has stored from an empty answer, or a page of a proxy's.

        Parameters
        ----------
        start
            The beginning of an answer. Files without the preamble of PS3.10 7.1 are stored too, but none without the
            zeros that stand in a tag and a length.

        Raises
        ------
        ServiceUnavailable
            It is no file of Orthanc's: the image is not to blame.
        """
        if start[128:132] != b"DICM" and b"\0" not in start[:_TAG_AND_LENGTH]:
            raise ServiceUnavailable(f"the PACS at {self.url} answers with something that is no DICOM file")

    def _failure(self, method: str, path: str, status_code: int, content: bytes) -> BacklogError:
        """Return the error that an answer with a bad status means."""
        status, details = 0, ""
        with suppress(ValueError, AttributeError, TypeError):
            described = json.loads(content)
            status, details = int(described.get("OrthancStatus", 0)), str(described.get("Details", ""))
        if status == _NETWORK_PROTOCOL:
            return ModalityFailed(printable(details) or f"Orthanc answers {status_code}")
        if status_code == 404 and method == "GET" and path.partition("?")[0] in _ALWAYS_THERE:
            return self.not_orthanc()
        if status_code == 404 and not content:
            # Orthanc 1.10 says no more of an instance that it doesn't know, and some proxies of one that is starting.
            with suppress(UsageError):
                self.json("/system")
                return InstanceRejected(Reason.NOT_IN_PACS, _UNKNOWN)
        if status_code == 403:
            address = _IN_PATH.sub("…", path.partition("?")[0])
            return UsageError(
                f"the PACS at {self.url} forbids {method} {address} to this user (403): see its rules, or a proxy's,"
                " and CXR_PACS_USERNAME"
            )
        return self.ran_out(status_code) or _error(self.url, method, status_code, status)


#: What every Orthanc has: a 404 for one of them speaks of the address, not of an image.
_ALWAYS_THERE: Final = frozenset(
    {"/system", "/changes", "/patients", "/studies", "/series", "/instances", "/statistics"}
)


def is_orthanc_id(text: str) -> bool:
    """Return whether a text has the form of Orthanc's public identifiers."""
    return _ID.fullmatch(text) is not None


def checked_id(resource: str) -> str:
    """Return an identifier that may stand in a path.

    Raises
    ------
    InstanceRejected
        As ``not_in_pacs``: it is none of Orthanc's.
    """
    if not is_orthanc_id(resource):
        raise InstanceRejected(Reason.NOT_IN_PACS, "this is no identifier of Orthanc's")
    return resource


def _error(url: str, method: str, http: int, status: int) -> BacklogError:
    if http == 401:
        return UsageError(
            f"the PACS at {url} refuses the user or the password: see CXR_PACS_USERNAME, CXR_PACS_PASSWORD"
        )
    if status == _FULL_STORAGE or http == 507:
        return StorageFull(f"the PACS at {url} has no room left")
    if http == 413:
        return InstanceRejected(Reason.TOO_LARGE, TOO_LARGE_A_REQUEST)
    if http == 405 and method == "POST":
        return UsageError(f"the PACS at {url} stores nothing: is it read-only?")
    if http in (408, 425, 429):  # a proxy that wants fewer requests, or later
        return ServiceUnavailable(f"the PACS at {url} answers {http}")
    if http < 500 and not status:
        # A proxy whose Orthanc is just starting; with HttpDescribeErrors off Orthanc's own errors look the same.
        return ServiceUnavailable(f"what answers at {url} says {http}, and no mention of Orthanc's")
    if http == 404 and method == "POST" and status == _INEXISTENT_TAG:
        return InstanceRejected(Reason.INVALID_UID, "the PACS finds no UIDs in it")
    if http == 404:
        return InstanceRejected(Reason.NOT_IN_PACS, _UNKNOWN)
    if http == 400 and status == _BAD_FILE_FORMAT:
        return InstanceRejected(Reason.NOT_DICOM, "the PACS can't read it as DICOM")
    if http >= 500:
        return ServiceUnavailable(f"the PACS at {url} answers {http}")
    return InstanceRejected(Reason.REFUSED, f"the PACS answers {http} (OrthancStatus {status})")
