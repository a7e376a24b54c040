"""Reports taken back: none left behind, none forgotten, and never asked of another PACS."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from backlog.broker.claim import Claim
from backlog.broker.claims import Claims, Refusal
from backlog.broker.messages import Stage
from backlog.errors import InstanceRejected
from backlog.outcomes import Reason
from backlog.pacs import folder
from producer.cli.main import main
from producer.dispatch.progress import RunProgress
from producer.ledger.ledger import Ledger, Tally
from producer.results import reported as reported_module
from producer.results import retract as retraction
from producer.results import verify as verification
from producer.results.audit_log import Audit
from producer.results.audit_log import verify as follow
from producer.run.folder import Paths
from producer.run.published import Publisher
from tests.support.ended_runs import harvest, list_items, new_ledger, reported, some_scores
from tests.support.servers import wait_until

COUNT = 7


class Killed(BaseException):
    """The process ends here."""


class Held:
    """A PACS in memory, that may end the process behind a deletion."""

    def __init__(self, held: dict[str, bytes]) -> None:
        self.held = held
        self.dies_at = ""

    def fetch(self, instance: str) -> bytes:
        if instance not in self.held:
            raise InstanceRejected(Reason.NOT_IN_PACS)
        return self.held[instance]

    def fetch_many(self, instances: list[str]) -> list[bytes | None]:
        return [self.held.get(instance) for instance in instances]

    def delete(self, instance: str) -> bool:
        there = self.held.pop(instance, None) is not None
        if instance == self.dies_at:
            self.dies_at = ""
            raise Killed
        return there

    def delete_many(self, instances: list[str]) -> None:
        for instance in instances:
            self.delete(instance)

    def find(self, uids: list[str]) -> dict[str, list[str]]:
        return {}

    def expected_id(self, of: object) -> str:
        return ""

    def studies_of(self, instances: list[str]) -> dict[str, str]:
        return {}


def taken(done: Any) -> tuple[int, int, int]:
    return done.reports, done.left, done.derived_objects


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def content(name: str, item: int) -> bytes:
    return f"{name} {item}".encode()


@pytest.fixture(autouse=True)
def _small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reported_module, "BATCH", 2)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """A run that stored a report of each item, and a picture and a PDF beside it."""

    def record(item: int) -> Any:
        beside = [
            {"kind": kind, "instance": f"{kind} {item}", "sha256": sha(content(kind, item)), "ours": True}
            for kind in ("capture", "pdf")
        ]
        report = {"sr_instance": f"report {item}", "sr_sha256": sha(content("report", item))}
        return reported(item, some_scores(item), derived_objects=beside, **report)

    made = new_ledger(tmp_path)
    list_items(made, COUNT)
    harvest(made, record)
    yield made
    made.close()


@pytest.fixture
def pacs() -> Any:
    kinds = ("report", "capture", "pdf")
    return Held({f"{kind} {item}": content(kind, item) for kind in kinds for item in range(COUNT)})


def effects(ledger: Ledger, kind: str) -> list[int]:
    return list(ledger.select(int, "SELECT item FROM effect WHERE kind = ? ORDER BY item", kind))


def test_every_report_is_taken_back_once(ledger: Ledger, pacs: Any) -> None:
    assert verification.verify(ledger, pacs).right == COUNT
    assert taken(retraction.retract(ledger, pacs)) == (COUNT, 0, 2 * COUNT)
    assert pacs.held == {}
    assert taken(retraction.retract(ledger, pacs)) == (0, 0, 0)
    assert effects(ledger, "report.retracted") == list(range(COUNT))
    assert effects(ledger, "derived_objects.retracted") == list(range(COUNT))
    found = verification.verify(ledger, pacs)
    assert (found.complete, found.right, found.retracted, found.missing) == (True, 0, COUNT, [])


@pytest.mark.parametrize("dies_at", ["report 0", "report 4", "report 6", "capture 4", "pdf 4", "pdf 0"])
def test_a_deletion_that_is_broken_off_is_recorded_by_the_next(
    ledger: Ledger, pacs: Any, dies_at: str, tmp_path: Path
) -> None:
    pacs.dies_at = dies_at
    with pytest.raises(Killed):
        retraction.retract(ledger, pacs)
    assert dies_at not in pacs.held
    retraction.retract(ledger, pacs)
    assert pacs.held == {}
    assert effects(ledger, "report.retracted") == list(range(COUNT))
    assert effects(ledger, "derived_objects.retracted") == list(range(COUNT))
    assert ledger.get("retracting") is None
    with Audit(ledger, tmp_path / "audit.jsonl") as audit:
        audit.catch_up()
    assert follow(ledger, tmp_path / "audit.jsonl").right


def test_what_others_deleted_or_changed_is_not_retracted(ledger: Ledger, pacs: Any) -> None:
    del pacs.held["report 2"]
    pacs.held["report 3"] = b"changed"
    assert taken(retraction.retract(ledger, pacs)) == (COUNT - 2, 2, 2 * COUNT)
    assert taken(retraction.retract(ledger, pacs)) == (0, 2, 0)
    assert effects(ledger, "report.retracted") == [0, 1, 4, 5, 6]
    found = verification.verify(ledger, pacs)
    assert (found.complete, found.retracted, found.missing, found.different) == (False, 5, [2], [3])


def test_a_source_that_was_not_read_to_its_end_is_not_right(tmp_path: Path, pacs: Any) -> None:
    ledger = new_ledger(tmp_path)
    assert not verification.verify(ledger, pacs).complete
    list_items(ledger, 0)
    assert verification.verify(ledger, pacs).complete
    ledger.close()


# -- which PACS ----------------------------------------------------------------------------------------------


def a_run(out: Path, pacs: Path) -> None:
    """A run of one report in a folder PACS."""
    instance = f"{'a' * 40}/{'b' * 40}"
    file = pacs / f"{instance}.dcm"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"report")
    ledger = new_ledger(out, pacs=str(pacs))
    ledger.set("job", ledger.get("job") | {"pacs": folder.FolderPacs(pacs).identity()})
    list_items(ledger, 1)
    more = {"sr_instance": instance, "sr_sha256": sha(b"report")}
    harvest(ledger, lambda item: reported(item, some_scores(item), **more))
    ledger.close()


def command(*words: object) -> tuple[int, str]:
    done = CliRunner().invoke(main, [str(word) for word in words])
    return done.exit_code, done.output


def test_a_run_that_was_moved_with_its_pacs_is_found_again(tmp_path: Path) -> None:
    a_run(tmp_path / "old", tmp_path / "old" / "pacs")
    (tmp_path / "old").rename(tmp_path / "new")
    status, text = command("verify", tmp_path / "new")
    assert (status, "Right       1" in text) == (0, True), text
    status, text = command("retract", tmp_path / "new", "--yes")
    assert (status, "Deleted 1 reports" in text) == (0, True), text
    assert not list((tmp_path / "new" / "pacs").rglob("*.dcm"))
    line = json.loads((tmp_path / "new" / "audit.jsonl").read_text().splitlines()[-1])
    assert line["effect"] == "report.retracted"


@pytest.mark.parametrize("words", [["verify"], ["retract", "--yes"]])
def test_a_pacs_folder_that_is_gone_is_named(tmp_path: Path, words: list[str]) -> None:
    a_run(tmp_path / "out", tmp_path / "elsewhere")
    (tmp_path / "elsewhere").rename(tmp_path / "away")
    for _ in range(2):
        status, text = command(words[0], tmp_path / "out", *words[1:])
        assert (status, f"{tmp_path / 'elsewhere'}: this run's PACS" in text) == (2, True), text
        (tmp_path / "elsewhere").mkdir(exist_ok=True)  # the empty place where its disk is mounted


@pytest.mark.parametrize("words", [["verify"], ["retract", "--yes"]])
def test_another_pacs_at_the_same_address_is_refused(
    tmp_path: Path, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    a_run(tmp_path / "out", tmp_path / "pacs")
    ledger = Ledger(tmp_path / "out" / "ledger.sqlite", write=True)
    ledger.set("pacs", "http://127.0.0.1:1")
    ledger.close()
    monkeypatch.setattr("backlog.pacs.orthanc.Orthanc.identity", lambda self: "another")
    status, text = command(words[0], tmp_path / "out", *words[1:])
    assert (status, "not the one that this run began with" in text) == (2, True), text


# -- a run that has not ended --------------------------------------------------------------------------------


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """A run of a stack whose producer is gone: one report on record, one chunk in flight."""
    out = tmp_path / "out"
    a_run(out, tmp_path / "pacs")
    ledger = Ledger(out / "ledger.sqlite", write=True)
    ledger.set("stack", True)
    list_items(ledger, 1)
    (chunk,) = ledger.waiting(1)
    ledger.dispatched([chunk.no])
    ledger.close()
    return out


@pytest.mark.timeout(60, func_only=True)
def test_a_run_in_a_stack_is_cancelled_and_leases_awaited(
    begun: Path, tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXR_REDIS_URL", redis_url)
    monkeypatch.setenv("CXR_LEASE_SECONDS", "60")
    ledger = Ledger(begun / "ledger.sqlite", write=False)
    run, (chunk,) = str(ledger.get("job")["run"]), ledger.in_flight()
    ledger.close()
    claims = Claims(redis_url, lease_seconds=60)
    claim = claims.claim(run, chunk.no, Stage.UPLOAD, Stage.UPLOAD)
    assert isinstance(claim, Claim)
    assert claims.progress(run, [chunk.no])[chunk.no].leased
    held: list[Path] = []

    def lease_ends() -> None:
        client = claims.broker.client
        wait_until(lambda: client.hget(f"cxr:{run}", "state") == "cancelled", what="the run is cancelled")
        held.extend((tmp_path / "pacs").rglob("*.dcm"))
        client.hdel(claim.key, "lease")

    ending = threading.Thread(target=lease_ends)
    ending.start()
    status, text = command("retract", begun, "--yes")
    ending.join()
    assert held, "a report is not deleted while a worker may still write another"
    assert (status, "it is cancelled first" in text, "Deleted 1 reports" in text) == (0, True, True), text
    assert not claims.progress(run, [chunk.no])[chunk.no].leased
    assert claims.claim(run, chunk.no, Stage.UPLOAD, Stage.UPLOAD) is Refusal.CANCELLED
    assert Paths(begun).cancel.exists()
    assert not list((tmp_path / "pacs").rglob("*.dcm"))


def test_a_run_at_work_on_another_machine_is_left_alone(begun: Path, tmp_path: Path) -> None:
    Publisher(Paths(begun).progress, 0.0).publish(RunProgress(2, True, 2, 1, 1, Tally(1, {}, {})))
    news = json.loads(Paths(begun).progress.read_text())
    Paths(begun).progress.write_text(json.dumps(news | {"host": "another"}))
    status, text = command("retract", begun, "--yes")
    assert (status, "the run is at work" in text) == (2, True), text
    assert not Paths(begun).cancel.exists()
    assert list((tmp_path / "pacs").rglob("*.dcm"))


def test_without_its_redis_a_run_in_a_stack_is_not_retracted(begun: Path, tmp_path: Path) -> None:
    status, text = command("retract", begun, "--yes")
    assert (status, "set CXR_REDIS_URL" in text) == (2, True), text
    assert list((tmp_path / "pacs").rglob("*.dcm"))
