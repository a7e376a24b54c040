"""Labels on the studies of an Orthanc: a worklist of what a run found, as ``ai-pneumothorax``.

They are Orthanc's own and no part of DICOM: nothing in a study changes, and they leave Orthanc with no image. The
ledger keeps what is about to be put before it is put, so that a label which a user or another run had put is never
taken for ours, however often this is broken off.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

from backlog.broker.job import Job, points_of
from backlog.errors import InstanceRejected, UsageError
from backlog.model import LABELS
from backlog.outcomes import Outcome, Reason
from backlog.pacs.base import Pacs
from backlog.pacs.limited_pacs import LimitedPacs
from backlog.pacs.orthanc import Orthanc
from producer.ledger.ledger import Ledger
from producer.ledger.schema import FOUND, STORED
from producer.results.in_batches import InBatches
from producer.results.reported import retried

#: The ledger's fact: this run labels studies.
WANTED: Final = "label_findings"

#: Beside every label of a run whose scores mean nothing; put first.
SEEDED_WEIGHTS: Final = "ai-seeded-weights-scores-mean-nothing"

#: Reports that are looked at while the run is at work, each time: less than half a second for an Orthanc nearby.
_BATCH: Final = 32

_REPORTS: Final = (
    "SELECT effect.seq, item.no, item.instance, item.scores, item.outcome"
    " FROM effect JOIN item ON item.no = effect.item WHERE effect.kind IN (?, ?) AND effect.seq > ?"
    " ORDER BY effect.seq LIMIT ?"
)


class _ReportRow(NamedTuple):
    seq: int
    no: int
    instance: str
    scores: str
    outcome: str


class _LabelCount(NamedTuple):
    label: str
    studies: int


class _StudyLabel(NamedTuple):
    study: str
    label: str
    item: int


def label_of(finding: str) -> str:
    """Return the label of a finding: letters, digits and ``-``, which is what Orthanc takes."""
    return "ai-" + re.sub(r"[^a-z0-9]+", "-", finding.lower())


def check_labels(pacs: Pacs) -> Orthanc:
    """Return the Orthanc that keeps the labels: of a PACS that many share, what is behind its limit on requests.

    Raises
    ------
    UsageError
        It is a folder, an Orthanc before 1.12, or one whose database keeps none.
    ServiceUnavailable
        It doesn't answer.
    """
    if isinstance(pacs, LimitedPacs):
        pacs = pacs.pacs  # a label is a request of a millisecond
    if not isinstance(pacs, Orthanc):
        raise UsageError("--label-findings needs an Orthanc of version 1.12 or later as the PACS")
    if not pacs.has_labels():
        raise UsageError(
            f"--label-findings: the Orthanc at {pacs.url} keeps no labels: that needs version 1.12 or later, and a"
            " database with labels"
        )
    return pacs


class StudyLabels(InBatches):
    """Puts labels on the studies of a run, as its reports come in.

    Parameters
    ----------
    ledger
        The run's ledger.
    pacs
        The run's PACS.
    job
        Returns the run's job: from which score on a finding is present, and whether scores mean anything.

    Raises
    ------
    UsageError
        The PACS keeps no labels.
    """

    def __init__(self, ledger: Ledger, pacs: Pacs, job: Callable[[], Job]) -> None:
        self._ledger = ledger
        self._pacs = check_labels(pacs)
        self._job = job

    def batch(self) -> bool:
        """Label the studies of the next reports; return whether there were any."""
        rows = list(
            self._ledger.select(
                _ReportRow, _REPORTS, STORED, FOUND, int(self._ledger.get("labelled", 0)), _BATCH
            )
        )
        if not rows:
            return False
        present = {row.instance: (row.no, found) for row in rows if (found := self._present(row))}
        studies = self._pacs.studies_of(list(present))
        labelled = [
            item
            for instance, (item, labels) in present.items()
            if instance in studies and self._label(studies[instance], item, labels)
        ]
        self._ledger.labels_put(rows[-1].seq, labelled)
        return True

    def _present(self, row: _ReportRow) -> list[str]:
        """Return the labels that a report asks for."""
        if row.outcome != Outcome.REPORTED.value:
            return []  # the same instance as another item
        job = self._job()
        compared = zip(LABELS, json.loads(row.scores), points_of(job), strict=True)
        found = [label_of(label) for label, score, point in compared if score is not None and score >= point]
        return found if job["meaningful"] or not found else [SEEDED_WEIGHTS, *found]

    def _label(self, study: str, item: int, labels: list[str]) -> bool:
        """Label a study; return whether a label of this run's came to it for this item."""
        try:
            if not set(labels) <= self._ledger.labels_of(study).keys():
                there = self._pacs.labels(study)
                self._ledger.keep_labels((study, label, item, label not in there) for label in labels)
            known = self._ledger.labels_of(study)
            for label in labels:
                if known[label] is not None:
                    self._pacs.put_label(study, label)
        except InstanceRejected as rejected:
            if rejected.reason is Reason.NOT_IN_PACS:
                return False  # the study is gone, and with it whatever it had
            raise UsageError(f"the PACS refuses the label of a study ({rejected.detail})") from rejected
        return item in known.values()


def count_labels(ledger: Ledger) -> dict[str, int]:
    """Return how many studies have each label from this run."""
    query = "SELECT label, count(*) FROM study_label WHERE state = 1 GROUP BY label ORDER BY label"
    return dict(ledger.select(_LabelCount, query)) if ledger.get(WANTED) else {}


def remove_labels(ledger: Ledger, pacs: Pacs, seconds: float) -> int:
    """Take the labels off again that this run put on studies, and no others; return how many.

    Parameters
    ----------
    ledger
        The run's ledger, opened to be written.
    pacs
        The run's PACS.
    seconds
        How long to wait for a PACS that is unavailable.
    """
    if not ledger.get(WANTED):
        return 0
    orthanc = check_labels(pacs)
    count = 0
    query = "SELECT study, label, item FROM study_label WHERE state = 1 LIMIT ?"
    while rows := list(ledger.select(_StudyLabel, query, _BATCH)):
        for row in rows:
            try:
                retried(partial(orthanc.remove_label, row.study, row.label), seconds)
            except InstanceRejected as rejected:
                if rejected.reason is not Reason.NOT_IN_PACS:
                    raise
        ledger.labels_removed(rows)
        count += len(rows)
    return count
