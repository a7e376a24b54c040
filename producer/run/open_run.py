"""A run that this process works on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from backlog.settings import Settings
from producer.ledger.ledger import Ledger
from producer.ledger.run_job import RunJob
from producer.results.audit_log import Audit
from producer.run.folder import Paths
from producer.sources.base import Source


@dataclass(frozen=True)
class OpenRun:
    """A run with its folder locked and its ledger open to be written."""

    settings: Settings
    paths: Paths
    ledger: Ledger
    audit: Audit
    job: RunJob
    source: Source
    pacs_url: str  #: the address of its PACS, or that folder
    say: Callable[[str], None]  #: shows the user a line
    doing: Callable[[str], None] = lambda _: (
        None
    )  #: shows what is being done while there is no progress to show
