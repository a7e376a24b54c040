"""The three tasks: upload, infer, report."""

from __future__ import annotations

import hashlib
import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from celery import Celery

from backlog.archive import Archive
from backlog.claims import Claims
from backlog.eligibility import Rules
from backlog.errors import InstanceRejected, ServiceUnavailable, UsageError
from backlog.etiquette import politely
from backlog.header import Identity, identity, judged, read_header
from backlog.log import event, where
from backlog.messages import TASKS, InferItem, ItemRecord, Job, ReportItem, SourceSpec, Stage, UploadItem
from backlog.outcomes import Flag, Outcome, Reason
from backlog.pacs import Pacs, connect
from backlog.settings import Settings
from worker.chunk import Attempt, Records, work

if TYPE_CHECKING:
    from worker import sr_inputs
    from worker.engine import Engine
    from worker.reader import Reader
    from worker.weights import Weights

#: What made the scores, as the reports name it.
MODEL_NAME: Final = "densenet121-res224-all"
MODEL_VERSION: Final = "torchxrayvision 1.5.7"

#: Images that a GPU scores at a time.
GPU_BATCH: Final = 32

#: Most bytes of one input file: eight times the largest detector's image.
MOST_BYTES: Final = 1 << 28

#: How far the scores of a report that is already there may lie from ours: another engine's rounding.
SAME_SCORE: Final = 5e-3


@dataclass
class Process:
    """What one worker process holds on to, made when first needed."""

    settings: Settings

    @cached_property
    def claims(self) -> Claims:
        """Leases and records, in Redis."""
        return Claims(self.settings.broker, lease_seconds=self.settings.lease_seconds)

    @cached_property
    def pacs(self) -> Pacs:
        """The PACS of this worker's settings."""
        if not self.settings.pacs_url:
            raise UsageError("CXR_PACS_URL is not set: this worker knows no PACS")
        return politely(connect(self.settings), self.claims, self.settings)

    @cached_property
    def pacs_identity(self) -> str:
        """Tells this worker's PACS from another."""
        return self.pacs.identity()

    @cached_property
    def weights(self) -> Weights:
        """The verified weights."""
        from worker.weights import locate  # only inference and report need them

        s = self.settings
        return locate(s.weights, s.weights_sha256, s.cache_folder, download=False)

    @cached_property
    def engine(self) -> Engine:
        """The model, loaded."""
        from worker.engine import load  # takes a second

        threads = self.settings.threads or os.cpu_count() or 1
        return load(
            self.weights, engine=self.settings.engine, cache=self.settings.cache_folder, threads=threads
        )

    def reader(self, job: Job) -> Reader:
        """Return the reader for a run's rules; one process, kept."""
        from worker.reader import Reader

        rules = _rules(job)
        held: tuple[Rules, Reader] | None = self.__dict__.get("_reader")
        if held is None or held[0] != rules:
            if held is not None:
                held[1].stop()
            held = (rules, Reader(self.settings, rules))
            self.__dict__["_reader"] = held
        return held[1]

    def check(self, job: Job) -> None:
        """Refuse a run that this worker would do wrongly.

        Raises
        ------
        UsageError
            Its PACS or its weights are not this worker's.
        """
        if job["pacs"] and self.pacs_identity and job["pacs"] != self.pacs_identity:
            raise UsageError("this worker's CXR_PACS_URL leads to another PACS than the run's")

    def check_weights(self, job: Job) -> None:
        """Refuse a run of other weights: its scores would not be one table.

        Raises
        ------
        UsageError
            See above.
        """
        if job["weights"] and job["weights"] != self.weights.sha256:
            raise UsageError("this worker's weights are not those that the run began with: see CXR_WEIGHTS")


def register(app: Celery, settings: Settings) -> None:
    """Give an application its three tasks."""
    process = Process(settings)
    stages: dict[Stage, Callable[[Process, Job, Attempt, list[Any]], tuple[Records, list[Any]]]] = {
        Stage.UPLOAD: upload,
        Stage.INFER: infer,
        Stage.REPORT: report,
    }
    for stage, body in stages.items():

        def task(job: Job, chunk: int, items: list[Any], stage: Stage = stage, body: Any = body) -> None:
            work(
                app,
                process.claims,
                settings.patience_seconds,
                stage,
                job,
                chunk,
                items,
                partial(body, process, job),
            )

        app.task(task, name=TASKS[stage])


def upload(
    process: Process, job: Job, attempt: Attempt, items: list[UploadItem]
) -> tuple[Records, list[InferItem]]:
    """Store each entry of the source in the PACS; what is there already is as good."""
    attempt.insist(lambda: process.check(job))
    with _opened(job["source"]) as read:
        failed, done = attempt.each(items, lambda item: _store(process.pacs, _rules(job), read(item["entry"])))
    return failed, [{"i": item["i"], "instance": instance} for item, instance in done]


def infer(
    process: Process, job: Job, attempt: Attempt, items: list[InferItem]
) -> tuple[Records, list[ReportItem]]:
    """Read and score each image; an image that can't be scored ends here with its reason."""
    attempt.insist(lambda: process.check(job))
    attempt.insist(lambda: process.check_weights(job))
    records: Records = {}
    following: list[ReportItem] = []
    waiting: list[tuple[InferItem, Any]] = []

    def score() -> None:
        for (item, picture), scores in zip(
            waiting, _scores(process.engine, [p.image for _, p in waiting]), strict=True
        ):
            if isinstance(scores, InstanceRejected):
                records[item["i"]] = attempt.record(
                    item["i"],
                    scores,
                    instance=item["instance"],
                    sop_instance_uid=picture.sop_instance_uid,
                    study_instance_uid=picture.study_instance_uid,
                )
                continue
            flags = sorted(flag.value for flag in picture.flags)
            following.append({"i": item["i"], "instance": item["instance"], "scores": scores, "flags": flags})
        waiting.clear()

    # On a CPU a batch of one lets reading and scoring overlap best, and costs nothing (docs/decisions.md).
    batch = 1 if attempt.claim.alone or process.engine.name != "torch" else GPU_BATCH
    for item, answer in _read(process.reader(job), attempt, items):
        if hasattr(answer, "rejection"):
            records[item["i"]] = attempt.record(
                item["i"],
                answer.rejection,
                instance=item["instance"],
                sop_instance_uid=answer.sop_instance_uid,
                study_instance_uid=answer.study_instance_uid,
            )
            continue
        waiting.append((item, answer))
        if len(waiting) >= batch:
            score()
    if waiting:
        score()
    # The report stage needs no weights, only their name: it travels with the run's job from here on.
    job["weights"], job["meaningful"] = process.weights.sha256, process.weights.meaningful
    job["engine"] = process.engine.name
    return records, following


def report(
    process: Process, job: Job, attempt: Attempt, items: list[ReportItem]
) -> tuple[Records, list[Any]]:
    """Write one report for each scored image into its study."""
    attempt.insist(lambda: process.check(job))
    records, done = attempt.each(items, lambda item: _report(process, job, item))
    for item, record in done:
        record["attempts"] = attempt.claim.attempt
        records[item["i"]] = record
    return records, []


def _rules(job: Job) -> Rules:
    return Rules(modalities=frozenset(job["modalities"]), laterals=job["laterals"])


# -- upload --------------------------------------------------------------------------------------------------------


def _store(pacs: Pacs, rules: Rules, dicom: bytes) -> str:
    """Store one file after a look at its header, which keeps from the PACS what could stop it (deep nesting does)."""
    found = judged(read_header(dicom), rules)
    if found.identity is None and found.rejection is not None:
        raise found.rejection
    stored = pacs.store(dicom)
    if stored.already and pacs.fetch(stored.instance) != dicom:
        raise InstanceRejected(
            Reason.UID_CONFLICT, "the PACS holds another file under the same SOP Instance UID"
        )
    return stored.instance


class _opened:  # noqa: N801  # a context manager, named as it reads
    """A function that reads one entry of a source."""

    def __init__(self, source: SourceSpec) -> None:
        self._source = source
        self._archive: Archive | None = None

    def __enter__(self) -> Callable[[int], bytes]:
        if self._source["kind"] == "zip":
            self._archive = archive = Archive(Path(self._source["path"]))
            return lambda entry: archive.read(archive.member(entry), limit=MOST_BYTES)
        return self._file

    def __exit__(self, *_: object) -> None:
        if self._archive is not None:
            self._archive.close()

    def _file(self, entry: int) -> bytes:
        with Path(self._source["listing"]).open("rb") as listing:
            listing.seek(entry)
            name = listing.read(1 << 16).split(b"\0", 1)[0]
        path = Path(self._source["path"]) / os.fsdecode(name)
        try:
            with path.open("rb") as file:
                if os.fstat(file.fileno()).st_size > MOST_BYTES:
                    raise InstanceRejected(Reason.TOO_LARGE, f"the limit is {MOST_BYTES} bytes")
                return file.read()
        except OSError as error:
            raise InstanceRejected(Reason.UNREADABLE, f"the file can't be read: {error.strerror}") from error


# -- infer ---------------------------------------------------------------------------------------------------------


def _read(reader: Reader, attempt: Attempt, items: Sequence[InferItem]) -> Iterator[tuple[InferItem, Any]]:
    """Read images ahead of the model; one by one with a breadcrumb where an earlier attempt died."""
    at = 0
    while at < len(items):
        ahead = items[at : at + 1] if attempt.claim.alone else items[at:]
        attempt.before(ahead[0]["i"])
        answers = reader.read([item["instance"] for item in ahead])
        for item in ahead:
            try:
                answer = next(answers)
            except (ServiceUnavailable, UsageError):
                if attempt.patience <= 0:
                    raise
                attempt.wait(1.0)
                break
            at += 1
            yield item, answer
            attempt.go_on()


def _scores(engine: Engine, images: Sequence[Any]) -> list[list[float] | InstanceRejected]:
    """Score a batch; where that fails, image by image, so that only the one that is to blame ends.

    Raises
    ------
    ServiceUnavailable
        The model fails on anything: a broken GPU or a bug must not quarantine a backlog.
    """
    import numpy as np  # the upload worker has none

    try:
        rows = engine.scores(np.stack(images)[:, None])
    except Exception as error:  # noqa: BLE001  # the edge of one item; MemoryError would stop the whole worker
        if len(images) > 1:
            return [scores for image in images for scores in _scores(engine, [image])]
        return [_blame(engine, images[0], error)]
    return [_finite([round(float(score), 7) for score in row]) for row in rows]


def _finite(scores: list[float]) -> list[float] | InstanceRejected:
    if all(math.isfinite(score) for score in scores):
        return scores
    return InstanceRejected(Reason.INVALID_SCORES, "the model gave a score that is no number")


def _blame(engine: Engine, image: Any, error: Exception) -> InstanceRejected:
    """Return the rejection of an image that the model fails on, unless it fails on an empty one as well."""
    import numpy as np  # the upload worker has none

    event("instance.failed", logging.ERROR, error=where(error))
    try:
        engine.scores(np.zeros((1, 1, *image.shape), np.float32))
    except Exception as broken:
        raise ServiceUnavailable(f"the model itself fails on this worker ({where(broken)})") from error
    if isinstance(error, MemoryError):
        return InstanceRejected(Reason.OUT_OF_MEMORY, "scoring needs more memory than this worker has")
    return InstanceRejected(Reason.INTERNAL_ERROR, where(error))


# -- report --------------------------------------------------------------------------------------------------------


def _report(process: Process, job: Job, item: ReportItem) -> ItemRecord:
    from worker import sr  # the upload and inference workers write none

    model = sr.Model(
        name=MODEL_NAME, version=MODEL_VERSION, weights_sha256=job["weights"], meaningful=job["meaningful"]
    )
    options = sr.Options(language=job["language"], coding=job["coding"])
    header = _header(process.pacs, item["instance"])
    of = identity(read_header(header))
    built = sr.build(
        header,
        item["scores"],
        [Flag(name) for name in item["flags"]],
        model=model,
        options=options,
        when=datetime.fromisoformat(job["when"]),
        predecessor=_predecessor(process.pacs, job, of),
    )
    sr.check(
        built.dicom,
        study_instance_uid=of.study_instance_uid,
        series_instance_uid=of.series_instance_uid,
        sop_instance_uid=of.sop_instance_uid,
        sop_class_uid=of.sop_class_uid,
        scores=item["scores"],
        model=model,
        options=options,
    )
    stored = process.pacs.store(built.dicom)
    held = process.pacs.fetch(stored.instance) if stored.already or job.get("read_back") else built.dicom
    if held != built.dicom:
        if not stored.already:
            raise InstanceRejected(Reason.REPORT_CONFLICT, "the PACS changed the report while storing it")
        _same_scores(sr.scores_of(held), item["scores"])
    return {
        "outcome": Outcome.REPORTED.value,
        "stage": Stage.REPORT.value,
        "instance": item["instance"],
        "sop_instance_uid": of.sop_instance_uid,
        "study_instance_uid": of.study_instance_uid,
        "sr_sop_instance_uid": built.sop_instance_uid,
        "sr_instance": stored.instance,
        "sr_sha256": hashlib.sha256(held).hexdigest(),
        "sr_ours": held == built.dicom,  # by an earlier run where it isn't: the run's time stands in it
        "flags": sorted({*item["flags"], *(flag.value for flag in built.flags)}),
        "scores": item["scores"],
        "weights": job["weights"],
        "meaningful": job["meaningful"],
        "engine": job["engine"],
    }


def _header(pacs: Pacs, instance: str) -> bytes:
    """Return a header; the whole file where it was cut too early, at a nested icon's pixel data."""
    header = pacs.header(instance)
    return header if "Rows" in read_header(header) else pacs.fetch(instance)


def _predecessor(pacs: Pacs, job: Job, of: Identity) -> sr_inputs.Predecessor | None:
    """Return the report that the run's predecessor wrote of this image, if the PACS holds it."""
    earlier = job.get("predecessor")
    if earlier is None:
        return None
    from worker.sr_inputs import SOP_CLASSES, Model, Options, Predecessor
    from worker.sr_uids import report_uid, series_uid

    model = Model(MODEL_NAME, MODEL_VERSION, earlier["weights"], meaningful=earlier["meaningful"])
    options = Options(language=earlier["language"], coding=earlier["coding"])
    found = Predecessor(
        sop_class_uid=SOP_CLASSES[options.iod],
        sop_instance_uid=report_uid(of.sop_instance_uid, model, options),
        series_instance_uid=series_uid(of.sop_instance_uid, model, options),
        study_instance_uid=of.study_instance_uid,
    )
    report = replace(
        of, series_instance_uid=found.series_instance_uid, sop_instance_uid=found.sop_instance_uid
    )
    return found if pacs.holds(report) else None


def _same_scores(held: Sequence[float], ours: Sequence[float]) -> None:
    """Take an earlier run's report of the same image and model for ours, unless it says something else.

    Raises
    ------
    InstanceRejected
        It does: a person has to decide which is right.
    """
    if len(held) != len(ours) or any(abs(a - b) > SAME_SCORE for a, b in zip(held, ours, strict=True)):
        raise InstanceRejected(
            Reason.REPORT_CONFLICT, "an earlier report under the same UID has other scores"
        )
