"""Reports that a run stored and did not record, or that lie in the wrong study, are found and taken back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backlog.broker.messages import ItemRecord, Stage
from backlog.dicom.file import DicomFile
from backlog.dicom.header import identity, read_header
from backlog.errors import ServiceUnavailable, UsageError
from backlog.outcomes import Reason
from backlog.pacs.base import Pacs
from backlog.pacs.folder import FolderPacs
from backlog.pacs.orthanc import Orthanc
from producer.ledger.ledger import Ledger
from producer.results.retract import retract
from producer.results.verify import verify
from tests.support.ended_runs import harvest, list_items, new_ledger, rejected, reported, some_scores
from tests.support.newer_orthanc import VERSIONS, an_orthanc, lacking
from tests.worker.test_report import JOB, image, reported_through

COUNT = 6
EARLIER = JOB | {"when": "2025-05-05T05:05:05+00:00"}


@pytest.fixture(params=[*VERSIONS, "folder"])
def pacs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pacs]:
    if request.param == "folder":
        yield FolderPacs(tmp_path / "pacs")
        return
    if why := lacking(request.param):
        pytest.skip(why)
    limits = {"LimitFindResults": 2, "LimitFindInstances": 2}
    with an_orthanc(request.param, tmp_path, **limits) as server:
        client = Orthanc(server.url, username=server.username, password=server.password)
        yield client
        client.close()


def a_ledger(folder: Path, record: Any, **more: Any) -> Ledger:
    ledger = new_ledger(folder)
    ledger.set("job", ledger.get("job") | {"weights": JOB["weights"], "when": JOB["when"]} | more)
    list_items(ledger, COUNT)
    harvest(ledger, record)
    return ledger


def test_reports_of_items_that_are_not_reported_are_found(pacs: Pacs, tmp_path: Path) -> None:
    images = [pacs.store(image(number)).instance for number in range(COUNT)]
    records = reported_through(pacs, images[:4])
    earlier = reported_through(pacs, images[4:5], EARLIER)

    def record(item: int) -> Any:
        if item < 2:
            return records[item]
        known: dict[str, Any] = {} if item == 2 else {"instance": images[item]}
        if item == 3:
            known["sop_instance_uid"] = f"1.2.{item}"
        return rejected(Reason.INTERNAL_ERROR, **known)

    read = {2: image(2)}
    with closing(a_ledger(tmp_path / "out", record)) as ledger:
        found = verify(ledger, pacs, read=lambda ref: read[int(ref)])
        assert (found.right, found.unrecorded, found.complete) == (2, [2, 3], False)
        done = retract(ledger, pacs, read=lambda ref: read[int(ref)])
        assert (done.reports, done.unrecorded, done.left) == (2, 2, 0)
        after = verify(ledger, pacs, read=lambda ref: read[int(ref)])
        assert (after.unrecorded, after.retracted) == ([], 2)
        assert pacs.fetch(earlier[0]["sr_instance"])  # an earlier run's
        assert all(pacs.fetch(one) for one in images)


def test_one_forbidden_image_fails_neither_verify_nor_retract(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Found: a filter that forbids one image had both end as if the password were wrong."""
    pacs = FolderPacs(tmp_path / "pacs")
    images = [pacs.store(image(number)).instance for number in range(COUNT)]
    records = reported_through(pacs, images[:5])
    real = FolderPacs.header

    def forbidden(self: FolderPacs, instance: str) -> DicomFile:
        if instance == images[5]:
            raise UsageError("refuses the user or the password")
        return real(self, instance)

    monkeypatch.setattr(FolderPacs, "header", forbidden)
    rejection = rejected(Reason.REFUSED, instance=images[5])
    with closing(a_ledger(tmp_path / "out", lambda item: records[item] if item < 5 else rejection)) as ledger:
        assert verify(ledger, pacs).complete
        assert "item 5: the PACS forbids reading its image" in caplog.text
        assert retract(ledger, pacs).reports == 5

    def refused(self: FolderPacs) -> str:
        raise UsageError("refuses the user or the password")

    monkeypatch.setattr(FolderPacs, "identity", refused)  # now it is the password
    with closing(a_ledger(tmp_path / "again", lambda _: rejection)) as ledger, pytest.raises(UsageError):
        verify(ledger, pacs)


def test_reports_of_unfinished_items_are_found(pacs: Pacs, tmp_path: Path) -> None:
    images = [pacs.store(image(number)).instance for number in range(2)]
    reported_through(pacs, images[:1])
    ledger = new_ledger(tmp_path / "out")
    ledger.set("job", ledger.get("job") | {"weights": JOB["weights"], "when": JOB["when"]})
    list_items(ledger, 2)
    ledger.dispatched(chunk.no for chunk in ledger.waiting(9))
    with closing(ledger):
        assert verify(ledger, pacs, read=lambda ref: image(int(ref))).unrecorded == [0]
        assert verify(ledger, pacs).unrecorded == []  # its source is gone


def test_reports_with_other_weights_are_found(pacs: Pacs, tmp_path: Path) -> None:
    images = [pacs.store(image(number)).instance for number in range(2)]
    other = reported_through(pacs, images[:1], JOB | {"weights": "cd" * 32})
    with closing(a_ledger(tmp_path / "out", lambda _: rejected(Reason.BLANK))) as ledger:
        ledger.set("foreign_reports", [other[0]["sr_instance"], images[1]])
        assert verify(ledger, pacs).foreign == 1
        assert retract(ledger, pacs).unrecorded == 1
        assert verify(ledger, pacs).foreign == 0


def test_a_report_in_another_patients_study_is_not_right(pacs: Pacs, tmp_path: Path) -> None:
    instance = pacs.store(image(1)).instance
    of = identity(read_header(image(1)))
    elsewhere = image(1, PatientID="SOMEBODY", SOPInstanceUID="1.2.99", SeriesInstanceUID="1.3.99")
    report = pacs.store(
        elsewhere, replace(of, patient_id="SOMEBODY", sop_instance_uid="1.2.99", series_instance_uid="1.3.99")
    )
    import hashlib

    sha = hashlib.sha256(pacs.fetch(report.instance)).hexdigest()
    one = reported(
        0,
        some_scores(0),
        instance=instance,
        sr_instance=report.instance,
        sr_sha256=sha,
        sr_sop_instance_uid="1.2.99",
    )
    ledger = new_ledger(tmp_path / "out")
    list_items(ledger, 1)
    harvest(ledger, lambda _: one)
    with closing(ledger):
        found = verify(ledger, pacs)
        assert (found.right, found.misfiled, found.complete) == (0, [0], False)


class Failing:
    """A PACS of which some requests fail, or all from one on."""

    def __init__(self, pacs: Pacs, every: int, *, for_good: bool = False) -> None:
        self.pacs, self.every, self.asked, self.for_good = pacs, every, 0, for_good

    def __getattr__(self, name: str) -> Any:
        if name == "expected_id":
            return self.pacs.expected_id  # asks nobody

        def request(*arguments: Any) -> Any:
            self.asked += 1
            if self.asked % self.every == 0 or (self.for_good and self.asked > self.every):
                raise ServiceUnavailable("503")
            return getattr(self.pacs, name)(*arguments)

        return request


def test_a_pacs_that_fails_now_and_then_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("producer.results.reported.PAUSES", (0.0, 0.0))
    pacs = FolderPacs(tmp_path / "pacs")
    images = [pacs.store(image(number)).instance for number in range(COUNT)]
    records = reported_through(pacs, images)
    with closing(a_ledger(tmp_path / "out", lambda item: records[item])) as ledger:
        failing: Any = Failing(pacs, 3)
        assert verify(ledger, failing, retry_seconds=5).right == COUNT
        done = retract(ledger, failing, retry_seconds=5)
        assert done.reports == COUNT


def test_a_verification_that_was_broken_off_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("producer.results.reported.BATCH", 2)
    pacs = FolderPacs(tmp_path / "pacs")
    images = [pacs.store(image(number)).instance for number in range(COUNT)]
    records = reported_through(pacs, images)
    state = tmp_path / "verification.json"
    with closing(a_ledger(tmp_path / "out", lambda item: records[item])) as ledger:
        pacs.delete(records[0]["sr_instance"])
        failing: Any = Failing(pacs, 9, for_good=True)
        with pytest.raises(ServiceUnavailable):
            verify(ledger, failing, state=state)
        assert json.loads(state.read_text())["after"] == 3
        seen: list[int] = []
        found = verify(ledger, pacs, state=state, progress=seen.append)
        assert (found.right, found.missing, seen) == (COUNT - 1, [0], [6])
        assert not state.exists()


class FailsOn:
    """A PACS that fails on every request that names one of some objects."""

    def __init__(self, pacs: Pacs, names: set[str]) -> None:
        self.pacs, self.names = pacs, names

    def __getattr__(self, name: str) -> Any:
        if name == "expected_id":
            return self.pacs.expected_id  # asks nobody

        def request(*arguments: Any) -> Any:
            if any(one in repr(arguments) for one in self.names):
                raise ServiceUnavailable("500")
            return getattr(self.pacs, name)(*arguments)

        return request


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("producer.results.item_requests.ONE_SECONDS", 0.0)


def first_failed(pacs: Pacs) -> tuple[list[str], dict[int, ItemRecord], Callable[[int], ItemRecord]]:
    """Report all images, and keep of the first that the PACS failed on its report: images, records, what is kept."""
    images = [pacs.store(image(number)).instance for number in range(COUNT)]
    records = reported_through(pacs, images)

    def record(item: int) -> ItemRecord:
        return records[item] if item else rejected(Reason.PACS_FAILS, stage=Stage.REPORT, instance=images[0])

    return images, records, record


def test_one_report_that_the_pacs_fails_on_holds_up_no_other(
    pacs: Pacs, tmp_path: Path, impatient: None
) -> None:
    """Found: both ended at it, and so did every later call; the reports behind it were never looked at."""
    images, records, record = first_failed(pacs)
    failing: Any = FailsOn(pacs, {records[one]["sr_instance"] for one in (0, 2)})
    with closing(a_ledger(tmp_path / "out", record)) as ledger:
        found = verify(ledger, failing)
        assert (found.right, found.missing, found.complete) == (COUNT - 2, [], False)
        assert sorted(found.unanswered) == [0, 2]
        done = retract(ledger, failing)
        assert (done.reports, done.unanswered, done.unrecorded) == (COUNT - 2, 2, 0)
        failing.names = set()
        done = retract(ledger, failing)
        assert (done.reports, done.unanswered, done.unrecorded) == (1, 0, 1)
        assert verify(ledger, failing).complete
        assert all(pacs.fetch(one) for one in images)


def test_a_report_is_found_by_id_where_the_pacs_fails_on_its_uid(
    pacs: Pacs, tmp_path: Path, impatient: None
) -> None:
    _, records, record = first_failed(pacs)
    failing: Any = FailsOn(pacs, {records[0]["sr_sop_instance_uid"]})
    with closing(a_ledger(tmp_path / "out", record)) as ledger:
        assert verify(ledger, failing).unrecorded == [0]
        done = retract(ledger, failing)
        assert (done.reports, done.unanswered, done.unrecorded) == (COUNT - 1, 0, 1)


def test_an_image_that_the_pacs_never_gave_has_no_report(
    tmp_path: Path, impatient: None, caplog: pytest.LogCaptureFixture
) -> None:
    """Found: verify of a run with an image that its PACS can't read ended with 'unavailable', for ever."""
    pacs = FolderPacs(tmp_path / "pacs")
    images = [pacs.store(image(number)).instance for number in range(COUNT)]
    records = reported_through(pacs, images[1:])
    failed = rejected(Reason.PACS_FAILS, instance=images[0])
    failing: Any = FailsOn(pacs, {images[0]})
    with closing(a_ledger(tmp_path / "out", lambda item: records[item - 1] if item else failed)) as ledger:
        assert verify(ledger, failing).complete
        assert "item 0: the PACS fails to give its image" in caplog.text
        assert retract(ledger, failing).reports == COUNT - 1


def test_a_pacs_that_answers_nothing_is_unavailable(tmp_path: Path, impatient: None) -> None:
    pacs = FolderPacs(tmp_path / "pacs")
    records = reported_through(pacs, [pacs.store(image(number)).instance for number in range(COUNT)])
    failing: Any = FailsOn(pacs, {"("})  # every request
    with (
        closing(a_ledger(tmp_path / "out", lambda item: records[item])) as ledger,
        pytest.raises(ServiceUnavailable),
    ):
        verify(ledger, failing)
