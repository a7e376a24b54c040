"""What a run would do: counts, bytes, what would be skipped and why. Writes nothing and asks no worker."""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from backlog.broker.messages import Stage
from backlog.dicom.eligibility import Rules
from backlog.dicom.header import read_header, screen
from backlog.errors import BacklogError, InstanceRejected
from backlog.outcomes import Outcome, Reason
from backlog.settings import Settings
from producer.run.check_pacs import pacs_problems
from producer.run.folder import Paths
from producer.sources.base import Entry, Source
from producer.sources.folder import FolderSource
from producer.sources.open import Selection, make_source

#: Images per second and core of a whole run from a zip of 2500 × 2048 images into Orthanc (docs/performance.md: 12.2
#: on two cores). Images that are in Orthanc already, and smaller ones, go faster.
RATE_PER_CORE: Final = 6.0


@dataclass
class Plan:
    """The account of a source."""

    total: int = 0
    size: int = 0  #: bytes, where the source tells
    read: int = 0  #: items whose header was read
    by_listing: Counter[Reason] = field(default_factory=Counter)  #: decided by the listing alone
    by_header: Counter[Reason] = field(default_factory=Counter)  #: decided by the headers that were read
    eligible: int = 0  #: of those read
    pacs_problems: list[str] = field(default_factory=list)  #: why the PACS is not fit for the run

    def estimate(self, reasons: Counter[Reason], reason: Reason) -> int:
        """Return how many of all items a count among the read ones stands for."""
        waiting = self.total - sum(self.by_listing.values())
        return round(reasons[reason] * waiting / self.read) if self.read else 0

    @property
    def would_score(self) -> int:
        """How many items would be scored, estimated where not every header was read."""
        waiting = self.total - sum(self.by_listing.values())
        return round(self.eligible * waiting / self.read) if self.read else 0

    def seconds(self, cores: int) -> float:
        """Return about how long a run takes."""
        return self.would_score / (RATE_PER_CORE * cores)

    def skipped(self) -> dict[Reason, int]:
        """Return how many items would be skipped, by reason."""
        return {reason: count for reason, count in self._all().items() if reason.outcome is Outcome.SKIPPED}

    def quarantined(self) -> dict[Reason, int]:
        """Return how many items would be quarantined, by reason, as far as headers tell."""
        return {
            reason: count for reason, count in self._all().items() if reason.outcome is Outcome.QUARANTINED
        }

    def _all(self) -> Counter[Reason]:
        found = Counter(self.by_listing)
        for reason in self.by_header:
            found[reason] += self.estimate(self.by_header, reason)
        return found


def make_plan(word: str, settings: Settings, pacs: str, selection: Selection, sample: int) -> Plan:
    """Look at a source.

    Parameters
    ----------
    sample
        Most headers to read; they are spread over the source. 0 reads every one.
    """
    with tempfile.TemporaryDirectory(prefix="cxr-plan-") as folder:
        source = make_source(word, settings, pacs, Paths(Path(folder)), selection)
        plan = Plan()
        try:
            plan.pacs_problems = pacs_problems(settings, pacs, stores_images=source.first is Stage.UPLOAD)
        except BacklogError as error:
            plan.pacs_problems = [str(error)]
        for page in source.pages(""):
            for entry in page.entries:
                plan.total += 1
                plan.size += _size(source, entry)
                if entry.reason is not None:
                    plan.by_listing[entry.reason] += 1
        waiting = plan.total - sum(plan.by_listing.values())
        if not waiting:
            return plan
        step = max(1, waiting // sample) if sample else 1
        rules = Rules.from_settings(settings)
        at = 0
        for page in source.pages(""):
            for entry in page.entries:
                if entry.reason is not None:
                    continue
                if at % step == 0:
                    _look(plan, source, entry, rules)
                at += 1
        return plan


def _size(source: Source, entry: Entry) -> int:
    if isinstance(source, FolderSource):
        try:
            return (source.path / source.name(entry.ref)).stat().st_size
        except OSError:
            return 0
    return entry.size


def _look(plan: Plan, source: Source, entry: Entry, rules: Rules) -> None:
    plan.read += 1
    try:
        rejection = screen(read_header(source.read(entry.ref)), rules).rejection
        reason = rejection.reason if rejection is not None else None
    except InstanceRejected as rejected:
        reason = rejected.reason
    except OSError:
        reason = Reason.UNREADABLE
    if reason is None:
        plan.eligible += 1
    else:
        plan.by_header[reason] += 1
