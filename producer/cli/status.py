"""The command that says how far a run is, from its ledger and from what its producer published last."""

from __future__ import annotations

import json
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from producer.cli.options import OUT
from producer.cli.output import echo, summary_lines
from producer.run.folder import Paths

if TYPE_CHECKING:
    from producer.dispatch.progress import RunProgress
    from producer.results.exports import Summary
    from producer.run.published import Published


@click.command()
@OUT
@click.option("--watch", is_flag=True, help="Follow it until the run is complete.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def status(out: Path, watch: bool, as_json: bool) -> None:
    """Say how far a run is."""
    if watch and not as_json:
        _follow(Paths(out))
    while True:
        summary = look(Paths(out))
        if as_json:
            echo(json.dumps(summary))
        else:
            for line in summary_lines(summary):
                echo(line)
        if not watch or summary["complete"]:
            return
        time.sleep(2)


def _follow(paths: Paths) -> None:
    """Show a run as its own producer does, until it is complete."""
    from producer.cli.progress import display
    from producer.run.open import open_ledger

    with closing(open_ledger(paths.out)) as ledger:
        kind = ledger.get("job")["source"]["kind"]
    from backlog.broker.messages import FIRST_STAGES

    with display(FIRST_STAGES[kind]) as shown:
        while True:
            progress = progress_of(paths)
            shown.show(progress)
            if progress.done:
                return
            time.sleep(1)


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
