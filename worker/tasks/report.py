"""The report stage: an image's header and scores → a DICOM SR in its study."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

from backlog.broker.item_results import Reported
from backlog.broker.job import Job, PredecessorSpec, model_of, preprocessing_of
from backlog.broker.messages import DerivedRecord, ReportItem, numbers
from backlog.dicom.comparison import same_data_set
from backlog.dicom.file import DicomFile
from backlog.dicom.header import Identity
from backlog.errors import InstanceRejected
from backlog.fault_attribution import Operation
from backlog.model import ENGINE_TOLERANCE, MODEL_VERSION, SCORE_DIGITS
from backlog.outcomes import Flag, Reason
from backlog.pacs.base import Pacs, StoreResult
from worker.sr import build as sr
from worker.sr.inputs import SOP_CLASSES, Predecessor
from worker.sr.uids import series_uid
from worker.tasks.attempt import Attempt, LeftReport
from worker.tasks.evidence import drawn_regions
from worker.tasks.resources import WorkerResources
from worker.tasks.withdraw import withdraw


def report(process: WorkerResources, job: Job, attempt: Attempt, items: list[ReportItem]) -> None:
    """Write one report for each scored image into its study.

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
    if job.get("derived_objects"):
        from worker.tasks import derived as derived_objects  # a run without pays nothing for them

        attempt.retry.while_unavailable(lambda: derived_objects.need(job))
    fidelity = _Fidelity(always=job.get("read_back", False))

    def one(item: ReportItem) -> None:
        attempt.faults.operation = Operation.READ
        reported = _report(process, attempt, job, item, fidelity)
        if job.get("deliver"):
            from worker.tasks.deliver import deliver  # a run without pays nothing for it

            reported = replace(reported, delivered=deliver(process, job, attempt, reported))
        attempt.results[item["i"]] = reported

    attempt.each(items, one)


@dataclass
class _Fidelity:
    """Whether the PACS keeps reports as they are sent. The first of a chunk is read back, and all where it differs."""

    always: bool
    unsure: bool = True

    def read_back(self, pacs: Pacs, sent: bytes, stored: StoreResult) -> bytes:
        """Return what the PACS keeps of a report."""
        if not (stored.already or stored.changed or self.always or self.unsure):
            return sent
        held = pacs.fetch(stored.instance)
        if not stored.already:
            self.unsure = held != sent
        return held


def _report(
    process: WorkerResources, attempt: Attempt, job: Job, item: ReportItem, fidelity: _Fidelity
) -> Reported:
    model = sr.Model(
        name=model_of(job).name,
        version=MODEL_VERSION,
        weights_sha256=job["weights"],
        preprocessing=preprocessing_of(job),
        meaningful=job["meaningful"],
    )
    options = sr.Options(
        language=job["language"],
        coding=job["coding"],
        operating_points=_points(job),
        regions=job.get("regions", "none"),
    )
    regions = drawn_regions(job, item)
    image = process.pacs.header(item["instance"])
    of, source = image.identity, sr.read_source(image)
    build = partial(
        sr.build,
        source,
        flags=[Flag(name) for name in item["flags"]],
        model=model,
        options=options,
        when=datetime.fromisoformat(job["when"]),
        predecessor=_predecessor(process.pacs, job, of, sr.report_uid(of.sop_instance_uid, model, options)),
    )
    built = build(numbers(item["scores"]), regions=regions)
    sr.check(built.dicom, of, scores=numbers(item["scores"]), model=model, options=options)
    its_report = replace(
        of, series_instance_uid=built.series_instance_uid, sop_instance_uid=built.sop_instance_uid
    )
    scored_before = item.get("existing", False)
    if scored_before and not process.pacs.contains(its_report):
        raise InstanceRejected(
            Reason.REPORT_CONFLICT, "the report that its scores come from was deleted meanwhile: try again"
        )
    attempt.faults.record_success(Operation.READ)
    attempt.faults.operation = Operation.WRITE
    stored = process.pacs.store(built.dicom, its_report)
    if scored_before and not stored.already:  # scores may be another's, and what is drawn comes from scoring
        raise InstanceRejected(
            Reason.REPORT_CONFLICT,
            "the report that its scores come from was deleted meanwhile, or is another patient's;"
            f" {withdraw(process.pacs, stored.instance)}",
        )
    left = LeftReport(of.sop_instance_uid, of.study_instance_uid, built.sop_instance_uid, stored.instance)
    take_back = partial(withdraw, process.pacs, deleted=partial(attempt.left.pop, item["i"], None))
    if not stored.already:
        attempt.left[item["i"]] = left
        attempt.faults.record_success(Operation.WRITE)
    held = fidelity.read_back(process.pacs, built.dicom, stored)
    ours = _is_same(built.dicom, held)  # also where an attempt before this one stored it and got no further
    if not ours and not stored.already:
        raise InstanceRejected(
            Reason.REPORT_CONFLICT,
            f"the PACS changed the report while storing it; {take_back(stored.instance)}",
        )
    if not ours:
        item = item | {
            "scores": same_scores(sr.scores_of(held), numbers(item["scores"]))
        }  # what the report says
        # Another engine's maps may lead to another outline: what stands is what was drawn.
        built = build(numbers(item["scores"]), regions=None if regions is None else _drawn(held, regions))
        ours = _is_same(built.dicom, held)
    if ours:
        attempt.left[item["i"]] = left
        only_one(process.pacs, built.sop_instance_uid, stored.instance, take_back)
    _check_study(stored, process.pacs.study_of(item["instance"], of), take_back if ours else None)
    made: list[DerivedRecord] | None = None
    if job.get("derived_objects"):
        from worker.tasks import derived as derived_objects

        made = derived_objects.write(process, job, item, source, model, options)
    return Reported(
        instance=item["instance"],
        sop_instance_uid=of.sop_instance_uid,
        study_instance_uid=of.study_instance_uid,
        sr_sop_instance_uid=built.sop_instance_uid,
        sr_instance=stored.instance,
        sr_sha256=hashlib.sha256(held).hexdigest(),
        sr_ours=ours,  # an earlier run's has another time in it
        flags=tuple(sorted({*item["flags"], *(flag.value for flag in built.flags)})),
        scores=tuple(item["scores"]),
        scoring={"weights": job["weights"], "meaningful": job["meaningful"], "engine": job["engine"]},
        attempts=attempt.claim.attempt,
        derived_objects=None if made is None else tuple(made),
    )


def _drawn(held: bytes, ours: sr.Regions) -> sr.Regions:
    found = sr.regions_of(held)
    return replace(found, frame=found.frame or ours.frame)


def _is_same(ours: bytes, held: bytes) -> bool:
    """Whether the PACS holds a report of ours: the same data set, which it may have encoded otherwise."""
    if ours == held:
        return True
    try:
        return same_data_set(DicomFile(ours).parsed, DicomFile(held).parsed)
    except InstanceRejected:
        return False  # what it holds is no DICOM file


def _check_study(stored: StoreResult, study: str, take_back: Callable[[str], str] | None) -> None:
    """Withdraw a report that the PACS has filed under another patient or study than its image.

    Raises
    ------
    InstanceRejected
        ``invalid_patient_id``: it has, since it reads the image's Patient ID by its own default character set.
    """
    if stored.study == study:
        return
    became = f"; {take_back(stored.instance)}" if take_back else ""
    raise InstanceRejected(
        Reason.INVALID_PATIENT_ID,
        "the PACS filed its report under another patient: it reads the image's Patient ID in a character set that the"
        f" image does not declare (DefaultEncoding), or does not know the declared one{became}",
    )


def _points(job: Job | PredecessorSpec) -> sr.OperatingPoints | None:
    chosen = job.get("operating_points")
    return None if chosen is None else sr.OperatingPoints(chosen["sha256"], chosen["thresholds"])


def _predecessor(pacs: Pacs, job: Job, of: Identity, own: str) -> Predecessor | None:
    """Return the report that the run's predecessor wrote of this image, if the PACS holds it and it isn't our own."""
    earlier = job.get("predecessor")
    if earlier is None:
        return None
    model = sr.Model(
        name=model_of(earlier).name,
        version=MODEL_VERSION,
        weights_sha256=earlier["weights"],
        preprocessing=preprocessing_of(earlier),
        meaningful=earlier["meaningful"],
    )
    options = sr.Options(
        earlier["language"],
        earlier["coding"],
        operating_points=_points(earlier),
        regions=earlier.get("regions", "none"),
    )
    found = Predecessor(
        sop_class_uid=SOP_CLASSES[options.iod],
        sop_instance_uid=sr.report_uid(of.sop_instance_uid, model, options),
        series_instance_uid=series_uid(of.sop_instance_uid, model, options),
        study_instance_uid=of.study_instance_uid,
    )
    report = replace(
        of, series_instance_uid=found.series_instance_uid, sop_instance_uid=found.sop_instance_uid
    )
    return found if pacs.contains(report) and found.sop_instance_uid != own else None


def only_one(pacs: Pacs, uid: str, instance: str, take_back: Callable[[str], str]) -> None:
    """Take a report of this run back where the PACS holds another under its UID, which derives from the image's.

    Parameters
    ----------
    pacs
        The run's PACS.
    uid
        SOP Instance UID of the report.
    instance
        The PACS's id of this run's.
    take_back
        Takes that back, and returns what became of it.

    Raises
    ------
    InstanceRejected
        ``uid_conflict``: two patients or studies have an image of the same UID.
    """
    if pacs.count_instances(uid, instance) > 1:
        raise InstanceRejected(
            Reason.UID_CONFLICT,
            "another patient or study has an image of the same UID, with its report; ours:"
            f" {take_back(instance)}",
        )


def _same_score(held: float, ours: float) -> bool:
    return abs(held - ours) <= ENGINE_TOLERANCE or (math.isnan(held) and math.isnan(ours))


def same_scores(held: list[float], ours: Sequence[float]) -> list[float | None]:
    """Return the scores of a report that is there already, if they are ours but for another engine's rounding.

    Raises
    ------
    InstanceRejected
        They are not: a user has to decide which report is right.
    """
    if len(held) != len(ours) or not all(map(_same_score, held, ours)):
        raise InstanceRejected(
            Reason.REPORT_CONFLICT, "an earlier report under the same UID has other scores"
        )
    # They stand there as percentages.
    return [None if math.isnan(score) else round(score, SCORE_DIGITS) for score in held]
