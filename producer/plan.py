"""What a run would do: counts, bytes, what would be skipped and why. Writes nothing and asks no worker."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Final

from backlog.broker.job import ConversionSpec
from backlog.broker.messages import Stage
from backlog.dicom.eligibility import SECONDARY_CAPTURE, Rules, flags, rejection_reason
from backlog.dicom.eligibility_attributes import EligibilityAttributes
from backlog.dicom.header import read_header, screen
from backlog.errors import BacklogError, InstanceRejected, SourceUnavailable
from backlog.files import PrivateFolder
from backlog.inputs.conversion import NOTHING, WRAPPED_MODALITY, Picture, names_of, opened, reason_of_other
from backlog.inputs.entries import SourceFile
from backlog.model import PRODUCT
from backlog.outcomes import Flag, Outcome, Reason
from backlog.pacs.address import checked_address, is_dicomweb
from backlog.settings import Settings
from producer.disk import picture_bytes
from producer.ledger.ledger import Ledger
from producer.results.only_account import ONLY, OnlyAccount, not_found, only_account
from producer.run.check_image_table import check_image_table
from producer.run.check_pacs import pacs_problems
from producer.run.folder import Paths
from producer.run.wanted import read_wanted
from producer.sources.base import Entry, Page, Source
from producer.sources.folder import FolderSource
from producer.sources.open import Selection, make_source, only_source

#: Most examples of one reason.
EXAMPLES: Final = 3

#: Items that the temporary ledger keeps together.
_CHUNK: Final = 1000

#: Images per second and core of a whole run from a zip of 2500 × 2048 images into Orthanc (docs/performance.md: 12.2
#: on two cores). Images that are in Orthanc already, and smaller ones, go faster.
RATE_PER_CORE: Final = 6.0


@dataclass
class Plan:
    """The account of a source."""

    total: int = 0
    size: int = 0  #: bytes, where the source tells; of a member of a zip, unpacked
    growth: int = 0  #: bytes by which what was read is stored larger: unpacked, or a picture as pixels
    read: int = 0  #: items whose header was read
    by_listing: Counter[Reason] = field(default_factory=Counter)  #: decided by the listing alone
    by_header: Counter[Reason] = field(default_factory=Counter)  #: decided by the headers that were read
    eligible: int = 0  #: of those read
    pacs_problems: list[str] = field(default_factory=list)  #: why the PACS is not fit for the run
    examples: dict[Reason, list[str]] = field(
        default_factory=dict
    )  #: names of a few items; may name patients
    only: OnlyAccount | None = None  #: of a list of wanted images
    not_found: list[str] = field(default_factory=list)  #: a few of its values; may identify patients
    unreadable: Counter[str] = field(default_factory=Counter)  #: Body Part Examined that isn't understood
    #: How members are packed that aren't read, and what to do.
    compressions: set[str] = field(default_factory=set)
    assumed: Counter[Flag] = field(default_factory=Counter)  #: flags of the header, of the eligible ones read

    def estimate(self, reasons: Counter[Reason], reason: Reason) -> int:
        """Return how many of all items a count among the read ones stands for."""
        return round(reasons[reason] * self._waiting / self.read) if self.read else 0

    @property
    def would_score(self) -> int:
        """How many items would be scored, estimated where not every header was read."""
        return round(self.eligible * self._waiting / self.read) if self.read else 0

    @property
    def stored(self) -> int:
        """How many bytes the run stores of the source at most, estimated where not every header was read."""
        return self.size + (round(self.growth * self._waiting / self.read) if self.read else 0)

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

    @property
    def _waiting(self) -> int:
        """Items that the listing alone doesn't decide."""
        return self.total - sum(self.by_listing.values())

    def _all(self) -> Counter[Reason]:
        found = Counter(self.by_listing)
        for reason in self.by_header:
            found[reason] += self.estimate(self.by_header, reason)
        return found


@dataclass(frozen=True)
class Listing:
    """A source that is gone through twice. What a list selects from it is kept, since it takes every header to tell."""

    source: Source
    ledger: Ledger | None  #: a temporary one, of a source with a list

    def first(self) -> Iterator[Page]:
        """Yield all pages."""
        for page in self.source.pages(""):
            if self.ledger is not None:
                self.ledger.add(page, _CHUNK)
            yield page

    def again(self) -> Iterator[Entry]:
        """Yield the entries that the listing alone doesn't decide."""
        if self.ledger is None:
            for page in self.source.pages(""):
                yield from (entry for entry in page.entries if entry.reason is None)
            return
        for chunk in self.ledger.select(str, "SELECT items FROM chunk ORDER BY no"):
            yield from (Entry(ref) for _, ref in json.loads(chunk))


def make_plan(
    word: str,
    settings: Settings,
    pacs: str,
    selection: Selection,
    sample: int,
    conversion: ConversionSpec = NOTHING,
    only: Path | None = None,
    only_by: str = "",
) -> Plan:
    """Look at a source.

    Parameters
    ----------
    word
        SOURCE of the command line: a path, ``orthanc``, or ``modality:NAME``.
    settings
        The settings of this process.
    pacs
        The address of the PACS, or its folder; empty for the settings' own.
    selection
        Which part of an Orthanc is taken.
    sample
        Most headers to read; they are spread over the source. 0 reads every one.
    conversion
        What the run would make of files that are no DICOM objects yet.
    only, only_by
        The list of ``--only`` and which of its columns counts.
    """
    with PrivateFolder() as folder:
        address = checked_address(pacs) if is_dicomweb(pacs) else pacs
        source = make_source(word, settings, address, Paths(folder).listing, selection)
        check_image_table(source, conversion)
        plan = Plan()
        listing = Listing(source, None)
        if only is not None:
            wanted = read_wanted(only, only_by, folder, source, selection, conversion)
            listing = Listing(
                only_source(source, wanted), Ledger.create(Paths(folder).ledger, {ONLY: wanted.facts})
            )
        try:
            plan.pacs_problems = pacs_problems(settings, pacs, source.first)
        except BacklogError as error:
            plan.pacs_problems = [str(error)]
        for page in listing.first():
            for entry in page.entries:
                plan.total += 1
                plan.size += _size(source, entry)
                if entry.reason is not None:
                    plan.by_listing[entry.reason] += 1
                    _add_example(plan, source, entry, entry.reason)
        if only is not None and listing.ledger is not None:
            plan.only = only_account(listing.ledger)
            plan.not_found = list(islice(not_found(listing.ledger, wanted), EXAMPLES))
        waiting = plan.total - sum(plan.by_listing.values())
        if not waiting:
            return plan
        if source.first is Stage.RETRIEVE:
            # Nothing is retrieved only to be looked at: what the modality answered of each is all that is known.
            plan.read = plan.eligible = waiting
            return plan
        step = max(1, waiting // sample) if sample else 1
        rules = Rules.from_settings(settings)
        for at, entry in enumerate(listing.again()):
            if at % step == 0:
                _look(plan, source, entry, rules, conversion)
        return plan


def _size(source: Source, entry: Entry) -> int:
    """Return an entry's bytes. A folder's listing tells them of members of a zip there alone; 0 where nothing does."""
    if entry.size or not isinstance(source, FolderSource):
        return entry.size
    try:
        return (source.path / source.name(entry.ref)).stat().st_size
    except OSError:
        return 0


def _look(plan: Plan, source: Source, entry: Entry, rules: Rules, conversion: ConversionSpec) -> None:
    plan.read += 1
    try:
        reason = _reason(plan, source, entry, rules, conversion)
    except InstanceRejected as rejected:
        reason = rejected.reason
        if reason is Reason.UNSUPPORTED_COMPRESSION:
            plan.compressions.add(rejected.detail)
    except OSError:
        reason = Reason.UNREADABLE
    if reason is None:
        plan.eligible += 1
    else:
        plan.by_header[reason] += 1
        _add_example(plan, source, entry, reason)


def _reason(
    plan: Plan, source: Source, entry: Entry, rules: Rules, conversion: ConversionSpec
) -> Reason | None:
    """Return why an item would end without a report, as far as its header tells."""
    packed = source.read(entry.ref)
    read = opened(SourceFile(source.name(entry.ref), packed), conversion)
    if isinstance(read, Picture):
        plan.growth += picture_bytes(read.content) - len(packed)
        subject = names_of(conversion).subject(read.name)
        made = EligibilityAttributes(
            sop_class_uid=SECONDARY_CAPTURE,
            modality=WRAPPED_MODALITY,
            view_position=subject.view,
            body_part_examined=subject.body_part,
            capture_device=PRODUCT,
        )
        reason = rejection_reason(made, rules)
        plan.assumed.update(flags(made, rules) if reason is None else ())
        return reason
    try:
        found = screen(read_header(read.content), rules)
    except InstanceRejected as rejected:
        raise reason_of_other(read, rejected) from None
    if read.content is not packed:
        plan.growth += len(read.content) - len(packed)
    if found.rejection is None:
        plan.assumed.update(flags(found.attributes, rules))
        return None
    reason = found.rejection.reason
    if reason is Reason.BODY_PART_UNREADABLE:
        plan.unreadable[found.attributes.body_part_examined] += 1
    if reason is Reason.INVALID_UID and conversion["make_uids"]:
        capture = found.attributes.sop_class_uid or SECONDARY_CAPTURE
        reason_then = rejection_reason(replace(found.attributes, sop_class_uid=capture), rules)
        if reason_then is None:
            plan.assumed[Flag.UIDS_MADE] += 1
        return reason_then
    return reason


def _add_example(plan: Plan, source: Source, entry: Entry, reason: Reason) -> None:
    known = plan.examples.setdefault(reason, [])
    if len(known) < EXAMPLES:
        with suppress(InstanceRejected, SourceUnavailable):
            known.append(source.name(entry.ref))


#: What the operator can do about items that would end for a reason, where there is something.
ADVICE: Final = {
    Reason.IMAGE_FILE: "PNG and JPEG radiographs are scored with --wrap-images",
    Reason.ARCHIVE_FILE: "not read in place (a tar, a 7z, a zip in a zip in a zip): unpack them, and give the folder",
    Reason.INVALID_UID: "UIDs are missing or none; --make-uids makes them from the files' content",
    Reason.BODY_PART_UNREADABLE: "name words that mean the chest in CXR_BODY_PARTS (--names shows rare ones too)",
    Reason.NOT_CHEST: "CXR_ANY_BODY_PART=true scores them all the same",
    Reason.LATERAL: "CXR_LATERALS=true scores them all the same",
    Reason.FOR_PROCESSING: "CXR_FOR_PROCESSING=true scores them all the same",
    Reason.ENCRYPTED: "unpack the zip with its password, and give the folder",
    Reason.NOT_DICOM: "neither DICOM files nor anything that is known beside them: look at the examples (--names)",
    Reason.UNREADABLE: "damaged or not to be read: copy or unpack them again",
    Reason.TOO_LARGE: "larger than any radiograph; unpack an archive, and give the folder",
    Reason.NO_PIXELS: "images without pixel data: were they exported as headers alone?",
}


def advice(plan: Plan, reason: Reason) -> list[str]:
    """Return what the operator can do about the items of a plan that would end for a reason."""
    if reason is Reason.UNSUPPORTED_COMPRESSION:
        return sorted(plan.compressions)  # by the method: not each has a reader that could be installed
    return [ADVICE[reason]] if reason in ADVICE else []
