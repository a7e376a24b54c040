"""What a run leaves when this process ends its work on it: scores, account of a list, summary, page."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from backlog.errors import StorageFull, UsageError
from backlog.output_file import OutputFile
from backlog.settings import Settings, interface_language
from producer.ledger.ledger import Ledger
from producer.results import exports
from producer.results.audit_chain import AuditResult
from producer.results.audit_log import Audit
from producer.results.only_account import ONLY, write_only_account
from producer.run.folder import Paths
from producer.run.open_run import OpenRun
from producer.run.signals import StopRequest
from producer.sources.only_list import OnlyList

#: How long a run that is to stop may take to write its scores, in seconds: ten million take minutes.
ENDING_SECONDS: Final = 10.0


def write_results(run: OpenRun, stopping: StopRequest) -> exports.Summary:
    """Write what a run has come to, and return its account."""
    ledger, paths = run.ledger, run.paths
    write_scores(ledger, paths, stopping, run.say)
    if ledger.get(ONLY) and ledger.get("all_listed"):
        write_only_account(ledger, OnlyList(paths.only, ledger.get(ONLY)), paths.only_account)
    return exports.write_summary(ledger, OutputFile(paths.summary, force=True))


def write_scores(ledger: Ledger, paths: Paths, stopping: StopRequest, say: Callable[[str], None]) -> None:
    """Write scores.csv; a run that is to stop takes no longer over it than a user waits, or a container may.

    Parameters
    ----------
    ledger
        The run's ledger.
    paths
        The run's folder.
    stopping
        Whether the user asked to stop.
    say
        Shows the user a line.
    """
    asked: list[float] = []

    def give_up() -> bool:
        if not asked and (stopping.is_set() or paths.cancel.exists()):
            asked.append(time.monotonic())
        return bool(asked) and time.monotonic() - asked[0] > ENDING_SECONDS

    try:
        exports.write_scores(ledger, OutputFile(paths.scores, force=True), give_up=give_up)
    except exports.GivenUp:
        say(
            f"{paths.scores} takes more than {ENDING_SECONDS:g} s, and stays as it was; the scores so far:"
            f" cxr-backlog export {paths.out}"
        )


def write_page(
    ledger: Ledger, paths: Paths, audit: Audit, say: Callable[[str], None], settings: Settings
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
    """
    from producer.page import page  # jinja2 and matplotlib

    try:
        page.write_page(
            ledger,
            OutputFile(paths.page, force=True),
            orthanc=settings.pacs_link,
            viewer=settings.viewer_link,
            audit=AuditResult(audit.head),
            beside=paths.out,
            language=interface_language(),
        )
    except (UsageError, StorageFull) as error:
        say(f"No summary page: {error}")
