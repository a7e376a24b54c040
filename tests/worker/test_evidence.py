"""What the report stage draws is what the infer stage saw, by any worker and however often."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread

from backlog.broker.job import Job, OperatingPointsSpec
from backlog.broker.messages import ReportItem, Stage
from backlog.errors import InstanceRejected
from backlog.model import LABELS
from backlog.outcomes import Reason
from tests.support.jobs import a_job
from tests.worker.test_chunk import Message, Shop, images, shop  # noqa: F401  # a fixture
from tests.worker.test_sr import drawn
from worker.pixels.seen import SeenSquare
from worker.tasks.evidence import drawn_regions, gathered, maps_of

SEEN = SeenSquare(10, 0, 700, left_right=True)
SCORES: list[float | None] = [None, 0.5, 0.49, 0.9, *[0.1] * 14]
MAPS = np.arange(18 * 49, dtype=np.float32).reshape(18, 7, 7)


def item(job: Job) -> ReportItem:
    evidence = gathered(job, SCORES, MAPS, SEEN)
    made: ReportItem = {"i": 0, "instance": "x", "scores": SCORES, "flags": []}
    if evidence is not None:
        made["evidence"] = json.loads(json.dumps(evidence))
    return made


def test_only_what_is_drawn_travels() -> None:
    assert "evidence" not in item(a_job("run"))
    frame: Any = item(a_job("run", regions="frame"))["evidence"]
    assert frame == {
        "seen": {"left": 10, "top": 0, "side": 700, "left_right": True}, "maps": {}
    }  # fmt: skip
    activation = item(a_job("run", regions="activation"))
    assert list(maps_of(activation)) == [LABELS[1], LABELS[3]]
    assert len(json.dumps(activation["evidence"])) < 300
    assert list(maps_of(item({**a_job("run"), "derived_objects": ["capture"]}))) == [LABELS[3]]
    assert "evidence" not in item({**a_job("run"), "derived_objects": ["pdf"]})


def test_the_sides_of_a_square_of_tall_pixels_travel() -> None:
    job = a_job("run", regions="frame")
    evidence = gathered(job, SCORES, MAPS, SeenSquare(10, 0, 700, height=350))
    travelled: Any = {"i": 0, "instance": "x", "scores": SCORES, "flags": [], "evidence": evidence}
    found = drawn_regions(job, json.loads(json.dumps(travelled)))
    assert found is not None
    assert found.frame == ((10, 0), (710, 0), (710, 350), (10, 350), (10, 0))


def test_a_sites_points_decide_what_is_drawn() -> None:
    points: OperatingPointsSpec = {"sha256": "c" * 64, "thresholds": {LABELS[1]: 0.6, LABELS[2]: 0.3}}
    job: Job = {**a_job("run", regions="activation"), "operating_points": points}
    assert list(maps_of(item(job))) == [LABELS[2], LABELS[3]]


def test_regions_are_those_of_the_square_that_was_seen() -> None:
    job = a_job("run", regions="activation")
    found = drawn_regions(job, item(job))
    assert found is not None
    assert found.frame == ((10, 0), (710, 0), (710, 700), (10, 700), (10, 0))
    assert list(found.findings) == [LABELS[1], LABELS[3]]
    assert drawn_regions(a_job("run"), item(job)) is None


@pytest.mark.parametrize(
    "evidence",
    [
        None,
        {},
        {"seen": {"left": 1}, "maps": {}},
        {"seen": {"left": 1, "top": 1, "side": 1, "more": 1}, "maps": {}},
        {"seen": {"left": 0, "top": 0, "side": 1}, "maps": {"Mass": "AAA"}},
        {"seen": {"left": 0, "top": 0, "side": 1}, "maps": {"Mass": 3}},
    ],
)
def test_an_item_without_evidence_is_quarantined_by_name(evidence: Any) -> None:
    broken: Any = {"i": 0, "instance": "x", "scores": SCORES, "flags": []}
    if evidence is not None:
        broken["evidence"] = evidence
    with pytest.raises(InstanceRejected, match=r"older version|malformed") as refusal:
        drawn_regions(a_job("run", regions="activation"), broken)
    assert refusal.value.reason is Reason.INTERNAL_ERROR


# -- through the stages --------------------------------------------------------------------------------------


def until_report(shop: Shop, regions: str, **more: str) -> Message:  # noqa: F811
    shop.submit(images(2), **more)
    for stage in (Stage.UPLOAD, Stage.INFER):
        for job, number, items in shop.take(stage):
            shop.do(stage, ({**job, "regions": regions}, number, items))
    (message,) = shop.take(Stage.REPORT)
    return message


def reports(shop: Shop) -> list[Any]:  # noqa: F811
    held = [dcmread(io.BytesIO(content)) for content in shop.files().values()]
    return [one for one in held if one.Modality == "SR"]


@pytest.mark.parametrize("regions", ["activation", "frame", "none"])
def test_a_run_draws_what_it_was_asked_to(shop: Shop, regions: str) -> None:  # noqa: F811
    message = until_report(shop, regions)
    shop.do(Stage.REPORT, message)
    assert reports(shop)
    for record, sr in zip(shop.records().values(), reports(shop), strict=True):
        assert record["outcome"] == "reported"
        scores = record["scores"]
        present = [label for label, s in zip(LABELS, scores, strict=True) if s is not None and s >= 0.5]
        expected = {"activation": present or ["Summary"], "frame": ["Summary"], "none": []}[regions]
        assert sorted(drawn(sr)) == sorted(expected)


def test_another_engines_maps_change_no_report_that_is_there(shop: Shop) -> None:  # noqa: F811
    job, number, items = until_report(shop, "activation")
    shop.do(Stage.REPORT, (job, number, items))
    first, held = shop.records(), shop.files()
    assert any(list(drawn(sr)) != ["Summary"] for sr in reports(shop)), (
        "nothing is present: nothing is compared"
    )
    shop.claims.broker.client.flushall()
    again = until_report(shop, "activation")
    for one in again[2]:
        one["scores"] = [score - 1e-6 for score in one["scores"]]
        one["evidence"]["maps"] = {
            label: text[::-1].lstrip("=") + "=" * text.count("=")
            for label, text in one["evidence"]["maps"].items()
        }
    shop.do(Stage.REPORT, again)
    assert shop.files() == held
    assert {index: record["sr_ours"] for index, record in shop.records().items()} == {0: True, 1: True}
    assert shop.records() == first


def test_regions_stand_beside_the_reports_without(shop: Shop) -> None:  # noqa: F811
    shop.do(Stage.REPORT, until_report(shop, "none"))
    before = shop.files()
    shop.do(Stage.REPORT, until_report(shop, "activation", run="run2"))
    assert len(shop.files()) == len(before) + 2
    assert all(record["sr_ours"] for record in shop.records("run2").values())
