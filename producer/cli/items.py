"""The commands that list items: all of a run's, or those that could not be scored."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from backlog.errors import UsageError
from backlog.outcomes import Outcome, Reason
from producer.cli.options import OUT
from producer.cli.output import count_reasons, echo, printable, read_settings, row, work
from producer.translation import t, translated

if TYPE_CHECKING:
    from producer.ledger.ledger import Ledger
    from producer.ledger.rows import ItemRow

_NAMES = click.option(
    "--names", is_flag=True, help="Show what the source calls each item. May show patients' names."
)
_JSON = click.option("--json", "as_json", is_flag=True, help="As JSON, one object a line.")
_REASONS = [reason.value for reason in Reason]


#: A function that becomes a command.
_Command = TypeVar("_Command", bound=Callable[..., object])


def _reasons(among: list[str]) -> Callable[[_Command], _Command]:
    return click.option(
        "--reason",
        multiple=True,
        metavar="REASON",
        callback=lambda _, __, given: _checked(given, among),
        help="Only this reason; may be given more than once.",
    )


def _checked(given: tuple[str, ...], among: list[str]) -> tuple[str, ...]:
    import difflib

    for one in given:
        if one not in among:
            near = difflib.get_close_matches(one, among, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(among)}"
            raise click.BadParameter(f"{one!r} is no reason; {hint}", param_hint="--reason")
    return given


@click.command()
@OUT
@click.option(
    "--outcome", type=click.Choice([one.value for one in Outcome]), help="Only items that ended so."
)
@_reasons(_REASONS)
@_NAMES
@_JSON
def items(out: Path, outcome: str | None, reason: tuple[str, ...], names: bool, as_json: bool) -> None:
    """List a run's items: how each ended, and why."""
    from producer.run.open import open_ledger

    with closing(open_ledger(out)) as ledger:
        chosen = Outcome(outcome) if outcome else None
        found = (item for item in ledger.items(chosen) if not reason or item.reason in reason)
        count = _list(found, _namer(ledger, out) if names else None, as_json=as_json, outcomes=True)
        if not as_json:
            echo(f"{count} items listed")


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


_QUARANTINED = [reason.value for reason in Reason if reason.outcome is Outcome.QUARANTINED]


@quarantine.command("list")
@OUT
@_NAMES
@_reasons(_QUARANTINED)
@_JSON
def quarantine_list(out: Path, names: bool, reason: tuple[str, ...], as_json: bool) -> None:
    """List the quarantined items with their reasons."""
    from producer.run.open import open_ledger

    with closing(open_ledger(out)) as ledger:
        quarantined = ledger.items(Outcome.QUARANTINED)
        found = (item for item in quarantined if not reason or item.reason in reason)
        _list(found, _namer(ledger, out) if names else None, as_json=as_json)
        if not as_json:
            echo(row("Quarantined", count_reasons(ledger.tally().quarantined)))


def _list(
    found: Iterator[ItemRow],
    name: Callable[[ItemRow], str] | None,
    *,
    as_json: bool,
    outcomes: bool = False,
) -> int:
    from producer.results.meanings import item_json

    count = 0
    for item in found:
        count += 1
        called = name(item) if name else None
        if as_json:
            click.echo(json.dumps(item_json(item, called)))
            continue
        outcome = f"{t(item.outcome):<12} " if outcomes else ""
        about = item.flags if item.outcome == Outcome.REPORTED.value else printable(translated(item.detail))
        more = f"  {called}" if called is not None else ""
        click.echo(f"{item.no:>8}  {outcome}{item.reason:<28} {about}{more}".rstrip())
    return count


@quarantine.command("show")
@OUT
@click.argument("item", type=int)
@_NAMES
@_JSON
def quarantine_show(out: Path, item: int, names: bool, as_json: bool) -> None:
    """Show all that is known of one item, quarantined or not."""
    from producer.results.meanings import item_json
    from producer.run.open import open_ledger

    with closing(open_ledger(out)) as ledger:
        found = ledger.item(item)
        if found is None:
            raise UsageError(f"{out}: no item {item} has ended")
        name = _namer(ledger, out)(found) if names else None
    if as_json:
        click.echo(json.dumps(item_json(found, name)))
        return
    for title, value in _in_words(found, name):
        if value:
            click.echo(f"{t(title):<26} {value}")


def _in_words(item: ItemRow, name: str | None) -> Iterator[tuple[str, str]]:
    """Yield what is known of an item, as a user names it; the time is that of the user's clock."""
    from backlog.broker.messages import TASKS
    from producer.results.meanings import MEANINGS

    stages = {stage.value: name for stage, name in TASKS.items()}
    reason = item.reason
    yield "Item", str(item.no)
    yield "Name", name or ""
    yield "Outcome", t(item.outcome)
    yield "Reason", f"{reason}: {t(MEANINGS.get(reason, ''))}" if reason else ""
    yield "Detail", _detail(item)
    listed = item.chunk is None
    yield "Stage", t("listing") if listed else t(stages.get(item.stage, ""))
    yield "Attempts", str(item.attempts or "")
    yield "Ended", f"{datetime.fromtimestamp(item.ended).astimezone():%Y-%m-%d %H:%M:%S %z}"
    yield "Flags", item.flags
    yield "Instance in the PACS", item.instance or ""
    yield "SOP Instance UID", item.sop_instance_uid
    yield "Study Instance UID", item.study_instance_uid
    yield "Report's SOP Instance UID", item.sr_sop_instance_uid
    yield "Report in the PACS", item.sr_instance
    yield (
        "Report written by",
        "" if not item.sr_instance else t("this run" if item.sr_ours else "an earlier run"),
    )


@quarantine.command("replay")
@OUT
@click.option(
    "--to", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder of the new run."
)
@_reasons(_QUARANTINED)
def quarantine_replay(out: Path, to: Path, reason: tuple[str, ...]) -> None:
    """Try the quarantined items again, as a run of their own."""
    from producer.run.folder import Paths
    from producer.run.replay import create_replay

    settings = read_settings()
    count = create_replay(Paths(out.absolute()), Paths(to.absolute()), frozenset(reason), settings)
    echo(f"Trying {count} items again.")
    sys.stdout.flush()
    work(settings, Paths(to.absolute()))


@quarantine.command("give-up")
@OUT
@click.argument("items", type=click.IntRange(0), nargs=-1, required=True)
def quarantine_give_up(out: Path, items: tuple[int, ...]) -> None:
    """End items that the PACS fails on whenever they come, so that their run can end."""
    from backlog.files import touch
    from producer.run.folder import Paths, is_running
    from producer.run.open import open_ledger

    with closing(open_ledger(out)) as ledger:
        ended = [item for item in items if ledger.item(item) is not None]
        listed = int(ledger.get("listed", 0))
    if ended:
        raise UsageError(
            f"{out}: item {ended[0]} has ended already: cxr-backlog quarantine show {out} {ended[0]}"
        )
    if unknown := [item for item in items if item >= listed]:
        raise UsageError(f"{out}: there is no item {unknown[0]}: {listed} are listed")
    paths = Paths(out)
    touch(paths.give_up)  # as private as the others, and no link
    with paths.give_up.open("a", encoding="ascii") as file:
        file.writelines(f"{item}\n" for item in items)
    if is_running(paths):
        echo("The run gives it up now, and quarantines it.")
    else:
        echo(f"The run gives it up when it goes on: cxr-backlog resume {out}")


def _detail(item: ItemRow) -> str:
    """Return an item's detail, which a worker wrote: an escape sequence in it could rewrite the screen."""
    return printable(translated(item.detail)) if item.detail else ""


def _namer(ledger: Ledger, out: Path) -> Callable[[ItemRow], str]:
    from producer.run.folder import Paths
    from producer.run.open import source_of

    source = source_of(ledger, read_settings(), Paths(out.absolute()))

    def name(item: ItemRow) -> str:
        return printable(source.name(json.loads(item.ref)))

    return name
