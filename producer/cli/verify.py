"""Commands for afterwards: verify, retract, audit."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from backlog.errors import UsageError
from producer.cli.options import COPY, FAILED, OK, OUT
from producer.cli.output import agree_on_copy, echo, read_settings, row
from producer.cli.pace import Pace
from producer.translation import t

if TYPE_CHECKING:
    from producer.results.verification import Verification

if TYPE_CHECKING:
    from producer.ledger.ledger import Ledger
    from producer.run.folder import Paths


@click.command()
@OUT
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.option(
    "--from-start",
    is_flag=True,
    help="Start again from the first report, instead of where an interrupted verification stopped.",
)
def verify(out: Path, as_json: bool, from_start: bool) -> None:
    """Read every report of a run back from the PACS.

    Fails when a report is missing, changed, stored twice, not in its image's study, or not recorded in the run.
    """
    from backlog.pacs.limited_pacs import limited
    from producer.results.verify import verify as read_back
    from producer.run.folder import Paths
    from producer.run.open import open_ledger, pacs_of, reader_of
    from producer.run.place import pacs_address

    paths, settings = Paths(out), read_settings()
    with (
        closing(open_ledger(out)) as ledger,
        closing(limited(pacs_of(ledger, settings, paths), settings, pacs_address(ledger, paths))) as pacs,
    ):
        found = read_back(
            ledger,
            pacs,
            read=reader_of(ledger, settings, paths),
            retry_seconds=settings.pacs_retry_seconds,
            progress=Pace(ledger.tally().reported),
            state=paths.verification,
            from_start=from_start,
            resumed=_say_resumed,
        )
    if as_json:
        click.echo(json.dumps(asdict(found) | {"complete": found.complete}))
        sys.exit(OK if found.complete else FAILED)
    echo(row("Right", found.right))
    for title, items in (
        ("Missing", found.missing),
        ("Different", found.different),
        ("Twice", found.twice),
        ("Misfiled", found.misfiled),
        ("Unanswered", found.unanswered),
        ("Unrecorded", found.unrecorded),
    ):
        echo(row(title, f"{len(items)}" + (f" ({t('items')} {_some(items)})" if items else "")))
    echo(row("Unaccounted", found.unaccounted))
    if found.retracted:
        echo(row("Retracted", found.retracted))
    for sentence in _conclusion(found, out):
        echo(sentence)
    sys.exit(OK if found.complete else FAILED)


def _say_resumed(item: int, begun: datetime) -> None:
    date = f"{begun.astimezone():%Y-%m-%d %H:%M}"
    echo(
        f"Goes on at item {item}: what comes before was looked at on {date} (--from-start begins anew)",
        err=True,
    )


def _conclusion(found: Verification, out: Path) -> Iterator[str]:
    """Yield what follows from a verification, in sentences."""
    wrong = len(found.missing) + len(found.different) + len(found.twice) + len(found.misfiled)
    strays = len(found.unrecorded) + found.foreign
    if found.complete and found.retracted and not found.right:
        yield "The reports of this run were retracted, and none of them is left in the PACS."
    elif found.complete:
        yield "Every report of this run is in the PACS, as it was stored."
    if wrong:
        yield f"{wrong} reports are not as this run stored them. List items with: cxr-backlog items {out}"
    if strays:
        yield f"{strays} reports in the PACS are of items that are not reported. See: cxr-backlog retract {out}"
    if found.unanswered:
        yield (
            f"The PACS fails on {len(found.unanswered)} reports and answers otherwise: see its log. Look again with:"
            f" cxr-backlog verify {out}"
        )
    if found.not_looked_at:
        yield (
            f"The run's account changed meanwhile, so that {found.not_looked_at} reported items were not looked at."
            f" Look again with: cxr-backlog verify {out}"
        )
    if not found.all_listed:
        yield f"The source is not read to its end. Go on with: cxr-backlog resume {out}"
    elif found.unaccounted:
        yield f"{found.unaccounted} items have not ended yet. Go on with: cxr-backlog resume {out}"


#: Workers end with their producer, after the image that they are at: how long that may take, in seconds.
_WORKERS_END: Final = 60.0


@click.command()
@OUT
@click.option("--yes", is_flag=True, help="Delete. Without this option, only list.")
@COPY
def retract(out: Path, yes: bool, copy: bool) -> None:
    """Delete the reports that a run wrote, what it stored beside them, and nothing else."""
    from backlog.pacs.limited_pacs import limited
    from producer.results.audit_log import Audit
    from producer.results.labels import count_labels
    from producer.results.retract import beside, delivered, written
    from producer.results.retract import retract as take_back
    from producer.run.folder import Paths, is_running, only_producer
    from producer.run.open import open_ledger, pacs_of, reader_of
    from producer.run.place import pacs_address
    from producer.run.published import read_published

    if not yes:
        ledger = open_ledger(out)
        count = 0
        for item in written(ledger):
            click.echo(item.sr_sop_instance_uid)
            count += 1
        derived_objects = beside(ledger)
        labels = sum(count_labels(ledger).values())
        elsewhere = sum(1 for _ in delivered(ledger))
        modality = str(ledger.get("job").get("deliver", ""))
        ledger.close()
        if elsewhere:
            echo(
                f"The modality {modality} has {elsewhere} of its objects. No one can delete them there over DICOM:"
                " 'retract --yes' lists them for its administrator."
            )
        also = f", and {derived_objects} pictures and PDFs beside them" if derived_objects else ""
        if labels:
            echo(f"It put {labels} labels on studies, which are taken off first.")
        echo(
            f"{count} reports were written by this run{also}. Delete them with: cxr-backlog retract {out} --yes"
        )
        return
    paths = Paths(out)
    with closing(open_ledger(out)) as ledger:  # and the lock is not laid where no run is
        agree_on_copy(ledger, paths, copy)
    published = read_published(paths.progress)
    if is_running(paths) or (published is not None and published.fresh_elsewhere):
        raise UsageError(f"{out}: the run is at work. Let it end, or stop it: cxr-backlog cancel {out}")
    with only_producer(paths):  # nobody resumes the run meanwhile
        ledger = open_ledger(out, write=True)
        _cancel_and_settle(ledger, paths)
        ledger.acquire()  # nor on another machine
        _cancel_and_settle(ledger, paths)
        settings = read_settings()
        with (
            closing(limited(pacs_of(ledger, settings, paths), settings, pacs_address(ledger, paths))) as pacs,
            Audit(ledger, paths.audit) as audit,
        ):
            try:
                done = take_back(
                    ledger,
                    pacs,
                    read=reader_of(ledger, settings, paths),
                    retry_seconds=settings.pacs_retry_seconds,
                    progress=Pace(ledger.tally().reported),
                )
            finally:
                audit.catch_up(durable=True)
        modality, there = str(ledger.get("job").get("deliver", "")), list(delivered(ledger))
        ledger.close()
    for study, uid in there:
        click.echo(f"{modality} {study} {uid}")
    if modality:
        echo(
            f"The {len(there)} objects above are in the modality {modality}, which has to delete them itself: DICOM"
            " has no request for that. So are reports of items that had not ended, if it took them."
        )
    also = f" and {done.derived_objects} pictures and PDFs beside them" if done.derived_objects else ""
    echo(
        f"Deleted {done.reports} reports{also}."
        + (f" {done.left} were gone or changed already and were left alone." if done.left else "")
        + (f" Took {done.labels} labels off studies." if done.labels else "")
        + (f" Deleted {done.unrecorded} reports of items that were not reported." if done.unrecorded else "")
    )
    if done.unanswered:
        echo(
            f"The PACS fails on {done.unanswered} of them and answers otherwise: see its log. Delete them, once it"
            f" answers, with: cxr-backlog retract {out} --yes"
        )
    sys.exit(FAILED if done.changed or done.unanswered else OK)


def _cancel_and_settle(ledger: Ledger, paths: Paths) -> None:
    """Cancel the run and wait until no worker is at work: what one stores after a retraction nobody would know of.

    Raises
    ------
    UsageError
        A worker holds a chunk still, or nothing tells whether one does.
    """
    from backlog.files import touch
    from producer.results.exports import summarise
    from producer.run.folder import wait_for_workers

    count, out = len(ledger.in_flight()), paths.out
    if summarise(ledger)["complete"]:
        return
    if not paths.cancel.exists():
        touch(paths.cancel)  # nor does the runner go on with it
        echo("The run is not complete: it is cancelled first.")
    if not count:
        return
    if not ledger.get("stack", True):
        if ledger.get("settled", False):
            return  # its workers ended with its producer, and what they had finished is kept
        if wait_for_workers(paths, _WORKERS_END):
            return  # what they stored without telling is found by its UID
        raise UsageError(
            f"{out}: the run was killed, and one of its workers may store a report still: try again in a moment. Where"
            f" that doesn't help: cxr-backlog resume {out}, and Ctrl-C"
        )
    settings = read_settings()
    if not settings.redis_url:
        raise UsageError(
            f"{out}: workers of a stack may hold {count} chunks of this run: set CXR_REDIS_URL to ask"
        )
    from backlog.broker.claims import Claims
    from producer.dispatch.settle import settle

    claims = Claims(settings.broker, lease_seconds=settings.lease_seconds)
    if not settle(ledger, claims, str(ledger.get("job")["run"])):
        raise UsageError(f"{out}: a worker is at work on an image of this run still: try again in a moment")


@click.group()
def audit() -> None:
    """The record of what a run stored, found and deleted: OUT/audit.jsonl."""


@audit.command("verify")
@OUT
@click.option("--head", default="", help="SHA-256 of a line, noted earlier: the chain must contain it.")
def audit_verify(out: Path, head: str) -> None:
    """Follow the chain of hashes and compare it with the ledger. Fails at the first wrong line and names it."""
    from producer.results.audit_log import verify as follow
    from producer.run.folder import Paths, is_running
    from producer.run.open import open_ledger

    open_ledger(out).close()  # the question below would leave a lock where no run is
    running = is_running(Paths(out))
    ledger = open_ledger(out)
    verdict = follow(ledger, Paths(out).audit, head.strip().lower())
    ledger.close()
    echo(f"Right     {verdict.head.seq} lines, the last of them {verdict.head.hash}")
    if not verdict.right:
        echo(f"WRONG     line {verdict.broken}: {verdict.why}")
        if running:
            echo("          The run is at work: a line may be on its way.")
        sys.exit(FAILED)


def _some(items: list[int]) -> str:
    return ", ".join(map(str, items[:10])) + (" …" if len(items) > 10 else "")
