"""The other released networks: labels that one was not trained on are not evaluated, and no run mixes two."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import dcmread

from backlog.broker.job import model_of
from backlog.broker.messages import Stage
from backlog.errors import UsageError
from backlog.model import DEFAULT_MODEL, LABELS, MODELS, not_evaluated
from tests.worker.test_chunk import Shop, images, shop  # noqa: F401 - the fixture
from worker.model.weights import locate
from worker.sr.build import scores_of

NIH = "densenet121-res224-nih"
RESNET = "resnet50-res512-all"


def use(shop: Shop, model: str) -> None:  # noqa: F811
    """Make the worker one of another model, with its seeded weights."""
    for kept in ("engine", "weights", "_readers"):
        shop.process.__dict__.pop(kept, None)
    shop.settings = replace(shop.settings, model=model)
    shop.process.settings = shop.settings
    locate("seeded", "", shop.settings.cache_folder, download=False, model=model)


def scored(shop: Shop, model: str, run: str = "run1") -> list[float | None]:  # noqa: F811
    """Send one image through all stages; return its scores."""
    shop.submit(images(1), run=run)
    for stage in Stage:
        if stage is Stage.FINISHED:
            break
        for job, chunk, items in shop.take(stage):
            shop.do(stage, ({**job, "model": model}, chunk, items))
    (record,) = shop.records(run).values()
    assert record["outcome"] == "reported", record
    return record["scores"]


@pytest.mark.parametrize("model", [NIH, "densenet121-res224-rsna", RESNET])
def test_labels_without_training_are_not_evaluated_anywhere(shop: Shop, model: str) -> None:  # noqa: F811
    use(shop, model)
    scores = scored(shop, model)
    missing = not_evaluated(MODELS[model])
    assert [label for label, score in zip(LABELS, scores, strict=True) if score is None] == missing
    (record,) = shop.records().values()
    content = shop.process.pacs.fetch(record["sr_instance"])
    held = scores_of(content)
    assert [label for label, score in zip(LABELS, held, strict=True) if math.isnan(score)] == missing
    for text in ("Not evaluated: ", model, f"input={MODELS[model].side}x{MODELS[model].side}"):
        assert text.encode() in content
    assert dcmread(io.BytesIO(content)).CompletionFlag == "PARTIAL"


def test_two_models_write_two_reports_of_one_image(shop: Shop) -> None:  # noqa: F811
    scored(shop, DEFAULT_MODEL)
    (first,) = shop.records().values()
    use(shop, NIH)
    scored(shop, NIH, "run2")
    (second,) = shop.records("run2").values()
    assert second["sr_ours"]
    assert second["sr_sop_instance_uid"] != first["sr_sop_instance_uid"]


def test_a_worker_of_another_model_refuses_the_run(shop: Shop) -> None:  # noqa: F811
    job = shop.job(Path("unused"))
    with pytest.raises(UsageError, match=f"CXR_MODEL is {DEFAULT_MODEL}, and the run's is {NIH}"):
        shop.process.check_weights({**job, "model": NIH})
    with pytest.raises(UsageError, match="update it"):
        shop.process.check_weights({**job, "model": "one of the future"})


def test_a_run_from_before_there_were_others_has_the_default(shop: Shop) -> None:  # noqa: F811
    job = shop.job(Path("unused"))
    assert "model" not in job
    assert model_of(job) is MODELS[DEFAULT_MODEL]
    shop.process.check_weights(job)


def test_a_report_done_again_with_other_gaps_is_for_a_user() -> None:
    from worker.tasks.report import same_scores

    assert same_scores([0.25, math.nan], [0.25, math.nan]) == [0.25, None]
    for held, ours in (([0.25, math.nan], [0.25, 0.5]), ([0.25, 0.5], [0.25, math.nan])):
        with pytest.raises(Exception, match="other scores"):
            same_scores(held, ours)
