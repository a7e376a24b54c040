"""The infer stage: what scored an image stays with its scores, also where another worker goes on with the chunk."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from celery.exceptions import Reject
from numpy.typing import NDArray
from pydicom import dcmread

from backlog.broker.messages import Stage
from backlog.errors import InstanceRejected, UsageError
from backlog.outcomes import Reason
from backlog.report_uids import report_and_series_uid_of
from tests.worker.test_chunk import Message, Shop, images, shop  # noqa: F401 - a fixture
from worker.model.engine import Evaluation
from worker.tasks import infer as infer_module
from worker.tasks import shutdown


class ConstantEngine:
    """Gives each image the same score; asks its worker to stop at one of them."""

    name = "onnxruntime"
    evaluated = (True,) * 18

    def __init__(self, score: float, stop_at: int = 0) -> None:
        self.score, self.stop_at, self.scored = score, stop_at, 0

    def evaluate(self, batch: NDArray[np.float32]) -> Evaluation:
        self.scored += len(batch)
        if self.scored == self.stop_at:
            shutdown.ask_to_stop()
        scores = np.full((len(batch), 18), self.score, np.float32)
        return Evaluation(scores, np.zeros((len(batch), 18, 7, 7), np.float32))


def become(shop: Shop, sha256: str, engine: ConstantEngine, *, meaningful: bool = True) -> None:  # noqa: F811
    """Make another worker of the shop's: with other weights and another engine."""
    weights = replace(shop.process.weights, sha256=sha256, meaningful=meaningful)
    shop.process.__dict__.update(weights=weights, engine=engine)


def begun_by_another(shop: Shop, *, kept: int) -> Message:  # noqa: F811
    """Have a worker with the weights a… score so many of four images, and stop."""
    shop.submit(images(4))
    (upload,) = shop.take(Stage.UPLOAD)
    shop.do(Stage.UPLOAD, upload)
    (message,) = shop.take(Stage.INFER)
    become(shop, "a" * 64, ConstantEngine(0.25, stop_at=kept), meaningful=False)
    with pytest.raises(Reject):
        shop.do(Stage.INFER, message)
    shutdown.stopping.clear()
    return message


def test_scores_of_other_weights_are_made_again(shop: Shop) -> None:  # noqa: F811
    """Found: the next worker sent on what another had scored under the name of its own weights."""
    message = begun_by_another(shop, kept=2)
    ours = ConstantEngine(0.75)
    become(shop, "b" * 64, ours)
    shop.do(Stage.INFER, message)
    assert ours.scored == 4
    (following,) = shop.take(Stage.REPORT)
    assert (following[0]["weights"], following[0]["meaningful"]) == ("b" * 64, True)
    assert [item["scores"] for item in following[2]] == [[0.75] * 18] * 4
    assert "scoring" not in json.dumps(following[2])  # it stands once, in the job


def test_scores_of_the_same_weights_are_kept(shop: Shop) -> None:  # noqa: F811
    message = begun_by_another(shop, kept=2)
    ours = ConstantEngine(0.25)
    become(shop, "a" * 64, ours, meaningful=False)
    shop.do(Stage.INFER, message)
    assert ours.scored == 2
    shop.do_all()
    records = shop.records()
    assert [(one["weights"], one["meaningful"], one["scores"]) for one in records.values()] == [
        ("a" * 64, False, [0.25] * 18)
    ] * 4


def test_scores_kept_by_an_earlier_version_are_made_again(shop: Shop) -> None:  # noqa: F811
    """It did not say what had made them."""
    message = begun_by_another(shop, kept=2)
    client, key = shop.claims.broker.client, "cxr:run1:c:1"
    for field in (f"n:{Stage.INFER.value}:{i}" for i in (0, 1)):
        item = json.loads(str(client.hget(key, field)))
        del item["scoring"]
        client.hset(key, field, json.dumps(item))
    ours = ConstantEngine(0.25)
    become(shop, "a" * 64, ours)
    shop.do(Stage.INFER, message)
    assert ours.scored == 4


def test_an_item_that_ends_says_which_weights_looked(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """Also one that ended before its chunk went back: by it the producer sees that two workers mixed."""

    def refuses(*_: object) -> Any:
        return [InstanceRejected(Reason.INVALID_SCORES, "the model gave a score that is no number")]

    real = infer_module.scores_of_batch
    with monkeypatch.context() as patched:
        patched.setattr(infer_module, "scores_of_batch", lambda e, b: real(e, b) and refuses())
        message = begun_by_another(shop, kept=2)
    become(shop, "b" * 64, ConstantEngine(0.75))
    shop.do(Stage.INFER, message)
    shop.do_all()
    assert [one["weights"][0] for one in shop.records().values()] == ["a", "a", "b", "b"]


# -- the preprocessing version -------------------------------------------------------------------------------


def test_a_run_of_another_preprocessing_is_refused(shop: Shop) -> None:  # noqa: F811
    job = shop.job(shop.folder / "x.zip")
    shop.process.check_weights(job)
    with pytest.raises(UsageError, match="preprocessing version"):
        shop.process.check_weights(job | {"preprocessing": "0"})


def test_a_report_names_the_preprocessing_of_its_scores(shop: Shop) -> None:  # noqa: F811
    """Found: a worker that was upgraded meanwhile wrote its own version, and its own UIDs, on earlier scores."""
    shop.submit(images(1))
    for stage in (Stage.UPLOAD, Stage.INFER):
        shop.do(stage, shop.take(stage)[0])
    job, chunk, items = shop.take(Stage.REPORT)[0]
    earlier = job | {"preprocessing": "0"}
    shop.do(Stage.REPORT, (earlier, chunk, items))
    stored = shop.process.pacs.fetch(shop.records()[0]["sr_instance"])
    report = dcmread(io.BytesIO(stored))
    assert b"preprocessing=0;" in stored
    expected, _ = report_and_series_uid_of(earlier, "1.2.3.0", "densenet121-res224-all", job["weights"])
    assert report.SOPInstanceUID == expected
    assert expected != report_and_series_uid_of(job, "1.2.3.0", "densenet121-res224-all", job["weights"])[0]
