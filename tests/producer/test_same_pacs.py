"""A PACS under another identifier is the run's where it holds what the run stored, and nowhere else."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backlog.broker.claims import Claims
from backlog.errors import UsageError
from backlog.outcomes import Reason
from backlog.pacs.folder import FolderPacs
from backlog.settings import Settings
from producer.ledger.ledger import Ledger
from producer.ledger.run_job import RunJob
from producer.run import same_pacs
from producer.run.folder import Paths
from producer.run.open import pacs_of
from producer.run.same_pacs import IdentityWatch, is_run_pacs
from producer.sources.base import Entry, Page
from tests.support.dicom_images import chest, dicom
from tests.support.ended_runs import harvest, list_items, new_ledger, rejected, reported, some_scores
from tests.support.jobs import a_job
from tests.support.newer_orthanc import NewerOrthanc, an_orthanc, lacking
from worker.tasks.resources import WorkerResources

IMAGE = dicom(chest(64, 64))


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = new_ledger(tmp_path / "out")
    yield made
    made.close()


@pytest.fixture
def pacs(tmp_path: Path) -> FolderPacs:
    return FolderPacs(tmp_path / "a")


@pytest.fixture
def other(tmp_path: Path) -> FolderPacs:
    return FolderPacs(tmp_path / "b")


def test_a_report_of_the_run_tells(ledger: Ledger, pacs: FolderPacs, other: FolderPacs) -> None:
    instance = pacs.store(IMAGE).instance
    sha = hashlib.sha256(IMAGE).hexdigest()
    list_items(ledger, 30)
    held: dict[str, Any] = {"sr_instance": instance, "sr_sha256": sha}
    harvest(ledger, lambda item: reported(item, some_scores(item), **(held if item == 29 else {})))
    assert is_run_pacs(ledger, pacs)
    assert not is_run_pacs(ledger, other)
    other.store(dicom(chest(64, 64)[::-1]))  # another content under the same identifiers
    assert not is_run_pacs(ledger, other)


def test_an_image_tells_where_nothing_is_reported(
    ledger: Ledger, pacs: FolderPacs, other: FolderPacs
) -> None:
    instance = pacs.store(IMAGE).instance
    assert is_run_pacs(ledger, other)  # nothing is known of the run yet
    list_items(ledger, 2)
    harvest(ledger, lambda _: rejected(Reason.BLANK, instance=instance))
    assert is_run_pacs(ledger, pacs)
    assert not is_run_pacs(ledger, other)


def test_a_pacs_is_known_by_an_image_that_it_listed(
    ledger: Ledger, pacs: FolderPacs, other: FolderPacs
) -> None:
    ledger.add(Page([Entry(pacs.store(IMAGE).instance)], "", last=True), 16)
    assert is_run_pacs(ledger, pacs)
    assert not is_run_pacs(ledger, other)


def test_a_container_that_is_created_again_is_the_same_pacs(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(same_pacs, "INTERVAL", 0.0)
    if why := lacking("1.12"):
        pytest.skip(why)
    with an_orthanc("1.12", tmp_path) as server:
        assert isinstance(server, NewerOrthanc)
        settings = Settings(
            redis_url=redis_url,
            pacs_url=server.url,
            pacs_username=server.username,
            pacs_password=server.password,
        )
        worker = WorkerResources(settings)
        first = worker.pacs.identity()
        held = worker.pacs.store(IMAGE)
        ledger = new_ledger(tmp_path / "out", pacs=server.url)
        old = a_job("run", pacs=first)
        ledger.set("job", old)
        run_job = RunJob(ledger)
        list_items(ledger, 1)
        sha = hashlib.sha256(IMAGE).hexdigest()
        one: dict[str, Any] = {"sr_instance": held.instance, "sr_sha256": sha}
        harvest(ledger, lambda item: reported(item, some_scores(item), **one))
        claims = Claims(redis_url)
        said: list[str] = []
        pacs = pacs_of(ledger, settings, Paths(tmp_path / "out"))
        watch = IdentityWatch(ledger, claims, pacs, server.url, run_job, said.append)
        watch.check()
        worker.check(old)
        server.stop()
        server.host, server.options = (
            "another-host",
            {"DicomAet": "ANOTHER"},
        )  # which of the two tells, varies
        server.start()
        fresh = WorkerResources(settings)
        assert fresh.pacs.identity() != first
        with pytest.raises(UsageError, match="another PACS"):
            fresh.check(old)
        pacs_of(ledger, settings, Paths(tmp_path / "out")).close()  # verify, retract and resume ask this
        watch.check()
        assert "DatabaseServerIdentifier" in said[0]
        assert ledger.get("job")["pacs"] == run_job.now()["pacs"] == fresh.pacs.identity()
        for process in (worker, fresh):
            process.check(old)  # from a message that was under way
            process.check(run_job.now())
        worker.pacs.delete(held.instance)
        ledger.set("job", old)
        with pytest.raises(UsageError, match="DatabaseServerIdentifier"):
            pacs_of(ledger, settings, Paths(tmp_path / "out"))
        ledger.close()
