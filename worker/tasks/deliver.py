"""A report on its way from Orthanc to the hospital's PACS: sent by C-STORE, and confirmed."""

from __future__ import annotations

import time
from typing import Final

from backlog.broker.item_results import Reported
from backlog.broker.job import Job
from backlog.errors import InstanceRejected, ModalityFailed, ServiceUnavailable
from backlog.fault_attribution import Operation
from backlog.outcomes import Reason
from backlog.pacs.modality import Modality
from worker.tasks.attempt import Attempt
from worker.tasks.resources import WorkerResources

#: How long the modality may take to list what it took or to commit to it, in seconds, and how often it is asked.
_CONFIRM_SECONDS: Final = 10.0
_ASK_EVERY: Final = 0.5

#: Seconds between two proofs that the modality takes other reports than the one that it fails on.
_PROVE_EVERY: Final = 10.0

#: The place of a report that the modality has, among the references of a run's chunks.
_PROOF: Final = -2


def deliver(process: WorkerResources, job: Job, attempt: Attempt, reported: Reported) -> str:
    """Send a report, and what was stored beside it, to the run's modality; return that one's name, once it has it.

    Sent twice, it is the same object: its UID follows from the image.

    Parameters
    ----------
    process
        What this worker process holds: PACS, settings.
    job
        The run, as its messages carry it.
    attempt
        This attempt at the chunk.
    reported
        How the report's item ended.

    Raises
    ------
    ModalityFailed
        The modality does not take the report, or takes it and does not confirm that it has it.
    """
    attempt.faults.operation = Operation.DELIVER
    modality = process.modality(job["deliver"])
    beside = [one["instance"] for one in reported.derived_objects or () if "instance" in one]
    limit = process.modality_limit(modality.name, "store")
    limit.on_wait = attempt.go_on_waiting
    try:
        with limit.slot("store"):
            modality.deliver([reported.sr_instance, *beside])
        _confirm(modality, reported, by=process.settings.deliver_confirm)
    except ModalityFailed:
        _prove(process, job, attempt, modality)
        raise
    attempt.faults.record_success(Operation.DELIVER)
    process.claims.set_references(job["run"], _PROOF, [reported.sr_instance])
    return modality.name


def _prove(process: WorkerResources, job: Job, attempt: Attempt, modality: Modality) -> None:
    """Send a modality that fails on a report one that it has: it may fail on all."""
    if time.monotonic() - process.proved.get(job["run"], float("-inf")) < _PROVE_EVERY:
        return
    process.proved[job["run"]] = time.monotonic()
    known = process.claims.references(job["run"], _PROOF)
    if known:
        try:
            modality.deliver(known)
        except (ServiceUnavailable, InstanceRejected):
            return
        attempt.faults.record_witness(Operation.DELIVER)


def _confirm(modality: Modality, reported: Reported, *, by: str) -> None:
    if by == "store":
        return
    if by == "commitment":
        modality.commit(reported.sr_instance, seconds=_CONFIRM_SECONDS)
        return
    series = modality.series_uid(reported.sr_instance)
    names = (reported.study_instance_uid, series, reported.sr_sop_instance_uid)
    deadline = time.monotonic() + _CONFIRM_SECONDS
    while not modality.lists(*names):
        if time.monotonic() > deadline:
            raise ModalityFailed(
                f"the modality {modality.name} took a report and doesn't list it: where it lists no structured reports,"
                " set CXR_DELIVER_CONFIRM to commitment or store",
                Reason.NOT_DELIVERED,
            )
        time.sleep(_ASK_EVERY)
