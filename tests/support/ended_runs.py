"""Ledgers of runs that have ended, without running one: records as workers leave them, harvested."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from backlog.broker.messages import ItemRecord, Stage, StageTime
from backlog.model import LABELS, SCORE_DIGITS
from backlog.outcomes import Outcome, Reason
from producer.ledger.ledger import Ledger
from producer.sources.base import Entry, Page
from tests.support.jobs import a_job

START = 1_790_000_000.0
CHUNK = 16


def reported(number: int, scores: Sequence[float | None], **more: Any) -> ItemRecord:
    """The record of a reported image."""
    record: ItemRecord = {
        "outcome": Outcome.REPORTED.value,
        "stage": Stage.REPORT.value,
        "attempts": 1,
        "instance": f"{number:08x}-00000000-00000000-00000000-00000000",
        "sop_instance_uid": f"1.2.3.{number}",
        "study_instance_uid": f"1.2.{number // 2}",
        "sr_sop_instance_uid": f"2.25.{number}",
        "sr_instance": f"{number:08x}-11111111-00000000-00000000-00000000",
        "sr_sha256": f"{number:064x}",
        "sr_ours": True,
        "flags": [],
        "scores": [*scores],
        "weights": "ab" * 32,
        "meaningful": True,
        "engine": "onnxruntime",
    }
    record.update(more)  # type: ignore[typeddict-item]  # a test's own
    return record


def rejected(reason: Reason, detail: str = "", stage: Stage = Stage.INFER, **more: Any) -> ItemRecord:
    """The record of an image that ended without a report."""
    record: ItemRecord = {
        "outcome": reason.outcome.value,
        "reason": reason.value,
        "detail": detail,
        "stage": stage.value,
        "attempts": 1,
    }
    record.update(more)  # type: ignore[typeddict-item]  # a test's own
    return record


def some_scores(seed: int, shift: float = 0.0) -> list[float]:
    """Eighteen scores of one image; ``shift`` moves the first finding's."""
    draw = random.Random(seed)
    scores = [min(1.0, max(0.0, draw.gauss(0.5, 0.12))) for _ in LABELS]
    scores[0] = min(1.0, max(0.0, scores[0] + shift))
    return [round(score, SCORE_DIGITS) for score in scores]


def new_ledger(folder: Path, **facts: Any) -> Ledger:
    """The ledger of a run that has not begun."""
    folder.mkdir(parents=True, exist_ok=True)
    job = a_job(
        "20260101000000-abcdef",
        {"kind": "zip", "path": "/somewhere/backlog.zip", "listing": ""},
        pacs="identity",
        weights="ab" * 32,
        meaningful=facts.pop("meaningful", True),
    )
    base = {
        "pacs": str(folder / "pacs"),
        "model": "densenet121-res224-all",
        "workers": 1,
        "chunk_size": CHUNK,
    }
    more = {"word": "backlog.zip", "selection": {}, "engines": ["onnxruntime"], "seconds": 12.5}
    return Ledger.create(folder / "ledger.sqlite", base | more | {"job": job} | facts)


def list_items(ledger: Ledger, count: int) -> None:
    """Let a ledger have so many items in chunks, and no more to come."""
    ledger.add(Page([Entry(number) for number in range(count)], "", last=True), CHUNK)


def harvest(ledger: Ledger, record: Callable[[int], ItemRecord], chunks: int = -1) -> None:
    """End the items of the next chunks, all of them by default, a second apart."""
    for chunk in ledger.waiting(chunks):
        ledger.dispatched([chunk.no])
        records = {i: record(item) for i, (item, _) in enumerate(chunk.items)}
        ledger.harvest([(chunk, records)], {chunk.no: times(chunk.no, len(chunk.items))})


def times(chunk: int, items: int) -> Mapping[Stage, StageTime]:
    """What a chunk's stages took."""
    at = int(1000 * (START + chunk))
    return {
        stage: {"ms": ms * items, "items": items, "attempt": 1 + (chunk % 10 == 0), "at": at}
        for stage, ms in ((Stage.UPLOAD, 7), (Stage.INFER, 130), (Stage.REPORT, 31))
    }


def ended_run(folder: Path, count: int = 40, *, shift: float = 0.0, seed: int = 0, **facts: Any) -> Ledger:
    """A run whose every item is reported."""
    ledger = new_ledger(folder, **facts)
    list_items(ledger, count)
    harvest(ledger, lambda item: reported(item, some_scores(seed * 1_000_003 + item, shift)))
    return ledger
