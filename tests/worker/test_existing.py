"""Scores of reports that are there already: whose report counts, and what happens where it is gone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np
import pytest

from backlog.broker.job import Job
from backlog.outcomes import Outcome, Reason
from backlog.pacs.orthanc import Orthanc
from tests.support.dicom_images import chest, dicom
from tests.support.jobs import a_job
from tests.support.servers import OrthancServer
from tests.worker.test_report import JOB, SCORES, reported_through
from worker.pixels.seen import SeenSquare
from worker.reader.protocol import PreprocessedImage
from worker.tasks.existing import existing_scores, may_stand_for_scoring

WEIGHTS = JOB["weights"]
IMAGE = dicom(chest(64, 64), SOPInstanceUID="1.2.7", StudyInstanceUID="1.3.7")


@pytest.fixture
def pacs(orthanc: OrthancServer) -> Iterator[Orthanc]:
    with closing(Orthanc(orthanc.url, username=orthanc.username, password=orthanc.password)) as client:
        yield client


def seen(study: str) -> PreprocessedImage:
    square: Any = SeenSquare
    picture = np.zeros((224, 224), np.float32)
    return PreprocessedImage(picture, frozenset(), "1.2.7", study, square)


@pytest.mark.parametrize("kinds", [["capture"], ["pdf-picture"], ["pdf", "pdf-picture"]])
def test_a_run_that_stores_pictures_scores_every_image(kinds: list[str]) -> None:
    job: Job = a_job("run") | {"derived_objects": kinds}
    assert not may_stand_for_scoring(job)
    assert may_stand_for_scoring(a_job("run") | {"derived_objects": ["pdf"]})
    assert not may_stand_for_scoring(a_job("run") | {"rescore": True})


def test_only_a_report_in_the_images_study_gives_its_scores(pacs: Orthanc) -> None:
    instance = pacs.store(IMAGE).instance
    assert existing_scores(pacs, JOB, WEIGHTS, seen("1.3.7")) is None
    assert reported_through(pacs, [instance])[0]["outcome"] == Outcome.REPORTED.value
    assert existing_scores(pacs, JOB, WEIGHTS, seen("1.3.7")) == pytest.approx(SCORES)
    assert (
        existing_scores(pacs, JOB, WEIGHTS, seen("1.3.8")) is None
    )  # another patient's image of the same UID
    assert existing_scores(pacs, JOB, "cd" * 32, seen("1.3.7")) is None  # other weights


@pytest.mark.parametrize("told_it_is_there", [False, True])
def test_a_deleted_report_is_not_written_from_its_own_scores(
    pacs: Orthanc, orthanc: OrthancServer, monkeypatch: pytest.MonkeyPatch, *, told_it_is_there: bool
) -> None:
    """It was deleted before the report stage looked, or between its question and the store."""
    instance = pacs.store(IMAGE).instance
    if told_it_is_there:
        monkeypatch.setattr(pacs, "contains", lambda _: True)
    record = reported_through(pacs, [instance], existing=True)[0]
    assert (record["outcome"], record["reason"]) == ("quarantined", Reason.REPORT_CONFLICT.value)
    assert "that its scores come from was deleted meanwhile" in record["detail"]
    assert not orthanc.reports()
