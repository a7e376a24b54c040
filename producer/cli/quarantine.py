"""The commands about quarantined items."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from backlog.errors import UsageError
from producer.cli.options import OUT
from producer.cli.output import count_reasons, printable, read_settings, work


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
    from producer.run.open import open_ledger

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
    from producer.run.open import open_ledger

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
    from producer.run.folder import Paths
    from producer.run.open import source_of

    source = source_of(ledger, read_settings(), Paths(out.absolute()))

    def name(item: dict[str, Any]) -> str:
        return printable(source.name(json.loads(item["ref"])))

    return name
