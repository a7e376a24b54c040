"""A hospital's PACS that does wrong on demand: pynetdicom's application entity, scripted, on a free port.

Another implementation than Orthanc's and dcmtk's, and the only one that can be told to reject, to fail, to stall and to
lie.
"""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import AE, AllStoragePresentationContexts, build_context, build_role, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # made at import
    StorageCommitmentPushModel,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)

from tests.support.servers import OrthancServer, free_port

#: What an answer holds beside what was asked for.
_UIDS = {"STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID", "IMAGE": "SOPInstanceUID"}
#: What the modality counts, and keeps in no file.
_COUNTED = {"ModalitiesInStudy", "NumberOfSeriesRelatedInstances", "NumberOfStudyRelatedSeries"}


@dataclass
class ScriptedHospital:
    """Images in memory, and what is wrong with how they are given and taken."""

    title: str = "HOSPITAL"
    host: str = "127.0.0.1"  #: the address of this machine that it listens at
    port: int = field(default_factory=free_port)
    images: dict[str, Dataset] = field(default_factory=dict)  #: by SOP Instance UID
    stored: list[Dataset] = field(default_factory=list)  #: what came by C-STORE, each time it came
    limit: int = 0  #: C-FIND answers no more, and says nothing; 0 for none
    ignores_time: bool = False  #: matches no Study Time
    ignores_modality: bool = False  #: matches no Modalities in Study
    ignores_date: bool = False  #: matches no Study Date
    ignores_study: bool = False  #: matches no UID of what was asked for
    matches_undated: bool = False  #: a study without a date matches each
    changed: Callable[[Dataset, str], Dataset | None] = lambda answer, level: (
        answer
    )  #: what it answers instead
    find_ends: int | None = None  #: C-FIND ends so behind its first answer: a status, or -1 for an abort
    hidden: set[str] = field(default_factory=set)  #: counted, and not listed
    twice: bool = False  #: answers everything twice, and sends it twice
    rejects: bool = False  #: rejects every association
    refuses_move: Callable[[str], bool] = lambda _: False  #: by SOP Instance UID: that sub-operation fails
    loses: Callable[[str], bool] = lambda _: False  #: says that it sent it, and doesn't
    refuses_find: Callable[[], bool] = lambda: False  #: asked for each query
    refuses_store: Callable[[str], bool] = lambda _: False
    sends_instead: dict[str, Dataset] = field(default_factory=dict)  #: by the SOP Instance UID asked for
    stalls: float = 0.0  #: seconds of silence before a C-MOVE begins
    commits: str = "yes"  #: to what it is asked to keep; "no", or "never" for no answer
    unlisted_stores: bool = False  #: takes objects, and lists none of them
    finds: list[Dataset] = field(default_factory=list)  #: each query that came
    moves: list[str] = field(default_factory=list)  #: each SOP Instance UID that was asked for by C-MOVE
    gets: list[str] = field(default_factory=list)  #: and by C-GET
    moving: int = 0
    most_moving: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    destination: tuple[str, int] = ("127.0.0.1", 0)
    _server: Any = None
    _answers: list[threading.Thread] = field(default_factory=list)

    def hold(self, file: bytes) -> str:
        """Take an image in; return its SOP Instance UID."""
        image = dcmread(io.BytesIO(file))
        self.images[str(image.SOPInstanceUID)] = image
        return str(image.SOPInstanceUID)

    def start(self) -> None:
        ae = AE(ae_title=self.title)
        ae.maximum_associations = 32
        for context in (
            Verification,
            StudyRootQueryRetrieveInformationModelFind,
            StudyRootQueryRetrieveInformationModelMove,
            StudyRootQueryRetrieveInformationModelGet,
            StorageCommitmentPushModel,
        ):
            ae.add_supported_context(context)
        for one in (
            AllStoragePresentationContexts
        ):  # in either direction: what is got comes over the same association
            ae.add_supported_context(str(one.abstract_syntax), scu_role=True, scp_role=True)
        handlers: list[Any] = [
            (evt.EVT_REQUESTED, self._requested),
            (evt.EVT_C_FIND, self._find),
            (evt.EVT_C_MOVE, self._move),
            (evt.EVT_C_GET, self._get),
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_N_ACTION, self._asked_to_commit),
        ]
        self._server = ae.start_server((self.host, self.port), block=False, evt_handlers=handlers)

    def stop(self) -> None:
        for answer in self._answers:
            answer.join(30)
        if self._server is not None:
            self._server.shutdown()
            self._server = None

    def _requested(self, event: Any) -> None:
        if self.rejects:
            event.assoc.acse.send_reject(1, 1, 1)  # permanent, by the user, no reason (PS3.8 9.3.4)
            event.assoc.kill()

    def _find(self, event: Any) -> Iterator[tuple[int, Dataset | None]]:
        query = event.identifier
        self.finds.append(query)
        with self.lock:
            refused = self.refuses_find()
        if refused:
            yield 0xA700, None
            return
        level = str(query.QueryRetrieveLevel)
        found = list(self._matching(query, level))
        found = found[: self.limit] if self.limit and level == "STUDY" else found
        answers = [self.changed(answer, level) for answer in found * (2 if self.twice else 1)]
        for number, answer in enumerate(one for one in answers if one is not None):
            if number and self.find_ends == -1:
                event.assoc.abort()
                return
            if number and self.find_ends is not None:
                yield self.find_ends, None
                return
            yield 0xFF00, answer

    def _matching(self, query: Dataset, level: str) -> Iterator[Dataset]:
        seen: set[str] = set()
        uid = _UIDS[level]
        for image in [*self.images.values(), *([] if self.unlisted_stores else self.stored)]:
            name = str(image[uid].value)
            if name in seen or not self._matches(query, image):
                continue
            if level == "IMAGE" and name in self.hidden:
                continue
            seen.add(name)
            answer = Dataset()
            answer.QueryRetrieveLevel = level
            answer.SpecificCharacterSet = image.get("SpecificCharacterSet", "ISO_IR 100")
            for element in (one for one in query if one.tag.group != 2):
                if element.keyword in _COUNTED:
                    setattr(answer, element.keyword, self._counted(element.keyword, image))
                elif element.keyword not in ("QueryRetrieveLevel", "SpecificCharacterSet"):
                    setattr(answer, element.keyword, image.get(element.keyword, ""))
            yield answer

    def _counted(self, keyword: str, image: Dataset) -> Any:
        if keyword == "NumberOfStudyRelatedSeries":
            same = (one for one in self.images.values() if one.StudyInstanceUID == image.StudyInstanceUID)
            return len({str(one.SeriesInstanceUID) for one in same})
        if keyword == "ModalitiesInStudy":
            same = (one for one in self.images.values() if one.StudyInstanceUID == image.StudyInstanceUID)
            return sorted({str(one.Modality) for one in same})
        return sum(one.SeriesInstanceUID == image.SeriesInstanceUID for one in self.images.values())

    def _matches(self, query: Dataset, image: Dataset) -> bool:
        for element in query:
            wanted, keyword = str(element.value or ""), element.keyword
            # Orthanc 1.10 adds the meta header's UID of the instance, which no data set holds.
            if (
                not wanted
                or element.tag.group == 2
                or keyword in ("QueryRetrieveLevel", "SpecificCharacterSet")
            ):
                continue
            if keyword == "ModalitiesInStudy":
                if not self.ignores_modality and wanted not in self._counted(keyword, image):
                    return False
            elif (keyword == "StudyTime" and self.ignores_time) or (
                keyword == "StudyDate" and self.ignores_date
            ):
                continue
            elif keyword in ("StudyDate", "StudyTime"):
                first, dash, last = wanted.partition("-")
                held = str(image.get(keyword, "") or "")
                if keyword == "StudyDate" and not held and self.matches_undated:
                    continue
                if not held or not (first <= held and (not dash or held <= last) and (dash or held == first)):
                    return False
            elif not self.ignores_study and str(image.get(keyword, "")) != wanted:
                return False
        return True

    def _move(self, event: Any) -> Iterator[Any]:
        query = event.identifier
        wanted = [one for one in self.images.values() if self._matches(query, one)]
        asked = str(query.get("SOPInstanceUID", ""))
        with self.lock:
            self.moves.append(asked)
            self.moving += 1
            self.most_moving = max(self.most_moving, self.moving)
        try:
            if self.stalls:
                time.sleep(self.stalls)
            if event.move_destination.strip() != "STACK":
                yield None, None  # PS3.4 C.4.2.1.5: 0xA801, the destination is unknown
                return
            contexts = [build_context(one.SOPClassUID, one.file_meta.TransferSyntaxUID) for one in wanted]
            yield *self.destination, {"ae_title": "STACK", "contexts": contexts[:1]}
            yield from self._sent(wanted)
        finally:
            with self.lock:
                self.moving -= 1

    def _sent(self, wanted: list[Dataset]) -> Iterator[Any]:
        """Yield how many images come, then each of them."""
        sent = [one for one in wanted if not self.loses(str(one.SOPInstanceUID))] * (2 if self.twice else 1)
        yield len(sent)
        for image in sent:
            uid = str(image.SOPInstanceUID)
            if self.refuses_move(uid):
                yield 0xA702, Dataset()
                return
            yield 0xFF00, self.sends_instead.get(uid, image)

    def _get(self, event: Any) -> Iterator[Any]:
        query = event.identifier
        self.gets.append(str(query.get("SOPInstanceUID", "")))
        if self.stalls:
            time.sleep(self.stalls)
        yield from self._sent([one for one in self.images.values() if self._matches(query, one)])

    def _store(self, event: Any) -> int:
        image = event.dataset
        image.file_meta = event.file_meta
        if self.refuses_store(str(image.SOPInstanceUID)):
            return 0xA700
        self.stored.append(image)
        return 0x0000

    def _asked_to_commit(self, event: Any) -> tuple[int, Dataset | None]:
        """Take a request for storage commitment; the answer comes over an association of its own (PS3.4 J.3.3)."""
        if self.commits != "never":
            answer = threading.Thread(target=self._commit, args=(event.action_information,), daemon=True)
            self._answers.append(answer)
            answer.start()
        return 0x0000, None

    def _commit(self, asked: Dataset) -> None:
        held = {str(one.SOPInstanceUID) for one in self.stored} if self.commits == "yes" else set()
        kept = [one for one in asked.ReferencedSOPSequence if str(one.ReferencedSOPInstanceUID) in held]
        failed = [one for one in asked.ReferencedSOPSequence if str(one.ReferencedSOPInstanceUID) not in held]
        for one in failed:
            one.FailureReason = 0x0112  # no such object instance
        told = Dataset()
        told.TransactionUID = asked.TransactionUID
        if kept:
            told.ReferencedSOPSequence = kept
        if failed:
            told.FailedSOPSequence = failed
        ae = AE(ae_title=self.title)
        ae.add_requested_context(StorageCommitmentPushModel)
        role = build_role(StorageCommitmentPushModel, scp_role=True)
        association = ae.associate(*self.destination, ae_title="STACK", ext_neg=[role])
        if association.is_established:
            association.send_n_event_report(
                told, 2 if failed else 1, StorageCommitmentPushModel, "1.2.840.10008.1.20.1.1"
            )
            association.release()


def make_known(orthanc: OrthancServer, name: str, title: str, port: int) -> None:
    """Tell an Orthanc of a modality on this machine."""
    import requests

    done = requests.put(
        f"{orthanc.url}/modalities/{name}",
        json={"AET": title, "Host": "127.0.0.1", "Port": port},
        auth=orthanc.auth,
        timeout=30,
    )
    assert done.ok, done.text


def forget_all(orthanc: OrthancServer) -> None:
    """Have an Orthanc know no modality: what an earlier test made known to it would be asked too."""
    import requests

    for name in orthanc.get("/modalities").json():
        requests.delete(f"{orthanc.url}/modalities/{name}", auth=orthanc.auth, timeout=30).raise_for_status()


def dicom_options(title: str, port: int) -> dict[str, object]:
    """Return the options of an Orthanc that speaks DICOM, under a title."""
    return {
        "DicomServerEnabled": True,
        "DicomAet": title,
        "DicomPort": port,
        "DicomScuTimeout": 5,
    }
