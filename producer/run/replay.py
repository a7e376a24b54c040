"""A new run of what another run has quarantined."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from backlog.broker.messages import Job
from backlog.dicom.eligibility import Rules
from backlog.errors import UsageError
from backlog.outcomes import Outcome
from backlog.settings import Settings
from producer.ledger.ledger import EVICTS
from producer.ledger.run_database import Facts
from producer.results.labels import WANTED
from producer.run.folder import Paths
from producer.run.make_run import check_place, make_run, prepared_anew, refuse_another, run_name
from producer.run.open import open_ledger
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
    facts["pacs"] = pacs_address(ledger, of)
    for fact in (WANTED, EVICTS):
        if ledger.get(fact):
            facts[fact] = True
    earlier: Job = ledger.get("job")
    ledger.close()
    now = datetime.now(UTC).replace(microsecond=0)
    job: Job = {
        **prepared_anew(earlier),
        "run": run_name(now),
        "when": now.isoformat(),
        "language": settings.language,
        "coding": settings.coding,
        "regions": settings.regions,
        "rules": Rules.from_settings(settings).spec(),
    }
    replayed = [json.loads(item.ref) for item in items]
    facts |= schedule_facts(settings)
    make_run(paths, facts | {"job": job, "replayed": replayed, "replay_of": str(of.out)})
    return len(items)
