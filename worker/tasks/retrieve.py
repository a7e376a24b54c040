"""The retrieve stage: an image of a DICOM modality → the same image in Orthanc."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Final

from backlog.broker.job import Job
from backlog.broker.messages import InferItem, RetrieveItem
from backlog.errors import ClaimLost, InstanceRejected, ModalityFailed, ServiceUnavailable
from backlog.fault_attribution import Operation
from backlog.outcomes import Reason
from backlog.pacs.brought_in import Exclusive, evict, mark_brought_in
from backlog.pacs.modality import Modality
from worker.tasks.attempt import Attempt
from worker.tasks.resources import WorkerResources
from worker.tasks.shutdown import Stopping, pause

#: Seconds between two proofs that the modality sends other images than the one that it fails on.
PROVE_EVERY: Final = 10.0

#: Times that an image is brought in that another run deletes before this one could say that it needs it.
_MOST_ROUNDS: Final = 5

#: The place of the reference of an image that the modality sent, among the references of a run's chunks.
_PROOF: Final = -1


def retrieve(process: WorkerResources, job: Job, attempt: Attempt, items: list[RetrieveItem]) -> None:
    """Have the modality send each image to Orthanc, but for those that lie there already.

    Parameters
    ----------
    process
        What this worker process holds: PACS, settings.
    job
        The run, as its messages carry it.
    attempt
        This attempt at the chunk; it takes the records of items that end here.
    items
        The chunk's items that have not ended yet.

    Raises
    ------
    ClaimLost
        Redis has forgotten the images' UIDs since the chunk was sent: it is sent again with them.
    """
    attempt.retry.while_unavailable(lambda: process.check(job))
    references = process.claims.references(job["run"], attempt.claim.chunk)
    if references is None:
        raise ClaimLost(f"chunk {attempt.claim.chunk}: Redis has forgotten what its images are called")
    modality = process.modality(job["source"].get("modality", ""))
    attempt.retry.while_unavailable(modality.check_method)
    retrieval = _Retrieval(process, job, attempt, modality)

    def one(item: RetrieveItem) -> None:
        following: InferItem = {"i": item["i"], "instance": retrieval.instance(references[item["i"]])}
        attempt.following[item["i"]] = following

    attempt.each(items, one)
    retrieval.keep_proof()


@dataclass
class _Retrieval:
    """Brings images of one chunk into Orthanc."""

    process: WorkerResources
    job: Job
    attempt: Attempt
    modality: Modality
    _sent: str = field(default="", init=False)  #: the reference of an image that the modality sent
    _proved: float = field(default=float("-inf"), init=False)

    def instance(self, reference: str) -> str:
        """Return Orthanc's id of an image, which is brought in where Orthanc has not got it.

        Raises
        ------
        ModalityFailed
            The modality does not send it.
        InstanceRejected
            ``uid_conflict``: Orthanc has two images of this UID in this series.
        """
        for _ in range(_MOST_ROUNDS):
            held, is_new = self._brought_in(reference)
            if self.job.get("keep", False) or mark_brought_in(
                self.modality.orthanc, held, self.job["run"], self._exclusive, is_new=is_new
            ):
                return held
        raise ServiceUnavailable("another run deletes an image each time that this one finds it")

    def _brought_in(self, reference: str) -> tuple[str, bool]:
        """Return Orthanc's id of an image, and whether it was not there before."""
        study, series, sop = reference.split("|")
        self.attempt.faults.operation = Operation.READ
        held = self.modality.held(series, sop)
        is_new = not held
        if is_new:
            self.attempt.faults.operation = Operation.RETRIEVE
            held = self._retrieved(study, series, sop)
            self.attempt.faults.record_success(Operation.RETRIEVE)
            self._sent = reference
            self.attempt.faults.operation = Operation.READ
        if len(held) > 1:
            raise InstanceRejected(
                Reason.UID_CONFLICT, "Orthanc holds images of two patients or studies under its UID"
            )
        return held[0], is_new

    @property
    def _exclusive(self) -> Exclusive:
        return self.process.claims.broker.exclusive

    def _retrieved(self, study: str, series: str, sop: str) -> list[str]:
        try:
            with self._slot():
                return self.modality.retrieve(study, series, sop)
        except ModalityFailed:
            self._prove()
            raise

    def _slot(self) -> AbstractContextManager[None]:
        limit = self.process.modality_limit(self.modality.name)
        limit.on_wait = self.attempt.go_on_waiting
        deadline = time.monotonic() + self.process.pace(self.modality.name).seconds()
        while (left := deadline - time.monotonic()) > 0:
            self.attempt.go_on_waiting()
            if pause(min(left, 0.5)):
                raise Stopping
        return limit.slot("move")

    def _prove(self) -> None:
        """Have a modality that fails on an image send one that it has sent before: it may fail on all."""
        if time.monotonic() - self._proved < PROVE_EVERY:
            return
        self._proved = time.monotonic()
        known = self._sent or next(iter(self.process.claims.references(self.job["run"], _PROOF) or []), "")
        if not known:
            return
        study, series, sop = known.split("|")
        is_new = not self.modality.held(series, sop)
        try:
            with self._slot():
                held = self.modality.retrieve(study, series, sop)
        except ServiceUnavailable:
            return
        self.attempt.faults.record_witness(Operation.RETRIEVE)
        if is_new:  # it was evicted, and nobody needs it any more
            mark_brought_in(self.modality.orthanc, held[0], self.job["run"], self._exclusive, is_new=True)
            evict(self.modality.orthanc, held[0], self.job["run"], self._exclusive)

    def keep_proof(self) -> None:
        """Keep which image was sent, for chunks in which the modality fails on each."""
        if self._sent:
            self.process.claims.set_references(self.job["run"], _PROOF, [self._sent])
