"""A new run of what another run has quarantined."""

from __future__ import annotations

import json
from itertools import accumulate

from backlog.broker.job import Job, SourceSpec
from backlog.dicom.eligibility import Rules
from backlog.errors import UsageError
from backlog.inputs.path_list import PathList, new_list_id
from backlog.outcomes import Outcome
from backlog.pacs.address import is_server
from backlog.settings import Settings
from producer.ledger.ledger import EVICTS
from producer.ledger.rows import ItemRow
from producer.ledger.run_database import Facts
from producer.results.labels import WANTED
from producer.run.folder import Paths
from producer.run.make_run import begun_now, check_place, make_run, prepared_anew, refuse_another, run_name
from producer.run.open import listing_of, open_ledger
from producer.run.place import pacs_address
from producer.run.schedule import schedule_facts


def create_replay(of: Paths, paths: Paths, reasons: frozenset[str], settings: Settings) -> int:
    """Make a new run of another run's quarantined items; returns their count.

    Parameters
    ----------
    of
        The folder of the run whose items are tried again.
    paths
        The new run's folder.
    reasons
        Only items quarantined for one of these; none for all.
    settings
        Of this process.

    Raises
    ------
    UsageError
        Nothing of that kind is quarantined, or the new folder holds a run already.
    """
    check_place(settings, paths)
    refuse_another(paths)
    ledger = open_ledger(of.out)
    items = [item for item in ledger.items(Outcome.QUARANTINED) if not reasons or item.reason in reasons]
    if not items:
        of_kind = f" for {', '.join(sorted(reasons))}" if reasons else ""
        raise UsageError(f"{of.out}: nothing is quarantined{of_kind}")
    facts: Facts = {key: ledger.get(key) for key in ("word", "selection", "model", "workers", "chunk_size")}
    facts["pacs"] = pacs = pacs_address(ledger, of)
    for fact in (WANTED, EVICTS):
        if ledger.get(fact):
            facts[fact] = True
    earlier: Job = ledger.get("job")
    refs, source, records = _own_list(listing_of(ledger, of), items, earlier["source"], paths)
    ledger.close()
    now = begun_now()
    job: Job = {
        **prepared_anew(earlier),
        "run": run_name(now),
        "when": now.isoformat(),
        "source": source,
        "pacs": earlier["pacs"]
        if is_server(pacs)
        else pacs,  # a folder in a run's folder may have been moved with it
        "language": settings.language,
        "coding": settings.coding,
        "regions": settings.regions,
        "rules": Rules.from_settings(settings).spec(),
    }
    facts |= schedule_facts(settings)
    make_run(paths, facts | {"job": job, "replayed": refs, "replay_of": str(of.out)}, listing=records)
    return len(items)


def _own_list(
    listing: PathList, items: list[ItemRow], spec: SourceSpec, paths: Paths
) -> tuple[list[int | str], SourceSpec, list[bytes]]:
    """Return where a replay's source finds the items, its spec, and what its own list of files holds.

    That of the run that it repeats may be moved, removed, or replaced by another run's.

    Parameters
    ----------
    listing
        The list of the run that is repeated.
    items
        What is tried again.
    spec
        The source of the run that is repeated.
    paths
        The new run's folder.

    Raises
    ------
    SourceUnavailable, UsageError
        The list is gone, damaged, or another run's.
    """
    refs: list[int | str] = [json.loads(item.ref) for item in items]
    if spec["kind"] != "folder":
        return refs, spec, []
    own = PathList(paths.listing.absolute(), new_list_id())
    records = [own.head, *(listing.record(int(ref)) + b"\0" for ref in refs)]
    places = accumulate(len(record) for record in records)
    moved: SourceSpec = {**spec, "listing": str(own.path), "list_id": own.list_id}
    return [place for place, _ in zip(places, refs, strict=False)], moved, records
