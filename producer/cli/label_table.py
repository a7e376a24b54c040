"""What the commands that read labels have in common: options, the table, how figures are written."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from producer.cli.output import read_settings
from producer.translation import decimal

if TYPE_CHECKING:
    from producer.ledger.ledger import Ledger
    from producer.validation.join import Joined
    from producer.validation.label_values import Labels
    from producer.validation.metrics import Interval

LABELS = click.option(
    "--labels",
    "table",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="CSV of labels: one column for each finding (1, 0, -1, blank), NIH's 'Finding Labels', one row for"
    " each reader, or the verdicts of 'gallery'.",
)
KEY = click.option(
    "--key", default="", metavar="COLUMN=KIND", help="Which column says which image a row is about."
)
READERS = click.option(
    "--readers",
    type=click.Choice(["majority", "any"]),
    default=None,
    help="How several readers of one image count.",
)
NAMES = click.option(
    "--names",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="A file of 'export --names': needed to join by accession number, patient or series.",
)
_CHOICES = click.Choice(["ignore", "positive", "negative"])
UNCERTAIN = click.option(
    "--uncertain", type=_CHOICES, help="What a label of -1 counts as; needed where there are any."
)
BLANK = click.option(
    "--blank", type=_CHOICES, help="What an empty label counts as; needed where there are any."
)
TO = click.option(
    "--to", type=click.Path(path_type=Path, file_okay=False), help="Folder of the results. Default: in OUT."
)


def need_libraries() -> None:
    """Refuse at once where the extra is not installed. Imported are its 150 MB only when a large table was read.

    Raises
    ------
    UsageError
        It is not installed.
    """
    from importlib.util import find_spec

    for name in ("jinja2", "scipy", "sklearn"):
        if find_spec(name) is None:
            from backlog.errors import UsageError

            raise UsageError(f"this command needs {name}: install cxr-backlog[validate]")


def read_table(table: Path, key: str, readers: str | None, by: tuple[str, ...] = ()) -> Labels:
    """Read a table of labels.

    Parameters
    ----------
    table
        The file.
    key
        What ``--key`` says; empty for nothing.
    readers
        What ``--readers`` says.
    by
        Columns to group by, as far as the table has them.

    Raises
    ------
    UsageError
        See :func:`producer.validation.labels.read_labels`.
    """
    from producer.validation.labels import columns_of, read_labels

    there = columns_of(table) if by else []
    return read_labels(table, key=key, readers=readers or "", by=[name for name in by if name in there])


def choices(labels: Labels, uncertain: str | None, blank: str | None) -> tuple[str, str]:
    """Return what uncertain and what blank labels count as: never decided in silence where there are any.

    Parameters
    ----------
    labels
        The table.
    uncertain, blank
        What the options say.

    Raises
    ------
    click.UsageError
        There are such labels, and the option was not given.
    """
    from producer.validation.label_values import BLANK as EMPTY
    from producer.validation.label_values import UNCERTAIN as DOUBTFUL

    return (
        _chosen(uncertain, labels.count(DOUBTFUL), _UNCERTAIN),
        _chosen(blank, labels.count(EMPTY), _BLANK),
    )


_UNCERTAIN: Final = (
    "{count} labels are uncertain (-1): choose with --uncertain whether they are ignored, or count as positive or"
    " negative"
)
_BLANK: Final = (
    "{count} labels are blank: choose with --blank whether they are ignored, or count as positive or negative"
)


def _chosen(choice: str | None, count: int, undecided: str) -> str:
    if choice is None and count:
        raise click.UsageError(undecided.format(count=count))
    return choice or "ignore"


def join_labels(
    ledger: Ledger, out: Path, table: Path, labels: Labels, names: Path | None, by: tuple[str, ...] = ()
) -> Joined:
    """Put a run's scores beside labels.

    Parameters
    ----------
    ledger, out
        The run's ledger, and its folder.
    table, labels
        The file of the labels, and what was read of it.
    names
        A file of ``export --names``.
    by
        Columns to group by.

    Raises
    ------
    UsageError
        None of the labels is about an image of the run; see also :func:`producer.validation.join.join`.
    """
    from producer.run.folder import Paths
    from producer.run.open import source_of
    from producer.validation.join import join

    joined = join(
        ledger,
        labels,
        source=lambda: source_of(ledger, read_settings(), Paths(out.absolute())),
        names=names,
        by=by,
    )
    if not joined.keys:
        from backlog.errors import UsageError

        raise UsageError(
            f"{table}: none of its {joined.rows} rows is about an image of this run (joined by {labels.key.value});"
            " another column may tell more: --key COLUMN=KIND"
        )
    return joined


def interval(found: Interval, form: str = "") -> str:
    """Return a figure with its 95 % interval; dashes for bounds that too few draws tell.

    Parameters
    ----------
    found
        The figure.
    form
        ``+`` shows the signs.
    """
    low, high = (decimal(one, 3, form) if math.isfinite(one) else "-" for one in (found.low, found.high))
    return (
        f"{decimal(found.value, 3, form)} ({low} / {high})"
        if form
        else f"{decimal(found.value, 3)} ({low}-{high})"
    )
