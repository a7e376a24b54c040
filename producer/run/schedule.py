"""What a run keeps of when it sends work, and of when it pauses by itself: chosen where it is made, kept by resume."""

from __future__ import annotations

from typing import Final

from backlog.settings import Settings
from producer.dispatch.hours import Hours
from producer.dispatch.quarantine_limit import QuarantineLimit
from producer.ledger.ledger import Ledger
from producer.ledger.run_database import Facts

#: Facts of the ledger.
BETWEEN: Final = "between"
_LIMIT: Final = "stop_when_quarantined"
SCHEDULE: Final = (BETWEEN, _LIMIT)


def schedule_facts(settings: Settings) -> Facts:
    """Return what a new run's ledger keeps.

    Raises
    ------
    UsageError
        The settings name no span of hours, or no time zone.
    """
    facts: Facts = {}
    if settings.between.strip():
        hours = Hours.parse(settings.between, settings.time_zone)
        facts[BETWEEN] = [f"{hours.begin:%H:%M}-{hours.end:%H:%M}", hours.zone]
    if settings.stop_when_quarantined:
        facts[_LIMIT] = settings.stop_when_quarantined
    return facts


def hours_of(ledger: Ledger) -> Hours | None:
    """Return when a run sends work; None for always.

    Raises
    ------
    UsageError
        This machine doesn't know the run's time zone.
    """
    kept = ledger.get(BETWEEN)
    return Hours.parse(*kept) if kept else None


def quarantine_limit_of(ledger: Ledger) -> QuarantineLimit | None:
    """Return which share of quarantined items a run pauses at; None for none."""
    percent = ledger.get(_LIMIT)
    return QuarantineLimit(ledger, float(percent)) if percent else None
