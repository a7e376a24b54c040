"""Commands for afterwards: quarantine, verify, retract, audit."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from backlog.errors import UsageError
from producer.cli.options import COPY, FAILED, OK, OUT
from producer.cli.output import agree_on_copy, echo, read_settings, row
from producer.translation import t

if TYPE_CHECKING:
    from producer.results.verify import Verification


@click.command()
@OUT
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def verify(out: Path, as_json: bool) -> None:
    """Read every report of a run back from the PACS. Fails when one is missing, changed or there twice."""
    from producer.results.verify import verify as read_back
    from producer.run.folder import Paths
    from producer.run.open import open_ledger, pacs_of

    with closing(open_ledger(out)) as ledger:
        found = read_back(ledger, pacs_of(ledger, read_settings(), Paths(out)))
    if as_json:
        click.echo(json.dumps(asdict(found) | {"complete": found.complete}))
        sys.exit(OK if found.complete else FAILED)
    echo(row("Right", found.right))
    for title, items in (("Missing", found.missing), ("Different", found.different), ("Twice", found.twice)):
        echo(row(title, f"{len(items)}" + (f" ({t('items')} {_some(items)})" if items else "")))
    echo(row("Unaccounted", found.unaccounted))
    if found.retracted:
        echo(row("Retracted", found.retracted))
    for sentence in _conclusion(found, out):
        echo(sentence)
    sys.exit(OK if found.complete else FAILED)


def _conclusion(found: Verification, out: Path) -> Iterator[str]:
    """Yield what follows from a verification, in sentences."""
    wrong = len(found.missing) + len(found.different) + len(found.twice)
    if found.complete and found.retracted and not found.right:
        yield "The reports of this run were retracted, and none of them is left in the PACS."
    elif found.complete:
        yield "Every report of this run is in the PACS, as it was stored."
    if wrong:
        yield f"{wrong} reports are not as this run stored them. List items with: cxr-backlog items {out}"
    if not found.all_listed:
        yield f"The source is not read to its end. Go on with: cxr-backlog resume {out}"
    elif found.unaccounted:
        yield f"{found.unaccounted} items have not ended yet. Go on with: cxr-backlog resume {out}"


@click.command()
@OUT
@click.option("--yes", is_flag=True, help="Delete; without, only list.")
@COPY
def retract(out: Path, yes: bool, copy: bool) -> None:
    """Delete the reports that a run wrote, what it stored beside them, and nothing else."""
    from producer.results.audit_log import Audit
    from producer.results.retract import beside, written
    from producer.results.retract import retract as take_back
    from producer.run.folder import Paths, is_running, only_producer
    from producer.run.open import open_ledger, pacs_of

    if not yes:
        ledger = open_ledger(out)
        count = 0
        for item in written(ledger):
            click.echo(item["sr_sop_instance_uid"])
            count += 1
        derived_objects = beside(ledger)
        ledger.close()
        also = f", and {derived_objects} pictures and PDFs beside them" if derived_objects else ""
        echo(
            f"{count} reports were written by this run{also}. Delete them with: cxr-backlog retract {out} --yes"
        )
        return
    paths = Paths(out)
    with closing(open_ledger(out)) as ledger:  # and the lock is not laid where no run is
        agree_on_copy(ledger, paths, copy)
    if is_running(paths):
        raise UsageError(
            f"{out}: the run is at work. Let it end, or pause it and interrupt it when nothing moves any more"
        )
    with only_producer(paths):  # nobody resumes the run meanwhile
        ledger = open_ledger(out, write=True)
        _settled(ledger, out)
        ledger.acquire()  # nor on another machine
        _settled(ledger, out)
        pacs = pacs_of(ledger, read_settings(), paths)
        with Audit(ledger, paths.audit) as audit:
            try:
                deleted, others, derived_objects = take_back(ledger, pacs)
            finally:
                audit.catch_up(durable=True)
        ledger.close()
    echo(
        f"Deleted {deleted} reports"
        + (f" and {derived_objects} pictures and PDFs beside them." if derived_objects else ".")
        + (f" {others} were gone or changed already and were left alone." if others else "")
    )


def _settled(ledger: Any, out: Path) -> None:
    """Insist that nothing is in flight: what a worker stores after a retraction nobody would know of."""
    count = len(ledger.in_flight())
    if count:
        raise UsageError(
            f"{out}: {count} chunks are in flight, whose reports the run doesn't know yet. First let them end: "
            f"cxr-backlog resume {out}, until it is complete; or, to begin no others, from another terminal "
            f"cxr-backlog pause {out}, and Ctrl-C when nothing moves any more"
        )


@click.group()
def audit() -> None:
    """The record of what a run stored, found and deleted: OUT/audit.jsonl."""


@audit.command("verify")
@OUT
@click.option("--head", default="", help="A line's SHA-256 that was noted earlier: must be in the chain.")
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
