"""What a run leaves when this process ends its work on it: scores, account of a list, summary, page."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from backlog.environment import interface_language
from backlog.errors import StorageFull, UsageError
from backlog.output_file import OutputFile
from backlog.settings import Settings
from producer.ledger.ledger import Ledger
from producer.ledger.run_database import GivenUp
from producer.results import exports
from producer.results.audit_chain import AuditResult
from producer.results.audit_log import Audit
from producer.results.only_account import ONLY, write_only_account
from producer.run.folder import Paths
from producer.run.signals import StopRequest
from producer.sources.only_list import OnlyList

#: How long a run that is to stop may take to write its scores, in seconds: ten million take minutes.
ENDING_SECONDS: Final = 10.0


class GiveUp:
    """Says when the ending of a run that is to stop has taken as long as a user waits, or a container may.

    Parameters
    ----------
    stopping
        Whether the user asked to stop.
    paths
        The run's folder: another process may have cancelled the run.
    """

    def __init__(self, stopping: StopRequest, paths: Paths) -> None:
        self._stopping = stopping
        self._cancel = paths.cancel
        self._asked: float | None = None

    def __call__(self) -> bool:
        """Whether to leave what is not yet written."""
        if self._asked is None and (self._stopping.is_set() or self._cancel.exists()):
            self._asked = time.monotonic()
        return self._asked is not None and time.monotonic() - self._asked > ENDING_SECONDS


def write_results(
    ledger: Ledger, paths: Paths, give_up: GiveUp, say: Callable[[str], None]
) -> exports.Summary:
    """Write what a run has come to, and return its account.

    Parameters
    ----------
    ledger
        The run's ledger.
    paths
        The run's folder.
    give_up
        Asked all the time whether to leave the rest.
    say
        Shows the user a line.
    """
    write_scores(ledger, paths, give_up, say)
    if ledger.get(ONLY) and ledger.get("all_listed"):
        write_only_account(ledger, OnlyList(paths.only, ledger.get(ONLY)), paths.only_account)
    return exports.write_summary(ledger, OutputFile(paths.summary, force=True), give_up=give_up)


def write_scores(ledger: Ledger, paths: Paths, give_up: GiveUp, say: Callable[[str], None]) -> None:
    """Write scores.csv.

    Parameters
    ----------
    ledger
        The run's ledger.
    paths
        The run's folder.
    give_up
        Asked all the time whether to leave the file as it was.
    say
        Shows the user a line.
    """
    try:
        exports.write_scores(ledger, OutputFile(paths.scores, force=True), give_up=give_up)
    except GivenUp:
        say(
            f"{paths.scores} takes more than {ENDING_SECONDS:g} s, and stays as it was; the scores so far:"
            f" cxr-backlog export {paths.out}"
        )


def write_page(
    ledger: Ledger,
    paths: Paths,
    audit: Audit,
    say: Callable[[str], None],
    settings: Settings,
    give_up: GiveUp,
) -> None:
    """Write the summary page. It is the last thing of a run, and the run is complete without it.

    Parameters
    ----------
    ledger
        The run's ledger.
    paths
        The run's folder.
    audit
        The run's audit, up to date.
    say
        Shows the user a line.
    settings
        Where links of the page lead.
    give_up
        Asked all the time whether to leave it.
    """
    from producer.page import page  # jinja2 and matplotlib

    try:
        with ledger.giving_up(give_up):
            page.write_page(
                ledger,
                OutputFile(paths.page, force=True),
                orthanc=settings.pacs_link,
                viewer=settings.viewer_link,
                audit=AuditResult(audit.head),
                beside=paths.out,
                language=interface_language(),
            )
    except GivenUp:
        say(
            f"The summary page takes more than {ENDING_SECONDS:g} s, and is not written; for the page:"
            f" cxr-backlog summary {paths.out}"
        )
    except (UsageError, StorageFull) as error:
        say(f"No summary page: {error}")
