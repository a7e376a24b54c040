"""What is known of a run from outside: its ledger, and what its producer published last."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from producer.dispatch.progress import RunProgress
    from producer.results.exports import Summary
    from producer.run.folder import Paths
    from producer.run.published import Published


def look(paths: Paths) -> Summary:
    """Return the account of a run at this moment, with its state and, while it is at work, its pace.

    Raises
    ------
    UsageError
        The folder holds no run.
    """
    from producer.dispatch.quarantine_limit import REASON
    from producer.results.exports import summarise
    from producer.run.open import open_ledger
    from producer.run.published import read_published
    from producer.run.schedule import BETWEEN

    with closing(open_ledger(paths.out)) as ledger:
        summary = summarise(ledger)
        summary["all_listed"] = bool(ledger.get("all_listed", False))
        if hours := ledger.get(BETWEEN):
            summary["between"] = " ".join(hours)
        if (why := str(ledger.get(REASON, ""))) and not summary["complete"]:
            summary["waiting_reason"] = why
    published = read_published(paths.progress)
    running = _at_work(paths, published)
    summary["state"] = _state(paths, complete=summary["complete"], running=running)
    if running and published is not None and not summary["complete"]:
        progress = published.progress
        summary["seconds"] = round(published.seconds, 3)
        summary["images_per_second"] = round(published.rate, 3)
        summary["waiting_reason"] = progress.waiting_reason or summary.get("waiting_reason", "")
        if progress.total is not None and not progress.all_listed:
            summary["total"], summary["all_listed"] = (
                progress.total,
                True,
            )  # a zip's, known before it is listed
        if summary["all_listed"] and published.rate > 0 and not progress.waiting_reason:
            ended = progress.tally.ended
            summary["seconds_left"] = round((summary["total"] - ended) / published.rate)
    return summary


def progress_of(paths: Paths) -> RunProgress:
    """Return how far a run is, as its producer shows it; where none is at work, as its ledger does.

    Raises
    ------
    UsageError
        The folder holds no run.
    """
    from producer.dispatch.progress import RunProgress
    from producer.run.open import open_ledger
    from producer.run.published import read_published

    published = read_published(paths.progress)
    if _at_work(paths, published) and published is not None:
        return published.progress
    with closing(open_ledger(paths.out)) as ledger:
        tally = ledger.tally()
        listed, all_listed = int(ledger.get("listed", 0)), bool(ledger.get("all_listed", False))
    progress = RunProgress(
        listed, all_listed, listed if all_listed else None, tally.ended, tally.ended, tally
    )
    if not progress.done:
        progress.paused = paths.pause.exists()
        progress.waiting_reason = _idle(paths)
    return progress


def _at_work(paths: Paths, published: Published | None) -> bool:
    from producer.run.folder import is_running

    return is_running(paths) or (published is not None and published.fresh_elsewhere)


def _idle(paths: Paths) -> str:
    from producer.run.folder import is_running

    if is_running(paths):
        return "the producer starts"
    return f"no producer is at work on this run; go on with: cxr-backlog resume {paths.out}"


def _state(paths: Paths, *, complete: bool, running: bool) -> str:
    """Return what a run is doing, in a word."""
    if complete:
        return "complete"
    if paths.cancel.exists():
        return "cancelled"
    if paths.pause.exists():
        return "paused"
    return "running" if running else "interrupted"
