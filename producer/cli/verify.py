"""Commands for afterwards: quarantine, verify, retract, audit."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from backlog.errors import UsageError
from producer.cli.output import (
    FAILED,
    OK,
    OUT,
    count_reasons,
    printable,
    read_settings,
    work,
)


class _ListByDefault(click.Group):
    """``quarantine OUT`` is short for ``quarantine list OUT``."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands:
            args = ["list", *args]
        return super().resolve_command(ctx, args)


@click.group(cls=_ListByDefault)
def quarantine() -> None:
    """List, show or replay what a run could not score. 'quarantine OUT' lists."""


_NAMES = click.option(
    "--names", is_flag=True, help="Show what the source calls each item. May show patients' names."
)


@quarantine.command("list")
@OUT
@_NAMES
@click.option("--reason", multiple=True, help="Only this reason; may be given more than once.")
def quarantine_list(out: Path, names: bool, reason: tuple[str, ...]) -> None:
    """List the quarantined items with their reasons."""
    from backlog.outcomes import Outcome
    from producer.run.folder import open_ledger

    ledger = open_ledger(out)
    name = _namer(ledger, out) if names else None
    for item in ledger.items(Outcome.QUARANTINED):
        if not reason or item["reason"] in reason:
            more = f"  {name(item)}" if name else ""
            click.echo(f"{item['no']:>8}  {item['reason']:<28} {item['detail']}{more}".rstrip())
    counts = ledger.tally().quarantined
    click.echo(f"Quarantined {count_reasons(counts)}")
    ledger.close()


@quarantine.command("show")
@OUT
@click.argument("item", type=int)
@_NAMES
def quarantine_show(out: Path, item: int, names: bool) -> None:
    """Show all that is known of one item."""
    from producer.run.folder import open_ledger

    ledger = open_ledger(out)
    found = ledger.item(item)
    if found is None:
        raise UsageError(f"{out}: no item {item} has ended")
    if names:
        found["name"] = _namer(ledger, out)(found)
    for key, value in found.items():
        if value not in ("", None):
            click.echo(f"{key:<20} {value}")
    ledger.close()


@quarantine.command("replay")
@OUT
@click.option(
    "--to", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder of the new run."
)
@click.option("--reason", multiple=True, help="Only this reason; may be given more than once.")
def quarantine_replay(out: Path, to: Path, reason: tuple[str, ...]) -> None:
    """Try the quarantined items again, as a run of their own."""
    from producer.run.create import create_replay
    from producer.run.folder import Paths

    settings = read_settings()
    count = create_replay(Paths(out.absolute()), Paths(to.absolute()), frozenset(reason), settings)
    click.echo(f"Trying {count} items again.")
    work(settings, Paths(to.absolute()))


def _namer(ledger: Any, out: Path) -> Any:
    from producer.run.create import source_of
    from producer.run.folder import Paths

    source = source_of(ledger, read_settings(), Paths(out.absolute()))

    def name(item: dict[str, Any]) -> str:
        return printable(source.name(json.loads(item["ref"])))

    return name


@click.command()
@OUT
def verify(out: Path) -> None:
    """Read every report of a run back from the PACS. Fails when one is missing, changed or there twice."""
    from producer.results.retract import pacs_of
    from producer.results.retract import verify as read_back
    from producer.run.folder import Paths, open_ledger

    ledger = open_ledger(out)
    found = read_back(ledger, pacs_of(ledger, read_settings(), Paths(out)))
    ledger.close()
    click.echo(f"Right       {found.right}")
    for title, items in (("Missing", found.missing), ("Different", found.different), ("Twice", found.twice)):
        click.echo(f"{title:<11} {len(items)}" + (f" (items {_some(items)})" if items else ""))
    click.echo(f"Unaccounted {found.unaccounted}")
    if not found.all_listed:
        click.echo(f"            The source is not read to its end. Go on with: cxr-backlog resume {out}")
    if found.retracted:
        click.echo(f"Retracted   {found.retracted}")
    sys.exit(OK if found.complete else FAILED)


@click.command()
@OUT
@click.option("--yes", is_flag=True, help="Delete; without, only list.")
def retract(out: Path, yes: bool) -> None:
    """Delete the reports that a run wrote, what it stored beside them, and nothing else."""
    from producer.results.audit_log import Audit
    from producer.results.retract import beside, pacs_of, written
    from producer.results.retract import retract as take_back
    from producer.run.folder import Paths, is_running, only_producer, open_ledger

    if not yes:
        ledger = open_ledger(out)
        count = 0
        for item in written(ledger):
            click.echo(item["sr_sop_instance_uid"])
            count += 1
        companions = beside(ledger)
        ledger.close()
        also = f", and {companions} pictures and PDFs beside them" if companions else ""
        click.echo(
            f"{count} reports were written by this run{also}. Delete them with: cxr-backlog retract {out} --yes"
        )
        return
    open_ledger(out).close()  # the lock is not laid where no run is
    paths = Paths(out)
    if is_running(paths):
        raise UsageError(
            f"{out}: the run is at work. Let it end, or pause it and interrupt it when nothing moves any more"
        )
    with only_producer(paths):  # nobody resumes the run meanwhile
        ledger = open_ledger(out, write=True)
        _settled(ledger, out)
        ledger.take_over()  # nor on another machine
        _settled(ledger, out)
        pacs = pacs_of(ledger, read_settings(), paths)
        with Audit(ledger, paths.audit) as audit:
            try:
                deleted, others, companions = take_back(ledger, pacs)
            finally:
                audit.catch_up(durable=True)
        ledger.close()
    click.echo(
        f"Deleted {deleted} reports"
        + (f" and {companions} pictures and PDFs beside them." if companions else ".")
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
    from producer.run.folder import Paths, is_running, open_ledger

    open_ledger(out).close()  # the question below would leave a lock where no run is
    running = is_running(Paths(out))
    ledger = open_ledger(out)
    verdict = follow(ledger, Paths(out).audit, head.strip().lower())
    ledger.close()
    click.echo(f"Right     {verdict.head.seq} lines, the last of them {verdict.head.hash}")
    if not verdict.right:
        click.echo(f"WRONG     line {verdict.broken}: {verdict.why}")
        if running:
            click.echo("          The run is at work: a line may be on its way.")
        sys.exit(FAILED)


def _some(items: list[int]) -> str:
    return ", ".join(map(str, items[:10])) + (" …" if len(items) > 10 else "")
