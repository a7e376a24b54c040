"""How a DICOMweb server (PS3.18) answers: DICOM JSON, DICOM files in multipart messages, errors."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import closing
from itertools import chain
from typing import Final

import requests

from backlog.errors import (
    BacklogError,
    ForeignAnswer,
    InstanceRejected,
    ServiceUnavailable,
    StorageFull,
    UsageError,
)
from backlog.outcomes import Reason
from backlog.pacs.http_errors import TOO_LARGE_A_REQUEST, translated
from backlog.pacs.http_session import HttpSession
from backlog.pacs.multipart import DICOM, boundary_of, only_part
from backlog.pacs.stow import DicomJson

JSON: Final = "application/dicom+json"

#: As the server keeps it: a transfer syntax that isn't asked for would be made (PS3.18 8.7.3.5.2).
_AS_KEPT: Final = f'multipart/related; type="{DICOM}"; transfer-syntax=*'

#: What a server answers that doesn't have a resource at all.
_NO_RESOURCE: Final = frozenset({400, 404, 405, 501})

#: What an answer may be called that names no kind of content.
_NAMELESS: Final = frozenset({"", "application/octet-stream", "multipart/related"})

#: What a server warns of that has cut its results off (PS3.18 10.6; RFC 7234 5.5).
_MORE: Final = re.compile(r"(^|,)\s*299\b")

#: So many bytes tell a DICOM file from a message with one: its preamble and prefix (PS3.10 7.1).
_TELLING: Final = 132

_STEP: Final = 1 << 18


class Results(list[DicomJson]):
    """One page of what matches a query."""

    more: bool = False  #: the server warns that there are results beyond it


class DicomwebRest(HttpSession):
    """Requests to one DICOMweb service; a bad answer is raised as what it means for the run."""

    def search(self, path: str, query: Mapping[str, str]) -> Results:
        """Return what matches a query (QIDO-RS, PS3.18 10.6), as DICOM JSON; one page of it.

        Parameters
        ----------
        path
            Of the resource, as ``/studies``.
        query
            Attributes and what they have to match, ``limit``, ``offset``, ``includefield``.

        Raises
        ------
        ServiceUnavailable, UsageError
            There is no answer, the credentials are refused, or this is no DICOMweb service.
        """
        found = self.search_if_known(path, query)
        if found is None:
            raise self.not_dicomweb()
        return found

    def search_if_known(self, path: str, query: Mapping[str, str]) -> Results | None:
        """Return what matches a query, as :meth:`search`; None where the server doesn't have the resource."""
        response = self.request("GET", path, params=dict(query), headers={"Accept": JSON})
        with closing(response):
            if response.status_code == 204:  # No Content: nothing matches
                return Results()
            if response.status_code in _NO_RESOURCE:
                return None
            if not response.ok:
                raise self.error("GET", response.status_code)
            try:
                answer = response.json()
            except ValueError as error:
                raise self.not_dicomweb() from error
        if not isinstance(answer, list) or not all(isinstance(one, dict) for one in answer):
            raise self.not_dicomweb()
        results = Results(answer)
        results.more = _MORE.search(response.headers.get("Warning", "")) is not None
        return results

    def check(self) -> None:
        """Make sure that a DICOMweb service answers here.

        Raises
        ------
        ServiceUnavailable, UsageError
            There is no answer, the credentials are refused, or this is no DICOMweb service.
        """
        self.search("/studies", {"limit": "1"})

    def retrieve(self, path: str) -> requests.Response:
        """Begin to retrieve one instance (WADO-RS, PS3.18 10.4); its file is read with :meth:`content`.

        Raises
        ------
        InstanceRejected
            ``not_in_pacs``: it is not there, and the service answers otherwise.
        ServiceUnavailable, UsageError
            There is no answer, or the server doesn't give it.
        """
        response = self.request("GET", path, headers={"Accept": _AS_KEPT}, stream=True)
        if response.ok and response.status_code != 204:  # No Content
            return response
        response.close()
        if response.status_code in (204, 404, 410):
            # A proxy whose PACS is just starting says 404 too, and so does any other web server.
            try:
                self.check()
            except UsageError as error:
                raise ServiceUnavailable(
                    f"the PACS at {self.url} says {response.status_code} to everything"
                ) from error
            raise InstanceRejected(Reason.NOT_IN_PACS, "the PACS doesn't know it (any more)")
        raise self.error("GET", response.status_code)

    def content(self, response: requests.Response) -> Iterator[bytes]:
        """Yield an instance's file as it arrives, whether it comes as a message of one part or as it is.

        Raises
        ------
        ServiceUnavailable
            The answer is broken off, or is none with one DICOM file.
        """
        kind = response.headers.get("Content-Type", "")
        boundary = boundary_of(kind)
        if boundary is not None:
            return only_part(self._steps(response), boundary)
        named = kind.partition(";")[0].strip().lower()
        if named == DICOM:
            return self._whole(response)
        found = self._told_by_content(self._whole(response)) if named in _NAMELESS else None
        if found is None:
            raise ServiceUnavailable(f"the PACS at {self.url} answers with the type {kind!r}, not with DICOM")
        return found

    @staticmethod
    def _told_by_content(steps: Iterator[bytes]) -> Iterator[bytes] | None:
        """Return the file in a body whose type names nothing; None where it is neither a file nor a message."""
        begin = b""
        while len(begin) < _TELLING and (step := next(steps, b"")):
            begin += step
        line, end, _ = begin.lstrip(b"\r\n").partition(b"\r\n")
        if end and line.startswith(b"--") and len(line) > 2:
            return only_part(chain([begin], steps), line[2:].rstrip())
        return chain([begin], steps) if begin[128:132] == b"DICM" else None

    def _steps(self, response: requests.Response) -> Iterator[bytes]:
        with translated(self.url):
            while step := response.raw.read(_STEP):
                yield step

    def _whole(self, response: requests.Response) -> Iterator[bytes]:
        """Yield a body that has no closing boundary: its length is all that tells whether it is whole."""
        announced, seen = response.headers.get("Content-Length"), 0
        for step in self._steps(response):
            seen += len(step)
            yield step
        if announced is not None and seen != int(announced):
            raise ServiceUnavailable(f"the PACS at {self.url} broke off an answer")

    def not_dicomweb(self) -> ForeignAnswer:
        """Return the error of what answers otherwise than DICOMweb."""
        return ForeignAnswer(
            f"what answers at {self.url} is no DICOMweb service: give its root, below which /studies lies, as in"
            " dicomweb+https://host/dicom-web"
        )

    def error(self, method: str, status: int) -> BacklogError:
        """Return the error that an HTTP status means."""
        if ran_out := self.ran_out(status):
            return ran_out
        if status in (401, 403):
            return UsageError(
                f"the PACS at {self.url} refuses the credentials ({status}): see CXR_PACS_USERNAME, CXR_PACS_PASSWORD,"
                " CXR_PACS_TOKEN_FILE"
            )
        if status == 507:  # Insufficient Storage
            return StorageFull(f"the PACS at {self.url} has no room left")
        if status == 413:  # Content Too Large
            return InstanceRejected(Reason.TOO_LARGE, TOO_LARGE_A_REQUEST)
        if status == 406:  # Not Acceptable
            return UsageError(f"the PACS at {self.url} does not give an instance as it keeps it (406)")
        if method == "POST" and status in (404, 405, 415, 501):
            return UsageError(f"the PACS at {self.url} stores nothing by STOW-RS ({status})")
        return ServiceUnavailable(f"the PACS at {self.url} answers {status}")
