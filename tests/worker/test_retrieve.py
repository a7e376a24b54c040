"""The retrieve stage, and a report's way back: whatever the hospital's PACS does, each image once."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from typing import Any, cast

import pytest
from celery.exceptions import Reject
from pydicom import dcmread

from backlog.broker import connection
from backlog.broker.celery_app import make_app
from backlog.broker.claim import Claim
from backlog.broker.claims import Claims
from backlog.broker.item_results import Reported
from backlog.broker.job import Job
from backlog.broker.messages import DEFERRED, ItemRecord, Stage
from backlog.broker.pace import Pace
from backlog.errors import ModalityFailed, ServiceUnavailable, UsageError
from backlog.fault_attribution import FaultHistory, Operation, Verdict
from backlog.pacs.brought_in import evict, mark_brought_in
from backlog.pacs.modality import Modality
from backlog.pacs.orthanc import Orthanc
from backlog.settings import Settings
from tests.support.dicom_images import chest, dicom
from tests.support.hospital import ScriptedHospital, dicom_options, make_known
from tests.support.jobs import a_job
from tests.support.servers import OrthancServer, free_port
from worker.tasks import chunk as chunk_module
from worker.tasks import retrieve as retrieve_module
from worker.tasks.attempt import Attempt
from worker.tasks.chunk import StageRunner
from worker.tasks.deliver import deliver
from worker.tasks.resources import WorkerResources
from worker.tasks.retrieve import retrieve

SMALL = chest(64, 64)


@dataclass
class Ward:
    """A worker that retrieves, without its parent process."""

    settings: Settings
    hospital: ScriptedHospital
    orthanc: OrthancServer

    def __post_init__(self) -> None:
        self.process = WorkerResources(self.settings)
        self.app = make_app(self.settings)

    @property
    def claims(self) -> Claims:
        return self.process.claims

    @property
    def modality(self) -> Modality:
        return self.process.modality("hospital")

    def job(self, run: str = "run1") -> Job:
        return a_job(run, {"kind": "modality", "path": "", "listing": "", "modality": "hospital"})

    def submit(self, uids: list[str], *, run: str = "run1", chunk: int = 1) -> tuple[Job, int, list[Any]]:
        """Do what the producer does: the UIDs beside the claim, the rest in the message."""
        self.claims.set_references(run, chunk, [f"1.9.{uid}|1.9.{uid}.1|1.9.{uid}.1.0" for uid in uids])
        return self.job(run), chunk, [{"i": index} for index in range(len(uids))]

    def do(self, message: tuple[Job, int, list[Any]], budget: float = 0.0, **more: Any) -> None:
        job = cast("Job", json.loads(json.dumps(message[0])) | more)
        process = WorkerResources(self.settings)  # as another worker's process
        runner = StageRunner(self.app, self.claims, budget, slot_wait=process.slot_wait)
        runner.run(Stage.RETRIEVE, job, message[1], message[2], partial(retrieve, process, job))

    def following(self) -> list[dict[str, Any]]:
        """Take what the inference stage would get."""
        texts = cast("list[str]", self.claims.broker.client.lrange("inference", 0, -1))
        self.claims.broker.client.delete("inference")
        return [
            item for text in texts for item in json.loads(base64.b64decode(json.loads(text)["body"]))[0][2]
        ]

    def records(self, chunk: int = 1) -> dict[int, ItemRecord]:
        return self.claims.records("run1", chunk)

    def held(self, uid: str) -> list[str]:
        return self.modality.held(f"1.9.{uid}.1", f"1.9.{uid}.1.0")


def image(uid: str, **attributes: Any) -> bytes:
    names = {
        "StudyInstanceUID": f"1.9.{uid}",
        "SeriesInstanceUID": f"1.9.{uid}.1",
        "SOPInstanceUID": f"1.9.{uid}.1.0",
    }
    return dicom(SMALL, **names | {"PatientName": "Doe^Jane", "PatientID": "SECRET"} | attributes)


@pytest.fixture
def ward(
    redis_url: str,
    hospital: ScriptedHospital,
    dicom_orthanc: OrthancServer,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Ward]:
    settings = Settings(
        redis_url=redis_url,
        pacs_url=dicom_orthanc.url,
        pacs_username=dicom_orthanc.username,
        pacs_password=dicom_orthanc.password,
        pacs_seconds=5.0,
        lease_seconds=60.0,  # longer than a busy machine pauses a test
    )
    monkeypatch.setattr(chunk_module, "wait_a_little", lambda error: None)
    monkeypatch.setattr("backlog.pacs.modality.ARRIVAL_SECONDS", 0.3)
    for uid in "123":
        hospital.hold(image(uid))
    made = Ward(settings, hospital, dicom_orthanc)
    yield made
    made.claims.broker.close()
    made.app.close()


def test_an_image_comes_once_however_often_it_is_asked_for(ward: Ward) -> None:
    message = ward.submit(["1", "2"])
    ward.hospital.twice = True
    for _ in range(3):
        ward.do(message)
    assert [item["instance"] for item in ward.following()] == [*ward.held("1"), *ward.held("2")]
    assert sorted(ward.hospital.moves) == ["1.9.1.1.0", "1.9.2.1.0"]


def test_no_message_holds_what_an_image_is_called(ward: Ward) -> None:
    ward.do(ward.submit(["1"]))
    raw = cast("list[str]", ward.claims.broker.client.lrange("inference", 0, -1))
    seen = "".join(raw) + "".join(base64.b64decode(json.loads(text)["body"]).decode() for text in raw)
    assert seen
    for private in ("1.9.1", "SECRET", "Doe"):
        assert private not in seen


def test_what_redis_forgot_is_sent_again_and_ends_nothing(ward: Ward) -> None:
    message = ward.submit(["1"])
    ward.claims.broker.client.delete("cxr:run1:r:1")
    ward.do(message)
    assert (ward.following(), ward.records(), ward.hospital.moves) == ([], {}, [])


def test_an_image_that_is_never_sent_ends_and_the_others_go_on(ward: Ward) -> None:
    ward.hospital.refuses_move = lambda uid: uid == "1.9.2.1.0"
    message = ward.submit(["1", "2", "3"])
    ward.do(message)
    assert [item["i"] for item in ward.following()] == [0, 2]
    record = ward.records()[1]
    assert record["outcome"] in (DEFERRED, "quarantined")  # as others were served after it once or twice
    assert record["reason"] == "not_retrieved"
    assert "0xA702" in record["detail"]


@pytest.mark.parametrize("wrong", ["SeriesInstanceUID", "SOPInstanceUID"])
def test_another_image_than_asked_for_is_not_scored(ward: Ward, wrong: str) -> None:
    """Of another series, or under another UID: the one that was asked for is missing, and the others go on."""
    other = dcmread(BytesIO(image("2", **{wrong: "1.9.99"})))
    other.file_meta.MediaStorageSOPInstanceUID = other.SOPInstanceUID
    ward.hospital.sends_instead["1.9.2.1.0"] = other
    ward.do(ward.submit(["1", "2", "3"]))
    assert [item["instance"] for item in ward.following()] == [*ward.held("1"), *ward.held("3")]
    record = ward.records()[1]
    assert (record["reason"], ward.held("2")) == ("not_retrieved", [])


def test_the_last_image_of_a_run_has_an_earlier_one_as_witness(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where that one was evicted: it is sent again as a proof, and leaves again."""
    monkeypatch.setattr(retrieve_module, "PROVE_EVERY", 0.0)
    ward.do(ward.submit(["1"]))
    evict(ward.modality.orthanc, ward.held("1")[0], "run1", ward.claims.broker.exclusive)
    ward.hospital.refuses_move = lambda uid: uid == "1.9.2.1.0"
    history: list[int] = []
    for chunk in range(2, 6):  # as the producer sends it again, alone
        ward.do(ward.submit(["2"], chunk=chunk), retry=True, history=history)
        found = ward.records(chunk)[0]
        history = found.get("history", [])
        if found["outcome"] != DEFERRED or FaultHistory(history).verdict is Verdict.ITEM:
            break
    assert found["reason"] == "not_retrieved"
    assert chunk < 5
    assert ward.held("1") == []


@pytest.mark.parametrize("what", ["rejects", "refuses_move", "loses"])
def test_a_modality_that_fails_on_all_ends_no_image(ward: Ward, what: str) -> None:
    setattr(ward.hospital, what, True if what == "rejects" else lambda _: True)
    message = ward.submit(["1", "2", "3"])
    for _ in range(3):
        with pytest.raises(Reject):
            ward.do(message)
    assert ward.records() == {}
    assert "hospital" in ward.claims.waiting_reason("run1")
    setattr(ward.hospital, what, False if what == "rejects" else lambda _: False)
    ward.do(message)
    assert [item["i"] for item in ward.following()] == [0, 1, 2]


def test_a_modality_that_stalls_is_given_up_on_and_asked_again(ward: Ward) -> None:
    ward.settings = Settings(**vars(ward.settings) | {"pacs_seconds": 1.0})
    ward.hospital.stalls = 30.0
    message = ward.submit(["1"])
    with pytest.raises(Reject):
        ward.do(message)
    ward.hospital.stalls = 0.0
    ward.do(message)
    assert len(ward.following()) == 1


def test_no_more_are_asked_for_at_a_time_than_allowed(ward: Ward) -> None:
    ward.settings = Settings(**vars(ward.settings) | {"retrieve_requests": 1})
    ward.hospital.stalls = 0.1
    messages = [ward.submit([uid], chunk=int(uid)) for uid in "123"]
    threads = [threading.Thread(target=ward.do, args=(message,)) for message in messages]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(ward.following()) == 3
    assert ward.hospital.most_moving == 1


def test_the_pace_is_that_of_all_workers_together(ward: Ward) -> None:
    paces = [Pace(Claims(ward.settings.broker).broker, "x", 60) for _ in range(2)]
    waits = [paces[number % 2].seconds() for number in range(4)]
    assert waits == pytest.approx([0, 1, 2, 3], abs=0.5)
    assert Pace(ward.claims.broker, "y", 0).seconds() == 0


def test_the_same_uid_in_another_series_is_another_image(ward: Ward) -> None:
    foreign = image("1", StudyInstanceUID="1.8", SeriesInstanceUID="1.8.1")
    assert ward.orthanc.post("/instances", foreign).ok
    ward.do(ward.submit(["1"]))
    assert [item["instance"] for item in ward.following()] == ward.held("1")


def test_only_what_the_run_brought_in_is_evicted(ward: Ward) -> None:
    assert ward.orthanc.post("/instances", image("1")).ok
    ward.do(ward.submit(["1", "2"]))
    orthanc = ward.modality.orthanc
    assert not evict(orthanc, ward.held("1")[0], "run1", ward.claims.broker.exclusive)
    assert evict(orthanc, ward.held("2")[0], "run1", ward.claims.broker.exclusive)
    assert (len(ward.held("1")), len(ward.held("2"))) == (1, 0)


def test_an_image_stays_for_as_long_as_another_run_needs_it(ward: Ward) -> None:
    for run in ("run1", "run2"):
        ward.do(ward.submit(["1"], run=run))
    orthanc, (instance,) = ward.modality.orthanc, ward.held("1")
    assert not evict(orthanc, instance, "run1", ward.claims.broker.exclusive)
    assert not evict(orthanc, instance, "run1", ward.claims.broker.exclusive)
    assert evict(orthanc, instance, "run2", ward.claims.broker.exclusive)


def test_what_a_run_keeps_is_never_evicted(ward: Ward) -> None:
    ward.do(ward.submit(["1"]), keep=True)
    assert not evict(ward.modality.orthanc, ward.held("1")[0], "run1", ward.claims.broker.exclusive)


def test_a_modality_says_whether_it_is_there(ward: Ward) -> None:
    ward.modality.check()
    with pytest.raises(UsageError, match=r"knows no modality 'nobody'; it knows .*hospital"):
        ward.process.modality("nobody").check()
    ward.hospital.stop()
    with pytest.raises(ModalityFailed, match="refused"):
        ward.modality.check()


def test_a_report_that_is_not_taken_is_said(ward: Ward) -> None:
    ward.do(ward.submit(["1"]))
    ward.hospital.refuses_store = lambda _: True
    with pytest.raises(ModalityFailed, match="0xA700") as caught:
        ward.modality.deliver(ward.held("1"))
    assert caught.value.reason.value == "not_delivered"


def test_a_report_that_is_never_taken_has_another_as_witness(ward: Ward) -> None:
    for chunk, uid in enumerate("12", 1):
        ward.do(ward.submit([uid], chunk=chunk))
    claim = ward.claims.claim("run1", 3, Stage.RETRIEVE, Stage.RETRIEVE)
    assert isinstance(claim, Claim)
    attempt = Attempt(claim, Stage.REPORT, 0.0)
    job: Job = {**ward.job(), "deliver": "hospital"}
    taken, refused = (
        Reported(
            instance=ward.held(uid)[0],
            sop_instance_uid="",
            study_instance_uid=f"1.9.{uid}",
            sr_sop_instance_uid=f"1.9.{uid}.1.0",
            sr_instance=ward.held(uid)[0],
            sr_sha256="",
            sr_ours=True,
            flags=(),
            scores=(),
            scoring=None,
        )
        for uid in "12"
    )
    for _ in range(2):
        assert deliver(ward.process, job, attempt, taken) == "hospital"
    ward.hospital.refuses_store = lambda uid: uid == "1.9.2.1.0"
    before = attempt.faults.tell_served()[Operation.DELIVER]
    with pytest.raises(ModalityFailed):
        deliver(ward.process, job, attempt, refused)
    assert attempt.faults.tell_served()[Operation.DELIVER] > before
    ward.hospital.refuses_store = lambda _: True
    ward.process.proved.clear()
    between = attempt.faults.tell_served()
    with pytest.raises(ModalityFailed):
        deliver(ward.process, job, attempt, refused)
    assert attempt.faults.tell_served() == between


@pytest.fixture(scope="module")
def other_orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[OrthancServer, int]]:
    port = free_port()
    server = OrthancServer(tmp_path_factory.mktemp("hospital"), options=dicom_options("OTHER", port))
    server.start()
    yield server, port
    server.stop()


def test_a_modality_commits_itself(ward: Ward, other_orthanc: tuple[OrthancServer, int]) -> None:
    other, port = other_orthanc
    make_known(ward.orthanc, "other", "OTHER", port)
    make_known(other, "stack", "STACK", int(str(ward.orthanc.options["DicomPort"])))
    ward.do(ward.submit(["1"]))
    (instance,) = ward.held("1")
    modality = ward.process.modality("other")
    with pytest.raises(ModalityFailed, match="does not commit itself"):
        modality.commit(instance, seconds=5)
    modality.deliver([instance])
    modality.commit(instance, seconds=5)
    assert modality.lists("1.9.1", "1.9.1.1", "1.9.1.1.0")
    assert not modality.lists("1.9.1", "1.9.1.1", "1.9.1.1.9")
    assert isinstance(modality.orthanc, Orthanc)


def test_another_make_commits_itself_or_not(ward: Ward) -> None:
    """By an association of its own, as PACSs do: to what it has, to nothing, or never."""
    ward.do(ward.submit(["1", "2"]))
    (first,), (second,) = ward.held("1"), ward.held("2")
    ward.modality.deliver([first])
    ward.modality.commit(first, seconds=10)
    with pytest.raises(ModalityFailed, match="does not commit itself") as caught:
        ward.modality.commit(second, seconds=10)  # which it never got
    assert caught.value.reason.value == "not_delivered"
    for commits, said, seconds in (("no", "Failure", 10.0), ("never", "Pending", 1.0)):
        ward.hospital.commits = commits
        with pytest.raises(ModalityFailed, match=said):
            ward.modality.commit(first, seconds=seconds)


def test_a_run_too_late_for_an_image_brings_it_in_again(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run deletes its image between our look and our mark."""
    ward.do(ward.submit(["1"], run="run2"))
    ward.following()
    exclusive, (instance,) = ward.claims.broker.exclusive, ward.held("1")
    held = Modality.held

    def deleted_behind(self: Modality, series: str, sop: str) -> list[str]:
        found = held(self, series, sop)
        if found:
            evict(self.orthanc, instance, "run2", exclusive)
        return found

    monkeypatch.setattr(Modality, "held", deleted_behind)
    ward.do(ward.submit(["1"]))
    assert [item["instance"] for item in ward.following()] == [instance]
    assert len(ward.hospital.moves) == 2
    assert evict(ward.modality.orthanc, instance, "run1", exclusive)


def test_runs_that_need_and_leave_an_image_at_once_lose_no_mark(
    ward: Ward, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found: both read the marks, each wrote its own, and the image was deleted that one of them needed still."""
    monkeypatch.setattr(connection, "LOCK_WAIT_SECONDS", 60.0)
    ward.do(ward.submit(["1"], run="first"))
    orthanc, exclusive, (instance,) = ward.modality.orthanc, ward.claims.broker.exclusive, ward.held("1")
    runs = [f"run{number}" for number in range(8)]

    def mark(run: str) -> bool:
        return mark_brought_in(orthanc, instance, run, exclusive, is_new=False)

    def leave(run: str) -> bool:
        return evict(orthanc, instance, run, exclusive)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(mark, runs))
        assert not any(pool.map(leave, ["first", *runs[1:]]))
    assert ward.held("1") == [instance]
    assert leave(runs[0])
    assert not mark("too late")


def test_a_name_is_free_again_when_its_block_is_left(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "LOCK_WAIT_SECONDS", 0.1)
    exclusive = ward.claims.broker.exclusive
    with exclusive("one"), exclusive("another"), pytest.raises(ServiceUnavailable), exclusive("one"):
        pass
    with exclusive("one"):
        pass
