"""How an item ended: one type for each way, and the form in Redis that runs in flight rely on."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from backlog.broker.item_results import (
    Deferred,
    Quarantined,
    Reported,
    Skipped,
    from_record,
    to_record,
    unreported,
)
from backlog.broker.messages import Stage
from backlog.outcomes import Outcome, Reason

#: Records as workers have left them in Redis since version 3 of the ledger.
RECORDS = {
    "reported": '{"outcome":"reported","stage":2,"instance":"a-b","sop_instance_uid":"1.2","study_instance_uid":"1.3",'
    '"sr_sop_instance_uid":"2.25.1","sr_instance":"c-d","sr_sha256":"00","sr_ours":true,"flags":["signed"],'
    '"scores":[0.5,null],"weights":"ab","meaningful":false,"engine":"onnxruntime","attempts":1}',
    "with a PDF": '{"outcome":"reported","stage":2,"instance":"a","sop_instance_uid":"1.2","study_instance_uid":"1.3",'
    '"sr_sop_instance_uid":"2.25.1","sr_instance":"c-d","sr_sha256":"00","sr_ours":false,"flags":[],"scores":[0.5],'
    '"weights":"ab","meaningful":true,"engine":"torch","attempts":2,"derived_objects":[{"kind":"pdf",'
    '"sop_instance_uid":"2.25.2","instance":"e-f","sha256":"11","ours":true},{"kind":"capture","reason":"blank",'
    '"detail":""}]}',
    "delivered": '{"outcome":"reported","stage":2,"instance":"a","sop_instance_uid":"1.2","study_instance_uid":"1.3",'
    '"sr_sop_instance_uid":"2.25.1","sr_instance":"c-d","sr_sha256":"00","sr_ours":true,"flags":[],"scores":[0.5],'
    '"weights":"ab","meaningful":true,"engine":"torch","attempts":2,"delivered":"PACS"}',
    "skipped": '{"outcome":"skipped","reason":"lateral","detail":"","stage":1,"attempts":1,"instance":"a-b",'
    '"sop_instance_uid":"1.2","study_instance_uid":"1.3","weights":"ab","meaningful":true,"engine":"onnxruntime"}',
    "quarantined": '{"outcome":"quarantined","reason":"not_dicom","detail":"no DICM","stage":0,"attempts":1}',
    "killed": '{"outcome":"quarantined","reason":"killed_worker","detail":"its worker died","stage":2,"attempts":0}',
    "deferred": '{"outcome":"deferred","reason":"pacs_fails","detail":"x","stage":2,"attempts":1,"instance":"a-b",'
    '"history":[-5,7]}',
}
KINDS = [Reported, Reported, Reported, Skipped, Quarantined, Quarantined, Deferred]


@pytest.mark.parametrize(("name", "kind"), list(zip(RECORDS, KINDS, strict=True)), ids=list(RECORDS))
def test_the_form_in_redis_is_kept(name: str, kind: type) -> None:
    record = json.loads(RECORDS[name])
    result = from_record(record)
    assert type(result) is kind
    assert to_record(result) == record
    with pytest.raises(FrozenInstanceError):
        result.attempts = 9  # type: ignore[misc]


@pytest.mark.parametrize("reason", list(Reason))
def test_a_reason_tells_skipped_from_quarantined(reason: Reason) -> None:
    result = unreported(reason, stage=Stage.INFER)
    assert isinstance(result, Skipped if reason.outcome is Outcome.SKIPPED else Quarantined)
    assert to_record(result)["outcome"] == reason.outcome.value


@pytest.mark.parametrize(
    "changed",
    [{"reason": "of the future"}, {"outcome": "lost"}, {"stage": 77}],
    ids=lambda one: next(iter(one)),
)
def test_what_another_version_wrote_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="valid"):
        from_record(json.loads(RECORDS["quarantined"]) | changed)
