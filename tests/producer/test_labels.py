"""Labels of findings on the studies of a real Orthanc 1.12: put once, and only our own taken off again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from backlog.errors import ServiceUnavailable, UsageError
from backlog.model import LABELS
from backlog.pacs.base import Pacs
from backlog.pacs.folder import FolderPacs
from backlog.pacs.limited_pacs import limited
from backlog.pacs.orthanc import Orthanc
from backlog.settings import Settings
from producer.ledger.ledger import Ledger
from producer.ledger.run_job import RunJob
from producer.results.audit_log import Audit
from producer.results.audit_log import verify as follow
from producer.results.labels import (
    SEEDED_WEIGHTS,
    WANTED,
    StudyLabels,
    check_labels,
    count_labels,
    label_of,
    remove_labels,
)
from producer.results.retract import retract
from tests.support.dicom_images import chest, dicom
from tests.support.ended_runs import harvest, list_items, new_ledger, reported
from tests.support.newer_orthanc import an_orthanc, lacking
from tests.support.servers import OrthancServer

COUNT = 6
EFFUSION, MASS = LABELS.index("Effusion"), LABELS.index("Mass")


class Killed(BaseException):
    """The process ends here."""


class Dying(Orthanc):
    """An Orthanc whose client ends before or behind the request of a number."""

    dies_at, behind = 0, False

    def put_label(self, study: str, label: str) -> None:
        self.dies_at -= 1
        if not self.dies_at and not self.behind:
            raise Killed
        super().put_label(study, label)
        if not self.dies_at:
            raise Killed

    def remove_label(self, study: str, label: str) -> None:
        self.dies_at -= 1
        super().remove_label(study, label)
        if not self.dies_at:
            raise Killed


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OrthancServer]:
    if reason := lacking("1.12"):
        pytest.skip(reason)
    with an_orthanc("1.12", tmp_path_factory.mktemp("orthanc")) as server:
        yield server


@pytest.fixture
def pacs(server: OrthancServer) -> Iterator[Dying]:
    server.clear()
    made = Dying(server.url, username=server.username, password=server.password)
    yield made
    made.close()


@pytest.fixture
def ledger(tmp_path: Path, pacs: Orthanc) -> Iterator[Ledger]:
    """A run of two images a study: each has a mass, each second one an effusion too; the last study has nothing."""
    instances = [
        pacs.store(
            dicom(
                chest(64, 64),
                SOPInstanceUID=f"1.2.3.{number}",
                SeriesInstanceUID=f"1.2.4.{number}",
                StudyInstanceUID=f"1.2.{number // 2}",
            )
        ).instance
        for number in range(COUNT)
    ]
    made = run_of(tmp_path, instances)
    yield made
    made.close()


def run_of(folder: Path, instances: list[str], **facts: Any) -> Ledger:
    ledger = new_ledger(folder, **{WANTED: True} | facts)
    list_items(ledger, len(instances))

    def record(item: int) -> Any:
        scores = [0.4999] * len(LABELS)
        if item // 2 < 2:
            scores[MASS] = 0.5
            scores[EFFUSION] = 0.7 if item % 2 else 0.1
        return reported(item, scores, instance=instances[item])

    harvest(ledger, record)
    return ledger


def labels(pacs: Orthanc, server: OrthancServer) -> dict[str, set[str]]:
    """Return the labels of each study by its UID."""
    return {
        one["MainDicomTags"]["StudyInstanceUID"]: set(pacs.labels(one["ID"]))
        for one in server.get("/studies?expand").json()
    }


def put_all(ledger: Ledger, pacs: Pacs) -> None:
    StudyLabels(ledger, pacs, RunJob(ledger).now).finish(0)


BOTH = {"ai-mass", "ai-effusion"}


def test_labels_are_what_orthanc_takes() -> None:
    assert [label_of(one) for one in ("Pneumothorax", "Pleural_Thickening", "Lung Lesion")] == [
        "ai-pneumothorax",
        "ai-pleural-thickening",
        "ai-lung-lesion",
    ]
    assert len({label_of(one) for one in LABELS}) == len(LABELS)


def test_present_findings_label_their_study(ledger: Ledger, pacs: Orthanc, server: OrthancServer) -> None:
    put_all(ledger, pacs)
    assert labels(pacs, server) == {"1.2.0": BOTH, "1.2.1": BOTH, "1.2.2": set()}
    assert count_labels(ledger) == {"ai-mass": 2, "ai-effusion": 2}
    put_all(ledger, pacs)
    ledger.set("labelled", 0)  # all over again, as after a restored backup
    put_all(ledger, pacs)
    assert labels(pacs, server) == {"1.2.0": BOTH, "1.2.1": BOTH, "1.2.2": set()}
    assert remove_labels(ledger, pacs, 0) == 4
    assert labels(pacs, server) == {"1.2.0": set(), "1.2.1": set(), "1.2.2": set()}
    assert remove_labels(ledger, pacs, 0) == 0


def test_labels_go_through_the_limit_of_a_shared_pacs(
    ledger: Ledger, pacs: Orthanc, server: OrthancServer, redis_url: str
) -> None:
    """As `retract` of a run in a stack meets it: with Redis, the PACS stands behind a limit on requests."""
    shared = limited(pacs, Settings(redis_url=redis_url), server.url)
    assert shared is not pacs
    put_all(ledger, shared)
    assert retract(ledger, shared).labels == 4
    assert labels(pacs, server) == {"1.2.0": set(), "1.2.1": set(), "1.2.2": set()}


def test_a_sites_operating_points_decide(ledger: Ledger, pacs: Orthanc, server: OrthancServer) -> None:
    thresholds = {"Mass": 0.51, "Nodule": 0.4999}
    ledger.set("job", ledger.get("job") | {"operating_points": {"sha256": "", "thresholds": thresholds}})
    put_all(ledger, pacs)
    both = {"ai-effusion", "ai-nodule"}
    assert labels(pacs, server) == {"1.2.0": both, "1.2.1": both, "1.2.2": {"ai-nodule"}}


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("dies_at", [1, 2, 4, 6])
def test_a_crash_makes_no_label_ours_or_foreign(
    ledger: Ledger, pacs: Dying, server: OrthancServer, dies_at: int, behind: bool
) -> None:
    """Another run's label stays after a retraction, and none of ours does, whatever the crash fell between."""
    second = next(
        one["ID"]
        for one in server.get("/studies?expand").json()
        if one["MainDicomTags"]["StudyInstanceUID"] == "1.2.1"
    )
    pacs.put_label(second, "ai-mass")
    pacs.put_label(second, "urgent")
    pacs.dies_at, pacs.behind = dies_at, behind
    try:
        put_all(ledger, pacs)
    except Killed:
        put_all(ledger, pacs)
    assert labels(pacs, server) == {"1.2.0": BOTH, "1.2.1": BOTH | {"urgent"}, "1.2.2": set()}
    pacs.dies_at = 2
    with pytest.raises(Killed):
        remove_labels(ledger, pacs, 0)
    remove_labels(ledger, pacs, 0)
    assert labels(pacs, server) == {"1.2.0": set(), "1.2.1": {"ai-mass", "urgent"}, "1.2.2": set()}


def test_the_audit_has_labels_put_and_removed(ledger: Ledger, pacs: Orthanc, tmp_path: Path) -> None:
    put_all(ledger, pacs)
    done = retract(ledger, pacs)
    assert (done.labels, done.reports) == (4, 0)
    with Audit(ledger, tmp_path / "audit.jsonl") as audit:
        audit.catch_up()
    assert follow(ledger, tmp_path / "audit.jsonl").right
    kinds = list(ledger.select(str, "SELECT kind FROM effect WHERE kind LIKE 'labels%'"))
    assert kinds == ["labels.put"] * 4 + ["labels.removed"] * 4


def test_seeded_weights_say_so_beside_every_label(
    tmp_path: Path, pacs: Orthanc, server: OrthancServer
) -> None:
    instance = pacs.store(dicom(chest(64, 64), StudyInstanceUID="1.2.0")).instance
    ledger = run_of(tmp_path / "seeded", [instance], meaningful=False)
    put_all(ledger, pacs)
    assert labels(pacs, server) == {"1.2.0": {SEEDED_WEIGHTS, "ai-mass"}}
    ledger.close()


def test_studies_that_are_gone_are_passed_over(ledger: Ledger, pacs: Orthanc, server: OrthancServer) -> None:
    first, second, _ = sorted(
        (one["MainDicomTags"]["StudyInstanceUID"], one["ID"]) for one in server.get("/studies?expand").json()
    )
    requests.delete(f"{server.url}/studies/{first[1]}", auth=server.auth, timeout=30)
    put_all(ledger, pacs)
    assert labels(pacs, server) == {"1.2.1": BOTH, "1.2.2": set()}
    requests.delete(f"{server.url}/studies/{second[1]}", auth=server.auth, timeout=30)
    assert remove_labels(ledger, pacs, 0) == 2


def test_an_unavailable_pacs_holds_nothing_up(ledger: Ledger, pacs: Orthanc, server: OrthancServer) -> None:
    work = StudyLabels(ledger, pacs, RunJob(ledger).now)
    server.stop()
    try:
        work.check()
        with pytest.raises(ServiceUnavailable):
            work.finish(0)
    finally:
        server.start()
    work.finish(5)
    assert labels(pacs, server)["1.2.0"] == BOTH


def test_only_an_orthanc_with_labels_is_taken(tmp_path: Path, orthanc: OrthancServer) -> None:
    if lacking("installed"):
        pytest.skip(lacking("installed"))
    with pytest.raises(UsageError, match="needs an Orthanc of version 1"):
        check_labels(FolderPacs(tmp_path))
    version = orthanc.get("/system").json()["Version"]
    if tuple(map(int, version.split(".")[:2])) >= (1, 12):
        pytest.skip(f"the installed Orthanc {version} keeps labels")
    old = Orthanc(orthanc.url, username=orthanc.username, password=orthanc.password)
    with pytest.raises(UsageError, match="keeps no labels: that needs version 1"):
        check_labels(old)
    old.close()
