"""A PACS that deletes, or that stores nothing, is found out before it costs anybody an image."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from backlog.broker.claims import ChunkProgress
from backlog.broker.messages import Stage
from backlog.errors import ServiceUnavailable, UsageError
from backlog.outcomes import Reason
from backlog.pacs.configuration import OrthancConfiguration
from backlog.pacs.orthanc import Orthanc
from backlog.settings import Settings
from producer.dispatch.slow_start import SlowStart
from producer.doctor.pacs import check_pacs_of
from producer.ledger.ledger import Ledger
from producer.plan import make_plan
from producer.run import check_pacs
from producer.run.check_pacs import DeletionWatch, deletion_watch, pacs_problems
from producer.run.create import create
from producer.run.folder import Paths
from producer.sources.open import Selection
from tests.support.dicom_images import chest, dicom
from tests.support.ended_runs import CHUNK, harvest, list_items, new_ledger, rejected
from tests.support.newer_orthanc import an_orthanc, lacking
from tests.support.servers import OrthancServer

NOT_SLOW = SlowStart(wanted=False)


def settings_of(server: OrthancServer, **more: Any) -> Settings:
    return Settings(pacs_username=server.username, pacs_password=server.password, **more)


def patient(number: int) -> bytes:
    uids: dict[str, Any] = {
        "SOPInstanceUID": f"1.2.{number}",
        "SeriesInstanceUID": f"1.3.{number}",
        "StudyInstanceUID": f"1.4.{number}",
    }
    return dicom(chest(64, 64), PatientID=f"P{number}", **uids)


@pytest.fixture
def needs_newer() -> None:
    if why := lacking("1.12"):
        pytest.skip(why)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"MaximumPatientCount": 40}, "deletes its oldest patients.*MaximumPatientCount 40"),
        ({"MaximumStorageSize": 100}, "MaximumStorageSize 100"),
        ({"ReadOnly": True}, "stores nothing"),
        ({"IngestTranscoding": "1.2.840.10008.1.2.4.50"}, "with loss"),
    ],
)
def test_what_a_pacs_tells_against_a_run_refuses_it(
    options: dict[str, object], says: str, tmp_path: Path, needs_newer: None
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "1.dcm").write_bytes(patient(1))
    with an_orthanc("1.12", tmp_path, **options) as server:
        settings = settings_of(server)
        with pytest.raises(UsageError, match=says):
            create(
                str(tmp_path / "in"), settings, server.url, Paths(tmp_path / "out"), Selection(), workers=1
            )
        assert not (tmp_path / "out").exists()
        checked = check_pacs_of(settings, server.url)
        assert checked.state == "BAD"
        assert says.split(".*")[0] in checked.text
        plan = make_plan(str(tmp_path / "in"), settings, server.url, Selection(), 0)
        assert says.split(".*")[0] in plan.pacs_problems[0]
        assert server.get("/statistics").json()["CountInstances"] == 0


def test_wanted_loss_and_rejecting_limits_are_allowed(tmp_path: Path, needs_newer: None) -> None:
    with an_orthanc("1.12", tmp_path, MaximumPatientCount=40) as server:
        allowed = settings_of(server, allow_recycling=True)
        assert pacs_problems(allowed, server.url, Stage.UPLOAD) == []
    with an_orthanc("1.12", tmp_path, MaximumPatientCount=40, MaximumStorageMode="Reject") as server:
        assert pacs_problems(settings_of(server), server.url, Stage.UPLOAD) == []


def test_lossy_compression_matters_only_to_images() -> None:
    found = OrthancConfiguration.from_system({"IngestTranscoding": "1.2.840.10008.1.2.4.91"}, writable=True)
    assert found.problems(stores_images=False, retrieves=False, allow_recycling=False) == []
    assert len(found.problems(stores_images=True, retrieves=True, allow_recycling=False)) == 1
    assert found.recycles is None


@pytest.mark.parametrize(
    ("syntax", "refused"),
    [
        ("", False),
        ("1.2.840.10008.1.2.4.70", False),
        ("1.2.840.10008.1.2.4.57", False),
        ("1.2.840.10008.1.2.4.80", True),
        ("1.2.840.10008.1.2.4.90", True),  # nobody has shown that it keeps all bits
    ],
)
def test_retrieved_images_are_not_transcoded_by_dropping_bits(syntax: str, refused: bool) -> None:
    """No file of ours tells afterwards what they were; a run that uploads compares each image instead."""
    found = OrthancConfiguration.from_system({"IngestTranscoding": syntax}, writable=True)
    assert found.problems(stores_images=True, retrieves=False, allow_recycling=False) == []
    problems = found.problems(stores_images=True, retrieves=True, allow_recycling=False)
    assert ["IngestTranscoding" in one for one in problems] == [True] * refused


def test_a_run_of_a_hospital_refuses_an_orthanc_that_drops_bits(
    orthanc: OrthancServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    transcoding = OrthancConfiguration.from_system(
        {"IngestTranscoding": "1.2.840.10008.1.2.4.80"}, writable=True
    )
    monkeypatch.setattr(Orthanc, "configuration", lambda _: transcoding)
    with pytest.raises(UsageError, match="set it to none, or to JPEG lossless"):
        check_pacs.check_pacs(settings_of(orthanc), orthanc.url, Stage.RETRIEVE)
    check_pacs.check_pacs(settings_of(orthanc), orthanc.url, Stage.UPLOAD)


# -- an Orthanc that doesn't tell ----------------------------------------------------------------------------


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = new_ledger(tmp_path / "out")
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _always_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_pacs, "INTERVAL", 0.0)
    monkeypatch.setattr(check_pacs, "SHARE", 0)


def client(server: OrthancServer) -> Orthanc:
    return Orthanc(server.url, username=server.username, password=server.password)


def test_vanishing_patients_stop_the_run_until_the_user_agrees(tmp_path: Path, ledger: Ledger) -> None:
    with an_orthanc("installed", tmp_path, MaximumPatientCount=4) as server, closing(client(server)) as pacs:
        assert check_pacs_of(settings_of(server), server.url).state == "look"
        for number in range(3):
            server.post("/instances", patient(number))
        watch = deletion_watch(settings_of(server), pacs, ledger, stores_images=True)
        assert watch is not None
        watch.check()
        server.post("/instances", patient(3))
        watch.check()
        server.post("/instances", patient(4))  # the first has to go
        with pytest.raises(UsageError, match=r"1 patients vanished.*MaximumPatientCount"):
            watch.check()
        with pytest.raises(UsageError, match="CXR_ALLOW_RECYCLING"):
            deletion_watch(settings_of(server), pacs, ledger, stores_images=True)
        allowed = settings_of(server, allow_recycling=True)
        assert deletion_watch(allowed, pacs, ledger, stores_images=True) is None


def test_a_run_beside_other_patients_begins_slowly(
    orthanc: OrthancServer, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An archive that recycles is full: its first new patient costs it one. Each chunk waits for a look."""
    monkeypatch.setattr(check_pacs, "INTERVAL", 3600.0)
    with closing(client(orthanc)) as pacs:
        empty = deletion_watch(settings_of(orthanc), pacs, ledger, stores_images=True)
        orthanc.post("/instances", patient(0))
        reports_only = deletion_watch(settings_of(orthanc), pacs, ledger, stores_images=False)
        watch = deletion_watch(settings_of(orthanc), pacs, ledger, stores_images=True)
        assert empty is not None
        assert reports_only is not None
        assert watch is not None
        assert not empty.slow_start.on
        assert not reports_only.slow_start.on
        list_items(ledger, 8 * CHUNK)
        watch.check()
        orthanc.clear()
        watch.check()  # nothing was stored since, and the hour is not over
        assert watch.slow_start.on
        watch.slow_start.note(0, [1], {1: ChunkProgress(Stage.UPLOAD, leased=True)})
        watch.check()
        watch.slow_start.note(0, [1], {1: ChunkProgress(Stage.INFER, leased=False)})
        with pytest.raises(UsageError, match="1 patients vanished"):
            watch.check()
        watch.slow_start.note(6, [], {})
        assert not watch.slow_start.on


def test_a_failed_look_is_repeated_before_more_is_sent(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found: the chunk behind which it was due counted as looked at, and the next one was sent."""
    monkeypatch.setattr(check_pacs, "INTERVAL", 3600.0)
    with an_orthanc("installed", tmp_path) as server, closing(client(server)) as pacs:
        server.post("/instances", patient(0))
        watch = deletion_watch(settings_of(server), pacs, ledger, stores_images=True)
        assert watch is not None
        list_items(ledger, 8 * CHUNK)
        watch.check()
        watch.slow_start.note(1, [], {})
        server.stop()
        with pytest.raises(ServiceUnavailable):  # the dispatcher waits, and sends nothing meanwhile
            watch.check()
        server.start()
        server.clear()
        with pytest.raises(UsageError, match="1 patients vanished"):
            watch.check()


def test_patients_who_come_and_reports_that_go_stop_nothing(orthanc: OrthancServer, ledger: Ledger) -> None:
    report: dict[str, Any] = {
        "StudyInstanceUID": "1.4.0",
        "SeriesInstanceUID": "1.5",
        "SOPInstanceUID": "1.6",
    }
    with closing(client(orthanc)) as pacs:
        orthanc.post("/instances", patient(0))
        watch = DeletionWatch(pacs, ledger, stores_images=True, slow_start=NOT_SLOW)
        for number in range(1, 30):
            watch.check()
            orthanc.post("/instances", patient(number))
            pacs.delete(pacs.store(dicom(None, Modality="SR", PatientID="P0", **report)).instance)
        watch.check()


def test_own_images_that_are_gone_stop_the_run(orthanc: OrthancServer, ledger: Ledger) -> None:
    list_items(ledger, 4)
    with closing(client(orthanc)) as pacs:
        watch = DeletionWatch(pacs, ledger, stores_images=True, slow_start=NOT_SLOW)
        listed = DeletionWatch(pacs, ledger, stores_images=False, slow_start=NOT_SLOW)
        for one in (watch, listed):
            one.check()
        harvest(ledger, lambda _: rejected(Reason.NOT_IN_PACS))
        listed.check()  # of an Orthanc's own images others may delete some
        with pytest.raises(UsageError, match="4 images that this run stored are gone"):
            watch.check()


def test_a_slow_pacs_is_looked_at_more_rarely(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found: at 1 s an answer half of all requests were the producer's own looks."""
    clock, looks = [1000.0], []

    class Slow:
        def statistics(self) -> dict[str, int]:
            looks.append(clock[0])
            clock[0] += 1.0
            return {"CountPatients": 3}

        def last_change(self) -> int:
            clock[0] += 1.0
            return 7

        def new_patients(self, since: int) -> tuple[int, int]:
            clock[0] += 1.0
            return since, 0

    monkeypatch.setattr(check_pacs, "INTERVAL", 2.0)
    monkeypatch.setattr(check_pacs, "SHARE", 10)
    monkeypatch.setattr("producer.run.check_pacs.time.monotonic", lambda: clock[0])
    watch = DeletionWatch(Slow(), ledger, stores_images=False, slow_start=NOT_SLOW)  # type: ignore[arg-type]  # what it asks of one
    while clock[0] < 1220:
        watch.check()
        clock[0] += 0.1
    assert len(looks) == 10  # 2 s of each 22
