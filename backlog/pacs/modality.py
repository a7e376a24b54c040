"""A hospital's PACS that an Orthanc asks over DICOM: C-ECHO, C-FIND, C-MOVE or C-GET, C-STORE (PS3.4 annexes B, C).

Orthanc is the application entity: it knows the modality by a name, sends the requests, and receives the images.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeVar

from backlog.errors import InstanceRejected, ModalityFailed, ServiceUnavailable, UsageError
from backlog.log import printable
from backlog.outcomes import Reason
from backlog.pacs.address import is_dicomweb
from backlog.pacs.orthanc_rest import checked_id

if TYPE_CHECKING:
    from backlog.pacs.orthanc import Orthanc

T = TypeVar("T")

#: What SOURCE begins with for a modality.
PREFIX: Final = "modality:"

#: As Orthanc takes it for the name of a modality; it stands in addresses.
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")

#: Orthanc gives up on a modality so many seconds before we give up on Orthanc.
_MARGIN: Final = 5.0

#: The first Orthanc that asks for images by C-GET.
_CAN_GET: Final = (1, 12, 6)
_VERSION: Final = re.compile(r"([0-9]+)\.([0-9]+)\.([0-9]+)")

#: Text that may need letters which Orthanc before 1.12 can't read in an answer: those of several character sets.
_TEXT: Final = frozenset({"StudyDescription", "SeriesDescription", "ProtocolName"})

#: How long an image may take to appear in Orthanc after the modality said that it was sent, and how often to look.
ARRIVAL_SECONDS: Final = 5.0
_LOOK_EVERY: Final = 0.1


def modality_named(word: str) -> str | None:
    """Return the modality's name in ``modality:NAME``; None for any other SOURCE.

    Raises
    ------
    UsageError
        It is no name of a modality.
    """
    if not word.startswith(PREFIX):
        return None
    name = word.removeprefix(PREFIX)
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is no name of a DICOM modality: letters, digits, '-' and '_', as in Orthanc's DicomModalities"
        )
    return name


def is_pacs_word(word: str) -> bool:
    """Whether SOURCE is a PACS, ``orthanc``, ``modality:NAME`` or ``dicomweb+https://…``, and no path."""
    return word == "orthanc" or word.startswith(PREFIX) or is_dicomweb(word)


def known_modalities(orthanc: Orthanc) -> list[str]:
    """Return the names of the DICOM modalities that an Orthanc knows."""
    return sorted(str(name) for name in orthanc.rest.parsed(orthanc.rest.call("GET", "/modalities")))


class Modality:
    """One DICOM modality, as an Orthanc reaches it.

    Parameters
    ----------
    orthanc
        The Orthanc that asks and receives.
    name
        The modality's name in Orthanc's ``DicomModalities``.
    seconds
        How long the modality may be silent.
    method
        How it is asked for images: ``move``, over an association of its own to Orthanc, or ``get``, over Orthanc's.
    """

    def __init__(self, orthanc: Orthanc, name: str, *, seconds: float = 60.0, method: str = "move") -> None:
        self.orthanc = orthanc
        self._rest = orthanc.rest
        self.name = name
        self._seconds = seconds
        self._method = method
        self._leaves_text_out = False

    def check(self) -> None:
        """Ask the modality for a sign of life (C-ECHO).

        Raises
        ------
        UsageError
            Orthanc doesn't know its name.
        ModalityFailed
            It doesn't answer, or rejects the association.
        """
        try:
            self._ask("echo", {"Timeout": max(1, round(self._seconds))})
        except InstanceRejected:
            known = ", ".join(known_modalities(self.orthanc)) or "none"
            raise UsageError(
                f"Orthanc knows no modality {self.name!r}; it knows {known}: see DicomModalities in its configuration"
            ) from None

    def check_method(self) -> None:
        """Make sure that Orthanc can ask for images as the settings say.

        Raises
        ------
        UsageError
            It is to ask by C-GET, and is too old for that.
        """
        if self._method != "get":
            return
        version = str(self._rest.json("/system").get("Version", ""))
        found = _VERSION.match(version)
        if found and tuple(map(int, found.groups())) < _CAN_GET:
            raise UsageError(
                f"Orthanc {version} does not ask for images by C-GET (CXR_RETRIEVE_METHOD): 1.12.6 is the first that"
                " does. Take a newer one, or C-MOVE, for which the PACS has to reach Orthanc's DICOM port"
            )

    def find(self, level: str, keys: Mapping[str, str]) -> list[dict[str, str]]:
        """Return what the modality answers to a query (C-FIND), as keywords and text.

        Parameters
        ----------
        level
            ``Study``, ``Series`` or ``Instance``; the UIDs of the levels above have to stand in the keys.
        keys
            What has to match, and, empty, what else is to be returned.

        Raises
        ------
        ModalityFailed
            It doesn't answer, or refuses.
        UsageError
            Orthanc can't read its answers.
        """
        answer = self._asked(level, keys)
        query = f"/queries/{answer['ID']}"
        found = self._rest.parsed(self._rest.call("GET", f"{query}/answers?expand&simplify"))
        with suppress(InstanceRejected, ServiceUnavailable):
            self._rest.call("DELETE", query)  # Orthanc keeps the last hundred
        return [
            {keyword: value.strip(" \0") for keyword, value in one.items() if isinstance(value, str)}
            for one in found
        ]

    def _asked(self, level: str, keys: Mapping[str, str]) -> dict[str, object]:
        """Send a query: without asking for text, where Orthanc can't read the letters of the answers."""
        without = {keyword: value for keyword, value in keys.items() if value or keyword not in _TEXT}
        wanted = without if self._leaves_text_out else keys
        try:
            return self._ask("query", {"Level": level, "Query": dict(wanted), "Normalize": False})
        except InstanceRejected as rejected:
            if rejected.reason is Reason.NOT_IN_PACS:
                raise
            if len(wanted) > len(without):
                self._leaves_text_out = True
                return self._asked(level, keys)
            raise UsageError(
                f"Orthanc can't read what the modality {self.name} answers ({rejected.detail}): before 1.12 it reads no"
                " answers with several character sets, as they are usual in Japan and Korea. Take a newer Orthanc"
            ) from rejected

    def retrieve(self, study: str, series: str, sop: str) -> list[str]:
        """Have the modality send an image to Orthanc (C-MOVE or C-GET); return its ids there, once it is there.

        Parameters
        ----------
        study
            Study Instance UID.
        series
            Series Instance UID.
        sop
            SOP Instance UID.

        Raises
        ------
        ModalityFailed
            It doesn't answer, refuses, or says that it sent an image that doesn't arrive.
        """
        resource = {"StudyInstanceUID": study, "SeriesInstanceUID": series, "SOPInstanceUID": sop}
        wanted = {"Level": "Instance", "Resources": [resource], "Timeout": max(1, round(self._seconds))}
        self._ask(self._method, wanted)
        deadline = time.monotonic() + ARRIVAL_SECONDS
        while not (held := self.held(series, sop)):
            if time.monotonic() > deadline:
                raise self._not_received()
            time.sleep(_LOOK_EVERY)
        return held

    def _not_received(self) -> ModalityFailed:
        if self._method == "get":
            return ModalityFailed(
                f"the modality {self.name} says that it sent an image, and Orthanc has not received it: does Orthanc"
                " accept its kind (AcceptedSopClasses)?"
            )
        return ModalityFailed(
            f"the modality {self.name} says that it sent an image, and Orthanc has not received it: does it"
            " know Orthanc's AE title with Orthanc's own address and port?"
        )

    def held(self, series: str, sop: str) -> list[str]:
        """Return Orthanc's ids of an image: of several under its UID, those in a series of this UID."""
        found = self.orthanc.find([sop]).get(sop, [])
        return [one for one in found if self.series_uid(one) == series]

    def series_uid(self, instance: str) -> str:
        """Return the Series Instance UID of an instance in Orthanc; empty where that is gone."""
        try:
            tags = self._rest.json(f"/instances/{checked_id(instance)}/series").get("MainDicomTags", {})
        except InstanceRejected:
            return ""  # gone meanwhile
        return str(tags.get("SeriesInstanceUID", ""))

    def deliver(self, instances: Sequence[str]) -> None:
        """Send instances of Orthanc's to the modality (C-STORE).

        Raises
        ------
        ModalityFailed
            It doesn't answer, or refuses one of them.
        """
        wanted = {"Resources": list(instances), "Synchronous": True, "Timeout": max(1, round(self._seconds))}
        self._translated(lambda: self._ask("store", wanted), Reason.NOT_DELIVERED)

    def lists(self, study: str, series: str, sop: str) -> bool:
        """Whether the modality lists an object (C-FIND).

        Parameters
        ----------
        study
            Study Instance UID.
        series
            Series Instance UID.
        sop
            SOP Instance UID.
        """
        keys = {"StudyInstanceUID": study, "SeriesInstanceUID": series, "SOPInstanceUID": sop}
        answers = self._translated(lambda: self.find("Instance", keys), Reason.NOT_DELIVERED)
        return any(one.get("SOPInstanceUID") == sop for one in answers)

    def commit(self, instance: str, *, seconds: float) -> None:
        """Have the modality commit itself to keep an instance of Orthanc's (PS3.4 annex J).

        Raises
        ------
        ModalityFailed
            It refuses, or is silent for so many seconds.
        """
        wanted = {"Resources": [instance], "Timeout": max(1, round(self._seconds))}
        answer = self._translated(lambda: self._ask("storage-commitment", wanted), Reason.NOT_DELIVERED)
        deadline = time.monotonic() + seconds
        while (status := self._rest.json(f"/storage-commitment/{answer['ID']}").get("Status")) == "Pending":
            if time.monotonic() > deadline:
                break
            time.sleep(_LOOK_EVERY)
        if status != "Success":
            raise ModalityFailed(
                f"the modality {self.name} does not commit itself to a report ({printable(str(status))})",
                Reason.NOT_DELIVERED,
            )

    def _ask(self, what: str, body: Mapping[str, object]) -> dict[str, object]:
        try:
            response = self._rest.call(
                "POST", f"/modalities/{self.name}/{what}", json=body, timeout=self._seconds + _MARGIN
            )
        except ModalityFailed as error:
            raise ModalityFailed(f"the modality {self.name}: {error}", error.reason) from error
        return dict(self._rest.parsed(response)) if response.content else {}

    @staticmethod
    def _translated(ask: Callable[[], T], reason: Reason) -> T:
        try:
            return ask()
        except ModalityFailed as error:
            raise ModalityFailed(str(error), reason) from error
