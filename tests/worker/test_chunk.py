"""One stage of one chunk: delivered once or often, broken off anywhere, the result is the same."""

from __future__ import annotations

import base64
import errno
import io
import json
import logging
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from celery.exceptions import Reject
from pydicom import dcmread

from backlog.broker.celery_app import make_app
from backlog.broker.claim import Claim
from backlog.broker.claims import Claims
from backlog.broker.connection import Broker
from backlog.broker.job import Job, SourceSpec
from backlog.broker.messages import DEFERRED, QUEUES, ItemRecord, Stage, UploadItem
from backlog.broker.sending import send
from backlog.dicom.eligibility import Rules
from backlog.errors import ClaimLost, InstanceRejected, RunPaused, ServiceUnavailable, StorageFull, UsageError
from backlog.fault_attribution import Operation
from backlog.inputs.path_list import PathList, listing_record, new_list_id
from backlog.inputs.zip_archive import ZipArchive
from backlog.log import LOGGER
from backlog.outcomes import Reason
from backlog.pacs.concurrency_limit import PacsConcurrencyLimit
from backlog.pacs.limited_pacs import LimitedPacs
from backlog.settings import Settings
from tests.support.dicom_images import chest, dicom
from tests.support.jobs import a_job
from tests.support.servers import free_port, wait_until
from tests.support.warm_worker import WarmWorker
from worker.reader.pool import Readers
from worker.tasks import chunk as chunk_module
from worker.tasks import registry as tasks
from worker.tasks import shutdown
from worker.tasks.attempt import Attempt
from worker.tasks.chunk import StageFailed, StageRunner
from worker.tasks.shutdown import Stopping, ask_to_stop

BODIES: dict[Stage, Callable[..., Any]] = {
    Stage.UPLOAD: tasks.upload,
    Stage.INFER: tasks.infer,
    Stage.REPORT: tasks.report,
}
Message = tuple[Job, int, list[Any]]


def images(count: int = 3, **attributes: Any) -> dict[str, bytes]:
    return {
        f"m{i}": dicom(chest(64, 64 + i), SOPInstanceUID=f"1.2.3.{i}", PatientName="Doe^Jane", **attributes)
        for i in range(count)
    }


@dataclass
class Shop:
    """A worker without its parent process: messages are taken from the real queues and done here."""

    settings: Settings
    folder: Path
    process: tasks.WorkerResources = field(init=False)

    def __post_init__(self) -> None:
        self.process = tasks.WorkerResources(self.settings)
        self.app = make_app(self.settings)

    @property
    def claims(self) -> Claims:
        return self.process.claims

    def runner(self, retry_budget: float = 0.0) -> StageRunner:
        return StageRunner(self.app, self.claims, retry_budget)

    def job(self, source: Path, run: str = "run1", when: str = "2026-01-02T03:04:05+00:00") -> Job:
        spec: SourceSpec = {"kind": "zip", "path": str(source), "listing": ""}
        return a_job(run, spec, when=when, pacs=str(self.folder / "pacs"))

    def submit(self, members: dict[str, bytes], **more: str) -> Job:
        """Do what the producer does: a zip of members becomes one message."""
        path = self.folder / f"{more.get('run', 'run1')}.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        with ZipArchive(path) as opened:
            places = [member.place for member in opened.members()]
        job = self.job(path, **more)
        items = [UploadItem(i=i, entry=place) for i, place in enumerate(places)]
        send(self.app, Stage.UPLOAD, job, 1, items)
        return job

    def take(self, stage: Stage) -> list[Message]:
        """Take all messages of a stage, whichever weights they are for."""
        client, texts = self.claims.broker.client, list[str]()
        for queue in (QUEUES[stage], *cast("list[str]", client.keys(f"{QUEUES[stage]}.*"))):
            texts += cast("list[str]", client.lrange(queue, 0, -1))
            client.delete(queue)
        return [tuple(json.loads(base64.b64decode(json.loads(text)["body"]))[0]) for text in texts]

    def do(self, stage: Stage, message: Message, retry_budget: float = 0.0) -> None:
        job = cast("Job", json.loads(json.dumps(message[0])))  # a worker gets its own copy
        body = partial(BODIES[stage], self.process, job)
        self.runner(retry_budget).run(stage, job, message[1], message[2], body)
        assert job == message[0], "a task changes nothing about its run"

    def do_all(self, times: int = 1) -> None:
        """Do all stages, each message so many times."""
        for stage in BODIES:
            for message in self.take(stage):
                for _ in range(times):
                    self.do(stage, message)

    def records(self, run: str = "run1") -> dict[int, ItemRecord]:
        assert self.claims.progress(run, [1])[1].stage is Stage.FINISHED
        return dict(sorted(self.claims.records(run, 1).items()))

    def files(self) -> dict[str, bytes]:
        root = self.folder / "pacs"
        return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*.dcm")}


@pytest.fixture
def shop(
    redis_url: str,
    tmp_path: Path,
    model_cache: Path,
    warm_worker: WarmWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Shop]:
    settings = Settings(
        redis_url=redis_url,
        pacs_url=str(tmp_path / "pacs"),
        weights="seeded",
        cache=str(model_cache),
        threads=1,
        lease_seconds=60.0,  # longer than a busy machine pauses a test
    )
    monkeypatch.setenv("CXR_PACS_URL", str(warm_worker.pacs))  # the reader's process reads it
    monkeypatch.setattr(
        chunk_module, "wait_a_little", lambda error: None
    )  # the second before a chunk goes back
    made = Shop(settings, tmp_path)
    with warm_worker.lent(made.process, tmp_path):
        yield made
    made.claims.broker.close()
    made.app.close()
    shutdown.stopping.clear()


def test_a_chunk_becomes_reports_in_the_studies_of_its_images(shop: Shop) -> None:
    members = images(3)
    shop.submit(members)
    shop.do_all()
    records = shop.records()
    assert [record["outcome"] for record in records.values()] == ["reported"] * 3
    assert len(shop.files()) == 6
    for i, record in records.items():
        report = dcmread(io.BytesIO(shop.process.pacs.fetch(record["sr_instance"])))
        assert report.Modality == "SR"
        assert (report.StudyInstanceUID, report.PatientID) == ("1.2.3.4", "TEST")
        assert report.SOPInstanceUID == record["sr_sop_instance_uid"]
        assert record["sop_instance_uid"] == f"1.2.3.{i}"
        assert record["sr_ours"] is True
        assert len(record["scores"]) == 18
        assert not record["meaningful"]
        assert record["engine"] == shop.process.engine.name


def test_no_message_holds_a_patient_or_a_name_of_the_source(shop: Shop) -> None:
    shop.submit({"Doe^Jane 1970.dcm": images(1)["m0"]})
    seen = ""
    for stage in BODIES:
        raw = cast("list[str]", shop.claims.broker.client.lrange(QUEUES[stage], 0, -1))
        (message,) = shop.take(stage)
        seen += json.dumps(message) + "".join(raw)
        shop.do(stage, message)
    for private in ("Doe", "TEST", "1.2.3", "1970"):
        assert private not in seen


def test_every_message_delivered_three_times_gives_the_same(shop: Shop) -> None:
    shop.submit(images(2))
    shop.do_all(times=3)
    assert [record["outcome"] for record in shop.records().values()] == ["reported"] * 2
    assert len(shop.files()) == 4


def test_the_successor_is_sent_once(shop: Shop) -> None:
    shop.submit(images(1))
    (message,) = shop.take(Stage.UPLOAD)
    for _ in range(3):
        shop.do(Stage.UPLOAD, message)
    assert len(shop.take(Stage.INFER)) == 1


def test_stages_done_again_from_the_beginning_change_nothing(shop: Shop) -> None:
    """As after a crash between an effect and its mark, or a Redis that lost everything."""
    members = images(2)
    shop.submit(members)
    shop.do_all()
    first, held = shop.records(), shop.files()
    shop.claims.broker.client.flushall()
    shop.submit(members)
    shop.do_all()
    assert shop.records() == first
    assert shop.files() == held


def test_the_reports_of_an_earlier_run_count_but_are_not_ours(shop: Shop) -> None:
    members = images(2)
    shop.submit(members)
    shop.do_all()
    first, held = shop.records(), shop.files()
    shop.submit(members, run="run2", when="2027-01-01T00:00:00+00:00")
    shop.do_all()
    second = shop.records("run2")
    assert shop.files() == held
    for i in first:
        assert second[i]["outcome"] == "reported"
        assert (first[i]["sr_ours"], second[i]["sr_ours"]) == (True, False)
        for key in ("sr_sha256", "sr_instance", "sr_sop_instance_uid", "scores"):
            assert second[i].get(key) == first[i].get(key)


def test_a_runs_own_report_stays_its_own_despite_other_rounding(shop: Shop) -> None:
    """It is taken back by `retract` only then; and the ledger has the scores that the report has."""
    shop.submit(images(1))
    shop.do_all()
    (before,) = shop.records().values()
    shop.claims.broker.client.flushall()  # Redis lost it: the chunk is done again
    shop.submit(images(1))
    for stage in (Stage.UPLOAD, Stage.INFER):
        shop.do(stage, shop.take(stage)[0])
    ((job, chunk, (item,)),) = shop.take(Stage.REPORT)
    item["scores"] = [min(1.0, score + 1e-6) for score in item["scores"]]
    shop.do(Stage.REPORT, (job, chunk, [item]))
    assert list(shop.records().values()) == [before]
    assert before["sr_ours"]


def test_a_report_to_be_withdrawn_is_so_after_a_restart_too(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stored already by the attempt before, and not yet withdrawn: it must not count as reported then."""
    shop.submit(images(1))
    for stage in (Stage.UPLOAD, Stage.INFER):
        shop.do(stage, shop.take(stage)[0])
    (message,) = shop.take(Stage.REPORT)
    held, pacs = shop.files(), shop.process.pacs
    delete = pacs.delete

    def away(_: str) -> bool:
        raise ServiceUnavailable("the PACS answers 503")

    monkeypatch.setattr(pacs, "count_instances", lambda *_: 2, raising=False)  # another patient's has its UID
    monkeypatch.setattr(pacs, "delete", away, raising=False)
    goes_back(shop, Stage.REPORT, message)
    assert len(shop.files()) == len(held) + 1
    monkeypatch.setattr(pacs, "delete", delete, raising=False)
    shop.do(Stage.REPORT, message)
    assert [record["reason"] for record in shop.records().values()] == ["uid_conflict"]
    assert shop.files() == held


def test_an_earlier_report_with_other_scores_is_for_an_operator(shop: Shop) -> None:
    members = images(2)
    shop.submit(members)
    shop.do_all()
    held = shop.files()
    shop.submit(members, run="run2")
    for stage in (Stage.UPLOAD, Stage.INFER):
        shop.do(stage, shop.take(stage)[0])
    ((job, number, items),) = shop.take(Stage.REPORT)
    items[0]["scores"][3] = 1.0 - items[0]["scores"][3] * 0.5
    shop.do(Stage.REPORT, (job, number, items))
    ends = shop.records("run2")
    assert (ends[0]["outcome"], ends[0]["reason"]) == ("quarantined", "report_conflict")
    assert ends[1]["outcome"] == "reported"
    assert shop.files() == held


def test_other_content_under_the_same_uid_is_for_an_operator(shop: Shop) -> None:
    shop.process.pacs.store(dicom(chest(64, 64)[::-1], SOPInstanceUID="1.2.3.0"))
    held = shop.files()
    shop.submit(images(2))
    shop.do_all()
    ends = shop.records()
    assert (ends[0]["reason"], ends[1]["outcome"]) == ("uid_conflict", "reported")
    assert held.items() <= shop.files().items(), "the source instance was touched"


def test_items_end_where_their_trouble_is(shop: Shop) -> None:
    good = images(1)["m0"]
    shop.submit(
        {
            "text": b"no image",
            "empty": b"",
            "cut": good[:400],
            "no uid": dicom(chest(64, 64), StudyInstanceUID=None),
            "lateral": dicom(chest(64, 64), SOPInstanceUID="1.2.8", ViewPosition="LL"),
            "good": good,
            "the same": good,
        }
    )
    shop.do_all()
    ends = {i: (one["outcome"], one.get("reason", ""), one["stage"]) for i, one in shop.records().items()}
    assert ends[0] == ends[1] == ("quarantined", "not_dicom", 0)
    assert ends[2][0] == "quarantined"
    assert ends[3] == ("quarantined", "invalid_uid", 0)
    assert ends[4] == ("skipped", "lateral", 1)
    assert ends[5][0] == ends[6][0] == "reported"
    assert shop.records()[5]["instance"] == shop.records()[6]["instance"]  # the ledger tells them apart


def test_an_item_without_a_score_names_the_weights_too(shop: Shop) -> None:
    """The producer sends one chunk at a time until it knows them: a backlog may begin with a thousand CTs."""
    shop.submit(images(2, Modality="CT", SOPClassUID="1.2.840.10008.5.1.4.1.1.2"))
    shop.do_all()
    assert len(shop.records()) == 2
    for record in shop.records().values():
        assert record["outcome"] == "skipped"
        assert record["weights"] == shop.process.weights.sha256
        assert record["meaningful"] is False


def test_a_chunk_without_any_good_item_ends_at_once(shop: Shop) -> None:
    shop.submit({"a": b"x", "b": b"y"})
    shop.do(Stage.UPLOAD, shop.take(Stage.UPLOAD)[0])
    assert shop.take(Stage.INFER) == []
    assert {record["reason"] for record in shop.records().values()} == {"not_dicom"}


def test_a_lost_claim_has_no_effect_any_more(shop: Shop) -> None:
    job = shop.submit(images(1))
    (message,) = shop.take(Stage.UPLOAD)

    def stolen(attempt: Attempt, items: list[Any]) -> Any:
        shop.claims.broker.client.hset(attempt.claim.key, "owner", "another")
        attempt.following.update({item["i"]: item for item in items})

    shop.runner().run(Stage.UPLOAD, job, 1, message[2], stolen)  # returns: the message is dropped
    assert shop.take(Stage.INFER) == []
    assert shop.claims.progress("run1", [1])[1].stage is Stage.UPLOAD


def refused(claim: Claim) -> bool:
    """Whether the claim has noticed that the run is cancelled or paused."""
    try:
        claim.check()
    except (ClaimLost, RunPaused):
        return True
    return False


def test_a_cancelled_run_stops_between_two_items(shop: Shop) -> None:
    job = shop.submit(images(2))
    done: list[int] = []

    def slow(attempt: Attempt, items: list[Any]) -> Any:
        for item in items:
            attempt.before(item["i"])
            done.append(item["i"])
            shop.claims.set_state("run1", "cancelled")
            wait_until(lambda: refused(attempt.claim), 60)

    shop.runner().run(Stage.UPLOAD, job, 1, shop.take(Stage.UPLOAD)[0][2], slow)
    assert done == [0]


# -- handing back --------------------------------------------------------------------------------------------


def goes_back(shop: Shop, stage: Stage, message: Message, retry_budget: float = 0.0) -> None:
    """It comes back behind the others; where this worker stops, before them."""
    with pytest.raises(Reject) as rejected:
        shop.do(stage, message, retry_budget)
    again = [items for _, _, items in shop.take(stage)]
    assert again == ([] if rejected.value.requeue else [message[2]])
    assert not shop.claims.progress("run1", [1])[1].leased


def test_a_worker_that_stops_hands_its_chunk_back_untried(shop: Shop) -> None:
    shop.submit(images(2))
    (message,) = shop.take(Stage.UPLOAD)
    ask_to_stop()
    for _ in range(2):
        goes_back(shop, Stage.UPLOAD, message)
    shutdown.stopping.clear()
    shop.do(Stage.UPLOAD, message)
    (message,) = shop.take(Stage.INFER)
    ask_to_stop()
    goes_back(shop, Stage.INFER, message)
    shutdown.stopping.clear()
    shop.do(Stage.INFER, message)
    shop.do_all()
    assert [record["attempts"] for record in shop.records().values()] == [1, 1]


@pytest.mark.timeout(60, func_only=True)
def test_stopping_interrupts_a_wait(shop: Shop) -> None:
    claim = shop.claims.claim("run1", 1, Stage.UPLOAD, Stage.UPLOAD)
    assert isinstance(claim, Claim)
    threading.Timer(0.2, ask_to_stop).start()
    with pytest.raises(Stopping):
        Attempt(claim, Stage.UPLOAD, retry_budget=7200).retry.wait(3600)


@pytest.mark.timeout(60, func_only=True)
def test_an_unavailable_pacs_is_awaited_then_the_chunk_goes_back(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.submit(images(1))
    (message,) = shop.take(Stage.UPLOAD)
    away = Shop(
        Settings(redis_url=shop.settings.redis_url, pacs_url=f"http://127.0.0.1:{free_port()}"), shop.folder
    )
    started = time.monotonic()
    goes_back(away, Stage.UPLOAD, message, retry_budget=0.6)
    assert time.monotonic() - started > 0.5
    assert "is unavailable" in shop.claims.waiting_reason("run1")
    shop.do(Stage.UPLOAD, message)  # it is back
    shop.do_all()
    assert shop.records()[0]["attempts"] == 1
    away.claims.broker.close()
    away.app.close()


def test_what_comes_back_in_time_costs_nothing(shop: Shop) -> None:
    claim = shop.claims.claim("run1", 1, Stage.UPLOAD, Stage.UPLOAD)
    assert isinstance(claim, Claim)
    tries: list[int] = []

    def flaky() -> str:
        tries.append(1)
        if len(tries) < 3:
            raise ServiceUnavailable("the PACS is unavailable")
        return "stored"

    assert Attempt(claim, Stage.UPLOAD, retry_budget=7200).retry.while_unavailable(flaky) == "stored"
    assert len(tries) == 3


@dataclass
class Failing:
    """The shop's PACS behind a wall: it fails on some images, and on everything while it is unavailable."""

    inner: Any
    on: set[bytes | str]
    error: type[Exception] = ServiceUnavailable
    away: Callable[[int], bool] = lambda _: False
    calls: int = 0

    def _wall(self, what: bytes | str) -> None:
        self.calls += 1
        if self.away(self.calls) or any(one in what for one in self.on if type(one) is type(what)):  # type: ignore[operator]
            raise self.error("the PACS answers 500")

    def store(self, dicom: bytes, of: Any = None) -> Any:
        self._wall(dicom)
        return self.inner.store(dicom, of)

    def header(self, instance: str) -> Any:
        self._wall(instance)
        return self.inner.header(instance)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def fails_on(shop: Shop, *what: bytes | str, **more: Any) -> Failing:
    failing = Failing(shop.process.pacs, set(what), **more)
    shop.process.__dict__["pacs"] = failing
    return failing


@pytest.mark.parametrize("which", [0, 1], ids=["first", "middle"])
def test_an_image_that_the_pacs_fails_on_ends_and_others_go_on(shop: Shop, which: int) -> None:
    """Its run would never end: the chunk would go back for ever."""
    shop.submit(images(4))
    fails_on(shop, f"1.2.3.{which}".encode())
    shop.do_all()
    ends = shop.records()
    assert [ends[i]["outcome"] for i in range(4)] == [
        "quarantined" if i == which else "reported" for i in range(4)
    ]
    assert (ends[which]["reason"], ends[which]["stage"]) == ("pacs_fails", Stage.UPLOAD.value)
    assert "answers 500" in ends[which]["detail"]


def test_the_same_for_an_image_that_the_pacs_gives_no_header_of(shop: Shop) -> None:
    shop.submit(images(3))
    for stage in (Stage.UPLOAD, Stage.INFER):
        for message in shop.take(stage):
            shop.do(stage, message)
    (message,) = shop.take(Stage.REPORT)
    gone = message[2][1]["instance"]
    fails_on(shop, gone)
    shop.do(Stage.REPORT, message)
    ends = shop.records()
    assert [ends[i].get("reason", "") for i in range(3)] == ["", "pacs_fails", ""]
    assert ends[1]["instance"] == gone


@pytest.mark.parametrize("side", [65, 0], ids=["one image", "all images"])
def test_the_same_for_an_image_that_the_pacs_does_not_give(shop: Shop, side: int) -> None:
    """The reader fetches it. Where the PACS gives none, none is to blame."""
    script = f"""
import worker.pixels.preprocess, worker.reader.server
from backlog.errors import ServiceUnavailable
real = worker.pixels.preprocess.model_input
def failing(file, side=0, **more):
    from pydicom import dcmread
    from io import BytesIO
    if {side} in (0, dcmread(BytesIO(file.content)).Columns):
        raise ServiceUnavailable("the PACS answers 500")
    return real(file, side, **more)
worker.pixels.preprocess.model_input = failing
worker.reader.server.main()
"""
    shop.process.__dict__["_readers"] = Readers(shop.settings, Rules(), 1, (sys.executable, "-c", script))
    shop.submit(images(3))
    for message in shop.take(Stage.UPLOAD):
        shop.do(Stage.UPLOAD, message)
    (message,) = shop.take(Stage.INFER)
    if side == 0:
        goes_back(shop, Stage.INFER, message)
        return
    shop.do(Stage.INFER, message)
    shop.do_all()
    ends = shop.records()
    assert [ends[i].get("reason", "") for i in range(3)] == ["", "pacs_fails", ""]
    assert ends[1]["stage"] == Stage.INFER.value


def deferred(shop: Shop) -> list[int]:
    """The items of chunk 1 that were deferred; the others are on their way."""
    records = shop.claims.records("run1", 1)
    return sorted(i for i, record in records.items() if record["outcome"] == DEFERRED)


@pytest.mark.parametrize(
    "which", [[2], [3], [1, 2], [2, 3]], ids=["last but one", "last", "neighbours", "last two"]
)
def test_images_that_nothing_is_served_after_are_deferred(shop: Shop, which: list[int]) -> None:
    """Found: one such image in the first chunk, and a run reported nothing for ever."""
    shop.submit(images(4))
    fails_on(shop, *(f"1.2.3.{i}".encode() for i in which))
    for message in shop.take(Stage.UPLOAD):
        shop.do(Stage.UPLOAD, message)
    assert deferred(shop) == which
    shop.do_all()
    ends = shop.records()
    assert [i for i in range(4) if ends[i]["outcome"] == "reported"] == [
        i for i in range(4) if i not in which
    ]


def test_a_refusal_of_one_image_is_that_images(shop: Shop) -> None:
    """A PACS's authorization plug-in, or a filter before it, answers 403."""
    shop.submit(images(4))
    fails_on(shop, b"1.2.3.1", error=UsageError)
    shop.do_all()
    ends = shop.records()
    assert [ends[i].get("reason", "") for i in range(4)] == ["", "refused", "", ""]


def test_a_refusal_of_every_image_is_told_to_the_user(shop: Shop) -> None:
    shop.submit(images(3))
    (message,) = shop.take(Stage.UPLOAD)
    fails_on(shop, b"DICM", error=UsageError)
    goes_back(shop, Stage.UPLOAD, message)


def test_a_lone_image_is_at_fault_once_others_were_served_twice(shop: Shop) -> None:
    shop.submit(images(1))
    (message,) = shop.take(Stage.UPLOAD)
    fails_on(shop, b"DICM")
    for _ in range(2):
        goes_back(shop, Stage.UPLOAD, message)
    assert shop.claims.progress("run1", [1])[1].came_back == 2
    for goes in (True, False):
        shop.claims.served("run1", {Operation.WRITE: round(1000 * time.time()) + 5})  # another chunk's item
        time.sleep(0.02)
        if goes:
            goes_back(shop, Stage.UPLOAD, message)
    shop.do(Stage.UPLOAD, message)
    assert shop.records()[0]["reason"] == "pacs_fails"


def test_an_image_ends_by_what_was_served_between_its_rounds(shop: Shop) -> None:
    job = shop.submit(images(1))
    ((_, number, items),) = shop.take(Stage.UPLOAD)
    fails_on(shop, b"DICM")
    again: Job = {**job, "retry": True, "history": [1000, 2000]}  # it failed, and others were served
    goes_back(shop, Stage.UPLOAD, (again, number, items))
    shop.claims.served("run1", {Operation.WRITE: round(1000 * time.time()) + 5})
    time.sleep(0.02)
    shop.do(Stage.UPLOAD, (again, number, items))
    assert shop.records()[0]["reason"] == "pacs_fails"


def test_what_an_attempt_did_is_kept_when_its_chunk_goes_back(shop: Shop) -> None:
    """Found: thirty-six workers at a slow PACS threw their work away, and stored less than four."""
    shop.submit(images(8))
    (message,) = shop.take(Stage.UPLOAD)
    failing = fails_on(shop, *(f"1.2.3.{i}".encode() for i in (5, 6, 7)))
    goes_back(shop, Stage.UPLOAD, message)
    failing.on.clear()
    failing.calls = 0
    shop.do(Stage.UPLOAD, message)
    assert failing.calls == 3
    shop.do_all()
    assert [record["outcome"] for record in shop.records().values()] == ["reported"] * 8


def test_an_outage_is_no_items_fault(shop: Shop) -> None:
    """However it falls on the items: all, the only one, no room, or away again when asked for proof."""
    shop.submit(images(4))
    (message,) = shop.take(Stage.UPLOAD)
    cases: list[tuple[set[bytes | str], dict[str, Any]]] = [
        ({b"DICM"}, {}),
        ({b"1.2.3.2"}, {"error": StorageFull}),
        ({b"1.2.3.0", b"1.2.3.1", b"1.2.3.2"}, {"away": lambda call: call >= 1}),
    ]
    whole = shop.process.pacs
    for on, more in cases:
        shop.process.__dict__["pacs"] = whole
        fails_on(shop, *on, **more)
        goes_back(shop, Stage.UPLOAD, message)
    shop.process.__dict__["pacs"] = whole
    shop.do(Stage.UPLOAD, message)
    shop.do_all()
    assert [record["outcome"] for record in shop.records().values()] == ["reported"] * 4
    assert [record["attempts"] for record in shop.records().values()] == [1] * 4


def test_an_item_that_takes_the_time_limit_is_to_blame(shop: Shop) -> None:
    """Found: the limit's SIGTERM counted as a stop, so that a chunk was killed 65 times and never tried alone."""
    job = shop.submit(images(3))
    (message,) = shop.take(Stage.UPLOAD)
    shop.app.conf.task_time_limit = 100

    def hangs(attempt: Attempt, items: list[Any]) -> None:
        for item in items:
            attempt.before(item["i"])
            if item["i"] == 1:
                attempt.claim.began -= 99  # seconds have passed
                raise SystemExit  # what billiard makes of SIGTERM
            attempt.following[item["i"]] = item

    for _ in range(3):
        with pytest.raises(SystemExit):
            shop.runner().run(Stage.UPLOAD, job, 1, message[2], hangs)
    shop.runner().run(Stage.UPLOAD, job, 1, message[2], hangs)
    assert shop.claims.records("run1", 1)[1]["reason"] == "killed_worker"
    assert [item["i"] for item in shop.take(Stage.INFER)[0][2]] == [0, 2]


def test_a_process_that_is_ended_early_blames_no_item(shop: Shop) -> None:
    job = shop.submit(images(1))
    (message,) = shop.take(Stage.UPLOAD)

    def ended(attempt: Attempt, items: list[Any]) -> None:
        attempt.before(items[0]["i"])
        raise SystemExit

    for _ in range(4):
        with pytest.raises(SystemExit):
            shop.runner().run(Stage.UPLOAD, job, 1, message[2], ended)
    shop.do(Stage.UPLOAD, message)
    shop.do_all()
    assert shop.records()[0]["outcome"] == "reported"


def test_a_chunk_that_takes_long_goes_on_where_it_was(shop: Shop) -> None:
    """No item of it is slow: nobody is to blame, and what is done stays done."""
    job = shop.submit(images(4))
    (message,) = shop.take(Stage.UPLOAD)
    shop.app.conf.task_time_limit = 100
    begun: list[int] = []

    def slow(attempt: Attempt, items: list[Any]) -> None:
        for item in items:
            attempt.before(item["i"])
            begun.append(item["i"])
            attempt.claim.began -= 30  # seconds have passed
            attempt.following[item["i"]] = item

    with pytest.raises(Reject):
        shop.runner().run(Stage.UPLOAD, job, 1, message[2], slow)
    shop.runner().run(Stage.UPLOAD, job, 1, message[2], slow)
    assert begun == [0, 1, 2, 3]


def test_a_paused_run_holds_back_after_the_current_item(shop: Shop) -> None:
    """Found: a run that was shown as paused went on to its end."""
    job = shop.submit(images(3))
    (message,) = shop.take(Stage.UPLOAD)
    done: list[int] = []

    def slow(attempt: Attempt, items: list[Any]) -> None:
        for item in items:
            attempt.before(item["i"])
            done.append(item["i"])
            attempt.following[item["i"]] = item
            shop.claims.set_state("run1", "paused")
            wait_until(lambda: refused(attempt.claim), 60)

    with pytest.raises(Reject) as held:  # in the middle
        shop.runner().run(Stage.UPLOAD, job, 1, message[2], slow)
    assert held.value.requeue
    shop.runner().run(Stage.UPLOAD, job, 1, message[2], slow)  # at the door
    assert shop.claims.unpark("run1") == [[Stage.UPLOAD, job, 1, message[2]]]
    assert shop.claims.unpark("run1") == []
    assert done == [0]
    shop.claims.set_state("run1", "running")
    shop.do(Stage.UPLOAD, message)
    assert [item["i"] for item in shop.take(Stage.INFER)[0][2]] == [0, 1, 2]


def test_what_the_pacs_has_already_is_no_proof_that_it_can_write(shop: Shop) -> None:
    """A disk that became read-only: new images fail, known ones are answered at once."""
    shop.submit(images(3))
    (message,) = shop.take(Stage.UPLOAD)
    for name in (0, 2):
        shop.process.pacs.store(images(3)[f"m{name}"])
    fails_on(shop, b"1.2.3.1")
    goes_back(shop, Stage.UPLOAD, message)


def test_only_one_of_two_images_is_to_blame(shop: Shop) -> None:
    shop.submit(images(2))
    fails_on(shop, b"1.2.3.0")
    shop.do_all()
    assert [record.get("reason", "") for record in shop.records().values()] == ["pacs_fails", ""]


def test_a_hanging_pacs_uses_up_a_reading_chunks_retry_budget(shop: Shop) -> None:
    """What a request takes to fail counts, or the hard limit ends the worker first; and the user is told."""
    asked = shop.folder / "asked"
    script = f"""
import time, worker.pixels.preprocess, worker.reader.server
from backlog.errors import ServiceUnavailable
def hanging(file, side=0, **more):
    with open({str(asked)!r}, "a") as file:
        file.write("x")
    time.sleep(1.5)
    raise ServiceUnavailable("the PACS timed out")
worker.pixels.preprocess.model_input = hanging
worker.reader.server.main()
"""
    shop.process.__dict__["_readers"] = Readers(shop.settings, Rules(), 1, (sys.executable, "-c", script))
    shop.submit(images(3))
    for message in shop.take(Stage.UPLOAD):
        shop.do(Stage.UPLOAD, message)
    (message,) = shop.take(Stage.INFER)
    shop.process.readers(message[0]).start()
    goes_back(shop, Stage.INFER, message, retry_budget=4.0)
    # Two or three times for one image and for the next, as the pauses are drawn. By the pauses alone: five times each.
    assert 2 <= len(asked.read_text()) < 10
    assert "timed out" in shop.claims.waiting_reason("run1")


def _folder(shop: Shop, count: int) -> tuple[Path, Job, list[Any]]:
    """A backlog in a folder, its job and its items."""
    source, listing = shop.folder / "share", shop.folder / "listing"
    (source / "study").mkdir(parents=True)
    names = [f"study/{name}.dcm" for name in images(count)]
    for name, content in zip(names, images(count).values(), strict=True):
        (source / name).write_bytes(content)
    listing.write_bytes(b"".join(name.encode() + b"\0" for name in names))
    spec: SourceSpec = {"kind": "folder", "path": str(source), "listing": str(listing)}
    job = a_job("run1", spec, pacs=str(shop.folder / "pacs"))
    places = [listing.read_bytes().index(name.encode()) for name in names]
    return source, job, [{"i": i, "entry": place} for i, place in enumerate(places)]


@pytest.mark.parametrize("away", ["the root", "an empty mount point", "a part of it", "the listing"])
def test_a_source_that_is_unavailable_is_waited_for(shop: Shop, away: str) -> None:
    source, job, items = _folder(shop, 3)
    gone = {"a part of it": source / "study", "the listing": shop.folder / "listing"}.get(away, source)
    gone.rename(shop.folder / "elsewhere")
    if away in ("an empty mount point", "a part of it"):
        gone.mkdir()
    goes_back(shop, Stage.UPLOAD, (job, 1, items))
    assert "share" not in shop.claims.waiting_reason("run1")  # a folder's name may be a patient's
    if gone.exists():
        gone.rmdir()
    (shop.folder / "elsewhere").rename(gone)
    send(shop.app, Stage.UPLOAD, job, 1, items)
    shop.do_all()
    assert [record["outcome"] for record in shop.records().values()] == ["reported"] * 3


def test_a_file_that_is_gone_is_an_item_that_is(shop: Shop) -> None:
    source, job, items = _folder(shop, 3)
    next((source / "study").iterdir()).unlink()
    send(shop.app, Stage.UPLOAD, job, 1, items)
    shop.do_all()
    assert sorted(record.get("reason", "") for record in shop.records().values()) == ["", "", "unreadable"]


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "Input/output error"), OSError(errno.ESTALE, "Stale file handle")]
)
def test_a_bad_sector_costs_the_file_that_lies_on_it(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    source, job, items = _folder(shop, 3)
    bad = source / "study" / "m1.dcm"
    real = Path.open

    def failing(self: Path, *more: Any, **named: Any) -> Any:
        if self == bad:
            raise error
        return real(self, *more, **named)

    monkeypatch.setattr(Path, "open", failing)
    send(shop.app, Stage.UPLOAD, job, 1, items)
    shop.do_all()
    ends = shop.records()
    assert [ends[i].get("reason", "") for i in range(3)] == ["", "unreadable", ""]
    assert "and not on others" in ends[1]["detail"]


def test_an_outage_that_ends_in_time_blames_nobody(shop: Shop) -> None:
    shop.submit(images(3))
    fails_on(shop, away=lambda call: call == 2)  # over item 1; there when it is tried again
    shop.do_all()
    assert [record["outcome"] for record in shop.records().values()] == ["reported"] * 3


def test_an_item_that_the_pacs_took_at_last_casts_no_doubt_on_it(shop: Shop) -> None:
    """The chunk's last item isn't DICOM, so that it can't speak for the PACS."""
    shop.submit({"a.dcm": images(1).popitem()[1], "b.dcm": b"no DICOM"})
    fails_on(shop, away=lambda call: call == 1)
    shop.do_all()
    assert [record.get("reason", "") for record in shop.records().values()] == ["", "not_dicom"]


def test_a_rejected_item_is_no_proof_that_the_pacs_works(shop: Shop) -> None:
    shop.submit({"a.dcm": images(1).popitem()[1], "b.dcm": b"no DICOM"})
    (message,) = shop.take(Stage.UPLOAD)
    fails_on(shop, b"DICM")
    goes_back(shop, Stage.UPLOAD, message)


def test_a_replaced_zip_is_told_to_the_user(shop: Shop) -> None:
    job = shop.submit(images(2))
    (message,) = shop.take(Stage.UPLOAD)
    with ZipArchive(shop.folder / "run1.zip") as began_with:
        job["source"]["fingerprint"] = began_with.fingerprint
    shop.do(Stage.UPLOAD, (job, *message[1:]))
    shop.submit(images(2, KVP="99"))  # the same names and sizes
    shop.take(Stage.UPLOAD)
    shop.claims.broker.client.flushall()
    goes_back(shop, Stage.UPLOAD, (job, *message[1:]))
    assert "not the one that the run began with" in shop.claims.waiting_reason("run1")


def test_another_runs_list_of_files_is_told_to_the_user(shop: Shop) -> None:
    """A run's folder was moved, and another run made in its place, whose paths lie at the same places."""
    (shop.folder / "in").mkdir()
    for name, content in zip("ab", images(2).values(), strict=True):
        (shop.folder / "in" / name).write_bytes(content)
    listing = shop.folder / "source.list"
    own, other = (PathList(listing, new_list_id()) for _ in range(2))
    spec: SourceSpec = {"kind": "folder", "path": str(shop.folder / "in"), "listing": str(listing)}
    spec["list_id"] = own.list_id
    job = a_job("run1", spec, pacs=str(shop.folder / "pacs"))
    items = [UploadItem(i=0, entry=own.first)]
    listing.write_bytes(other.head + listing_record(b"b"))
    goes_back(shop, Stage.UPLOAD, (job, 1, items))
    assert "another run's list of files" in shop.claims.waiting_reason("run1")
    assert shop.files() == {}
    listing.write_bytes(own.head + listing_record(b"a"))
    shop.do(Stage.UPLOAD, (job, 1, items))
    assert list(shop.files().values()) == [images(2)["m0"]]


def test_a_zip_that_is_gone_is_told_to_the_user(shop: Shop) -> None:
    shop.submit(images(1))
    (message,) = shop.take(Stage.UPLOAD)
    (shop.folder / "run1.zip").unlink()
    goes_back(shop, Stage.UPLOAD, message)
    assert "no such file" in shop.claims.waiting_reason("run1")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [("pacs", "another", "another PACS"), ("weights", "0" * 64, "weights are not those")],
)
def test_a_worker_of_another_kind_refuses(shop: Shop, key: str, value: str, words: str) -> None:
    shop.submit(images(1))
    shop.do(Stage.UPLOAD, shop.take(Stage.UPLOAD)[0])
    ((job, number, items),) = shop.take(Stage.INFER)
    job[key] = value  # type: ignore[literal-required]
    goes_back(shop, Stage.INFER, (job, number, items))
    assert words in shop.claims.waiting_reason("run1")
    assert shop.take(Stage.REPORT) == []


def test_a_worker_without_a_pacs_says_so(shop: Shop) -> None:
    with pytest.raises(UsageError, match="CXR_PACS_URL is not set"):
        _ = tasks.WorkerResources(Settings()).pacs


def test_a_redis_that_is_unavailable_sends_the_message_back(shop: Shop) -> None:
    job = shop.submit(images(1))
    lonely = Claims(f"redis://127.0.0.1:{free_port()}/0")
    with pytest.raises(Reject) as rejected:
        StageRunner(shop.app, lonely, 0).run(Stage.UPLOAD, job, 1, [], lambda attempt, items: None)
    assert rejected.value.requeue


# -- one bad item --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), Reason.OUT_OF_MEMORY),
        (RecursionError(), Reason.INTERNAL_ERROR),
        (ValueError("Doe^Jane 1970-01-01"), Reason.INTERNAL_ERROR),
        (InstanceRejected(Reason.BLANK, "why"), Reason.BLANK),
    ],
)
def test_what_goes_wrong_with_one_item_costs_that_item(
    shop: Shop, error: Exception, reason: Reason, caplog: pytest.LogCaptureFixture
) -> None:
    claim = shop.claims.claim("run1", 1, Stage.UPLOAD, Stage.UPLOAD)
    assert isinstance(claim, Claim)

    done: list[int] = []

    def effect(item: dict[str, int]) -> None:
        if item["i"] == 1:
            raise error
        done.append(item["i"])

    LOGGER.propagate = True
    with caplog.at_level(logging.INFO, "cxr"):
        attempt = Attempt(claim, Stage.UPLOAD, 0)
        attempt.each([{"i": 0}, {"i": 1}, {"i": 2}], effect)
    failed = attempt.records()
    assert done == [0, 2]
    assert list(failed) == [1]
    assert (failed[1]["reason"], failed[1]["outcome"]) == (reason.value, "quarantined")
    said = json.dumps(failed) + caplog.text + str([vars(one) for one in caplog.records])
    assert "Doe" not in said


@pytest.mark.parametrize("error", [ServiceUnavailable("x"), UsageError("x"), ClaimLost("x")])
def test_what_is_not_the_items_fault_costs_no_item(shop: Shop, error: Exception) -> None:
    claim = shop.claims.claim("run1", 1, Stage.UPLOAD, Stage.UPLOAD)
    assert isinstance(claim, Claim)

    def effect(item: object) -> None:
        raise error

    with pytest.raises(type(error)):
        Attempt(claim, Stage.UPLOAD, 0).each([{"i": 0}], effect)


def test_a_bug_is_raised_and_the_next_attempt_goes_one_by_one(shop: Shop) -> None:
    job = shop.submit(images(2))
    (message,) = shop.take(Stage.UPLOAD)

    def buggy(attempt: Attempt, items: list[Any]) -> Any:
        raise ZeroDivisionError

    with pytest.raises(StageFailed, match="ZeroDivisionError at "):
        shop.runner().run(Stage.UPLOAD, job, 1, message[2], buggy)
    crumbs: list[Any] = []

    def careful(attempt: Attempt, items: list[Any]) -> Any:
        for item in items:
            attempt.before(item["i"])
            crumbs.append(shop.claims.broker.client.hget(attempt.claim.key, "cur"))
            attempt.following[item["i"]] = item

    shop.runner().run(Stage.UPLOAD, job, 1, message[2], careful)
    assert crumbs == ["0:0", "1:0"]


def test_an_item_that_was_decided_is_not_done_again(shop: Shop) -> None:
    """It killed two workers: the third passes it by, and the others are reported."""
    shop.submit(images(3))
    for _ in range(2):
        claim = shop.claims.claim("run1", 1, Stage.UPLOAD, Stage.UPLOAD)
        assert isinstance(claim, Claim)
        claim.set_current_item(1)
        shop.claims.broker.client.hdel(claim.key, "lease")  # as if it had run out
    shop.do_all()
    ends = shop.records()
    assert ends[1]["reason"] == "killed_worker"
    assert [ends[i]["outcome"] for i in (0, 2)] == ["reported"] * 2
    assert len(shop.files()) == 4


def test_a_chunk_that_was_decided_whole_ends(shop: Shop) -> None:
    shop.submit(images(1))
    for _ in range(2):
        claim = shop.claims.claim("run1", 1, Stage.UPLOAD, Stage.UPLOAD)
        assert isinstance(claim, Claim)
        claim.set_current_item(0)
        shop.claims.broker.client.hdel(claim.key, "lease")
    shop.do_all()
    assert shop.records()[0]["reason"] == "killed_worker"


# -- waiting for a slot at the PACS --------------------------------------------------------------------------


def _waits_for_a_slot(
    shop: Shop, during: Callable[[], object], limit: int = 3600
) -> tuple[list[Any], BaseException | None]:
    """Do a chunk while another holds the PACS's only slot; return what began, and what ended it."""
    holder, ours = (
        PacsConcurrencyLimit(Broker(shop.settings.redis_url), "http://pacs", most=1, lifetime=60.0)
        for _ in "ab"
    )
    pacs = LimitedPacs(shop.process.pacs, ours)
    job = shop.submit(images(1))
    (message,) = shop.take(Stage.UPLOAD)
    shop.app.conf.task_time_limit = limit
    begun: list[Any] = []
    ended: list[BaseException] = []

    def body(attempt: Attempt, items: list[Any]) -> None:
        begun.extend(items)

    def work() -> None:
        try:
            StageRunner(shop.app, shop.claims, 0.0, pacs=lambda: pacs).run(
                Stage.UPLOAD, job, 1, message[2], body
            )
        except Reject as error:
            ended.append(error)

    thread = threading.Thread(target=work)
    with holder.slot("fetch"):
        thread.start()
        wait_until(lambda: ours.waited > 0, 60, "it has waited")  # it may have given up since
        during()
        assert begun == []
    thread.join(60)
    return begun, ended[0] if ended else None


def test_a_chunk_that_waits_for_the_pacs_is_leased(shop: Shop) -> None:
    """Found: its message was with a worker and it had no lease, so that it was sent again, 59 times."""
    leased: list[bool] = []
    begun, ended = _waits_for_a_slot(shop, lambda: leased.append(shop.claims.progress("run1", [1])[1].leased))
    assert leased == [True]
    assert (len(begun), ended) == (1, None)


def test_a_chunk_whose_turn_never_comes_goes_back_untried(shop: Shop) -> None:
    """The hard limit would end the process, and count."""

    def until_it_went_back() -> None:
        wait_until(lambda: not shop.claims.progress("run1", [1])[1].leased, 60)

    begun, ended = _waits_for_a_slot(shop, until_it_went_back, limit=2)
    assert begun == []
    assert isinstance(ended, Reject)
    assert ended.requeue
    claim = shop.claims.claim("run1", 1, Stage.UPLOAD, Stage.UPLOAD)
    assert isinstance(claim, Claim)
    assert claim.attempt == 1
