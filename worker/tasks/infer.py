"""The infer stage: an image in the PACS → 18 scores."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from backlog.broker.item_results import Quarantined, Skipped
from backlog.broker.job import Job, Scoring
from backlog.broker.messages import InferItem, ReportItem
from backlog.errors import InstanceRejected, ServiceUnavailable, UsageError
from backlog.fault_attribution import Operation
from backlog.log import event, where
from backlog.model import SCORE_DIGITS
from backlog.outcomes import Reason
from worker.reader.protocol import PreprocessedImage, RejectedImage
from worker.tasks.attempt import Attempt
from worker.tasks.evidence import gathered, seen_only
from worker.tasks.existing import existing_scores, may_stand_for_scoring
from worker.tasks.resources import WorkerResources

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from worker.model.engine import Engine
    from worker.reader.pool import Readers

    Image = NDArray[np.float32]

Scores = list[float | None]
Answer = PreprocessedImage | RejectedImage

#: Images that a GPU scores at a time.
GPU_BATCH: Final = 32


def infer(process: WorkerResources, job: Job, attempt: Attempt, items: list[InferItem]) -> None:
    """Read and score each image; an image that can't be scored ends here with its reason.

    Parameters
    ----------
    process
        What this worker process holds: PACS, engine, settings.
    job
        The run, as its messages carry it.
    attempt
        This attempt at the chunk; it takes the records of items that end here.
    items
        The chunk's items that have not ended yet.
    """
    attempt.retry.while_unavailable(lambda: process.check(job))
    attempt.retry.while_unavailable(lambda: process.check_weights(job))
    scoring: Scoring = {
        "weights": process.weights.sha256,
        "meaningful": process.weights.meaningful,
        "engine": process.engine.name,
    }
    # The report stage needs no weights, only their name: it travels with the run's job from here on.
    attempt.scoring = scoring
    items = sorted([*items, *_scored_otherwise(attempt, scoring)], key=lambda item: item["i"])
    waiting: list[tuple[InferItem, PreprocessedImage]] = []

    def score() -> None:
        for (item, picture), found in zip(
            waiting, scores_of_batch(process.engine, [p.image for _, p in waiting]), strict=True
        ):
            index = item["i"]
            if isinstance(found, InstanceRejected):
                attempt.results[index] = _ended(attempt, item, found, picture)
                continue
            scores, maps = found
            flags = sorted(flag.value for flag in picture.flags)
            scored: ReportItem = {
                "i": index,
                "instance": item["instance"],
                "scores": scores,
                "flags": flags,
                "scoring": scoring,
            }
            evidence = gathered(job, scores, maps, picture.square)
            if evidence is not None:
                scored["evidence"] = evidence
            attempt.following[index] = scored
        waiting.clear()

    # On a CPU a batch of one lets reading and scoring overlap best, and costs nothing (docs/decisions.md).
    batch = 1 if attempt.claim.isolated or process.engine.name != "torch" else GPU_BATCH
    readers = process.readers(job)
    looks = may_stand_for_scoring(job)
    for item, answer in _read(readers, attempt, items):
        if isinstance(answer, RejectedImage):
            attempt.results[item["i"]] = _ended(attempt, item, answer.rejection, answer)
            continue
        known = existing_scores(process.pacs, job, process.weights.sha256, answer) if looks else None
        looks = known is not None  # to find a UID may take a large PACS longer than the model takes
        if known is not None:
            attempt.following[item["i"]] = _already_scored(job, item, answer, known) | {"scoring": scoring}
            continue
        waiting.append((item, answer))
        if len(waiting) >= batch:
            score()
    if waiting:
        score()
    attempt.settle()


def _scored_otherwise(attempt: Attempt, ours: Scoring) -> list[InferItem]:
    """Return what an earlier attempt scored with other weights or another engine, to be scored again.

    A chunk's scores carry one name of weights. Its first attempt may have been another worker's, which the run did not
    refuse since its weights were not known yet.
    """
    again: list[InferItem] = []
    for index, item in list(attempt.following.items()):
        if item.get("scoring") != ours:
            del attempt.following[index], attempt.claim.kept[index]
            again.append({"i": index, "instance": item["instance"]})
    return again


def _already_scored(
    job: Job, item: InferItem, answer: PreprocessedImage, scores: list[float | None]
) -> ReportItem:
    """Return what the report stage gets of an image whose report is there: nothing to draw but its frame."""
    found: ReportItem = {
        "i": item["i"],
        "instance": item["instance"],
        "scores": scores,
        "flags": sorted(flag.value for flag in answer.flags),
        "existing": True,
    }
    evidence = seen_only(job, answer.square)
    if evidence is not None:
        found["evidence"] = evidence
    return found


def _ended(
    attempt: Attempt, item: InferItem, rejected: InstanceRejected, seen: Answer
) -> Skipped | Quarantined:
    return attempt.ended(
        item["i"],
        rejected,
        instance=item["instance"],
        sop_instance_uid=seen.sop_instance_uid,
        study_instance_uid=seen.study_instance_uid,
    )


def _read(
    readers: Readers, attempt: Attempt, items: Sequence[InferItem]
) -> Iterator[tuple[InferItem, Answer]]:
    """Read images ahead of the model; one by one with a current-item mark where an earlier attempt died."""
    at = 0
    read: InferItem | None = None
    while at < len(items):
        ahead = items[at : at + 1] if attempt.claim.isolated else items[at:]
        attempt.before(ahead[0]["i"])
        answers = readers.read([item["instance"] for item in ahead])
        for item in ahead:
            asked = attempt.retry.clock()
            try:
                answer = next(answers)
            except (ServiceUnavailable, UsageError) as error:
                refused = isinstance(error, UsageError)
                took = attempt.retry.clock() - asked
                if not refused and attempt.retry.wait_before_retry(error, took, 1.0, item):
                    break
                attempt.faults.record_failure(item, error)
                at += 1
                break
            at += 1
            if isinstance(answer, PreprocessedImage):
                read = item
                attempt.faults.record_success(Operation.READ)
            yield item, answer
            attempt.go_on()
    for one in list(attempt.faults.deferred):
        later = _again(readers, attempt, one.item, read)
        if later is not None:
            attempt.faults.deferred.remove(one)
            yield one.item, later


def _again(readers: Readers, attempt: Attempt, item: InferItem, proof: InferItem | None) -> Answer | None:
    """Ask again for an image that the PACS failed on; where it fails again, for one that it gave before.

    Returns
    -------
    Answer or None
        None where it failed again.
    """
    if proof is None:
        return None  # it gave none at all

    def ask(one: InferItem) -> Answer:
        (answer,) = readers.read([one["instance"]])
        return answer

    attempt.before(item["i"])
    try:
        return attempt.retry.while_unavailable(lambda: ask(item), item)
    except (ServiceUnavailable, UsageError) as error:
        attempt.faults.record_failure(item, error)
    with suppress(ServiceUnavailable, UsageError):
        if isinstance(attempt.retry.while_unavailable(lambda: ask(proof), proof), PreprocessedImage):
            attempt.faults.record_success(Operation.READ)
    return None


def scores_of_batch(
    engine: Engine, images: Sequence[Image]
) -> list[tuple[Scores, NDArray[np.float32]] | InstanceRejected]:
    """Score a batch; where that fails, image by image, so that only the one that is to blame ends.

    Raises
    ------
    ServiceUnavailable
        The model fails on anything: a broken GPU or a bug must not quarantine a backlog.
    """
    import numpy as np  # the upload worker has none

    try:
        found = engine.evaluate(np.stack(images)[:, None])
    except Exception as error:  # noqa: BLE001  # the edge of one item; MemoryError would stop the whole worker
        if len(images) > 1:
            return [scores for image in images for scores in scores_of_batch(engine, [image])]
        return [_blame(engine, images[0], error)]
    rows = [_evaluated(engine, [float(score) for score in row]) for row in found.scores]
    return [
        row if isinstance(row, InstanceRejected) else (row, maps)
        for row, maps in zip(rows, found.maps, strict=True)
    ]


def _evaluated(engine: Engine, scores: list[float]) -> Scores | InstanceRejected:
    """Round scores, and take out those of labels that the model was not trained on."""
    kept = [
        round(score, SCORE_DIGITS) if trained else None
        for score, trained in zip(scores, engine.evaluated, strict=True)
    ]
    if all(score is None or math.isfinite(score) for score in kept):
        return kept
    return InstanceRejected(Reason.INVALID_SCORES, "the model gave a score that is no number")


def _blame(engine: Engine, image: Image, error: Exception) -> InstanceRejected:
    """Return the rejection of an image that the model fails on, unless it fails on an empty one as well."""
    import numpy as np  # the upload worker has none

    event("instance.failed", logging.ERROR, error=where(error))
    try:
        engine.scores(np.zeros((1, 1, *image.shape), np.float32))
    except Exception as broken:  # noqa: BLE001  # whatever it is, the image is not to blame
        raise ServiceUnavailable(f"the model itself fails on this worker ({where(broken)})") from error
    if isinstance(error, MemoryError):
        return InstanceRejected(Reason.OUT_OF_MEMORY, "scoring needs more memory than this worker has")
    return InstanceRejected(Reason.INTERNAL_ERROR, where(error))
