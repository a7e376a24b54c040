"""Reports that a run stored and did not record, or that lie in the wrong study, are found and taken back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from click.testing import CliRunner

from backlog.broker.job import Job
from backlog.broker.messages import ItemRecord, Stage
from backlog.dicom.file import DicomFile
from backlog.dicom.header import identity, read_header
from backlog.errors import InstanceRejected, ServiceUnavailable, UsageError
from backlog.outcomes import Reason
from backlog.pacs.base import Pacs
from backlog.pacs.folder import FolderPacs
from backlog.pacs.orthanc import Orthanc
from backlog.settings import Settings
from producer.cli.main import main
from producer.ledger.ledger import Ledger
from producer.results.retract import retract
from producer.results.verification import Verification
from producer.results.verify import verify
from producer.run.create import create
from producer.run.folder import Paths
from producer.run.open import open_ledger
from producer.sources.base import Entry, Page
from producer.sources.open import Selection
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


@pytest.mark.parametrize(
    "failure", [InstanceRejected(Reason.NOT_IN_PACS), MemoryError(), ZeroDivisionError()]
)
def test_a_report_that_its_item_left_behind_is_named(
    pacs: Pacs, tmp_path: Path, failure: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found: the image gone, nothing told its report's UID, and verify called the run right."""
    images = [pacs.store(image(number)).instance for number in range(2)]

    def study_of(instance: str, of: Any = None) -> str:
        pacs.delete(instance)
        raise failure

    with monkeypatch.context() as patched:
        patched.setattr(pacs, "study_of", study_of)
        left = reported_through(pacs, images[:1])[0]
    assert "reason" in left
    assert pacs.fetch(left["sr_instance"])
    assert (left["sop_instance_uid"], left["sr_ours"]) == ("1.2.0", True)
    with closing(new_ledger(tmp_path / "out")) as ledger:
        ledger.set("job", ledger.get("job") | {"weights": JOB["weights"], "when": JOB["when"]})
        list_items(ledger, 2)
        harvest(ledger, lambda item: left if item == 0 else rejected(Reason.BLANK, instance=images[1]))
        assert verify(ledger, pacs).unrecorded == [0]
        shown = CliRunner().invoke(
            main, ["quarantine", "show", str(tmp_path / "out"), "0"], env={"CXR_LANGUAGE": "en"}
        )
        assert left["sr_sop_instance_uid"] in shown.output
        assert retract(ledger, pacs).unrecorded == 1
        assert verify(ledger, pacs).complete
    with pytest.raises(InstanceRejected):
        pacs.fetch(left["sr_instance"])


def test_a_report_that_was_taken_back_is_not_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pacs = FolderPacs(tmp_path / "pacs")
    instance = pacs.store(image(0)).instance
    monkeypatch.setattr(pacs, "study_of", lambda *_: "another study")
    record = reported_through(pacs, [instance])[0]
    assert (record["reason"], "it was deleted" in record["detail"]) == (Reason.INVALID_PATIENT_ID.value, True)
    assert "sr_instance" not in record


def test_an_image_gone_from_the_pacs_is_known_by_its_source(pacs: Pacs, tmp_path: Path) -> None:
    """A worker was killed after it had stored the report, and the image was deleted before it came again."""
    instance = pacs.store(image(0)).instance
    reported_through(pacs, [instance])
    pacs.delete(instance)
    gone = rejected(Reason.NOT_IN_PACS, stage=Stage.REPORT, instance=instance)
    with closing(a_ledger(tmp_path / "out", lambda _: gone)) as ledger:
        assert 0 in verify(ledger, pacs, read=lambda ref: image(int(ref))).unrecorded


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


@pytest.mark.parametrize("kind", ["language", "operating_points", "nothing"])
def test_a_run_of_the_same_second_keeps_its_reports(tmp_path: Path, kind: str) -> None:
    """Found: two runs with the same settings, begun in one second, each took the other's reports for its own."""
    pacs = FolderPacs(tmp_path / "pacs")
    images = [pacs.store(image(number)).instance for number in range(COUNT)]
    differ: dict[str, Any] = {
        "language": {"language": "pt-BR"},
        "operating_points": {"operating_points": {"sha256": "ef" * 32, "thresholds": {"Effusion": 0.4}}},
        "nothing": {},
    }
    fractions = (7, 70) if kind == "nothing" else (70, 70)  # other settings give other UIDs
    moments = [f"2026-01-01T00:00:00.{fraction:06d}+00:00" for fraction in fractions]
    theirs, ours = ({**JOB, "when": when} for when in moments)
    theirs |= differ[kind]
    others = reported_through(pacs, images[:4], cast("Job", theirs))
    records = reported_through(
        pacs, images[2:5], cast("Job", ours)
    )  # of the first two the other run has reports
    found = [records[one]["sr_ours"] for one in range(3)]
    assert found == ([False, False, True] if kind == "nothing" else [True] * 3)
    last = records[2]["sr_instance"]

    def record(item: int) -> Any:
        return records[item - 2] if 2 <= item < 4 else rejected(Reason.INTERNAL_ERROR, instance=images[item])

    with closing(a_ledger(tmp_path / "out", record, when=moments[1])) as ledger:
        assert verify(ledger, pacs).unrecorded == [4]
        done = retract(ledger, pacs)
        assert (done.reports, done.unrecorded) == (found.count(True) - 1, 1)
    with pytest.raises(InstanceRejected):
        pacs.fetch(last)
    assert all(pacs.fetch(one["sr_instance"]) for one in others.values())


def test_runs_made_in_one_second_have_their_own_moments(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    moments = set()
    for name in "abc":
        paths = Paths(tmp_path / name)
        create(str(tmp_path / "in"), Settings(), str(tmp_path / "pacs"), paths, Selection(), workers=1)
        with closing(open_ledger(paths.out)) as ledger:
            moments.add(datetime.fromisoformat(ledger.get("job")["when"]))
    assert len(moments) == 3
    assert max(moments) - min(moments) < timedelta(seconds=10)


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
        failing: Any = Failing(pacs, 10, for_good=True)
        with pytest.raises(ServiceUnavailable):
            verify(ledger, failing, state=state)
        assert json.loads(state.read_text())["after"] == 3
        assert state.stat().st_mode & 0o777 == 0o600
        seen: list[int] = []
        told: list[int] = []
        found = verify(
            ledger, pacs, state=state, progress=seen.append, resumed=lambda item, _: told.append(item)
        )
        assert (found.right, found.missing, seen, told) == (COUNT - 1, [0], [6], [4])
        assert (found.resumed_at, found.not_looked_at) == (4, 0)
        assert list(tmp_path.glob(f"*{state.name}*")) == []


class BrokenOff(Exception):
    """Somebody ends a verification."""


@dataclass
class Broken:
    """A run of reported items, with a verification that was broken off behind item 3."""

    pacs: FolderPacs
    ledger: Ledger
    state: Path
    records: dict[int, ItemRecord]

    def break_off(self, items: int) -> None:
        def stop(looked_at: int) -> None:
            if looked_at >= items:
                raise BrokenOff

        with pytest.raises(BrokenOff):
            verify(self.ledger, self.pacs, state=self.state, progress=stop)

    def verify(self, **more: Any) -> Verification:
        return verify(self.ledger, self.pacs, state=self.state, **more)


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Broken]:
    """Items 0, 1, 4 and 5 are reported; 2 and 3, of a chunk of their own, have not ended."""
    monkeypatch.setattr("producer.results.reported.BATCH", 2)
    pacs = FolderPacs(tmp_path / "out" / "pacs")
    records = reported_through(pacs, [pacs.store(image(number)).instance for number in range(COUNT)])
    ledger = new_ledger(tmp_path / "out")
    ledger.set("job", ledger.get("job") | {"weights": JOB["weights"], "when": JOB["when"]})
    ledger.add(Page([Entry(number) for number in range(COUNT)], "", last=True), 2)
    first, second, third = ledger.waiting(3)
    ledger.dispatched([first.no, second.no, third.no])
    for chunk in (first, third):
        ledger.harvest([(chunk, {i: records[item] for i, (item, _) in enumerate(chunk.items)})])
    made = Broken(pacs, ledger, tmp_path / "out" / "verification.json", records)
    made.break_off(4)
    assert json.loads(made.state.read_text())["after"] == 5
    with closing(ledger):
        yield made


def end_the_others(broken: Broken) -> None:
    (chunk,) = broken.ledger.in_flight()
    records = {i: broken.records[item] for i, (item, _) in enumerate(chunk.items)}
    broken.ledger.harvest([(chunk, records)])


def test_items_that_ended_meanwhile_are_looked_at(broken: Broken) -> None:
    """Found: items with smaller numbers were passed over, and every report called right."""
    end_the_others(broken)
    broken.pacs.delete(broken.records[2]["sr_instance"])
    found = broken.verify()
    assert (found.right, found.missing, found.resumed_at) == (COUNT - 1, [2], 0)
    assert not found.complete


def test_reports_retracted_meanwhile_are_looked_at(broken: Broken) -> None:
    end_the_others(broken)
    broken.break_off(6)
    retract(broken.ledger, broken.pacs)
    found = broken.verify()
    assert (found.right, found.retracted, found.resumed_at, found.complete) == (0, COUNT, 0, True)


def test_a_verification_of_another_pacs_begins_anew(broken: Broken, tmp_path: Path) -> None:
    """A copy of a run's folder has its PACS beside it, and the state of the original's verification."""
    shutil.copytree(broken.pacs.root, tmp_path / "copy")
    broken.pacs = FolderPacs(tmp_path / "copy")
    broken.pacs.delete(broken.records[0]["sr_instance"])
    assert broken.verify().missing == [0]


def test_a_state_that_cannot_be_removed_is_passed_over(broken: Broken) -> None:
    """The folder of an archived run may be read-only."""
    broken.pacs.delete(broken.records[0]["sr_instance"])
    assert broken.verify(from_start=True).missing == [0]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"run": "20260101000000-abcdef", "after": 3, "found": {}}'])
def test_a_state_of_an_earlier_version_begins_anew(broken: Broken, text: str) -> None:
    broken.state.write_text(text)
    broken.pacs.delete(broken.records[0]["sr_instance"])
    assert broken.verify().missing == [0]


@pytest.mark.parametrize(
    ("language", "line", "conclusion"),
    [
        ("en", "Goes on at item 6: what comes before was looked at on 20", "2 items have not ended yet"),
        ("pt-BR", "Continua no item 6: o que vem antes foi verificado em 20", "2 itens ainda não terminaram"),
    ],
)
def test_the_terminal_says_where_a_verification_goes_on(
    broken: Broken, tmp_path: Path, language: str, line: str, conclusion: str
) -> None:
    call = partial(CliRunner().invoke, main, env={"CXR_LANGUAGE": language})
    done = call(["verify", str(tmp_path / "out")])
    assert (done.exit_code, line in done.stderr, conclusion in done.stdout) == (1, True, True), done.output
    broken.break_off(4)
    done = call(["verify", str(tmp_path / "out"), "--from-start", "--json"])
    assert (done.stderr, json.loads(done.stdout)["resumed_at"]) == ("", 0)


def test_what_ends_during_a_verification_makes_it_incomplete(broken: Broken) -> None:
    seen: list[int] = []

    def progress(looked_at: int) -> None:
        seen.append(looked_at)
        if looked_at == 4:
            end_the_others(broken)

    found = broken.verify(from_start=True, progress=progress)
    assert (found.right, found.not_looked_at, found.complete) == (4, 2, False)
    assert broken.verify().complete


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
